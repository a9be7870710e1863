"""Sealing: weights or a stream of bytes into an envelope (ENVELOPE.md §4)."""

import hashlib
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from pqfl_transport.algorithms import ContentSuite, content_suite
from pqfl_transport.content.codecs import encode, with_codec
from pqfl_transport.content.envelope import Prologue, encode_prologue, envelope_bytes
from pqfl_transport.content.header import CONTENT_KEY_BYTES, ENVELOPE_ID_BYTES, Header, encode_header
from pqfl_transport.content.keysource import ExtraKey
from pqfl_transport.content.recipients import RecipientKey
from pqfl_transport.content.tensors import TensorLayout, Weights, allocate
from pqfl_transport.crypto.contexts import Context, Label, length_prefixed
from pqfl_transport.crypto.pyca import BODY_KEY_BYTES, Buffer, SigningKey, body_encryptor, hkdf_sha512
from pqfl_transport.crypto.shamir import split_secret
from pqfl_transport.errors import ConfigurationError, PolicyError
from pqfl_transport.policy import POLICIES, Policy

SLICE_BYTES = 1 << 20
"""How much is encrypted in one call: large enough for speed, small enough for caches."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvelopeParameters:
    """What the sender decides about an envelope; the rest of its header follows from keys and plaintext."""

    suite: str
    federation: str
    sender: str
    direction: str
    round: int = 0
    challenge: bytes = b""
    not_after: int = 0
    base_model_digest: bytes = b""
    trailer: bool = False
    """Asked for with one recipient; with several it is always there."""
    codec: str = "safetensors"
    """What is done to the tensors first; all but the default lose precision within known bounds (`content.codecs`)."""
    threshold: int = 0
    """How many recipients have to open together; 0 where each opens alone."""
    extra_keys: tuple[ExtraKey, ...] = ()
    """Keys shared from elsewhere, mixed into the body's key; their ids travel in the header."""
    policy: Policy | None = None
    """Has to list the suite. Without one, a shipped policy has to: what is experimental is asked for by name."""


class Sealer:
    """One envelope as a stream: ``prologue.raw`` first, then what ``update`` gives, then what ``finalize`` gives.

    Every sealer draws a new content key and a new envelope id: an interrupted upload is resumed by sending the stored
    bytes again, never by sealing again under old ones. ``random`` is replaced in tests only. Raises ``PolicyError``
    (``content_suite``, ``unknown_suite``) for a suite outside the policy.
    """

    def __init__(
        self,
        parameters: EnvelopeParameters,
        plaintext_bytes: int,
        recipients: Sequence[RecipientKey],
        signing_key: SigningKey,
        *,
        random: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        suite = _allowed_suite(parameters)
        _require_fitting(suite, recipients, signing_key)
        facts = _header(parameters, plaintext_bytes, recipients, signing_key, random(ENVELOPE_ID_BYTES))
        content_key = random(CONTENT_KEY_BYTES)
        secrets_to_wrap = [content_key] * len(recipients)
        if parameters.threshold:
            shares = split_secret(content_key, parameters.threshold, len(recipients), random=random)
            secrets_to_wrap = [bytes([index]) + share for index, share in shares.items()]
            facts = replace(facts, share_hashes=tuple(share_hash(each) for each in secrets_to_wrap))
        header = encode_header(facts)
        wrapped = tuple(
            recipient.wrap(secret, header, aead=suite.aead)
            for recipient, secret in zip(recipients, secrets_to_wrap, strict=True)
        )
        extra = [key.material for key in parameters.extra_keys]
        self._encryptor = body_encryptor(body_key(content_key, header, extra), body_context(header, wrapped))
        commitment = self._encryptor.update(b"")
        signed = length_prefixed(header, length_prefixed(*wrapped), commitment)
        self.prologue: Prologue = encode_prologue(
            header, wrapped, commitment, signing_key.sign(signed, Context.PROLOGUE)
        )
        self._signing_key = signing_key
        self._left_bytes = plaintext_bytes
        self._trailer = trailer_hash(suite, commitment) if self.prologue.header.trailer else None

    def update(self, data: Buffer) -> bytes:
        """Encrypt more plaintext; return what can be sent of it."""
        self._count(len(data))
        ciphertext = self._encryptor.update(data)
        if self._trailer is not None:
            self._trailer.update(ciphertext)
        return ciphertext

    def update_into(self, data: Buffer, buffer: bytearray | memoryview) -> int:
        """Encrypt more plaintext into ``buffer``, which needs room for whole chunks; return the bytes written."""
        self._count(len(data))
        written = self._encryptor.update_into(data, buffer)
        if self._trailer is not None:
            self._trailer.update(memoryview(buffer)[:written])
        return written

    def finalize(self) -> bytes:
        """Return the body's last bytes and the trailer. Raises ``ConfigurationError`` when plaintext is missing."""
        if self._left_bytes:
            raise ConfigurationError(f"{self._left_bytes} bytes of plaintext are missing", reason="wrong_length")
        last = self._encryptor.finalize()
        if self._trailer is None:
            return last
        self._trailer.update(last)
        return last + sign_trailer(self._signing_key, self.prologue, self._trailer.digest())

    def _count(self, data_bytes: int) -> None:
        self._left_bytes -= data_bytes
        if self._left_bytes < 0:
            raise ConfigurationError("more plaintext than the header announces", reason="wrong_length")


def seal_weights(
    weights: Weights,
    parameters: EnvelopeParameters,
    recipients: Sequence[RecipientKey],
    signing_key: SigningKey,
    metadata: Mapping[str, str] | None = None,
) -> memoryview:
    """Seal weights in memory; return the whole envelope, writable bytes. The only large allocation is the result."""
    return seal_layout(*sealer_of(weights, parameters, recipients, signing_key, metadata))


def seal_layout(sealer: Sealer, layout: TensorLayout) -> memoryview:
    """Seal a layout in memory with the sealer that was made for it; return the whole envelope, writable bytes."""
    envelope = allocate(envelope_bytes(sealer.prologue))
    at = len(sealer.prologue.raw)
    envelope[:at] = sealer.prologue.raw
    for buffer in layout.buffers():
        for part in slices(buffer):
            at += sealer.update_into(part, envelope[at:])
    last = sealer.finalize()
    envelope[at:] = last
    return envelope


def sealer_of(
    weights: Weights,
    parameters: EnvelopeParameters,
    recipients: Sequence[RecipientKey],
    signing_key: SigningKey,
    metadata: Mapping[str, str] | None = None,
) -> tuple[Sealer, TensorLayout]:
    """Return the sealer of some weights and the layout whose buffers are its plaintext, in order."""
    encoded, facts = encode(weights, parameters.codec)
    layout = TensorLayout.of(encoded, with_codec(metadata or {}, facts))
    return Sealer(parameters, layout.total_bytes, recipients, signing_key), layout


def slices(data: Buffer) -> Iterator[memoryview]:
    """Cut a buffer into views of at most `SLICE_BYTES`, as much as is worked on at a time."""
    view = memoryview(data)
    if view.nbytes != len(view):
        view = view.cast("B")
    for start in range(0, len(view), SLICE_BYTES):
        yield view[start : start + SLICE_BYTES]


def body_key(content_key: bytes, header: bytes, extra: Sequence[bytes] = ()) -> bytes:
    """Return the body's key: the content key and extra key material through HKDF, bound to the header (§4)."""
    return hkdf_sha512(content_key + length_prefixed(*extra), length_prefixed(Label.MIX.value, header), BODY_KEY_BYTES)


def share_hash(indexed_share: bytes) -> bytes:
    """Return what the header says of a share: SHA-256 over label, index and share, 32 bytes (§4)."""
    return hashlib.sha256(length_prefixed(Label.SHARE.value, indexed_share[:1], indexed_share[1:])).digest()


def body_context(header: bytes, wrapped: Sequence[bytes]) -> bytes:
    """Return what Cobblestone commits to besides the key: header and wrapped keys, hashed (§4)."""
    return hashlib.sha512(length_prefixed(Label.BODY.value, header, length_prefixed(*wrapped))).digest()


def trailer_hash(suite: ContentSuite, commitment: bytes) -> "hashlib._Hash":
    """Start the hash over the body, of which the commitment is the beginning."""
    return hashlib.new(suite.trailer_hash.replace("-", "").lower(), commitment)


def sign_trailer(signing_key: SigningKey, prologue: Prologue, body_digest: bytes) -> bytes:
    """Sign prologue and body together (§6)."""
    return signing_key.sign(length_prefixed(prologue.raw, body_digest), Context.TRAILER)


def _header(
    parameters: EnvelopeParameters,
    plaintext_bytes: int,
    recipients: Sequence[RecipientKey],
    signing_key: SigningKey,
    envelope_id: bytes,
) -> Header:
    return Header(
        suite=parameters.suite,
        trailer=parameters.trailer or len(recipients) > 1,
        codec=parameters.codec,
        extra_key_ids=tuple(key.id for key in parameters.extra_keys),
        threshold=parameters.threshold,
        federation=parameters.federation,
        round=parameters.round,
        direction=parameters.direction,
        sender=parameters.sender,
        sender_fingerprint=signing_key.verifying_key.fingerprint,
        recipients=tuple(recipient.fingerprint for recipient in recipients),
        challenge=parameters.challenge,
        envelope_id=envelope_id,
        not_after=parameters.not_after,
        base_model_digest=parameters.base_model_digest,
        plaintext_bytes=plaintext_bytes,
    )


def _allowed_suite(parameters: EnvelopeParameters) -> ContentSuite:
    if parameters.policy is not None:
        return parameters.policy.require_content_suite(parameters.suite)
    suite = content_suite(parameters.suite)
    if not any(suite.id in policy.content_suites for policy in POLICIES.values()):
        raise PolicyError(
            f"no shipped policy lists the content suite {suite.id}; seal under a policy that does",
            reason="content_suite",
        )
    return suite


def _require_fitting(suite: ContentSuite, recipients: Sequence[RecipientKey], signing_key: SigningKey) -> None:
    if signing_key.algorithm != suite.signature:
        raise ConfigurationError(
            f"the signing key is of {signing_key.algorithm}, suite {suite.id} signs with {suite.signature}",
            reason="wrong_key",
        )
    for recipient in recipients:
        if recipient.kem != suite.kem:
            raise ConfigurationError(
                f"a receiving key is of {recipient.kem}, suite {suite.id} seals with {suite.kem}", reason="wrong_key"
            )
