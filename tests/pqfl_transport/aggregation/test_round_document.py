"""The round document: it comes back as it was signed, and only to the one who asked."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pqfl_transport.aggregation.round_document import (
    RoundDocument,
    RoundState,
    TensorSchema,
    open_round_document,
    require_nonce,
    sign_round_document,
)
from pqfl_transport.crypto.pyca import SigningKey
from pqfl_transport.errors import MessageError
from pqfl_transport.pki.documents import DocumentKind, sign_document

KEY = SigningKey.from_seed("ML-DSA-65", bytes(32))
KEYS = [KEY.verifying_key]
NONCE = "ab" * 16
DOCUMENT = RoundDocument(
    nonce=NONCE,
    aggregator="spiffe://fed/aggregator/hub",
    federation="fed",
    round=3,
    state=RoundState.COLLECTING,
    suite="pqfl/v1/mlkem768x25519-mldsa65",
    challenge=bytes(range(32)),
    receiving_key=b"a versioned structure",
    model_version=2,
    model_digest=bytes(32),
    schema=(TensorSchema("w", "F32", (2, 3)), TensorSchema("b", "F32", ())),
    plaintext_bytes=1000,
    quorum=2,
    deadline=1_800_000_000,
    not_after=1_800_000_000,
    roster_number=1,
)

_counts = st.integers(0, 2**63 - 1)


@settings(max_examples=25, deadline=None)
@given(
    document=st.builds(
        RoundDocument,
        nonce=st.text("0123456789abcdef", min_size=32, max_size=64),
        aggregator=st.text(max_size=20),
        federation=st.text(max_size=20),
        round=_counts,
        state=st.sampled_from(RoundState),
        suite=st.text(max_size=20),
        challenge=st.binary(min_size=32, max_size=32),
        receiving_key=st.binary(min_size=1, max_size=50),
        model_version=_counts,
        model_digest=st.binary(min_size=32, max_size=32),
        schema=st.lists(
            st.builds(TensorSchema, st.text(max_size=5), st.text(max_size=5), st.lists(_counts, max_size=3).map(tuple)),
            max_size=3,
        ).map(tuple),
        plaintext_bytes=_counts,
        quorum=_counts,
        deadline=_counts,
        not_after=_counts,
        roster_number=_counts,
    )
)
def test_round_trip(document: RoundDocument) -> None:
    """Every document comes back as it was signed."""
    assert open_round_document(sign_round_document(document, KEY), KEYS, nonce=document.nonce) == document


def test_another_nonce_is_a_replay() -> None:
    """A document signed for another asker, or for an earlier question, is refused."""
    with pytest.raises(MessageError) as caught:
        open_round_document(sign_round_document(DOCUMENT, KEY), KEYS, nonce="cd" * 16)
    assert caught.value.reason == "replayed"


def test_another_signer_is_refused() -> None:
    """A document signed by a key that is not asked for is refused."""
    other = SigningKey.from_seed("ML-DSA-65", bytes([1]) * 32)
    with pytest.raises(MessageError) as caught:
        open_round_document(sign_round_document(DOCUMENT, other), KEYS, nonce=NONCE)
    assert caught.value.reason == "unknown_signer"


def good_payload() -> dict[str, Any]:
    """The payload of a good document, to be damaged."""
    return {
        "nonce": NONCE, "aggregator": "a", "federation": "f", "round": 1, "state": "collecting", "suite": "s",
        "challenge": "00" * 32, "receiving_key": "AA==", "schema": [["w", "F32", [2]]],
        "model": {"version": 0, "digest": "00" * 32, "plaintext_bytes": 8},
        "quorum": 1, "deadline": 1, "not_after": 1, "roster": 1,
    }  # fmt: skip


@pytest.mark.parametrize("field", sorted(good_payload()))
@pytest.mark.parametrize("value", [None, True, -1, 1.5, {"a": 1}, [1], 2**64])
def test_every_field_is_typed(field: str, value: object) -> None:
    """A field of the wrong type or range is refused as malformed, whichever field it is."""
    payload = good_payload() | {field: value}
    with pytest.raises(MessageError) as caught:
        open_round_document(sign_document(DocumentKind.ROUND, payload, KEY), KEYS, nonce=NONCE)
    assert caught.value.reason == "malformed"


@pytest.mark.parametrize("field", sorted(good_payload()))
def test_every_field_is_needed(field: str) -> None:
    """A document without one of its fields is refused."""
    payload = good_payload()
    del payload[field]
    with pytest.raises(MessageError, match=field):
        open_round_document(sign_document(DocumentKind.ROUND, payload, KEY), KEYS, nonce=NONCE)


def test_an_open_round_needs_its_key() -> None:
    """A collecting round without challenge or receiving key is refused; a finished one needs neither."""
    bare = replace(DOCUMENT, challenge=b"", receiving_key=b"")
    with pytest.raises(MessageError):
        open_round_document(sign_round_document(bare, KEY), KEYS, nonce=NONCE)
    finished = replace(bare, state=RoundState.FINISHED)
    assert open_round_document(sign_round_document(finished, KEY), KEYS, nonce=NONCE) == finished


@pytest.mark.parametrize("nonce", ["", "a" * 31, "a" * 65, "a" * 31 + "!", "é" * 32, "a" * 32 + "\n"])
def test_bad_nonces(nonce: str) -> None:
    """A nonce too short, too long or with other characters is refused."""
    with pytest.raises(MessageError) as caught:
        require_nonce(nonce)
    assert caught.value.reason == "bad_nonce"


def test_good_nonces() -> None:
    """Hexadecimal and base64 are taken."""
    require_nonce("0aF" * 12)
    require_nonce("+/=" * 11)
    require_nonce("_-z" * 11)
