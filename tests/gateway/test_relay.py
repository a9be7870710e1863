"""The rules of one connection: each direction ends once, after all of it, and reading waits for writing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.relay import Flow, Relay


def test_a_new_connection_reads_both_ways() -> None:
    """Nothing has ended, nothing is held."""
    relay = Relay()
    assert relay.inward.may_read
    assert relay.outward.may_read
    assert not relay.complete


def test_a_source_is_not_read_while_something_of_it_waits() -> None:
    """Backpressure of one direction does not stop the other."""
    relay = Relay()
    assert relay.inward.holds(10) is False
    assert not relay.inward.may_read
    assert relay.outward.may_read
    assert relay.inward.holds(0) is False
    assert relay.inward.may_read


def test_an_end_is_passed_on_when_everything_before_it_was() -> None:
    """With bytes still held the end waits; with the last of them it goes, once."""
    relay = Relay()
    relay.outward.holds(5)
    relay.outward.source_ended()
    assert relay.outward.holds(3) is False
    assert relay.outward.holds(0) is True
    assert relay.outward.holds(0) is False
    assert not relay.outward.may_read
    assert not relay.complete
    relay.inward.source_ended()
    assert relay.inward.holds(0) is True
    assert relay.complete


def test_a_source_ends_once() -> None:
    """A driver that says so twice is wrong and is told so."""
    flow = Flow()
    flow.source_ended()
    with pytest.raises(KeyError):
        flow.source_ended()


@given(
    events=st.lists(
        st.tuples(st.sampled_from(["inward", "outward"]), st.one_of(st.just("end"), st.integers(0, 3))), max_size=30
    )
)
def test_whatever_happens_each_end_is_passed_on_exactly_once(events: list[tuple[str, str | int]]) -> None:
    """For any order of reads, ends and flushes, no end is lost, doubled or early."""
    relay, ended, passed = Relay(), set(), []
    for direction, event in events:
        flow: Flow = getattr(relay, direction)
        if event == "end":
            if direction not in ended:
                flow.source_ended()
                ended.add(direction)
        elif flow.holds(int(event)):
            assert direction in ended
            assert event == 0
            passed.append(direction)
    assert len(passed) == len(set(passed))
    assert relay.complete == (set(passed) == {"inward", "outward"})


def test_relayed_bytes_add_up() -> None:
    """What tells an idle connection from a busy one counts both directions."""
    relay = Relay()
    relay.inward.relayed_bytes += 7
    relay.outward.relayed_bytes += 1
    assert relay.relayed_bytes == 8
