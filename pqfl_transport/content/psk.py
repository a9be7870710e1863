"""Pre-shared keys: made once, carried to the other party by hand, and never used themselves (ENVELOPE.md §4).

Each envelope is given a key of its own, derived for a random nonce that its header names. The file is a PEM block
``PQFL PRE-SHARED KEY`` around ``LP("pqfl-psk/v1", NAME, key)``: the name travels with the key, so both ends call it the
same.
"""

import secrets
from collections.abc import Callable
from typing import Self

from pqfl_transport.content.header import split_items
from pqfl_transport.content.keysource import MIN_KEY_BYTES, PSK, ExtraKey, is_key_name
from pqfl_transport.crypto import armour
from pqfl_transport.crypto.contexts import Label, length_prefixed
from pqfl_transport.crypto.pyca import hkdf_sha512
from pqfl_transport.errors import ConfigurationError, MessageError

MAX_KEY_BYTES = 1024
NONCE_BYTES = 16
DERIVED_BYTES = 32

_LABEL = "PQFL PRE-SHARED KEY"
_VERSION = b"pqfl-psk/v1"
_ITEMS = 3


class PreSharedKey:
    """A key that several parties hold from beforehand. Raises ``ConfigurationError`` (``bad_key``)."""

    __slots__ = ("_key", "name")

    def __init__(self, name: str, key: bytes) -> None:
        if not is_key_name(name):
            raise ConfigurationError(
                f"{name[:80]!r} names no pre-shared key: expected 1 to 63 of a-z, 0-9 and '-', beginning with a letter"
                " or a digit",
                reason="bad_key",
            )
        if not MIN_KEY_BYTES <= len(key) <= MAX_KEY_BYTES:
            raise ConfigurationError(
                f"the pre-shared key {name} has {len(key)} bytes; expected {MIN_KEY_BYTES} to {MAX_KEY_BYTES}",
                reason="bad_key",
            )
        self.name = name
        self._key = key

    @classmethod
    def generate(cls, name: str) -> Self:
        """Make a new key of 32 random bytes."""
        return cls(name, secrets.token_bytes(MIN_KEY_BYTES))

    @classmethod
    def from_pem(cls, pem: bytes) -> Self:
        """Parse a ``PQFL PRE-SHARED KEY`` block. Raises ``ConfigurationError`` (``bad_key``)."""
        try:
            items = split_items(armour.decode(pem, _LABEL), "pre-shared key", maximum=_ITEMS)
            if len(items) != _ITEMS or items[0] != _VERSION:
                raise ConfigurationError("not a pre-shared key of version 1", reason="bad_key")
            return cls(items[1].decode("ascii"), items[2])
        except (MessageError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"the pre-shared key is damaged: {error}", reason="bad_key") from None

    def to_pem(self) -> bytes:
        """Serialise as a PEM block: a secret, for a file of mode 0600."""
        return armour.encode(_LABEL, length_prefixed(_VERSION, self.name.encode("ascii"), self._key))

    def new_key(self, *, random: Callable[[int], bytes] = secrets.token_bytes) -> ExtraKey:
        """Derive a key for one envelope; ``random`` is replaced in tests only."""
        return self.key(random(NONCE_BYTES).hex())

    def key(self, nonce: str) -> ExtraKey:
        """Derive the key for this nonce, 32 hexadecimal digits: 32 bytes that say nothing about any other."""
        key_id = f"{PSK}:{self.name}:{nonce}"
        info = length_prefixed(Label.PSK.value, key_id.encode("ascii"))
        return ExtraKey(key_id, hkdf_sha512(self._key, info, DERIVED_BYTES))
