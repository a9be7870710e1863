"""Accepted updates of the round that is open, as files: sealed, byte for byte as they came.

An update is written while it comes, and is on the disk under its own name, the digest of its prologue, before the
database says that it was accepted. Files that the database does not know are of uploads that came to nothing.
"""

import threading
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from aggregator.rounds import Receipt
from aggregator.store.records import KeptUpdate
from pqfl_transport.content.envelope import Prologue
from pqfl_transport.content.staging import remove_torn, staged
from pqfl_transport.errors import ConfigurationError, PlatformError, PqflError, RoundError

_SUFFIX = ".pqfl"


class Accepts(Protocol):
    """The part of a `Store` that keeps updates."""

    def accept(self, challenge: bytes, update: KeptUpdate) -> None:
        """Keep an update. Raises ``RoundError``: ``closed``, ``duplicate``; ``PlatformError``."""


class _DiscardedError(Exception):
    """What ends the writing of a file that nobody wants any more."""


class UpdateFile:
    """One sealed update on its way in. Raises ``PlatformError`` (``disk``) where it cannot be written."""

    def __init__(self, path: Path, prologue: Prologue) -> None:
        self.path = path
        self._staged = staged(path)
        # Its round may be over while a thread finishes it.
        self._lock = threading.Lock()
        try:
            self._file = self._staged.__enter__()
        except PqflError as error:
            raise PlatformError(f"cannot store the update: {error}", reason="disk") from error
        self._is_open = True
        try:
            self.write(prologue.raw)
        except BaseException:
            self.discard()
            raise

    def write(self, data: bytes) -> None:
        """Take more of the envelope. Raises ``RoundError`` (``closed``) for one that was discarded."""
        with self._lock:
            self._require_open()
            try:
                self._file.write(data)
            except OSError as error:
                raise PlatformError(f"cannot store the update: {error.strerror}", reason="disk") from error

    def keep(self) -> None:
        """Bring it to the disk, under its own name. Raises as `write`."""
        with self._lock:
            self._require_open()
            self._is_open = False
            try:
                self._staged.__exit__(None, None, None)
            except PqflError as error:
                raise PlatformError(f"cannot store the update: {error}", reason="disk") from error

    def discard(self) -> None:
        """Leave nothing of it, unless it is kept already. Discarding twice is harmless."""
        with self._lock:
            if self._is_open:
                self._is_open = False
                # Closing writes what is buffered, which a full disk does not take.
                with suppress(_DiscardedError, PqflError):
                    self._staged.__exit__(_DiscardedError, _DiscardedError(), None)

    def _require_open(self) -> None:
        if not self._is_open:
            raise RoundError("the update was given up: its round is over", reason="closed")


class KeptUpdates:
    """The updates of one run in its state folder."""

    def __init__(self, folder: Path, store: Accepts) -> None:
        """Use ``folder``, made with mode 0700 when it is missing. Raises ``ConfigurationError`` (``not_writable``)."""
        self._folder, self._store = folder / "updates", store
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            remove_torn(self._folder)
        except OSError as error:
            raise ConfigurationError(
                f"{self._folder}: cannot use the state folder: {error.strerror}", reason="not_writable"
            ) from error

    def begin(self, prologue: Prologue) -> UpdateFile:
        """Begin the file of an update whose prologue was verified. Raises ``PlatformError`` (``disk``)."""
        return UpdateFile(self.path(prologue.digest), prologue)

    def accept(self, challenge: bytes, receipt: Receipt, samples: int) -> None:
        """Keep that an update, whose file is kept, was accepted. Raises as `Accepts.accept`."""
        self._store.accept(challenge, KeptUpdate(receipt, samples))

    def path(self, prologue_digest: bytes) -> Path:
        """Return where an update is kept."""
        return self._folder / f"{prologue_digest.hex()}{_SUFFIX}"

    def keep_only(self, prologue_digests: Iterable[bytes]) -> None:
        """Remove the files of all other updates."""
        wanted = {self.path(digest) for digest in prologue_digests}
        for path in set(self._folder.glob(f"*{_SUFFIX}")) - wanted:
            # What cannot be removed now is removed after the next round.
            with suppress(OSError):
                path.unlink()
