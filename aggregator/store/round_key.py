"""The private key of the round that is open, as a file for a restart: ``round.key`` of the state folder.

It is a receiving key under a key of its own (`content.receiving_keys`), derived from the operator's restart key for
the round's challenge. The restart key lies outside the state folder and its back-ups, so that these open nothing.
Where the round is over the file is overwritten and removed; what a file system or a drive kept of it is out of reach.
"""

import os
from contextlib import suppress
from pathlib import Path

from pqfl_transport.content.psk import NONCE_BYTES, PreSharedKey
from pqfl_transport.content.receiving_keys import KeyEntry, ReceivingKeys
from pqfl_transport.content.recipients import ReceivingKey
from pqfl_transport.crypto.locking import Cost
from pqfl_transport.errors import ConfigurationError, PlatformError, PqflError
from pqfl_transport.pki.files import read_secret, write_secret

# What it is locked under is no passphrase: 256 bits are not guessed, however cheap a guess is.
_COST = Cost(passes=1, lanes=1, memory_kib=8)


class RoundKeyFile:
    """Keeps the key of one round at a time, and of none where there is no restart key."""

    def __init__(self, folder: Path, restart: PreSharedKey | None) -> None:
        self._path, self._restart = folder / "round.key", restart

    @property
    def is_kept(self) -> bool:
        """Whether there is a restart key to keep it under."""
        return self._restart is not None

    def save(self, key: ReceivingKey, challenge: bytes) -> None:
        """Keep the key of a round in the place of the one before. Raises ``PlatformError`` (``disk``)."""
        self.destroy()
        if self._restart is None:
            return
        entry = KeyEntry.of(key).encrypted(_passphrase(self._restart, challenge), cost=_COST)
        try:
            write_secret(self._path, entry.to_pem(), overwrite=True)
        except (OSError, PqflError) as error:
            raise PlatformError(f"cannot keep the key of the round: {error}", reason="disk") from error

    def load(self, fingerprint: bytes, challenge: bytes) -> ReceivingKey:
        """Return the key of this fingerprint.

        Raises ``ConfigurationError``: ``no_restart_key`` where none was configured, ``missing``, ``key_mismatch``,
        ``wrong_restart_key``, and what reading a secret file raises.
        """
        if self._restart is None:
            raise ConfigurationError("aggregator.restart_key is not given", reason="no_restart_key")
        entry = ReceivingKeys.from_pem(read_secret(self._path)).newest
        if entry.fingerprint != fingerprint:
            raise ConfigurationError(f"{self._path}: is the key of another round", reason="key_mismatch")
        try:
            return entry.unlocked(_passphrase(self._restart, challenge)).opened
        except ConfigurationError as error:
            raise ConfigurationError(
                f"{self._path}: does not open with this restart key", reason="wrong_restart_key"
            ) from error

    def destroy(self) -> None:
        """Overwrite and remove the file, if there is one. Raises ``PlatformError`` (``disk``) where it stays."""
        try:
            with suppress(FileNotFoundError):
                descriptor = os.open(self._path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
                try:
                    os.pwrite(descriptor, bytes(os.fstat(descriptor).st_size), 0)
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)
                self._path.unlink()
        except OSError as error:
            raise PlatformError(f"{self._path}: cannot be removed: {error.strerror}", reason="disk") from error


def _passphrase(restart: PreSharedKey, challenge: bytes) -> bytes:
    return restart.key(challenge[:NONCE_BYTES].hex()).material
