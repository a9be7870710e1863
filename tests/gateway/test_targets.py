"""Targets: the given order while they work, a pause that doubles when they do not, and one that tries again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.targets import MAX_RETRY_SECONDS, NEWS_SECONDS, Targets
from pqfl_transport.errors import ConfigurationError
from pqfl_transport.net.address import Address

A, B, C = (Address("hub.example", port) for port in (1, 2, 3))


def test_they_are_tried_in_the_given_order() -> None:
    """Nobody failed: the first is the first, and all count as up."""
    targets = Targets([A, B, C])
    assert targets.order(0) == [A, B, C]
    assert targets.preferred(0) == A
    assert targets.states() == {str(one): {"up": True, "detail": ""} for one in (A, B, C)}


def test_no_target_is_refused() -> None:
    """There has to be somewhere to go."""
    with pytest.raises(ConfigurationError, match="--target"):
        Targets([])


def test_a_target_given_twice_is_one() -> None:
    """Nobody is tried twice for one connection."""
    assert Targets([A, B, A]).order(0) == [A, B]


def test_one_that_failed_is_the_last_resort() -> None:
    """It stays in the order, behind those that work, and the status says why."""
    targets = Targets([A, B])
    targets.failed(A, 10, "connection refused")
    assert targets.order(10.5) == [B, A]
    assert targets.preferred(10.5) == B
    assert targets.states()[str(A)] == {"up": False, "detail": "connection refused"}
    assert targets.states()[str(B)]["up"] is True


def test_when_all_failed_all_are_tried_in_the_given_order() -> None:
    """A connection is worth more than a guess."""
    targets = Targets([A, B])
    targets.failed(B, 0, "down")
    targets.failed(A, 0, "down")
    assert targets.order(0.5) == [A, B]


def test_after_the_pause_it_is_preferred_again() -> None:
    """The first target gets its connections back as soon as it works."""
    targets = Targets([A, B])
    targets.failed(A, 10, "down")
    assert targets.order(10.9)[0] == B
    assert targets.preferred(11) == A
    assert targets.order(11)[0] == A
    targets.succeeded(A, 11.1)
    assert targets.order(11.2) == [A, B]
    assert targets.states()[str(A)] == {"up": True, "detail": ""}


def test_one_connection_tries_it_and_the_others_do_not_wait() -> None:
    """A target that swallows packets delays one connection in each pause, and not all of them."""
    targets = Targets([A, B])
    targets.failed(A, 0, "down")
    assert targets.order(5)[0] == A
    assert [targets.order(5)[0] for _ in range(3)] == [B, B, B]


def test_whose_trial_never_ends_is_replaced() -> None:
    """A connection that was cancelled while it tried does not keep a target out for ever."""
    targets = Targets([A, B])
    targets.failed(A, 0, "down")
    assert targets.order(1)[0] == A
    assert targets.order(2)[0] == A


def test_asking_which_one_is_preferred_is_no_trial() -> None:
    """It can be asked any number of times."""
    targets = Targets([A, B])
    targets.failed(A, 0, "down")
    assert [targets.preferred(1), targets.preferred(1), targets.order(1)[0]] == [A, A, A]


def test_the_pause_doubles_up_to_its_limit() -> None:
    """1, 2, 4, … 30 seconds, however often it fails."""
    targets, now, pauses = Targets([A, B]), 0.0, []
    for _ in range(80):
        targets.order(now)
        targets.failed(A, now, "down")
        pause = next(seconds for seconds in (1, 2, 4, 8, 16, 30) if targets.preferred(now + seconds) == A)
        assert targets.preferred(now + pause - 0.01) == B
        pauses.append(pause)
        now += pause
    assert pauses[:6] == [1, 2, 4, 8, 16, 30]
    assert set(pauses[6:]) == {MAX_RETRY_SECONDS}


def test_the_first_pause_can_be_set() -> None:
    """As the configuration says."""
    targets = Targets([A, B], retry_seconds=0.25)
    targets.failed(A, 0, "down")
    assert (targets.preferred(0.2), targets.preferred(0.25)) == (B, A)


def test_connections_that_fail_together_are_one_failure() -> None:
    """A hundred of them at once do not make a short outage a long pause; the last one's reason is shown."""
    targets = Targets([A, B])
    for number in range(100):
        targets.failed(A, 0.001 * number, f"down {number}")
    assert targets.preferred(1) == A
    assert targets.states()[str(A)]["detail"] == "down 99"


def test_a_failure_during_the_trial_counts() -> None:
    """Whoever was sent to try makes the pause longer when it fails."""
    targets = Targets([A, B])
    targets.failed(A, 0, "down")
    targets.order(1)
    targets.failed(A, 1.5, "still down")
    assert (targets.preferred(3.4), targets.preferred(3.5)) == (B, A)


def test_success_ends_the_pause() -> None:
    """Also that of a connection which took it as the last resort, and the next pause is short again."""
    targets = Targets([A, B])
    for now in (0, 1, 3, 7):
        targets.failed(A, now, "down")
    targets.succeeded(A, 8)
    assert targets.preferred(8) == A
    targets.failed(A, 9, "down")
    assert targets.preferred(10) == A


def test_which_targets_nothing_is_known_of() -> None:
    """Those never tried, and those whose news are old."""
    targets = Targets([A, B, C])
    targets.succeeded(A, 10)
    targets.failed(B, 11, "down")
    assert targets.not_heard_of(11) == [C]
    assert targets.not_heard_of(10 + NEWS_SECONDS + 0.5) == [A, C]


def test_other_targets_keep_what_is_known_of_those_that_stay() -> None:
    """A reload forgets neither a failure nor who is new, and reports about former targets change nothing."""
    targets = Targets([A, B])
    targets.failed(B, 0, "down")
    targets.replace([C, B])
    assert targets.order(0.5) == [C, B]
    assert targets.states()[str(B)]["up"] is False
    targets.failed(A, 0.5, "down")
    targets.succeeded(A, 0.5)
    assert set(targets.states()) == {str(C), str(B)}
    with pytest.raises(ConfigurationError):
        targets.replace([])


@given(
    st.lists(
        st.tuples(st.sampled_from(["order", "failed", "succeeded", "wait"]), st.sampled_from([A, B, C])), max_size=60
    )
)
def test_every_order_has_all_of_them(events: list[tuple[str, Address]]) -> None:
    """Whatever happened, each target is in the order once, and those that are not to be avoided keep their order."""
    targets, now = Targets([A, B, C]), 0.0
    for event, address in events:
        if event == "failed":
            targets.failed(address, now, "down")
        elif event == "succeeded":
            targets.succeeded(address, now)
        now += 0.3 if event == "wait" else 0
        preferred, order = targets.preferred(now), targets.order(now)
        assert preferred == order[0]
        assert sorted(order, key=str) == [A, B, C]
        up = [one for one in order if targets.states()[str(one)]["up"]]
        assert up == sorted(up, key=str)
