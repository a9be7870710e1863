"""Header and prologue: strict, capped, the same bytes back, and nothing but our own errors for anything else."""

import tracemalloc
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pqfl_transport.algorithms import CONTENT_SUITES
from pqfl_transport.content import envelope as module
from pqfl_transport.content.envelope import (
    Header,
    PrologueReader,
    decode_header,
    decode_prologue,
    encode_header,
    envelope_bytes,
    split_items,
    trailer_bytes,
    verify_prologue,
)
from pqfl_transport.crypto.contexts import length_prefixed
from pqfl_transport.crypto.pyca import SigningKey
from pqfl_transport.errors import MessageError, PolicyError, PqflError
from pqfl_transport.policy import for_level
from tests.support.envelopes import SENDER, make_keys, split

KEYS = make_keys()
GOOD = Header(
    suite="pqfl/v1/mlkem768x25519-mldsa65", trailer=False, federation="fed", round=3, direction="update", sender=SENDER,
    sender_fingerprint=b"s" * 32, recipients=(b"r" * 32,), challenge=b"c" * 32, envelope_id=b"e" * 16, not_after=77,
    base_model_digest=b"d" * 32, plaintext_bytes=1000,
)  # fmt: skip

names = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=256)
numbers = st.integers(0, 2**64 - 1)
headers = st.builds(
    Header,
    suite=st.sampled_from(sorted(CONTENT_SUITES)), trailer=st.just(True), federation=names, round=numbers,
    direction=st.sampled_from(["update", "model", "file"]), sender=names,
    sender_fingerprint=st.binary(min_size=32, max_size=32),
    recipients=st.lists(st.binary(min_size=32, max_size=32), min_size=1, max_size=5, unique=True).map(tuple),
    challenge=st.sampled_from([b"", b"c" * 32]), envelope_id=st.binary(min_size=16, max_size=16), not_after=numbers,
    base_model_digest=st.sampled_from([b"", b"d" * 32]), plaintext_bytes=st.integers(0, 1 << 40),
)  # fmt: skip


@given(header=headers)
@settings(max_examples=60)
def test_a_header_comes_back_as_it_was(header: Header) -> None:
    """Encoding and decoding are inverses."""
    data = encode_header(header)
    assert decode_header(data) == header
    assert encode_header(decode_header(data)) == data


@given(data=st.binary(max_size=600))
def test_any_bytes_are_no_header(data: bytes) -> None:
    """Noise is refused by a MessageError, and by nothing else."""
    with pytest.raises(MessageError):
        decode_header(data)


@given(data=st.data())
@settings(max_examples=100)
def test_one_changed_byte_never_gives_the_same_header(data: st.DataObject) -> None:
    """There is one encoding: whatever still parses after a change says something else."""
    encoded = bytearray(encode_header(GOOD))
    encoded[data.draw(st.integers(0, len(encoded) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        assert decode_header(bytes(encoded)) != GOOD
    except MessageError:
        return


def items(**changes: bytes) -> bytes:
    """Encode the good header with single items replaced by position name."""
    order = (
        "suite", "flags", "federation", "round", "direction", "sender", "fingerprint", "recipients", "challenge", "id",
        "not_after", "digest", "length", "codec", "extra", "shares",
    )  # fmt: skip
    found = dict(zip(order, split_items(encode_header(GOOD), "header", maximum=16), strict=True))
    return length_prefixed(*(found | changes).values())


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"suite": b""}, "malformed"),
        ({"suite": b"\xff"}, "malformed"),
        ({"suite": b"x" * 257}, "malformed"),
        ({"flags": b"\x02"}, "malformed"),
        ({"flags": b""}, "malformed"),
        ({"flags": b"\x00\x00"}, "malformed"),
        ({"round": b"\x00" * 7}, "malformed"),
        ({"direction": b"download"}, "malformed"),
        ({"sender": b""}, "malformed"),
        ({"fingerprint": b"f" * 31}, "malformed"),
        ({"recipients": b""}, "malformed"),
        ({"recipients": length_prefixed(b"r" * 32, b"r" * 32)}, "malformed"),
        ({"recipients": length_prefixed(b"r" * 31)}, "malformed"),
        ({"recipients": length_prefixed(b"r" * 32)[:-1]}, "malformed"),
        ({"recipients": length_prefixed(b"r" * 32, b"q" * 32)}, "no_trailer"),
        ({"challenge": b"c"}, "malformed"),
        ({"id": b"e" * 15}, "malformed"),
        ({"not_after": b""}, "malformed"),
        ({"digest": b"d" * 33}, "malformed"),
        ({"length": (1 << 41).to_bytes(8, "big")}, "too_large"),
        ({"codec": b"pickle"}, "malformed"),
        ({"extra": length_prefixed(b"qkd")}, "unsupported"),
        ({"shares": length_prefixed(b"s" * 32)}, "unsupported"),
    ],
)
def test_every_field_has_its_form(changes: dict[str, bytes], reason: str) -> None:
    """A field of the wrong length, word or number is refused, and what is not supported is not ignored."""
    with pytest.raises(MessageError) as caught:
        decode_header(items(**changes))
    assert caught.value.reason == reason


def test_a_header_has_sixteen_fields() -> None:
    """One fewer or one more is no header of this version."""
    fields = split_items(encode_header(GOOD), "header", maximum=16)
    for changed in (fields[:-1], [*fields, b""]):
        with pytest.raises(MessageError):
            decode_header(length_prefixed(*changed))


@pytest.mark.parametrize("changes", [{"sender": "ü"}, {"round": -1}, {"round": 1 << 64}, {"direction": "x"}])
def test_what_could_not_be_read_is_not_written(changes: dict[str, Any]) -> None:
    """Encoding refuses what decoding would."""
    with pytest.raises(MessageError) as caught:
        encode_header(replace(GOOD, **changes))
    assert caught.value.reason == "malformed"


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
        (1, length_prefixed(b"w" * 1168, b"w" * 1168)),
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
    "not_after": 1, "base_model_digest": b"", "plaintext_bytes": 5,
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


@given(data=st.binary(max_size=300), maximum=st.integers(0, 5))
def test_items_are_split_or_refused(data: bytes, maximum: int) -> None:
    """Splitting either gives items that join to the same bytes, or a MessageError."""
    try:
        found = split_items(data, "anything", maximum=maximum)
    except MessageError:
        return
    assert length_prefixed(*found) == data
    assert len(found) <= maximum
