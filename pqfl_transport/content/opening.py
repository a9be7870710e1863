"""Opening: an envelope whose prologue was verified, back into plaintext (ENVELOPE.md §5).

A gateway must never be able to do this, so nothing that it imports imports this module.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pqfl_transport.algorithms import content_suite
from pqfl_transport.content.codecs import decode, without_codec
from pqfl_transport.content.envelope import (
    MAX_PROLOGUE_BYTES,
    Prologue,
    decode_prologue,
    remaining_bytes,
    verify_prologue,
)
from pqfl_transport.content.header import CONTENT_KEY_BYTES, Header
from pqfl_transport.content.keysource import KeySource, extra_material, settle
from pqfl_transport.content.recipients import ReceivingKey
from pqfl_transport.content.sealing import body_context, body_key, slices
from pqfl_transport.content.tensors import allocate, parse
from pqfl_transport.content.verifying import TrailerVerifier
from pqfl_transport.crypto.pyca import BodyDecryptor, Buffer, VerifyingKey
from pqfl_transport.errors import MessageError
from pqfl_transport.policy import Policy

MAX_WEIGHTS_BYTES = 1 << 38
"""What a codec may expand to where the caller names no limit."""


@dataclass(frozen=True, slots=True)
class ContentKey:
    """An envelope's content key, as one recipient unwraps it or several trustees restore it."""

    value: bytes = field(repr=False)


class Opener:
    """One envelope behind its verified prologue, as a stream.

    Plaintext counts only when ``finalize`` has returned: until then it belongs into staging that nobody reads. Raises
    ``MessageError``: ``not_for_us``, ``bad_body``, ``truncated``, ``excess``, ``bad_trailer``.
    """

    def __init__(
        self,
        prologue: Prologue,
        key: ReceivingKey | ContentKey,
        *,
        sender_key: VerifyingKey,
        extra: Sequence[bytes] = (),
    ) -> None:
        self.prologue = prologue
        mixed = body_key(content_key(prologue, key).value, prologue.header_bytes, extra)
        self._decryptor = BodyDecryptor(mixed, body_context(prologue.header_bytes, prologue.wrapped))
        # The commitment is checked before the first byte of the body is fed.
        self._decryptor.update_into(prologue.commitment, bytearray())
        self._envelope = TrailerVerifier(prologue, sender_key=sender_key)

    @property
    def remaining_bytes(self) -> int:
        """How many bytes still belong to the envelope, its trailer included."""
        return self._envelope.remaining_bytes

    def update_into(self, data: Buffer, buffer: bytearray | memoryview) -> int:
        """Take more of the envelope; write plaintext into ``buffer`` (room for ``len(data)`` and one chunk)."""
        return self._decryptor.update_into(self._envelope.split(data), buffer)

    def finalize(self) -> bytes:
        """Return the last bytes of plaintext, once everything is there and everything holds."""
        self._envelope.require_complete()
        last = self._decryptor.finalize()
        self._envelope.finalize()
        return last


class MemoryOpening:
    """An envelope behind its verified prologue, opened into one new buffer of the plaintext's size.

    Make one only for a header whose ``plaintext_bytes`` somebody has capped: they are allocated here. Raises as
    `Opener` does.
    """

    def __init__(self, opener: Opener) -> None:
        self._opener = opener
        self._plaintext = allocate(opener.prologue.header.plaintext_bytes)
        self._at = 0

    @property
    def remaining_bytes(self) -> int:
        """How many bytes still belong to the envelope."""
        return self._opener.remaining_bytes

    def feed(self, data: Buffer) -> None:
        """Take more of the envelope, in pieces of any size."""
        for part in slices(data):
            self._at += self._opener.update_into(part, self._plaintext[self._at :])

    def finalize(self) -> memoryview:
        """Return the plaintext, once everything is there and everything holds."""
        self._plaintext[self._at :] = self._opener.finalize()
        return self._plaintext


@dataclass(frozen=True, slots=True)
class OpenedWeights:
    """Weights as they went in, with the header they came under and the metadata from inside the body."""

    header: Header
    weights: list[np.ndarray[Any, np.dtype[Any]]] | dict[str, np.ndarray[Any, np.dtype[Any]]]
    metadata: dict[str, str]


def open_weights(
    envelope: Buffer,
    *,
    receiving_key: ReceivingKey,
    sender_key: VerifyingKey,
    policy: Policy,
    max_plaintext_bytes: int | None = None,
    key_source: KeySource | None = None,
) -> OpenedWeights:
    """Open a whole envelope in memory. The arrays are views of one new buffer, or new where a codec is undone.

    ``sender_key`` comes from the caller's registry. Raises ``PolicyError`` for a suite outside the policy and
    ``MessageError`` for everything else that does not hold, before any plaintext is returned.
    """
    prologue, _ = decode_prologue(memoryview(envelope)[: _prologue_cap(envelope)])
    verify_prologue(prologue, sender_key=sender_key, policy=policy)
    header = prologue.header
    if max_plaintext_bytes is not None and header.plaintext_bytes > max_plaintext_bytes:
        raise MessageError(f"a plaintext of {header.plaintext_bytes} bytes is too large here", reason="too_large")
    key = content_key(prologue, receiving_key)
    rest = memoryview(envelope)[len(prologue.raw) :]
    # Said before memory is taken for what the header only claims, and before a key is used up that both ends hold.
    if (short := remaining_bytes(header) - len(rest)) > 0:
        raise MessageError(f"the envelope is {short} bytes short", reason="truncated")
    opening = MemoryOpening(Opener(prologue, key, sender_key=sender_key, extra=extra_material(prologue, key_source)))
    opening.feed(rest)
    plaintext = opening.finalize()
    settle(prologue, key_source)
    return read_weights(header, plaintext, max_bytes=max_plaintext_bytes)


def read_weights(header: Header, plaintext: memoryview, *, max_bytes: int | None = None) -> OpenedWeights:
    """Return the weights of a verified plaintext, their codec undone; ``max_bytes`` caps what it expands to.

    Raises ``MessageError`` (``malformed``, ``too_large``).
    """
    weights, metadata = parse(plaintext)
    decoded = decode(weights, metadata, header.codec, max_bytes=MAX_WEIGHTS_BYTES if max_bytes is None else max_bytes)
    return OpenedWeights(header, decoded, without_codec(metadata))


def content_key(prologue: Prologue, key: ReceivingKey | ContentKey) -> ContentKey:
    """Return the content key of a verified prologue. Raises ``MessageError`` (``not_for_us``, ``threshold``)."""
    if isinstance(key, ContentKey):
        return key
    header = prologue.header
    if header.threshold:
        raise MessageError(
            f"the envelope opens only for {header.threshold} of its {len(header.recipients)} recipients together",
            reason="threshold",
        )
    unwrapped = unwrap_secret(prologue, key)
    if len(unwrapped) != CONTENT_KEY_BYTES:
        raise MessageError(f"a content key of {len(unwrapped)} bytes", reason="malformed")
    return ContentKey(unwrapped)


def unwrap_secret(prologue: Prologue, receiving_key: ReceivingKey) -> bytes:
    """Return what a verified prologue holds for this recipient: the content key, or its index and share of it (§4).

    Raises ``MessageError`` (``not_for_us``).
    """
    try:
        position = prologue.header.recipients.index(receiving_key.fingerprint)
    except ValueError:
        raise MessageError("the envelope is not sealed to this receiving key", reason="not_for_us") from None
    aead = content_suite(prologue.header.suite).aead
    return receiving_key.unwrap(prologue.wrapped[position], prologue.header_bytes, aead=aead)


def _prologue_cap(envelope: Buffer) -> int:
    # The reader keeps what it is fed, so it is fed no more of a large envelope than a prologue can take.
    return min(len(envelope), MAX_PROLOGUE_BYTES)
