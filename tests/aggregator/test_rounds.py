"""The rules of a round: what it takes, from whom, once; and how it ends."""

import hashlib
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator.rounds import MAX_RESERVATIONS, Move, Round, State, Terms
from pqfl_transport.aggregation.fedavg import Update
from pqfl_transport.content.envelope import Prologue
from pqfl_transport.content.header import Header
from pqfl_transport.crypto.pyca import SigningKey
from pqfl_transport.errors import MessageError, PqflError, RoundError
from pqfl_transport.pki.roster import Party
from pqfl_transport.pki.spiffe import SpiffeId

KEY = SigningKey.from_seed("ML-DSA-65", bytes(32)).verifying_key
SITE_A, SITE_B = "spiffe://fed/site/a", "spiffe://fed/site/b"
NOW = 1000.0
TERMS = Terms(
    federation="fed",
    number=3,
    challenge=b"c" * 32,
    suite="pqfl/v1/mlkem768x25519-mldsa65",
    base_digest=b"d" * 32,
    receiving_fingerprint=b"r" * 32,
    max_plaintext_bytes=1000,
    expected=frozenset({SITE_A, SITE_B}),
    quorum=1,
    deadline=2000.0,
    not_after=2000.0,
)
GOOD = Header(
    suite=TERMS.suite,
    trailer=False,
    federation="fed",
    round=3,
    direction="update",
    sender=SITE_A,
    sender_fingerprint=KEY.fingerprint,
    recipients=(b"r" * 32,),
    challenge=b"c" * 32,
    envelope_id=b"e" * 16,
    not_after=2000,
    base_model_digest=b"d" * 32,
    plaintext_bytes=500,
)
UPDATE = Update([np.zeros(1)], 5)


def prologue(**changes: Any) -> Prologue:
    """A prologue whose bytes differ whenever its header does."""
    header = replace(GOOD, **changes)
    raw = hashlib.sha256(repr(header).encode()).digest()
    return Prologue(header, raw, (b"",), b"", b"", raw)


def party(uri: str = SITE_A) -> Party:
    """A roster entry."""
    return Party(SpiffeId.parse(uri), KEY, b"", b"", 100)


def accept(round_: Round, **changes: Any) -> None:
    """Take one update through all three gates."""
    envelope = prologue(**changes)
    round_.admit(envelope, party(envelope.header.sender), NOW)
    reservation = round_.reserve(envelope)
    round_.commit(reservation, UPDATE)
    round_.release(reservation)


def test_a_good_update_passes_and_completes_the_round() -> None:
    """Updates of all sites pass the gates, and then the round is due at once."""
    round_ = Round(TERMS)
    accept(round_)
    assert round_.due(NOW) is None
    accept(round_, sender=SITE_B)
    assert round_.due(NOW) is Move.ALL_IN
    assert list(round_.updates) == [SITE_A, SITE_B]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"round": 2}, "stale"),
        ({"round": 4}, "wrong_round"),
        ({"challenge": b"x" * 32}, "wrong_challenge"),
        ({"challenge": b""}, "wrong_challenge"),
        ({"not_after": 999}, "expired"),
        ({"not_after": 0}, "expired"),
        ({"not_after": 2001}, "expired"),
        ({"federation": "other"}, "wrong_federation"),
        ({"direction": "model"}, "wrong_direction"),
        ({"suite": "pqfl/v1/mlkem768x25519-mldsa44"}, "wrong_suite"),
        ({"recipients": (b"x" * 32,)}, "misaddressed"),
        ({"recipients": (b"r" * 32, b"x" * 32)}, "misaddressed"),
        ({"base_model_digest": b"x" * 32}, "wrong_base_model"),
        ({"plaintext_bytes": 1001}, "too_large"),
        ({"sender": "spiffe://fed/aggregator/hub"}, "wrong_role"),
        ({"sender": "spiffe://other/site/a"}, "wrong_federation"),
    ],
)
def test_each_wrong_header_has_its_reason(changes: dict[str, Any], reason: str) -> None:
    """Every field that does not fit the round is refused with its own reason, and the round goes on."""
    round_ = Round(TERMS)
    envelope = prologue(**changes)
    with pytest.raises(PqflError) as caught:
        round_.admit(envelope, party(envelope.header.sender), NOW)
    assert caught.value.reason == reason
    assert isinstance(caught.value, (MessageError, RoundError))
    accept(round_)


def test_the_same_envelope_again_gets_the_same_receipt() -> None:
    """A resend of the accepted envelope is no error and counts once."""
    round_ = Round(TERMS)
    assert round_.receipt_for(prologue()) is None
    accept(round_)
    receipt = round_.receipt_for(prologue())
    assert receipt is not None
    assert (receipt.round, receipt.sender, receipt.envelope_id) == (3, SITE_A, b"e" * 16)
    accept(round_)
    assert len(round_.updates) == 1


def test_another_envelope_of_the_same_sender_is_a_duplicate() -> None:
    """A second update under a new envelope id, or another prologue under the old one, is refused."""
    round_ = Round(TERMS)
    accept(round_)
    for changes, reason in (({"envelope_id": b"f" * 16}, "duplicate"), ({"plaintext_bytes": 7}, "replay")):
        with pytest.raises(RoundError) as caught:
            round_.admit(prologue(**changes), party(), NOW)
        assert caught.value.reason == reason


def test_garbage_in_flight_does_not_block_the_owner() -> None:
    """Uploads under a copied prologue hold places and lose nothing for the good one, which commits first."""
    round_ = Round(TERMS)
    dribbling = [round_.reserve(prologue()) for _ in range(MAX_RESERVATIONS - 1)]
    good = round_.reserve(prologue())
    receipt = round_.commit(good, UPDATE)
    for reservation in dribbling:
        round_.release(reservation)
    assert round_.receipt_for(prologue()) == receipt


def test_places_are_bounded_and_come_back() -> None:
    """A sender has so many uploads in flight and no more; releasing gives the place back; others are not affected."""
    round_ = Round(TERMS)
    held = [round_.reserve(prologue(envelope_id=bytes([n]) * 16)) for n in range(MAX_RESERVATIONS)]
    with pytest.raises(RoundError) as caught:
        round_.reserve(prologue())
    assert caught.value.reason == "busy"
    round_.reserve(prologue(sender=SITE_B))
    round_.release(held[0])
    round_.release(held[0])
    round_.reserve(prologue())
    with pytest.raises(RoundError):
        round_.reserve(prologue())


def test_the_first_commit_wins() -> None:
    """Of two different envelopes in flight the first to be found good counts, the other is a duplicate."""
    round_ = Round(TERMS)
    first, second = round_.reserve(prologue()), round_.reserve(prologue(envelope_id=b"f" * 16))
    round_.commit(second, UPDATE)
    with pytest.raises(RoundError) as caught:
        round_.commit(first, UPDATE)
    assert caught.value.reason == "duplicate"


def test_a_closed_round_takes_nothing() -> None:
    """After the deadline neither a new upload nor one in flight is taken; a resend still gets its receipt."""
    round_ = Round(TERMS)
    accept(round_)
    in_flight = round_.reserve(prologue(sender=SITE_B))
    round_.move(Move.QUORUM_AT_DEADLINE)
    for action in (
        lambda: round_.admit(prologue(sender=SITE_B), party(SITE_B), NOW),
        lambda: round_.reserve(prologue(sender=SITE_B)),
        lambda: round_.commit(in_flight, UPDATE),
    ):
        with pytest.raises(RoundError) as caught:
            action()
        assert caught.value.reason == "closed"
    assert round_.receipt_for(prologue()) is not None


def test_what_the_deadline_does() -> None:
    """At the deadline a round with its quorum is averaged and one without it has failed."""
    round_ = Round(TERMS)
    assert round_.due(1999.9) is None
    assert round_.due(2000.0) is Move.SHORT_AT_DEADLINE
    accept(round_)
    assert round_.due(2000.0) is Move.QUORUM_AT_DEADLINE


def test_legal_moves_are_exactly_the_table() -> None:
    """Every pair of state and move that is not in the table is an error of the driver."""
    legal = {
        (State.COLLECTING, Move.ALL_IN): State.AGGREGATING,
        (State.COLLECTING, Move.QUORUM_AT_DEADLINE): State.AGGREGATING,
        (State.COLLECTING, Move.SHORT_AT_DEADLINE): State.FAILED,
        (State.COLLECTING, Move.WITHDRAWN): State.FAILED,
        (State.AGGREGATING, Move.WITHDRAWN): State.FAILED,
        (State.AGGREGATING, Move.AVERAGED): State.CLOSED,
        (State.AGGREGATING, Move.ABORTED): State.FAILED,
    }
    for state, move in product(State, Move):
        round_ = Round(TERMS, state=state)
        if (state, move) in legal:
            round_.move(move)
            assert round_.state is legal[state, move]
        else:
            with pytest.raises(KeyError):
                round_.move(move)


@settings(max_examples=60, deadline=None)
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["reserve", "commit", "release", "close"]), st.integers(0, 5), st.booleans()),
        max_size=40,
    )
)
def test_at_most_one_update_a_sender(steps: list[tuple[str, int, bool]]) -> None:
    """Whatever the order of reservations, commits and releases, a sender has one update and bounded places."""
    round_ = Round(TERMS)
    held = []
    for step, number, second in steps:
        try:
            match step:
                case "reserve":
                    sender = SITE_B if second else SITE_A
                    held.append(round_.reserve(prologue(sender=sender, envelope_id=bytes([number]) * 16)))
                case "commit" if held:
                    round_.commit(held[number % len(held)], UPDATE)
                case "release" if held:
                    round_.release(held[number % len(held)])
                case "close" if number == 0 and round_.state is State.COLLECTING:
                    round_.move(Move.QUORUM_AT_DEADLINE)
        except RoundError as error:
            assert error.reason in {"busy", "closed", "duplicate"}  # noqa: PT017 — these three and no other
    assert set(round_.updates) <= {SITE_A, SITE_B}
    assert all(len(places) <= MAX_RESERVATIONS for places in round_._reservations.values())


def test_a_site_that_is_struck_off_is_waited_for_no_more_and_its_update_is_gone() -> None:
    """What is left has to meet the quorum; with too little the round waits for its deadline."""
    for quorum, due in ((1, Move.ALL_IN), (2, None)):
        round_ = Round(replace(TERMS, expected=frozenset({"a", "b"}), quorum=quorum))
        round_.updates |= {"a": UPDATE, "b": UPDATE}
        assert round_.strike("a")
        assert not round_.strike("a")
        assert set(round_.updates) == {"b"}
        assert round_.due(0) is due
    assert round_.due(round_.terms.deadline) is Move.SHORT_AT_DEADLINE


def test_the_key_of_an_accepted_update_is_remembered() -> None:
    """A list that revokes it later takes the update with it."""
    made, signed = Round(TERMS), prologue()
    assert made.signer(SITE_A) is None
    reservation = made.reserve(signed)
    assert made.signer(SITE_A) is None
    made.commit(reservation, UPDATE)
    assert made.signer(SITE_A) == KEY.fingerprint
