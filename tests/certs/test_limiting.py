import pytest

from certs import limiting
from certs.limiting import RateLimit
from pqfl_transport.errors import PeerError


def refused(limit: RateLimit, address: str, now: float) -> bool:
    try:
        limit.take(address, now)
    except PeerError as error:
        return error.reason == "busy"
    return False


def test_so_many_requests_pass_and_no_more() -> None:
    """A burst of the whole minute passes at once; what is refused does not put the next one off."""
    limit = RateLimit(6)
    assert [refused(limit, "a", 0) for _ in range(8)] == [False] * 6 + [True] * 2
    assert [refused(limit, "a", 10), refused(limit, "a", 10), refused(limit, "a", 20)] == [False, True, False]


def test_one_address_is_not_another() -> None:
    """Who asks too much takes nothing from others."""
    limit = RateLimit(1)
    assert not refused(limit, "a", 0)
    assert refused(limit, "a", 0)
    assert not refused(limit, "b", 0)


def test_the_memory_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """With many addresses those that were quiet for longest are forgotten."""
    monkeypatch.setattr(limiting, "_MAX_ADDRESSES", 10)
    limit = RateLimit(1)
    for number in range(100):
        assert not refused(limit, str(number), 0)
    assert refused(limit, "99", 0)
    assert len(limit._buckets) == 10
