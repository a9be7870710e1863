"""The rules of one connection: each direction ends once, after all of it, and reading waits for writing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.relay import Direction, Relay

IN, OUT = Direction.INWARD, Direction.OUTWARD


def test_a_new_connection_reads_both_ways() -> None:
    """Nothing has ended, nothing is held."""
    relay = Relay()
    assert relay.may_read(IN)
    assert relay.may_read(OUT)
    assert not relay.complete


def test_a_source_is_not_read_while_something_of_it_waits() -> None:
    """Backpressure of one direction does not stop the other."""
    relay = Relay()
    assert relay.holds(IN, 10) is False
    assert not relay.may_read(IN)
    assert relay.may_read(OUT)
    assert relay.holds(IN, 0) is False
    assert relay.may_read(IN)


def test_an_end_is_passed_on_when_everything_before_it_was() -> None:
    """With bytes still held the end waits; with the last of them it goes, once."""
    relay = Relay()
    relay.holds(OUT, 5)
    relay.source_ended(OUT)
    assert relay.holds(OUT, 3) is False
    assert relay.holds(OUT, 0) is True
    assert relay.holds(OUT, 0) is False
    assert not relay.may_read(OUT)
    assert not relay.complete
    relay.source_ended(IN)
    assert relay.holds(IN, 0) is True
    assert relay.complete


def test_a_source_ends_once() -> None:
    """A driver that says so twice is wrong and is told so."""
    relay = Relay()
    relay.source_ended(IN)
    with pytest.raises(KeyError):
        relay.source_ended(IN)


@given(
    events=st.lists(st.tuples(st.sampled_from([IN, OUT]), st.one_of(st.just("end"), st.integers(0, 3))), max_size=30)
)
def test_whatever_happens_each_end_is_passed_on_exactly_once(events: list[tuple[Direction, str | int]]) -> None:
    """For any order of reads, ends and flushes, no end is lost, doubled or early."""
    relay, ended, passed = Relay(), set(), []
    for direction, event in events:
        if event == "end":
            if direction not in ended:
                relay.source_ended(direction)
                ended.add(direction)
        elif relay.holds(direction, int(event)):
            assert direction in ended
            assert event == 0
            passed.append(direction)
    assert len(passed) == len(set(passed))
    assert relay.complete == (set(passed) == {IN, OUT})


def test_relayed_bytes_are_counted_by_direction() -> None:
    """What the log says is what was read."""
    relay = Relay()
    relay.arrived(IN, 3)
    relay.arrived(IN, 4)
    relay.arrived(OUT, 1)
    assert relay.relayed_bytes == {IN: 7, OUT: 1}
