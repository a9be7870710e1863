import pytest

from certs import limiting
from certs.limiting import RateLimit, origin_of
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


@pytest.mark.parametrize(
    ("address", "origin"),
    [
        ("192.0.2.7", "192.0.2.7"), ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9", "2001:db8:1:2::/64"), ("fe80::1%eth0", "fe80::/64"), ("::ffff:192.0.2.7", "192.0.2.7"),
        ("", "local"),
    ],
)  # fmt: skip
def test_an_origin_is_what_one_holder_has(address: str, origin: str) -> None:
    """A whole network of IPv6 belongs to one holder, who could otherwise be a new stranger with every request."""
    assert origin_of(address) == origin
