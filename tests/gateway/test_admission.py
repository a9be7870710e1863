"""Limits hold whatever the order of events, say which they were, and never let one peer pay for another."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.admission import Admission, Limits, TokenBucket
from pqfl_transport.errors import PeerError

A, B = "spiffe://fed/site/a", "spiffe://fed/site/b"


def refused(admission: Admission, peer: str, now: float) -> str | None:
    """Try to enter; return the reason of the refusal."""
    try:
        admission.enter(peer, now)
    except PeerError as error:
        return error.reason
    return None


def test_without_limits_everybody_enters() -> None:
    """Zero is none."""
    admission = Admission(Limits())
    for _ in range(1000):
        admission.open_one()
        admission.enter(A, 0.0)
    assert admission.take_bytes(A, 1 << 40, 0.0) == 0.0


def test_a_full_listener_refuses_until_somebody_leaves() -> None:
    """Before any handshake, so that a flood costs nothing."""
    admission = Admission(Limits(max_connections=2))
    admission.open_one()
    admission.open_one()
    with pytest.raises(PeerError) as caught:
        admission.open_one()
    assert caught.value.reason == "too_many_connections"
    admission.close_one()
    admission.open_one()


def test_a_peer_at_its_limit_does_not_keep_others_out() -> None:
    """Each is counted alone, and a refusal is not counted as a connection."""
    admission = Admission(Limits(max_connections_per_peer=1))
    assert refused(admission, A, 0.0) is None
    assert refused(admission, A, 0.0) == "too_many_connections_of_peer"
    assert refused(admission, B, 0.0) is None
    admission.leave(A, 0.0)
    assert refused(admission, A, 0.0) is None


def test_arrivals_come_back_with_time() -> None:
    """So many at once, then one every so often."""
    admission = Admission(Limits(connections_per_minute_per_peer=2))
    assert [refused(admission, A, 0.0) for _ in range(3)] == [None, None, "too_many_arrivals_of_peer"]
    assert refused(admission, A, 29.0) == "too_many_arrivals_of_peer"
    assert refused(admission, A, 31.0) is None


def test_leaving_does_not_give_arrivals_back() -> None:
    """Whoever reconnects in a loop stays the same peer, also with no connection open."""
    admission = Admission(Limits(connections_per_minute_per_peer=1))
    admission.enter(A, 0.0)
    admission.leave(A, 0.0)
    admission.forget_idle(1.0)
    assert refused(admission, A, 1.0) == "too_many_arrivals_of_peer"
    admission.forget_idle(60.0)
    assert refused(admission, A, 60.0) is None


def test_too_many_bytes_are_waited_for() -> None:
    """A second's worth at once, and what is beyond it takes its time; two connections share one rate."""
    admission = Admission(Limits(bytes_per_second_per_peer=100))
    admission.enter(A, 0.0)
    admission.enter(A, 0.0)
    assert admission.take_bytes(A, 100, 0.0) == 0.0
    assert admission.take_bytes(A, 50, 0.0) == 0.5
    assert admission.take_bytes(A, 0, 0.5) == 0.0
    admission.enter(B, 0.5)
    assert admission.take_bytes(B, 100, 0.5) == 0.0


@given(steps=st.lists(st.tuples(st.floats(0, 5), st.integers(0, 500)), max_size=30))
def test_no_order_of_events_beats_the_rate(steps: list[tuple[float, int]]) -> None:
    """Whoever waits as long as it is told gets a second's worth and the rate, and not a byte more."""
    bucket, now, taken, last = TokenBucket(100, 100, 0.0), 0.0, 0, 0
    for pause, count in steps:
        now += pause
        now += bucket.take(count, now)
        taken += count
        last = max(last, count)
    assert taken <= 100 + 100 * now + last + 1e-6


def test_a_full_bucket_is_like_a_new_one() -> None:
    """So nothing has to be remembered of a peer that was quiet long enough."""
    bucket = TokenBucket(10, 10, 0.0)
    assert bucket.is_full(0.0)
    bucket.take(5, 0.0)
    assert not bucket.is_full(0.4)
    assert bucket.is_full(0.5)
