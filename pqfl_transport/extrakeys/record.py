"""The durable record of extra keys that were used: each serves one envelope, whatever is asked for later.

An SQLite file of mode 0600, which several processes may share. An id is on the disk before its material is used. It is
bound to one prologue: an upload that was cut off is tried again with the same one, which is no new use, while any
other envelope under this id is refused. A record that is full forgets what is older than ``retain_days``; full of
younger ids, it refuses new ones rather than forget any.
"""

import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from pqfl_transport.errors import ConfigurationError, MessageError, PlatformError

MAX_IDS = 1_000_000
"""About 150 MB."""
DEFAULT_RETAIN_DAYS = 400

_VERSION = 1
_BUSY_SECONDS = 10.0
_DAY_SECONDS = 86_400


class UsedKeys:
    """The record in one file, which is made where it is missing. Raises ``ConfigurationError`` naming the file."""

    def __init__(
        self,
        path: Path,
        *,
        retain_days: float = DEFAULT_RETAIN_DAYS,
        max_ids: int = MAX_IDS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._path, self._retain_days, self._max_ids, self._clock = path, retain_days, max_ids, clock
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        except OSError as error:
            raise ConfigurationError(f"{path}: cannot be made: {error.strerror}", reason="not_writable") from error
        with self._transaction() as database:
            (version,) = database.execute("PRAGMA user_version").fetchone()
            if version not in {0, _VERSION}:
                raise ConfigurationError(f"{path}: a record of version {version}, not {_VERSION}", reason="version")
            database.execute(
                "CREATE TABLE IF NOT EXISTS used"
                " (id TEXT PRIMARY KEY, envelope BLOB NOT NULL, at INTEGER NOT NULL) WITHOUT ROWID"
            )
            database.execute(f"PRAGMA user_version = {_VERSION}")

    def claim(self, key_id: str, envelope: bytes) -> None:
        """Bind an id to the envelope of this digest. Raises ``MessageError`` (``extra_key``) if another one has it.

        ``PlatformError`` where the record is full or cannot be written: then the key must not be used.
        """
        with self._transaction() as database:
            row = database.execute("SELECT envelope FROM used WHERE id = ?", (key_id,)).fetchone()
            if row is None:
                self._make_room(database)
                database.execute("INSERT INTO used VALUES (?, ?, ?)", (key_id, envelope, int(self._clock())))
            elif row[0] != envelope:
                raise MessageError(f"the extra key {key_id} was used for another envelope", reason="extra_key")

    def _make_room(self, database: sqlite3.Connection) -> None:
        (count,) = database.execute("SELECT count(*) FROM used").fetchone()
        if count < self._max_ids:
            return
        oldest = int(self._clock() - self._retain_days * _DAY_SECONDS)
        if database.execute("DELETE FROM used WHERE at < ?", (oldest,)).rowcount == 0:
            raise PlatformError(
                f"{self._path}: holds {count} ids younger than {self._retain_days:g} days, and takes no more; begin a"
                " new file together with new pre-shared keys",
                reason="used_keys_full",
            )

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        try:
            # A connection for each use: threads share none, and a process that forks inherits none.
            with closing(sqlite3.connect(self._path, timeout=_BUSY_SECONDS, isolation_level=None)) as database:
                database.execute("PRAGMA synchronous = FULL")
                database.execute("BEGIN IMMEDIATE")
                yield database
                database.execute("COMMIT")
        except sqlite3.DatabaseError as error:
            raise PlatformError(f"{self._path}: the record of used keys: {error}", reason="used_keys") from error
