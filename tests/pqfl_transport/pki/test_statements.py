"""Statements of new receiving keys: only the party itself makes them, for a time, about a key that is whole."""

import base64
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pqfl_transport.content.recipients import ReceivingKey
from pqfl_transport.crypto.pyca import SigningKey
from pqfl_transport.errors import MessageError
from pqfl_transport.pki.documents import DocumentKind, sign_document
from pqfl_transport.pki.roster import FormerKey, Party, Roster
from pqfl_transport.pki.spiffe import Role, SpiffeId
from pqfl_transport.pki.statements import (
    MAX_SKEW_SECONDS,
    Statement,
    open_first_statement,
    open_statement,
    sign_statement,
)
from pqfl_transport.policy import SecurityLevel

NOW = 1_800_000_000
NORTH, SOUTH = (SpiffeId("fed", Role.SITE, name) for name in ("north", "south"))
KEYS = {party: SigningKey.generate("ML-DSA-65") for party in (NORTH, SOUTH)}
NEW_KEY = ReceivingKey.generate("ML-KEM-768+X25519").public.to_bytes()
GOOD = Statement(NORTH, NEW_KEY, NOW, NOW + 1000)


def _roster() -> Roster:
    parties = {}
    for party, key in KEYS.items():
        public = ReceivingKey.generate("ML-KEM-768+X25519").public
        parties[str(party)] = Party(party, key.verifying_key, public.to_bytes(), public.fingerprint, 10)
    return Roster("fed", SecurityLevel.HIGH, 4, NOW, MappingProxyType(parties))


ROSTER = _roster()


def refused(data: bytes, now: float = NOW) -> str:
    with pytest.raises(MessageError) as caught:
        open_statement(data, ROSTER, now=now)
    return caught.value.reason


def test_a_statement_comes_back_with_its_party() -> None:
    """The party is the roster's, with the key that it still has there."""
    party, statement = open_statement(sign_statement(GOOD, KEYS[NORTH]), ROSTER, now=NOW)
    assert statement == GOOD
    assert party is ROSTER.parties[str(NORTH)]
    assert statement.receiving_fingerprint != party.receiving_fingerprint


def test_nobody_speaks_for_another() -> None:
    """Neither another member nor a stranger; a party that is not in the roster has nothing to say."""
    assert refused(sign_statement(GOOD, KEYS[SOUTH])) == "unknown_signer"
    assert refused(sign_statement(GOOD, SigningKey.generate("ML-DSA-65"))) == "unknown_signer"
    stranger = replace(GOOD, id=SpiffeId("fed", Role.SITE, "west"))
    assert refused(sign_statement(stranger, KEYS[NORTH])) == "unknown_sender"


def test_a_statement_has_its_time() -> None:
    """It ends, and is not of a day to come; a clock that is a little ahead does no harm."""
    data = sign_statement(GOOD, KEYS[NORTH])
    assert open_statement(data, ROSTER, now=NOW + 1000)
    assert refused(data, NOW + 1001) == "expired"
    assert open_statement(data, ROSTER, now=NOW - MAX_SKEW_SECONDS)
    assert refused(data, NOW - MAX_SKEW_SECONDS - 1) == "from_the_future"


def test_the_first_statement_is_not_of_a_time_to_come() -> None:
    """A later key has a later date, which would then be in the future as well: so it is refused at once."""
    data, key = sign_statement(GOOD, KEYS[NORTH]), KEYS[NORTH].verifying_key
    assert open_first_statement(data, NORTH, key, now=NOW - MAX_SKEW_SECONDS) == GOOD
    # When it ends is for who takes it into a roster; a site that waits for approval sends the same one for days.
    assert open_first_statement(data, NORTH, key, now=NOW + 1001) == GOOD
    with pytest.raises(MessageError, match=f"{MAX_SKEW_SECONDS + 1} s ahead") as caught:
        open_first_statement(data, NORTH, key, now=NOW - MAX_SKEW_SECONDS - 1)
    assert caught.value.reason == "from_the_future"
    with pytest.raises(MessageError) as caught:
        open_first_statement(data, SOUTH, key, now=NOW)
    assert caught.value.reason == "wrong_sender"


def test_a_signature_of_another_kind_does_not_count() -> None:
    """The same words signed as a round document are no statement."""
    as_round = sign_document(DocumentKind.ROUND, {"id": str(NORTH)}, KEYS[NORTH])
    assert refused(as_round) == "malformed"
    assert refused(as_round.replace(b"round/v1", b"receiving-key/v1")) == "bad_signature"


@pytest.mark.parametrize(
    "change",
    [
        {"id": "spiffe://fed/nobody"}, {"id": 3}, {"made": 0}, {"made": -1}, {"made": True}, {"not_after": 1 << 60},
        {"receiving_key": "!"}, {"receiving_key": ""}, {"receiving_fingerprint": "00" * 32}, {"more": 1},
    ],
    ids=str,
)  # fmt: skip
def test_a_signed_statement_is_held_to_its_form(change: dict[str, object]) -> None:
    """A member that signs nonsense is refused as well."""
    payload = {
        "id": str(NORTH), "receiving_key": base64.b64encode(NEW_KEY).decode(),
        "receiving_fingerprint": GOOD.receiving_fingerprint.hex(), "made": NOW, "not_after": NOW + 1,
    }  # fmt: skip
    assert open_statement(sign_document(DocumentKind.RECEIVING_KEY, payload, KEYS[NORTH]), ROSTER, now=NOW)
    assert refused(sign_document(DocumentKind.RECEIVING_KEY, payload | change, KEYS[NORTH])) == "malformed"


@given(st.binary(max_size=300))
@settings(deadline=None)
def test_noise_is_our_own_error(data: bytes) -> None:
    """No bytes make it raise anything else."""
    assert refused(data) == "malformed"


def test_what_is_too_large_is_not_read(tmp_path: Path) -> None:
    """A statement has at most one key in it."""
    del tmp_path
    assert refused(b" " * ((4 << 20) + 1)) == "too_large"


def test_a_former_key_speaks_as_long_as_it_counts() -> None:
    """Its party only, and not a second longer."""
    former = SigningKey.generate("ML-DSA-65")
    north = replace(ROSTER.parties[str(NORTH)], former=FormerKey(former.verifying_key, NOW + 10))
    roster = replace(ROSTER, parties=MappingProxyType({**ROSTER.parties, str(NORTH): north}))
    data = sign_statement(GOOD, former)
    assert open_statement(data, roster, now=NOW + 10) == (north, GOOD)
    for statement, now in ((GOOD, NOW + 11), (replace(GOOD, id=SOUTH), NOW)):
        with pytest.raises(MessageError) as caught:
            open_statement(sign_statement(statement, former), roster, now=now)
        assert caught.value.reason == "unknown_signer"
