"""Files of receiving keys (`content.receiving_keys`): read, unlocked with a passphrase where need be, exchanged."""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

from pqfl_transport.content.receiving_keys import MAX_RING_BYTES, KeyEntry, ReceivingKeys
from pqfl_transport.content.recipients import RecipientKey
from pqfl_transport.crypto.armour import MAX_PEM_BYTES
from pqfl_transport.errors import ConfigurationError
from pqfl_transport.pki.files import read_public, read_secret, replace_secret
from pqfl_transport.pki.passphrases import PassphraseSource, from_environment, unlocked


def load_recipient(path: Path) -> RecipientKey:
    """Return a public receiving key. Raises ``ConfigurationError`` naming the file."""
    data = read_public(path, max_bytes=MAX_PEM_BYTES)
    try:
        return RecipientKey.from_pem(data)
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: {error}", reason=error.reason) from error


def load_key_ring(path: Path) -> ReceivingKeys:
    """Return the private keys of a file, encrypted ones still encrypted. Raises ``ConfigurationError`` naming it."""
    data = read_secret(path, max_bytes=MAX_RING_BYTES)
    try:
        return ReceivingKeys.from_pem(data)
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: {error}", reason=error.reason) from error


def load_receiving_keys(path: Path, now: float, passphrases: PassphraseSource = from_environment) -> ReceivingKeys:
    """Return the private keys of a file that are not past their end, ready for use.

    Raises ``ConfigurationError`` naming the file: ``key_expired`` where none is left, ``no_passphrase``,
    ``wrong_passphrase``, ``key_cost``, ``bad_key``.
    """
    ring = load_key_ring(path)
    try:
        ring = ring.current(now)
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: {error}", reason=error.reason) from error
    return unlock_ring(path, ring, passphrases)


@dataclass(slots=True)
class KeyRingFile:
    """A file of receiving keys in use, whose owner may rotate them meanwhile (`pqfl key rotate`)."""

    path: Path
    passphrases: PassphraseSource = field(default=from_environment, repr=False)
    _seen: bytes = field(default=b"", init=False, repr=False)

    def load(self, now: float) -> ReceivingKeys:
        """Return the keys of now. Raises as `load_receiving_keys` does."""
        digest = self._digest()
        keys = load_receiving_keys(self.path, now, self.passphrases)
        self._seen = digest
        return keys

    def reload(self, now: float) -> ReceivingKeys | None:
        """Return the keys of now, ``None`` where the file is what it was when it was loaded. Raises as `load` does."""
        return None if self._digest() == self._seen else self.load(now)

    def _digest(self) -> bytes:
        return hashlib.sha256(read_secret(self.path, max_bytes=MAX_RING_BYTES)).digest()


def unlock_ring(path: Path, ring: ReceivingKeys, passphrases: PassphraseSource = from_environment) -> ReceivingKeys:
    """Return a ring of this file with all its keys unlocked. Raises ``ConfigurationError`` naming the file."""
    if not ring.is_encrypted:
        return ring
    return unlocked(str(path), passphrases, lambda phrase: ring.mapped(lambda entry: entry.unlocked(phrase)))


def unlock_entry(path: Path, entry: KeyEntry, passphrases: PassphraseSource = from_environment) -> KeyEntry:
    """Return one key of this file unlocked. Raises ``ConfigurationError`` naming the file."""
    return entry if entry.key is not None else unlocked(str(path), passphrases, entry.unlocked)


def replace_key_ring(path: Path, ring: ReceivingKeys) -> None:
    """Put other keys into an existing file (`files.replace_secret`)."""
    replace_secret(path, ring.to_pem())
