"""Wrapping a key to a KEM of liboqs beside X25519: one of the project's own two constructions (ENVELOPE.md §10).

The key-encryption key is derived from both shared secrets by HKDF, with everything that was exchanged as fixed input:
the two-step derivation of SP 800-56C rev. 2 §5 in the use of SP 800-227 §4.6. It wraps the content key with AES-256 key
wrap (RFC 5649), as RFC 9629 does in CMS. An attacker has to break the KEM and X25519.
"""

from collections.abc import Callable
from secrets import token_bytes
from typing import Self

from cryptography.exceptions import InvalidKey
from cryptography.hazmat.primitives import keywrap
from cryptography.hazmat.primitives.asymmetric import x25519

from pqfl_transport.algorithms import Algorithm, Kind, find
from pqfl_transport.crypto import liboqs
from pqfl_transport.crypto.contexts import Label, length_prefixed
from pqfl_transport.crypto.pyca import hkdf_sha512
from pqfl_transport.errors import ConfigurationError, MessageError

_X25519_BYTES = 32
_KEY_BYTES = 32
_BLOCK_BYTES = 8


def wrapped_bytes(row: Algorithm, plaintext_bytes: int) -> int:
    """Return the length of what wrapping makes: ciphertext, ephemeral key, the plaintext's blocks and one more."""
    blocks = -(-plaintext_bytes // _BLOCK_BYTES) + 1
    return (row.ciphertext_bytes or 0) + blocks * _BLOCK_BYTES


class HybridEncapsulationKey:
    """A public key of a ``…+X25519`` row: the KEM's key, then that of X25519."""

    __slots__ = ("_kem", "_row", "kem", "raw")

    def __init__(self, kem: str, raw: bytes) -> None:
        self._row, self._kem = _rows(kem)
        if len(raw) != self._row.public_key_bytes:
            raise ConfigurationError(f"{len(raw)} bytes are no public key of {self._row.name}", reason="bad_key")
        self.kem = self._row.name
        self.raw = raw

    def wrap(self, plaintext: bytes, info: bytes, *, aead: str = "") -> bytes:
        """Seal a short secret to this key. Raises ``ConfigurationError`` (``bad_key``) for a degenerate public key.

        ``aead`` is part of the rows that HPKE serves, and no choice here.
        """
        del aead
        public, peer = self.raw[:-_X25519_BYTES], self.raw[-_X25519_BYTES:]
        ciphertext, shared = liboqs.encapsulate(self._kem, public)
        ephemeral = x25519.X25519PrivateKey.generate()
        try:
            exchanged = ephemeral.exchange(x25519.X25519PublicKey.from_public_bytes(peer))
        except ValueError as error:
            raise ConfigurationError(f"not a public key of {self.kem}: {error}", reason="bad_key") from error
        sent = ephemeral.public_key().public_bytes_raw()
        key = _combine(self._row, shared + exchanged, ciphertext, sent, self.raw, info)
        return ciphertext + sent + keywrap.aes_key_wrap_with_padding(key, plaintext)


class HybridDecapsulationKey:
    """A private key of a ``…+X25519`` row, stored as KEM secret key, X25519 scalar and KEM public key."""

    __slots__ = ("_kem", "_row", "_scalar", "_secret", "kem", "public", "stored")

    def __init__(self, kem: str, stored: bytes) -> None:
        self._row, self._kem = _rows(kem)
        if len(stored) != self._row.secret_key_bytes:
            raise ConfigurationError(f"{len(stored)} bytes are no private key of {self._row.name}", reason="bad_key")
        self.kem = self._row.name
        self.stored = stored
        kem_public_bytes = self._kem.public_key_bytes or 0
        cut = len(stored) - kem_public_bytes - _X25519_BYTES
        self._secret = stored[:cut]
        self._scalar = x25519.X25519PrivateKey.from_private_bytes(stored[cut : cut + _X25519_BYTES])
        raw = stored[cut + _X25519_BYTES :] + self._scalar.public_key().public_bytes_raw()
        self.public = HybridEncapsulationKey(self.kem, raw)

    @classmethod
    def generate(cls, kem: str, *, random: Callable[[int], bytes] = token_bytes) -> Self:
        """Make a new key. ``random`` gives the scalar of X25519; the KEM's part comes from liboqs and the system."""
        row, part = _rows(kem)
        public, secret = liboqs.generate_kem_keys(part)
        return cls(row.name, secret + random(_X25519_BYTES) + public)

    def unwrap(self, wrapped: bytes, info: bytes, *, aead: str = "") -> bytes:
        """Open what was sealed to this key under this ``info``. Raises ``MessageError`` (``not_for_us``)."""
        del aead
        sent_at = self._kem.ciphertext_bytes or 0
        ciphertext, sent = wrapped[:sent_at], wrapped[sent_at : sent_at + _X25519_BYTES]
        shared = liboqs.decapsulate(self._kem, self._secret, ciphertext)
        try:
            exchanged = self._scalar.exchange(x25519.X25519PublicKey.from_public_bytes(sent))
            key = _combine(self._row, shared + exchanged, ciphertext, sent, self.public.raw, info)
            return keywrap.aes_key_unwrap_with_padding(key, wrapped[sent_at + _X25519_BYTES :])
        except (ValueError, InvalidKey, keywrap.InvalidUnwrap):
            raise MessageError("the wrapped key does not open with this receiving key", reason="not_for_us") from None


def _rows(kem: str) -> tuple[Algorithm, Algorithm]:
    row = find(kem, Kind.KEM)
    if row.hybrid_of is None:
        raise ConfigurationError(f"{row.name} is no KEM beside X25519", reason="bad_key")
    return row, find(row.hybrid_of, Kind.KEM)


def _combine(row: Algorithm, secrets: bytes, ciphertext: bytes, sent: bytes, public: bytes, info: bytes) -> bytes:
    fixed = length_prefixed(
        Label.COMBINE.value, row.name.encode("ascii"), ciphertext, sent, public[:-_X25519_BYTES],
        public[-_X25519_BYTES:], info,
    )  # fmt: skip
    return hkdf_sha512(secrets, fixed, _KEY_BYTES)
