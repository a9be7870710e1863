"""The envelope's header: the signed facts, encoded in one way and parsed strictly (ENVELOPE.md §2)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from pqfl_transport.crypto.contexts import length_prefixed, split_prefixed
from pqfl_transport.errors import MessageError

MAX_HEADER_BYTES = 64 * 1024
MAX_RECIPIENTS = 1024
MAX_PLAINTEXT_BYTES = 1 << 40
MAX_NAME_BYTES = 256
MAX_EXTRA_KEYS = 16
MAX_SHARES = 255
"""A share's index is one byte, and no share is at index 0, where the secret itself lies."""
MIN_THRESHOLD = 2
FINGERPRINT_BYTES = 32
CHALLENGE_BYTES = 32
DIGEST_BYTES = 32
ENVELOPE_ID_BYTES = 16
CONTENT_KEY_BYTES = 32
SHARE_HASH_BYTES = 32
DIRECTIONS = ("update", "model", "file")
CODECS = ("safetensors", "safetensors+bf16", "safetensors+int8", "safetensors+topk")
"""What was done to the tensors before they were laid out; all but the first lose precision within documented bounds."""
LOSSLESS = CODECS[0]

_ITEMS = 16
_TRAILER_FLAG = 1

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """The signed facts of an envelope (§2). Names of tensors and the sample count are inside the body, not here."""

    suite: str
    """Version and suite as one id, a row of `algorithms.CONTENT_SUITES`."""
    trailer: bool
    federation: str
    round: int
    direction: str
    """``update``, ``model`` or ``file``."""
    sender: str
    """SPIFFE ID of the signer."""
    sender_fingerprint: bytes
    """Of the signing key, 32 bytes."""
    recipients: tuple[bytes, ...]
    """Fingerprints of the receiving keys, 32 bytes each, without repetition."""
    challenge: bytes
    """The round's challenge, 32 bytes, or empty."""
    envelope_id: bytes
    """16 random bytes, used once."""
    not_after: int
    """Unix seconds; 0 is no end."""
    base_model_digest: bytes
    """32 bytes, or empty."""
    plaintext_bytes: int
    codec: str = LOSSLESS
    extra_key_ids: tuple[str, ...] = ()
    """Keys that both ends have from elsewhere (`content.keysource`), in the order in which they are mixed in."""
    threshold: int = 0
    """How many recipients have to open together; 0 where each opens alone."""
    share_hashes: tuple[bytes, ...] = ()
    """For a threshold, the hash of each recipient's share, in the order of ``recipients``."""


def encode_header(header: Header) -> bytes:
    """Return ``H``. Raises ``MessageError`` (``malformed``) for values that ``decode_header`` would refuse."""
    try:
        data = _encode(header)
    except (UnicodeEncodeError, OverflowError) as error:
        raise malformed("header", str(error)) from None
    decode_header(data)
    return data


def _encode(header: Header) -> bytes:
    return length_prefixed(
        header.suite.encode("ascii"),
        bytes([_TRAILER_FLAG if header.trailer else 0]),
        header.federation.encode("ascii"),
        header.round.to_bytes(8, "big"),
        header.direction.encode("ascii"),
        header.sender.encode("ascii"),
        header.sender_fingerprint,
        length_prefixed(*header.recipients),
        header.challenge,
        header.envelope_id,
        header.not_after.to_bytes(8, "big"),
        header.base_model_digest,
        header.plaintext_bytes.to_bytes(8, "big"),
        header.codec.encode("ascii"),
        length_prefixed(*(key_id.encode("ascii") for key_id in header.extra_key_ids)),
        _encode_shares(header.threshold, header.share_hashes),
    )


def _encode_shares(threshold: int, hashes: tuple[bytes, ...]) -> bytes:
    if not threshold and not hashes:
        return b""
    return length_prefixed(threshold.to_bytes(1, "big"), *hashes)


def decode_header(data: bytes) -> Header:
    """Parse ``H`` strictly (§2). Raises ``MessageError`` (``malformed``, ``too_large``) naming the field."""
    if len(data) > MAX_HEADER_BYTES:
        raise MessageError(f"a header of {len(data)} bytes; {MAX_HEADER_BYTES} are allowed", reason="too_large")
    items = split_items(data, "header", maximum=_ITEMS)
    if len(items) != _ITEMS:
        raise malformed("header", f"{len(items)} fields and not {_ITEMS}")
    threshold, share_hashes = _shares(items[15])
    header = Header(
        suite=_text("suite", items[0]),
        trailer=_flags(items[1]),
        federation=_text("federation", items[2]),
        round=_number("round", items[3]),
        direction=_one_of("direction", items[4], DIRECTIONS),
        sender=_text("sender", items[5]),
        sender_fingerprint=_fixed("sender key fingerprint", items[6], FINGERPRINT_BYTES),
        recipients=_fingerprints("recipients", items[7], MAX_RECIPIENTS),
        challenge=_fixed("challenge", items[8], 0, CHALLENGE_BYTES),
        envelope_id=_fixed("envelope id", items[9], ENVELOPE_ID_BYTES),
        not_after=_number("not-after", items[10]),
        base_model_digest=_fixed("base-model digest", items[11], 0, DIGEST_BYTES),
        plaintext_bytes=_number("plaintext length", items[12]),
        codec=_one_of("codec", items[13], CODECS),
        extra_key_ids=_extra_key_ids(items[14]),
        threshold=threshold,
        share_hashes=share_hashes,
    )
    return _check_consistency(header)


def _check_consistency(header: Header) -> Header:
    if not header.recipients:
        raise malformed("recipients", "nobody")
    if len(header.recipients) > 1 and not header.trailer:
        # Recipients share the body's key; without the trailer one of them could forge a body for another (§6).
        raise MessageError("several recipients and no trailer", reason="no_trailer")
    if header.threshold and len(header.share_hashes) != len(header.recipients):
        raise malformed("shares", f"{len(header.share_hashes)} for {len(header.recipients)} recipients")
    if header.plaintext_bytes > MAX_PLAINTEXT_BYTES:
        raise MessageError(f"a plaintext of {header.plaintext_bytes} bytes", reason="too_large")
    return header


def split_items(data: bytes, field: str, *, maximum: int) -> list[bytes]:
    """Split ``LP(…)`` into its items. Raises ``MessageError`` for a cut item or more than ``maximum`` of them."""
    try:
        return split_prefixed(data, maximum=maximum)
    except MessageError as error:
        raise malformed(field, str(error)) from None


def _text(field: str, data: bytes) -> str:
    if not 0 < len(data) <= MAX_NAME_BYTES:
        raise malformed(field, f"{len(data)} bytes")
    return _parsed(field, lambda: data.decode("ascii"))


def _one_of(field: str, data: bytes, words: tuple[str, ...]) -> str:
    word = _text(field, data)
    if word not in words:
        raise malformed(field, f"{word!r} and not one of {', '.join(words)}")
    return word


def _number(field: str, data: bytes) -> int:
    return int.from_bytes(_fixed(field, data, 8), "big")


def _fixed(field: str, data: bytes, *lengths: int) -> bytes:
    if len(data) not in lengths:
        raise malformed(field, f"{len(data)} bytes")
    return data


def _flags(data: bytes) -> bool:
    if data not in (b"\x00", b"\x01"):
        raise malformed("flags", f"{data[:8].hex() or 'nothing'}")
    return data == b"\x01"


def _fingerprints(field: str, data: bytes, maximum: int) -> tuple[bytes, ...]:
    items = split_items(data, field, maximum=maximum)
    if len(set(items)) != len(items):
        raise malformed(field, "one of them twice")
    return tuple(_fixed(field, item, FINGERPRINT_BYTES) for item in items)


def _extra_key_ids(data: bytes) -> tuple[str, ...]:
    field = "extra key ids"
    ids = tuple(_text(field, item) for item in split_items(data, field, maximum=MAX_EXTRA_KEYS))
    if len(set(ids)) != len(ids):
        raise malformed(field, "one of them twice")
    return ids


def _shares(data: bytes) -> tuple[int, tuple[bytes, ...]]:
    if not data:
        return 0, ()
    threshold, *hashes = split_items(data, "shares", maximum=MAX_SHARES + 1)
    least = int.from_bytes(_fixed("threshold", threshold, 1), "big")
    if not MIN_THRESHOLD <= least <= len(hashes):
        raise malformed("threshold", f"{least} of {len(hashes)}")
    return least, tuple(_fixed("share hash", item, SHARE_HASH_BYTES) for item in hashes)


def _parsed(field: str, parse: Callable[[], Value]) -> Value:
    try:
        return parse()
    except ValueError as error:
        raise malformed(field, str(error)) from None


def malformed(field: str, what: str) -> MessageError:
    """Return the error for a field that is not as it has to be."""
    return MessageError(f"malformed envelope: {field}: {what}", reason="malformed")
