"""The header: strict, capped, the same bytes back, and nothing but our own errors for anything else."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pqfl_transport.algorithms import CONTENT_SUITES
from pqfl_transport.content.header import CODECS, Header, decode_header, encode_header, split_items
from pqfl_transport.crypto.contexts import length_prefixed
from pqfl_transport.errors import MessageError
from tests.support.envelopes import SENDER

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
    codec=st.sampled_from(CODECS), extra_key_ids=st.lists(names, max_size=3, unique=True).map(tuple),
)  # fmt: skip
thresholds = st.builds(
    lambda header, count, part: replace(
        header, recipients=tuple(bytes([number]) * 32 for number in range(count)),
        threshold=2 + part % (count - 1), share_hashes=tuple(bytes([255 - number]) * 32 for number in range(count)),
    ),
    headers, st.integers(2, 255), st.integers(0, 300),
)  # fmt: skip


@given(header=headers | thresholds)
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


TWO = {"recipients": length_prefixed(b"r" * 32, b"q" * 32), "flags": b"\x01"}


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
        ({"extra": length_prefixed(b"")}, "malformed"),
        ({"extra": length_prefixed(b"qkd:1", b"qkd:1")}, "malformed"),
        ({"extra": length_prefixed(*(b"%d" % number for number in range(17)))}, "malformed"),
        ({"extra": length_prefixed(b"x" * 257)}, "malformed"),
        ({"extra": length_prefixed(b"\xff")}, "malformed"),
        ({"shares": length_prefixed(b"s" * 32)}, "malformed"),
        ({"shares": length_prefixed(b"\x01", b"s" * 32)}, "malformed"),
        ({"shares": length_prefixed(b"\x02", b"s" * 32)}, "malformed"),
        ({"shares": length_prefixed(b"\x02", b"s" * 32, b"t" * 32)}, "malformed"),
        ({"shares": length_prefixed(b"\x00\x02", b"s" * 32, b"t" * 32)}, "malformed"),
        ({"shares": length_prefixed(b"\x02", b"s" * 32, b"t" * 31), **TWO}, "malformed"),
        ({"shares": length_prefixed(b"\x03", b"s" * 32, b"t" * 32), **TWO}, "malformed"),
        ({"shares": length_prefixed(b"\x00", b"s" * 32, b"t" * 32), **TWO}, "malformed"),
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


@given(data=st.binary(max_size=300), maximum=st.integers(0, 5))
def test_items_are_split_or_refused(data: bytes, maximum: int) -> None:
    """Splitting either gives items that join to the same bytes, or a MessageError."""
    try:
        found = split_items(data, "anything", maximum=maximum)
    except MessageError:
        return
    assert length_prefixed(*found) == data
    assert len(found) <= maximum
