"""The envelope's header and prologue: read, checked for form, and verified. Nothing here opens anything.

ENVELOPE.md is the specification; the section signs in this file refer to it. A header is verified as it was received:
the parsed fields are a view of the bytes, which are kept and never encoded again. A gateway runs everything in this
module and holds no key for more.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from pqfl_transport.algorithms import ContentSuite, Kind, content_suite, find
from pqfl_transport.crypto.contexts import Context, length_prefixed
from pqfl_transport.crypto.pyca import (
    BODY_COMMITMENT_BYTES,
    Buffer,
    VerifyingKey,
    body_bytes,
    wrapped_bytes,
)
from pqfl_transport.errors import MessageError
from pqfl_transport.policy import Policy

LENGTH_BYTES = 4
MAX_HEADER_BYTES = 64 * 1024
MAX_RECIPIENTS = 1024
MAX_WRAPPED_KEY_BYTES = 4096
MAX_SIGNATURE_BYTES = 8192
MAX_PLAINTEXT_BYTES = 1 << 40
MAX_NAME_BYTES = 256
FINGERPRINT_BYTES = 32
CHALLENGE_BYTES = 32
DIGEST_BYTES = 32
ENVELOPE_ID_BYTES = 16
CONTENT_KEY_BYTES = 32
DIRECTIONS = ("update", "model", "file")
CODECS = ("safetensors",)

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
    codec: str = "safetensors"
    extra_key_ids: tuple[bytes, ...] = ()
    share_hashes: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Prologue:
    """A complete prologue (§3): header, wrapped keys, the body's commitment, the sender's signature over all three."""

    header: Header
    header_bytes: bytes
    wrapped: tuple[bytes, ...]
    """The content key, wrapped once for each recipient, in the header's order."""
    commitment: bytes
    """Salt and key commitment of the body, its first 56 bytes."""
    signature: bytes
    raw: bytes

    @property
    def digest(self) -> bytes:
        """SHA-256 over the whole prologue, 32 bytes: what a receipt and a replay check remember."""
        return hashlib.sha256(self.raw).digest()

    @property
    def signed_bytes(self) -> bytes:
        """What the signature is over: ``LP(H, W, K)``."""
        return length_prefixed(self.header_bytes, self.wrapped_bytes, self.commitment)

    @property
    def wrapped_bytes(self) -> bytes:
        """``W`` of the specification."""
        return length_prefixed(*self.wrapped)


def encode_header(header: Header) -> bytes:
    """Return ``H``. Raises ``MessageError`` (``malformed``) for values that ``decode_header`` would refuse."""
    try:
        data = _encode(header)
    except (UnicodeEncodeError, OverflowError) as error:
        raise _malformed("header", str(error)) from None
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
        length_prefixed(*header.extra_key_ids),
        length_prefixed(*header.share_hashes),
    )


def decode_header(data: bytes) -> Header:
    """Parse ``H`` strictly (§2). Raises ``MessageError`` (``malformed``, ``too_large``) naming the field."""
    if len(data) > MAX_HEADER_BYTES:
        raise MessageError(f"a header of {len(data)} bytes; {MAX_HEADER_BYTES} are allowed", reason="too_large")
    items = split_items(data, "header", maximum=_ITEMS)
    if len(items) != _ITEMS:
        raise _malformed("header", f"{len(items)} fields and not {_ITEMS}")
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
        extra_key_ids=_none_yet("extra key ids", items[14]),
        share_hashes=_none_yet("share hashes", items[15]),
    )
    return _check_consistency(header)


def _check_consistency(header: Header) -> Header:
    if not header.recipients:
        raise _malformed("recipients", "nobody")
    if len(header.recipients) > 1 and not header.trailer:
        # Recipients share the body's key; without the trailer one of them could forge a body for another (§6).
        raise MessageError("several recipients and no trailer", reason="no_trailer")
    if header.plaintext_bytes > MAX_PLAINTEXT_BYTES:
        raise MessageError(f"a plaintext of {header.plaintext_bytes} bytes", reason="too_large")
    return header


class PrologueReader:
    """Reads a prologue from a stream in pieces of any size, never keeping more than the caps allow."""

    __slots__ = ("_buffer", "_done")

    _CAPS = (
        ("header", MAX_HEADER_BYTES),
        ("wrapped keys", MAX_RECIPIENTS * (MAX_WRAPPED_KEY_BYTES + LENGTH_BYTES)),
        ("commitment", BODY_COMMITMENT_BYTES),
        ("signature", MAX_SIGNATURE_BYTES),
    )

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._done = False

    def feed(self, data: Buffer) -> Prologue | None:
        """Take more bytes; return the prologue once it is complete. Raises ``MessageError`` at the first wrong byte."""
        self._buffer += data
        at = 0
        items = []
        for name, cap in self._CAPS:
            if len(self._buffer) < at + LENGTH_BYTES:
                return None
            length = int.from_bytes(self._buffer[at : at + LENGTH_BYTES], "big")
            if length > cap:
                raise MessageError(f"{name} of {length} bytes; {cap} are allowed", reason="too_large")
            end = at + LENGTH_BYTES + length
            if len(self._buffer) < end:
                return None
            items.append(bytes(self._buffer[at + LENGTH_BYTES : end]))
            at = end
        self._done = True
        prologue = _prologue(items, bytes(self._buffer[:at]))
        del self._buffer[:at]
        return prologue

    @property
    def rest(self) -> bytes:
        """The bytes fed so far that belong to the body."""
        return bytes(self._buffer) if self._done else b""

    def finish(self) -> None:
        """The stream ended. Raises ``MessageError`` (``truncated``) unless the prologue was complete."""
        if not self._done:
            raise MessageError("the envelope ends within its prologue", reason="truncated")


def decode_prologue(data: Buffer) -> tuple[Prologue, bytes]:
    """Parse a prologue at the start of ``data``; return it and the rest. Raises ``MessageError``."""
    reader = PrologueReader()
    prologue = reader.feed(data)
    reader.finish()
    assert prologue is not None  # noqa: S101 -- `finish` has raised otherwise
    return prologue, reader.rest


def encode_prologue(header_bytes: bytes, wrapped: tuple[bytes, ...], commitment: bytes, signature: bytes) -> Prologue:
    """Put a prologue together from its four parts."""
    parts = [header_bytes, length_prefixed(*wrapped), commitment, signature]
    return _prologue(parts, length_prefixed(*parts))


def _prologue(items: list[bytes], raw: bytes) -> Prologue:
    header_bytes, wrapped_field, commitment, signature = items
    header = decode_header(header_bytes)
    suite = content_suite(header.suite)
    wrapped = split_items(wrapped_field, "wrapped keys", maximum=MAX_RECIPIENTS)
    expected = wrapped_bytes(suite.kem, CONTENT_KEY_BYTES)
    if len(wrapped) != len(header.recipients):
        raise _malformed("wrapped keys", f"{len(wrapped)} for {len(header.recipients)} recipients")
    if any(len(item) != expected for item in wrapped):
        raise _malformed("wrapped keys", f"not {expected} bytes each, as {suite.kem} makes them")
    if len(commitment) != BODY_COMMITMENT_BYTES:
        raise _malformed("commitment", f"{len(commitment)} bytes")
    if len(signature) != signature_bytes(suite):
        raise _malformed("signature", f"{len(signature)} bytes are not one of {suite.signature}")
    return Prologue(header, header_bytes, tuple(wrapped), commitment, signature, raw)


def verify_prologue(prologue: Prologue, *, sender_key: VerifyingKey, policy: Policy) -> None:
    """Raise unless the policy lists the suite and the sender of our registry signed this prologue (§5).

    ``PolicyError`` (``content_suite``), ``MessageError`` (``wrong_sender_key``, ``bad_signature``). Whether the sender
    may send, now and here, is the receiver's question before this one.
    """
    header = prologue.header
    suite = policy.require_content_suite(header.suite)
    if sender_key.algorithm != suite.signature or header.sender_fingerprint != sender_key.fingerprint:
        raise MessageError(f"the envelope is not signed with the key of {header.sender}", reason="wrong_sender_key")
    try:
        sender_key.verify(prologue.signature, prologue.signed_bytes, Context.PROLOGUE)
    except MessageError:
        raise MessageError(f"the prologue is not signed by {header.sender}", reason="bad_signature") from None


def signature_bytes(suite: ContentSuite) -> int:
    """Return the length of the suite's signatures."""
    return find(suite.signature, Kind.SIGNATURE).signature_bytes or 0


def trailer_bytes(header: Header) -> int:
    """Return the length of the trailer: one signature where it is declared, else nothing."""
    return signature_bytes(content_suite(header.suite)) if header.trailer else 0


def remaining_bytes(header: Header) -> int:
    """Return how many bytes follow the prologue: the body without its commitment, and the trailer."""
    return body_bytes(header.plaintext_bytes) - BODY_COMMITMENT_BYTES + trailer_bytes(header)


def envelope_bytes(prologue: Prologue) -> int:
    """Return the length of the whole envelope."""
    return len(prologue.raw) + remaining_bytes(prologue.header)


def split_items(data: bytes, field: str, *, maximum: int) -> list[bytes]:
    """Split ``LP(…)`` into its items. Raises ``MessageError`` for a cut item or more than ``maximum`` of them."""
    items: list[bytes] = []
    at = 0
    while at < len(data):
        if len(items) == maximum:
            raise _malformed(field, f"more than {maximum} items")
        start = at + LENGTH_BYTES
        end = start + int.from_bytes(data[at:start], "big")
        if start > len(data) or end > len(data):
            raise _malformed(field, "cut short")
        items.append(data[start:end])
        at = end
    return items


def _text(field: str, data: bytes) -> str:
    if not 0 < len(data) <= MAX_NAME_BYTES:
        raise _malformed(field, f"{len(data)} bytes")
    return _parsed(field, lambda: data.decode("ascii"))


def _one_of(field: str, data: bytes, words: tuple[str, ...]) -> str:
    word = _text(field, data)
    if word not in words:
        raise _malformed(field, f"{word!r} and not one of {', '.join(words)}")
    return word


def _number(field: str, data: bytes) -> int:
    return int.from_bytes(_fixed(field, data, 8), "big")


def _fixed(field: str, data: bytes, *lengths: int) -> bytes:
    if len(data) not in lengths:
        raise _malformed(field, f"{len(data)} bytes")
    return data


def _flags(data: bytes) -> bool:
    if data not in (b"\x00", b"\x01"):
        raise _malformed("flags", f"{data[:8].hex() or 'nothing'}")
    return data == b"\x01"


def _fingerprints(field: str, data: bytes, maximum: int) -> tuple[bytes, ...]:
    items = split_items(data, field, maximum=maximum)
    if len(set(items)) != len(items):
        raise _malformed(field, "one of them twice")
    return tuple(_fixed(field, item, FINGERPRINT_BYTES) for item in items)


def _none_yet(field: str, data: bytes) -> tuple[bytes, ...]:
    # Version 1 reserves these two fields; a receiver that does not know what they ask for must not ignore it.
    if data:
        raise MessageError(f"{field} are not supported by this version", reason="unsupported")
    return ()


def _parsed(field: str, parse: Callable[[], Value]) -> Value:
    try:
        return parse()
    except ValueError as error:
        raise _malformed(field, str(error)) from None


def _malformed(field: str, what: str) -> MessageError:
    return MessageError(f"malformed envelope: {field}: {what}", reason="malformed")
