"""The prologue: read in any pieces, capped by its own header, verified, and nothing but our own errors otherwise."""

import tracemalloc
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pqfl_transport.content import envelope as module
from pqfl_transport.content.envelope import (
    PrologueReader,
    decode_prologue,
    envelope_bytes,
    trailer_bytes,
    verify_prologue,
)
from pqfl_transport.content.header import encode_header
from pqfl_transport.crypto.contexts import length_prefixed
from pqfl_transport.crypto.pyca import SigningKey
from pqfl_transport.errors import MessageError, PolicyError, PqflError
from pqfl_transport.policy import for_level
from tests.support.envelopes import make_keys, split

KEYS = make_keys()


@given(cuts=st.lists(st.integers(1, 700), max_size=30))
@settings(max_examples=30, deadline=None)
def test_a_prologue_is_read_in_pieces_of_any_size(cuts: list[int]) -> None:
    """However the stream is cut, the same prologue comes out, and the rest is the body's."""
    data = bytes(ENVELOPE)
    expected, _ = decode_prologue(data)
    reader = PrologueReader()
    at, found = 0, None
    for cut in [*cuts, len(data)]:
        piece = data[at : at + cut]
        at += len(piece)
        found = reader.feed(piece)
        if found is not None:
            break
    assert found == expected
    assert expected.raw + reader.rest == data[:at]


ENVELOPE = KEYS.seal()


def test_a_prologue_cut_at_any_boundary_is_truncated() -> None:
    """Each of the four parts can be where the stream ends."""
    prologue, _, _ = split(ENVELOPE)
    edges = [0, 3, 4]
    for part in (prologue.header_bytes, prologue.wrapped_bytes, prologue.commitment, prologue.signature):
        edges += [edges[-1] + len(part) - 1, edges[-1] + len(part), edges[-1] + len(part) + 4]
    for end in (edge for edge in edges if edge < len(prologue.raw)):
        with pytest.raises(MessageError) as caught:
            decode_prologue(ENVELOPE[:end])
        assert caught.value.reason == "truncated"


@pytest.mark.parametrize("position", range(4))
def test_a_claimed_length_is_refused_before_anything_is_allocated(position: int) -> None:
    """A part that claims gigabytes costs nothing."""
    prologue, _, _ = split(ENVELOPE)
    parts = [prologue.header_bytes, prologue.wrapped_bytes, prologue.commitment, prologue.signature]
    data = length_prefixed(*parts[:position]) + b"\xff\xff\xff\xff" + bytes(1000)
    tracemalloc.start()
    with pytest.raises(MessageError) as caught:
        decode_prologue(data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert caught.value.reason == "too_large"
    assert peak < 200_000


@pytest.mark.parametrize(
    ("part", "replacement"),
    [
        (1, length_prefixed(b"w" * 1167)),
        (1, length_prefixed(b"w" * 1163, b"")),
        (1, b""),
        (2, b"k" * 55),
        (3, b"s" * 3308),
        (3, b""),
    ],
)
def test_parts_have_exactly_the_lengths_of_the_suite(part: int, replacement: bytes) -> None:
    """Wrapped keys, commitment and signature of another length are malformed."""
    prologue, _, _ = split(ENVELOPE)
    parts = [prologue.header_bytes, prologue.wrapped_bytes, prologue.commitment, prologue.signature]
    parts[part] = replacement
    with pytest.raises(MessageError) as caught:
        decode_prologue(length_prefixed(*parts))
    assert caught.value.reason == "malformed"


def test_wrapped_keys_of_all_recipients_are_capped_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """A header with very many recipients of a suite with large keys is refused before its wrapped keys are read."""
    many = tuple(number.to_bytes(32, "big") for number in range(1024))
    header = replace(split(ENVELOPE)[0].header, recipients=many, trailer=True)
    PrologueReader().feed(length_prefixed(encode_header(header)))
    monkeypatch.setattr(module, "MAX_WRAPPED_BYTES", 1024 * 1171)
    with pytest.raises(MessageError) as caught:
        PrologueReader().feed(length_prefixed(encode_header(header)))
    assert caught.value.reason == "too_large"


def test_an_unknown_suite_is_never_guessed_at() -> None:
    """Another version or another suite is refused by its name."""
    prologue, _, _ = split(ENVELOPE)
    header = encode_header(replace(prologue.header, suite="pqfl/v2/mlkem768x25519-mldsa65"))
    with pytest.raises(PolicyError) as caught:
        decode_prologue(length_prefixed(header, prologue.wrapped_bytes, prologue.commitment, prologue.signature))
    assert caught.value.reason == "unknown_suite"


def test_lengths_are_known_from_the_header() -> None:
    """The envelope's whole length follows from its prologue, with and without a trailer."""
    for envelope in (ENVELOPE, KEYS.seal(trailer=True), KEYS.seal(recipients=[KEYS.receiving, KEYS.other])):
        prologue, _ = decode_prologue(envelope)
        assert envelope_bytes(prologue) == len(envelope)
        assert trailer_bytes(prologue.header) == (3309 if prologue.header.trailer else 0)


def test_a_good_prologue_verifies_and_others_do_not() -> None:
    """The sender's own key, a suite of the policy: nothing less."""
    prologue, _, _ = split(ENVELOPE)
    verify_prologue(prologue, sender_key=KEYS.signing.verifying_key, policy=KEYS.policy)
    stranger = SigningKey.generate("ML-DSA-65")
    cases: list[tuple[Any, Any, str]] = [
        (stranger.verifying_key, KEYS.policy, "wrong_sender_key"),
        (SigningKey.generate("ML-DSA-87").verifying_key, KEYS.policy, "wrong_sender_key"),
        (KEYS.signing.verifying_key, for_level("maximum"), "content_suite"),
    ]
    for key, policy, reason in cases:
        with pytest.raises(PqflError) as caught:
            verify_prologue(prologue, sender_key=key, policy=policy)
        assert caught.value.reason == reason
    # Somebody who claims the sender's fingerprint without its key.
    forged, _ = decode_prologue(KEYS.resign(prologue, signing=stranger))
    with pytest.raises(MessageError) as caught:
        verify_prologue(forged, sender_key=KEYS.signing.verifying_key, policy=KEYS.policy)
    assert caught.value.reason == "bad_signature"


CHANGED_FIELDS: dict[str, Any] = {
    "trailer": True, "federation": "other", "round": 4, "direction": "model", "sender": "spiffe://fed/site/bank-b",
    "sender_fingerprint": b"x" * 32, "recipients": (b"x" * 32,), "challenge": b"x" * 32, "envelope_id": b"x" * 16,
    "not_after": 1, "base_model_digest": b"", "plaintext_bytes": 5, "codec": "safetensors+bf16",
    "extra_key_ids": ("qkd:1",),
}  # fmt: skip


@pytest.mark.parametrize("field", CHANGED_FIELDS)
def test_every_header_field_is_signed(field: str) -> None:
    """A changed field under the old signature does not verify."""
    prologue, _, _ = split(ENVELOPE)
    header = encode_header(replace(prologue.header, **{field: CHANGED_FIELDS[field]}))
    raw = length_prefixed(header, prologue.wrapped_bytes, prologue.commitment, prologue.signature)
    changed, _ = decode_prologue(raw)
    with pytest.raises(MessageError) as caught:
        verify_prologue(changed, sender_key=KEYS.signing.verifying_key, policy=KEYS.policy)
    assert caught.value.reason == ("wrong_sender_key" if field == "sender_fingerprint" else "bad_signature")


def test_the_gateway_can_import_this_without_opening_anything() -> None:
    """Nothing in this module holds or takes a private receiving key."""
    assert not any("Receiving" in name or "Opener" in name for name in vars(module))
