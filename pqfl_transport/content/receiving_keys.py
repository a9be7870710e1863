"""A file of private receiving keys: the one in use first, then those that are kept for what was sealed to them before.

Each key is a PEM block of its own. With dates, or encrypted, it is a structure of version 2::

    LP("pqfl-receiving/v2", "private", name of the KEM, seed or what is stored instead, fingerprint, made, not-after)
    LP("pqfl-receiving/v2", "encrypted", name of the KEM, fingerprint, made, not-after) ‖ locked (`crypto.locking`)

``made`` and ``not-after`` are Unix seconds in 8 bytes, big-endian; 0 for unknown and for no end. Those of an encrypted
key are readable without the passphrase, and bound to the secret: a key opens with nothing else beside it. A key past
its not-after opens nothing any more, wherever its file still lies.
"""

import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Self

from pqfl_transport.content.header import split_items
from pqfl_transport.content.recipients import PRIVATE_LABEL, ReceivingKey
from pqfl_transport.crypto import armour
from pqfl_transport.crypto.armour import MAX_PEM_BYTES
from pqfl_transport.crypto.contexts import length_prefixed
from pqfl_transport.crypto.locking import DEFAULT_COST, Cost, lock, unlock
from pqfl_transport.errors import ConfigurationError, MessageError

ENCRYPTED_LABEL = "PQFL ENCRYPTED RECEIVING PRIVATE KEY"
MAX_KEYS = 8
MAX_RING_BYTES = MAX_KEYS * MAX_PEM_BYTES
_VERSION = b"pqfl-receiving/v2"
_PRIVATE = b"private"
_ENCRYPTED = b"encrypted"
_PRIVATE_ITEMS = 7
_PLAIN_ITEMS = 6
_MAX_ITEMS = 16
_DATE_BYTES = 8
_FINGERPRINT_BYTES = 32
_MAX_KEM_NAME_BYTES = 64
_MAX_DATE = 1 << 48


@dataclass(frozen=True, slots=True)
class KeyEntry:
    """One private key of a file. Times are Unix seconds."""

    kem: str
    fingerprint: bytes
    made: int = 0
    """0 where it is not known."""
    not_after: int = 0
    """0 where the key has no end."""
    key: ReceivingKey | None = field(default=None, repr=False)
    """``None`` while it is encrypted."""
    locked: bytes = field(default=b"", repr=False)
    """The encrypted key as it is stored; empty for one that is not."""

    @classmethod
    def of(cls, key: ReceivingKey, *, made: int = 0) -> Self:
        """Return the entry of a new key."""
        return cls(key.kem, key.fingerprint, made, key=key)

    @property
    def is_encrypted(self) -> bool:
        """Whether the file holds the key under a passphrase."""
        return bool(self.locked)

    def has_ended(self, now: float) -> bool:
        """Whether the key is past its not-after."""
        return 0 < self.not_after < now

    def require_current(self, now: float) -> None:
        """Raise ``ConfigurationError`` (``key_expired``) for a key past its not-after."""
        if self.has_ended(now):
            raise ConfigurationError(
                f"the receiving key {self.fingerprint.hex()[:16]}… was kept until {day(self.not_after)} and opens"
                " nothing any more; `pqfl key prune` removes it",
                reason="key_expired",
            )

    def unlocked(self, passphrase: bytes) -> "KeyEntry":
        """Return the entry with its key. Raises ``ConfigurationError`` as `crypto.locking.unlock` does, ``bad_key``."""
        if self.key is not None:
            return self
        stored = unlock(_split(self.locked), passphrase, self._binding)
        return replace(self, key=ReceivingKey.from_stored(self.kem, stored, self.fingerprint))

    def encrypted(
        self,
        passphrase: bytes,
        *,
        cost: Cost = DEFAULT_COST,
        random: Callable[[int], bytes] = secrets.token_bytes,
    ) -> "KeyEntry":
        """Return the entry of an unlocked key as it is stored under a passphrase."""
        locked = lock(self.opened.stored, passphrase, self._binding, cost=cost, random=random)
        return replace(self, locked=locked)

    def decrypted(self) -> "KeyEntry":
        """Return the entry of an unlocked key as it is stored without a passphrase."""
        return replace(self, key=self.opened, locked=b"")

    @property
    def opened(self) -> ReceivingKey:
        """The key. Raises ``ConfigurationError`` (``no_passphrase``) while it is encrypted."""
        if self.key is None:
            raise ConfigurationError("the receiving key is encrypted", reason="no_passphrase")
        return self.key

    def to_pem(self) -> bytes:
        """Serialise as one PEM block: of version 1 where that says everything."""
        if self.locked:
            return armour.encode(ENCRYPTED_LABEL, self._binding + self.locked)
        key = self.opened
        if not self.made and not self.not_after:
            return key.to_pem()
        items = (self.kem.encode("ascii"), key.stored, self.fingerprint, _date(self.made), _date(self.not_after))
        return armour.encode(PRIVATE_LABEL, length_prefixed(_VERSION, _PRIVATE, *items))

    @property
    def _binding(self) -> bytes:
        items = (self.kem.encode("ascii"), self.fingerprint, _date(self.made), _date(self.not_after))
        return length_prefixed(_VERSION, _ENCRYPTED, *items)


@dataclass(frozen=True, slots=True)
class ReceivingKeys:
    """The private keys of one reader, the newest first."""

    entries: tuple[KeyEntry, ...]

    def __post_init__(self) -> None:
        if not 1 <= len(self.entries) <= MAX_KEYS:
            raise ConfigurationError(
                f"{len(self.entries)} receiving keys in one file; 1 to {MAX_KEYS} are kept: prune it", reason="bad_key"
            )
        if len({entry.fingerprint for entry in self.entries}) != len(self.entries):
            raise ConfigurationError("the same receiving key is there twice", reason="bad_key")

    @classmethod
    def of(cls, *keys: ReceivingKey) -> Self:
        """Return a ring of keys without dates."""
        return cls(tuple(KeyEntry.of(key) for key in keys))

    @classmethod
    def from_pem(cls, pem: bytes) -> Self:
        """Parse the blocks of a file. Raises ``ConfigurationError`` saying what is wrong with them."""
        found = armour.blocks(pem, max_bytes=MAX_RING_BYTES, max_blocks=MAX_KEYS)
        return cls(tuple(_entry(block) for block in found))

    @property
    def newest(self) -> KeyEntry:
        """The key in use: its public half is the one to seal to."""
        return self.entries[0]

    @property
    def is_encrypted(self) -> bool:
        """Whether any of the keys is stored under a passphrase."""
        return any(entry.is_encrypted for entry in self.entries)

    def to_pem(self) -> bytes:
        """Serialise for a file of mode 0600."""
        return b"".join(entry.to_pem() for entry in self.entries)

    def find(self, fingerprints: Iterable[bytes], now: float) -> KeyEntry:
        """Return the key that one of these fingerprints names.

        Raises ``MessageError`` (``not_for_us``) where none does, ``ConfigurationError`` (``key_expired``).
        """
        wanted = set(fingerprints)
        for entry in self.entries:
            if entry.fingerprint in wanted:
                entry.require_current(now)
                return entry
        raise MessageError("the envelope is not sealed to this receiving key", reason="not_for_us")

    def current(self, now: float) -> "ReceivingKeys":
        """Return the ring without the keys that are past their end. Raises as `find` does where none is left."""
        kept = tuple(entry for entry in self.entries if not entry.has_ended(now))
        if not kept:
            self.newest.require_current(now)
        return ReceivingKeys(kept)

    def mapped(self, change: Callable[[KeyEntry], KeyEntry]) -> "ReceivingKeys":
        """Return the ring with each entry changed."""
        return ReceivingKeys(tuple(change(entry) for entry in self.entries))

    def rotated(self, key: ReceivingKey, *, now: int, not_after: int) -> "ReceivingKeys":
        """Return the ring with a new key in front; what was in use gets an end, and none that has one a later one.

        All entries have to be unlocked, because dates are bound to the secret; the result is stored unencrypted.
        """
        ended = (
            replace(
                entry.decrypted(),
                not_after=min(filter(None, (entry.not_after, not_after)), default=0),
            )
            for entry in self.entries
        )
        # Later than the one before it, whatever the clock says: statements are ordered by this date.
        made = max(now, self.newest.made + 1)
        return ReceivingKeys((KeyEntry.of(key, made=made), *ended))

    def pruned(self, now: float) -> tuple["ReceivingKeys", tuple[KeyEntry, ...]]:
        """Return the ring without ended keys, and those; the newest key stays whatever its date."""
        gone = tuple(entry for entry in self.entries[1:] if entry.has_ended(now))
        return ReceivingKeys(tuple(entry for entry in self.entries if entry not in gone)), gone


def day(seconds: int) -> str:
    """Return the date of a time, for people."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d}"


def _entry(block: armour.Block) -> KeyEntry:
    if block.label == ENCRYPTED_LABEL:
        return _encrypted_entry(_split(block.data))
    if block.label != PRIVATE_LABEL:
        raise ConfigurationError(f"not a private receiving key but {block.label!r}", reason="bad_key")
    items = _split(block.data)
    if not items or items[0] != _VERSION:
        return KeyEntry.of(ReceivingKey.from_bytes(block.data))
    if len(items) != _PRIVATE_ITEMS or items[1] != _PRIVATE:
        raise _damaged("not a private key of version 2")
    key = ReceivingKey.from_stored(_name(items[2]), items[3], items[4])
    return replace(KeyEntry.of(key), made=_seconds(items[5]), not_after=_seconds(items[6]))


def _encrypted_entry(items: list[bytes]) -> KeyEntry:
    if len(items) <= _PLAIN_ITEMS or items[0] != _VERSION or items[1] != _ENCRYPTED:
        raise _damaged("not an encrypted key of version 2")
    if len(items[3]) != _FINGERPRINT_BYTES:
        raise _damaged("its fingerprint has another length")
    return KeyEntry(
        _name(items[2]), items[3], _seconds(items[4]), _seconds(items[5]), locked=length_prefixed(*items[_PLAIN_ITEMS:])
    )


def _split(data: bytes) -> list[bytes]:
    try:
        return split_items(data, "receiving key", maximum=_MAX_ITEMS)
    except MessageError as error:
        raise _damaged(str(error)) from error


def _name(data: bytes) -> str:
    if not (data.isascii() and 0 < len(data) <= _MAX_KEM_NAME_BYTES and data.decode("ascii").isprintable()):
        raise _damaged("it names no KEM")
    return data.decode("ascii")


def _date(seconds: int) -> bytes:
    return seconds.to_bytes(_DATE_BYTES, "big")


def _seconds(data: bytes) -> int:
    if len(data) != _DATE_BYTES or (seconds := int.from_bytes(data, "big")) >= _MAX_DATE:
        raise _damaged("a date is none")
    return seconds


def _damaged(why: str) -> ConfigurationError:
    return ConfigurationError(f"the receiving key is damaged: {why}", reason="bad_key")
