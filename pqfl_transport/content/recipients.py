"""Receiving keys: who can open an envelope. The public half is a recipient, the private half is held as its seed.

Both are stored as a PEM block around a small versioned structure::

    LP("pqfl-receiving/v1", "public", name of the KEM, raw public key)
    LP("pqfl-receiving/v1", "private", name of the KEM, seed or what is stored instead, fingerprint)

The fingerprint is SHA-256 over the public structure; in a private one it shows that the seed was not damaged. A private
key with dates, encrypted or beside others, is an entry of `content.receiving_keys`. Only rows that resist quantum
computers make receiving keys, so a classical recipient cannot be mixed in anywhere.
"""

import hashlib
import secrets
from collections.abc import Callable
from typing import Self

from pqfl_transport.algorithms import Kind, find
from pqfl_transport.content.header import split_items
from pqfl_transport.crypto import armour
from pqfl_transport.crypto.armour import MAX_PEM_BYTES
from pqfl_transport.crypto.contexts import Label, length_prefixed
from pqfl_transport.crypto.kems import Decapsulation, Encapsulation, decapsulation_key, encapsulation_key, generate
from pqfl_transport.crypto.pyca import WRAP_AEAD
from pqfl_transport.errors import ConfigurationError, MessageError

_VERSION = b"pqfl-receiving/v1"
_PUBLIC = b"public"
_PRIVATE = b"private"
PUBLIC_LABEL = "PQFL RECEIVING PUBLIC KEY"
PRIVATE_LABEL = "PQFL RECEIVING PRIVATE KEY"


class RecipientKey:
    """A public receiving key. ``kem`` is the row's name, ``fingerprint`` 32 bytes that name the key everywhere."""

    __slots__ = ("_key", "fingerprint", "kem")

    def __init__(self, key: Encapsulation) -> None:
        self._key = key
        self.kem = key.kem
        self.fingerprint = _fingerprint(key)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Parse the structure without its PEM armour. Raises ``ConfigurationError`` saying what is wrong with it."""
        kem, raw = _parse(data, _PUBLIC, items=2)
        return cls(encapsulation_key(_kem_name(kem), raw))

    @classmethod
    def from_pem(cls, pem: bytes) -> Self:
        """Parse a ``PQFL RECEIVING PUBLIC KEY`` block. Raises ``ConfigurationError``."""
        return cls.from_bytes(armour.decode(pem, PUBLIC_LABEL, max_bytes=MAX_PEM_BYTES))

    def to_bytes(self) -> bytes:
        """Serialise without PEM armour, as the roster and round documents carry it."""
        return _public_structure(self._key)

    def to_pem(self) -> bytes:
        """Serialise as a ``PQFL RECEIVING PUBLIC KEY`` block."""
        return armour.encode(PUBLIC_LABEL, self.to_bytes())

    def wrap(self, secret: bytes, binding: bytes, *, label: Label = Label.WRAP, aead: str = WRAP_AEAD) -> bytes:
        """Seal a content key, or a share of one, to this recipient, bound to the envelope's header (§4)."""
        return self._key.wrap(secret, _wrap_info(label, binding, self.fingerprint), aead=aead)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RecipientKey) and self.fingerprint == other.fingerprint

    def __hash__(self) -> int:
        return hash(self.fingerprint)


class ReceivingKey:
    """A private receiving key."""

    # Referred to weakly by tests that show when it is gone.
    __slots__ = ("__weakref__", "_key", "public")

    def __init__(self, key: Decapsulation) -> None:
        self._key = key
        self.public = RecipientKey(key.public)

    @classmethod
    def generate(cls, kem: str, *, random: Callable[[int], bytes] = secrets.token_bytes) -> Self:
        """Make a new key of the named KEM row; ``random`` is replaced in tests only."""
        return cls(generate(kem, random=random))

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Parse the structure without its PEM armour. Raises ``ConfigurationError`` saying what is wrong with it."""
        kem, stored, fingerprint = _parse(data, _PRIVATE, items=3)
        return cls.from_stored(_kem_name(kem), stored, fingerprint)

    @classmethod
    def from_stored(cls, kem: str, stored: bytes, fingerprint: bytes) -> Self:
        """Return the key from what is kept of it. Raises ``ConfigurationError`` where it is not of this fingerprint."""
        key = cls(decapsulation_key(kem, stored))
        if key.fingerprint != fingerprint:
            raise ConfigurationError("the receiving key is damaged: its fingerprint does not fit", reason="bad_key")
        return key

    @classmethod
    def from_pem(cls, pem: bytes) -> Self:
        """Parse a ``PQFL RECEIVING PRIVATE KEY`` block of version 1. Raises ``ConfigurationError``."""
        return cls.from_bytes(armour.decode(pem, PRIVATE_LABEL, max_bytes=MAX_PEM_BYTES))

    @property
    def fingerprint(self) -> bytes:
        """The fingerprint of the public half."""
        return self.public.fingerprint

    @property
    def kem(self) -> str:
        """The name of the KEM's row."""
        return self.public.kem

    @property
    def stored(self) -> bytes:
        """What is kept of the key: a secret."""
        return self._key.stored

    def to_pem(self) -> bytes:
        """Serialise as a ``PQFL RECEIVING PRIVATE KEY`` block: a secret, for a file of mode 0600."""
        kem = self.kem.encode("ascii")
        data = length_prefixed(_VERSION, _PRIVATE, kem, self._key.stored, self.fingerprint)
        return armour.encode(PRIVATE_LABEL, data)

    def unwrap(self, wrapped: bytes, binding: bytes, *, label: Label = Label.WRAP, aead: str = WRAP_AEAD) -> bytes:
        """Open what `RecipientKey.wrap` sealed to this key. Raises ``MessageError`` (``not_for_us``)."""
        return self._key.unwrap(wrapped, _wrap_info(label, binding, self.fingerprint), aead=aead)


def _wrap_info(label: Label, binding: bytes, fingerprint: bytes) -> bytes:
    # What HPKE must bind goes into `info`, hashed, because its `aad` is not public in the library.
    return hashlib.sha512(length_prefixed(label.value, binding, fingerprint)).digest()


def _fingerprint(key: Encapsulation) -> bytes:
    return hashlib.sha256(_public_structure(key)).digest()


def _public_structure(key: Encapsulation) -> bytes:
    return length_prefixed(_VERSION, _PUBLIC, key.kem.encode("ascii"), key.raw)


def _parse(data: bytes, half: bytes, *, items: int) -> list[bytes]:
    try:
        found = split_items(data, "receiving key", maximum=items + 2)
    except MessageError as error:
        raise ConfigurationError(f"the receiving key is damaged: {error}", reason="bad_key") from error
    if len(found) != items + 2 or found[0] != _VERSION or found[1] != half:
        raise ConfigurationError(f"not a {half.decode()} receiving key of version 1", reason="bad_key")
    return found[2:]


def _kem_name(data: bytes) -> str:
    try:
        name = data.decode("ascii")
    except UnicodeDecodeError:
        raise ConfigurationError("the receiving key names no KEM", reason="bad_key") from None
    # Rows are found by other spellings too; here that would give one key several structures, and so fingerprints.
    if find(name, Kind.KEM).name != name:
        raise ConfigurationError(f"the receiving key calls its KEM {name!r}, which is not its name", reason="bad_key")
    return name
