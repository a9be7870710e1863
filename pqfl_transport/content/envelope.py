"""The envelope's prologue: read, checked for form, and verified. Nothing here opens anything.

ENVELOPE.md is the specification; the section signs in this file refer to it. A header is verified as it was received:
the parsed fields are a view of the bytes, which are kept and never encoded again. A gateway runs everything in this
module and holds no key for more.
"""

import hashlib
from dataclasses import dataclass
from typing import NamedTuple

from pqfl_transport.algorithms import ContentSuite, Kind, content_suite, find
from pqfl_transport.content.header import (
    CONTENT_KEY_BYTES,
    MAX_HEADER_BYTES,
    Header,
    decode_header,
    malformed,
    split_items,
)
from pqfl_transport.crypto.contexts import LENGTH_BYTES, Context, length_prefixed
from pqfl_transport.crypto.kems import wrapped_bytes
from pqfl_transport.crypto.pyca import BODY_COMMITMENT_BYTES, Buffer, VerifyingKey, body_bytes
from pqfl_transport.errors import MessageError
from pqfl_transport.policy import Policy

MAX_WRAPPED_BYTES = 4 << 20
"""All wrapped keys of an envelope together; with 1024 recipients of the largest usual suite it is 2 MiB."""
MAX_PROLOGUE_BYTES = 8 << 20
"""More than any prologue has: header, wrapped keys, commitment and signature at their caps."""
SHARE_BYTES = CONTENT_KEY_BYTES + 1
"""What a threshold wraps for each trustee: the share's index and the share."""


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


class _Part(NamedTuple):
    name: str
    most_bytes: int


class PrologueReader:
    """Reads a prologue from a stream in pieces of any size, never keeping more than its header announces.

    The header comes first and says how long everything behind it has to be, so nothing else is ever waited for.
    """

    __slots__ = ("_at", "_buffer", "_done", "_items", "_parts")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._at = 0
        self._items: list[bytes] = []
        self._parts = [_Part("header", MAX_HEADER_BYTES)]
        self._done = False

    def feed(self, data: Buffer) -> Prologue | None:
        """Take more bytes; return the prologue once it is complete. Raises ``MessageError`` at the first wrong byte."""
        self._buffer += data
        while len(self._items) < len(self._parts):
            item = self._next(self._parts[len(self._items)])
            if item is None:
                return None
            self._items.append(item)
            if len(self._items) == 1:
                self._parts += _parts_behind(decode_header(item))
        self._done = True
        prologue = _prologue(self._items, bytes(self._buffer[: self._at]))
        del self._buffer[: self._at]
        return prologue

    def _next(self, part: _Part) -> bytes | None:
        begin = self._at + LENGTH_BYTES
        if len(self._buffer) < begin:
            return None
        length = int.from_bytes(self._buffer[self._at : begin], "big")
        if length > part.most_bytes:
            raise MessageError(f"{part.name} of {length} bytes; {part.most_bytes} are allowed", reason="too_large")
        if len(self._buffer) < begin + length:
            return None
        self._at = begin + length
        return bytes(self._buffer[begin : self._at])

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


def _parts_behind(header: Header) -> list[_Part]:
    suite = content_suite(header.suite)
    wrapped = len(header.recipients) * (LENGTH_BYTES + wrapped_key_bytes(header))
    if wrapped > MAX_WRAPPED_BYTES:
        raise MessageError(f"wrapped keys of {wrapped} bytes; {MAX_WRAPPED_BYTES} are allowed", reason="too_large")
    return [
        _Part("wrapped keys", wrapped),
        _Part("commitment", BODY_COMMITMENT_BYTES),
        _Part("signature", signature_bytes(suite)),
    ]


def encode_prologue(header_bytes: bytes, wrapped: tuple[bytes, ...], commitment: bytes, signature: bytes) -> Prologue:
    """Put a prologue together from its four parts."""
    parts = [header_bytes, length_prefixed(*wrapped), commitment, signature]
    return _prologue(parts, length_prefixed(*parts))


def _prologue(items: list[bytes], raw: bytes) -> Prologue:
    header_bytes, wrapped_field, commitment, signature = items
    header = decode_header(header_bytes)
    suite = content_suite(header.suite)
    wrapped = split_items(wrapped_field, "wrapped keys", maximum=len(header.recipients))
    expected = wrapped_key_bytes(header)
    if len(wrapped) != len(header.recipients):
        raise malformed("wrapped keys", f"{len(wrapped)} for {len(header.recipients)} recipients")
    if any(len(item) != expected for item in wrapped):
        raise malformed("wrapped keys", f"not {expected} bytes each, as {suite.kem} makes them")
    if len(commitment) != BODY_COMMITMENT_BYTES:
        raise malformed("commitment", f"{len(commitment)} bytes")
    if len(signature) != signature_bytes(suite):
        raise malformed("signature", f"{len(signature)} bytes are not one of {suite.signature}")
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


def wrapped_key_bytes(header: Header) -> int:
    """Return the length of what each recipient is sent: the content key, or its share of it, wrapped."""
    plaintext_bytes = SHARE_BYTES if header.threshold else CONTENT_KEY_BYTES
    return wrapped_bytes(content_suite(header.suite).kem, plaintext_bytes)


def trailer_bytes(header: Header) -> int:
    """Return the length of the trailer: one signature where it is declared, else nothing."""
    return signature_bytes(content_suite(header.suite)) if header.trailer else 0


def remaining_bytes(header: Header) -> int:
    """Return how many bytes follow the prologue: the body without its commitment, and the trailer."""
    return body_bytes(header.plaintext_bytes) - BODY_COMMITMENT_BYTES + trailer_bytes(header)


def envelope_bytes(prologue: Prologue) -> int:
    """Return the length of the whole envelope."""
    return len(prologue.raw) + remaining_bytes(prologue.header)


def most_envelope_bytes(plaintext_bytes: int) -> int:
    """Return a length that no envelope of so much plaintext exceeds, whatever its suite and recipients."""
    return MAX_PROLOGUE_BYTES + body_bytes(plaintext_bytes)
