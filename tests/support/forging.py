"""Envelopes from raw parts: what no honest sender makes, and what somebody with a key could.

Nothing here goes through the checks of `content.header` and `content.sealing`, so that every part can be wrong while
everything around it is right: a malformed header is signed, a lying share is sealed and signed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from pqfl_transport.algorithms import content_suite
from pqfl_transport.content.recipients import ReceivingKey, RecipientKey
from pqfl_transport.content.sealing import body_context, body_key, trailer_hash
from pqfl_transport.content.tensors import encode_header as encode_layout
from pqfl_transport.crypto.contexts import Context, Label, length_prefixed
from pqfl_transport.crypto.pyca import BODY_CHUNK_BYTES, BODY_COMMITMENT_BYTES, SigningKey
from tests.support.envelopes import Keys, split

SALT_BYTES = 24
_SHA512 = hashes.SHA512()
ITEMS = (
    "suite", "flags", "federation", "round", "direction", "sender", "sender_key", "recipients", "challenge",
    "envelope_id", "not_after", "base_model", "length", "codec", "extra_keys", "threshold",
)  # fmt: skip
"""The names that this module gives the 16 items of ENVELOPE.md §2."""


def layout(text: str | bytes, data: bytes = b"") -> bytes:
    """Return a layout whose JSON header is exactly ``text``, padded with spaces."""
    encoded = text.encode() if isinstance(text, str) else text
    encoded += b" " * (-len(encoded) % 8)
    return len(encoded).to_bytes(8, "little") + encoded + data


SMALL = encode_layout(
    {
        "__metadata__": {"pqfl.container": "mapping", "pqfl.samples": "42"},
        "w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
    }
) + bytes.fromhex("0000803f00000040")
"""The plaintext of forged envelopes unless another is given: one tensor of two numbers."""


def chosen_salt_body(
    key: bytes, context: bytes, plaintext: bytes, salt: bytes, algorithm: hashes.HashAlgorithm = _SHA512
) -> bytes:
    """Encrypt with Cobblestone-256 under a salt of one's own choice, which the library never does.

    Written from c2sp.org/chunked-encryption: whoever holds the key can re-seal under the original salt. The published
    vectors, with another hash, are its witness.
    """
    info = b"c2sp.org/chunked-encryption@v1+AEAD_AES_256_GCM\0" + salt + context
    derived = HKDFExpand(algorithm, 32 + 12 + 32, info).derive(key)
    aead, nonce, commitment = AESGCM(derived[:32]), int.from_bytes(derived[32:44], "big"), derived[44:]
    sealed = [salt, commitment]
    for number in range(len(plaintext) // BODY_CHUNK_BYTES + 1):
        chunk = plaintext[number * BODY_CHUNK_BYTES : (number + 1) * BODY_CHUNK_BYTES]
        sealed.append(aead.encrypt((nonce ^ number).to_bytes(12, "big"), chunk, None))
    return b"".join(sealed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Forgery:
    """An envelope to be made: good, but for what is set."""

    keys: Keys
    items: dict[str, bytes] = field(default_factory=dict)
    """Header items to be replaced, by the names of `ITEMS`."""
    plaintext: bytes = SMALL
    recipients: tuple[ReceivingKey, ...] = ()
    content_key: bytes = b"k" * 32
    salt: bytes = b"s" * SALT_BYTES
    wrapped_plaintexts: tuple[bytes, ...] = ()
    """What is wrapped for each recipient instead of the content key."""
    wrap_label: Label = Label.WRAP
    extra: tuple[bytes, ...] = ()
    signing: SigningKey | None = None
    prologue_context: Context = Context.PROLOGUE
    trailer_context: Context = Context.TRAILER
    parts: dict[str, bytes] = field(default_factory=dict)
    """``H``, ``W``, ``K``, ``S``, ``body`` (behind its commitment) or ``trailer``, put in place of the right one."""

    @property
    def header(self) -> bytes:
        """``H``: the 16 items."""
        return self.parts.get("H", length_prefixed(*self.all_items().values()))

    def all_items(self) -> dict[str, bytes]:
        """Return the items of a good header with those of the forgery in their places."""
        keys, recipients = self.keys, self.recipients or (self.keys.receiving,)
        parameters = keys.parameters
        good = {
            "suite": parameters.suite.encode(),
            "flags": b"\x01" if len(recipients) > 1 else b"\x00",
            "federation": b"fed",
            "round": (3).to_bytes(8, "big"),
            "direction": b"update",
            "sender": parameters.sender.encode(),
            "sender_key": (self.signing or keys.signing).verifying_key.fingerprint,
            "recipients": length_prefixed(*(key.fingerprint for key in recipients)),
            "challenge": parameters.challenge,
            "envelope_id": b"e" * 16,
            "not_after": parameters.not_after.to_bytes(8, "big"),
            "base_model": parameters.base_model_digest,
            "length": len(self.plaintext).to_bytes(8, "big"),
            "codec": b"safetensors",
            "extra_keys": b"",
            "threshold": b"",
        }
        return {name: self.items.get(name, good[name]) for name in ITEMS}

    def seal(self) -> bytes:
        """Return the envelope."""
        suite = content_suite(self.keys.parameters.suite)
        signing, header = self.signing or self.keys.signing, self.header
        recipients = self.recipients or (self.keys.receiving,)
        plaintexts = self.wrapped_plaintexts or (self.content_key,) * len(recipients)
        wrapped = tuple(
            key.public.wrap(plaintext, header, label=self.wrap_label, aead=suite.aead)
            for key, plaintext in zip(recipients, plaintexts, strict=True)
        )
        joined = self.parts.get("W", length_prefixed(*wrapped))
        key = body_key(self.content_key, header, self.extra)
        body = chosen_salt_body(key, body_context(header, wrapped), self.plaintext, self.salt)
        commitment = self.parts.get("K", body[:BODY_COMMITMENT_BYTES])
        signed = length_prefixed(header, joined, commitment)
        signature = self.parts.get("S", signing.sign(signed, self.prologue_context))
        prologue = length_prefixed(header, joined, commitment, signature)
        chunks = self.parts.get("body", body[BODY_COMMITMENT_BYTES:])
        if self.all_items()["flags"] != b"\x01":
            return prologue + chunks
        digest = trailer_hash(suite, commitment)
        digest.update(chunks)
        trailer = signing.sign(length_prefixed(prologue, digest.digest()), self.trailer_context)
        return prologue + chunks + self.parts.get("trailer", trailer)

    def having(self, **changes: Any) -> "Forgery":
        """Return the forgery with more of it changed."""
        return replace(self, **changes)


def resealed_by_recipient(envelope: bytes, insider: ReceivingKey, plaintext: bytes) -> bytes:
    """Return the body that one recipient can make for the others: another plaintext, the same salt and commitment.

    ``plaintext`` has the length that the header announces, so prologue and lengths stay as the sender signed them.
    """
    prologue = split(envelope)[0]
    place = prologue.header.recipients.index(insider.fingerprint)
    aead = content_suite(prologue.header.suite).aead
    content_key = insider.unwrap(prologue.wrapped[place], prologue.header_bytes, aead=aead)
    key = body_key(content_key, prologue.header_bytes)
    context = body_context(prologue.header_bytes, prologue.wrapped)
    body = chosen_salt_body(key, context, plaintext, prologue.commitment[:SALT_BYTES])
    assert body[:BODY_COMMITMENT_BYTES] == prologue.commitment
    assert len(plaintext) == prologue.header.plaintext_bytes
    return body[BODY_COMMITMENT_BYTES:]


def contribution(
    facts: Sequence[bytes], share: bytes, combiner: RecipientKey, signing: SigningKey, *, aead: str, **changes: Any
) -> bytes:
    """Return a contribution of any facts and share, sealed and signed as its trustee would.

    ``facts`` are C's first six items; ``wrapped``, ``context`` and ``signature`` replace what is made of them,
    ``certificate`` is sent along.
    """
    wrapped = changes.get("wrapped") or combiner.wrap(
        share, length_prefixed(*facts), label=Label.SHARE_WRAP, aead=aead
    )  # fmt: skip
    signed = length_prefixed(*facts, wrapped)
    signature = changes.get("signature") or signing.sign(signed, changes.get("context", Context.CONTRIBUTION))
    return length_prefixed(signed, signature, changes.get("certificate", b""))
