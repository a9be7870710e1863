"""The run in one SQLite file, ``run.db`` of the state folder.

It holds no secret: no key, no weights, nothing from inside an update but its number of samples. The journal is SQLite's
rollback journal, so that between two transactions the one file is everything. One process at a time works with a
folder: ``lock`` there is locked as long as it does.
"""

import fcntl
import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from aggregator.rounds import Receipt, Terms
from aggregator.store.records import KeptModel, KeptRound, KeptRun, KeptUpdate, Standing
from pqfl_transport.errors import ConfigurationError, PlatformError, RoundError

_APPLICATION_ID = 0x70716672
"""``pqfr``, in the file's header."""
_BUSY_SECONDS = 30.0
_MODE = 0o600

_RUN = "CREATE TABLE run (one INTEGER PRIMARY KEY CHECK (one = 1), federation TEXT NOT NULL, initial BLOB NOT NULL)"
_MODELS = "CREATE TABLE models (version INTEGER PRIMARY KEY, digest BLOB NOT NULL)"
_ROUNDS = """
CREATE TABLE rounds (
    place INTEGER PRIMARY KEY, challenge BLOB NOT NULL UNIQUE, number INTEGER NOT NULL, attempt INTEGER NOT NULL,
    roster INTEGER NOT NULL, standing TEXT NOT NULL, federation TEXT NOT NULL, suite TEXT NOT NULL, base BLOB NOT NULL,
    receiving BLOB NOT NULL, max_bytes INTEGER NOT NULL, expected TEXT NOT NULL, quorum INTEGER NOT NULL,
    deadline REAL NOT NULL, not_after INTEGER NOT NULL)
"""
_UPDATES = """
CREATE TABLE updates (
    place INTEGER PRIMARY KEY, challenge BLOB NOT NULL, sender TEXT NOT NULL, envelope_id BLOB NOT NULL,
    prologue BLOB NOT NULL UNIQUE, signer BLOB NOT NULL, samples INTEGER NOT NULL,
    UNIQUE (challenge, sender), UNIQUE (challenge, envelope_id))
"""
# Each script makes the next version out of the one before; the first makes version 1 out of nothing.
_MIGRATIONS: tuple[tuple[str, ...], ...] = ((_RUN, _MODELS, _ROUNDS, _UPDATES),)
VERSION = len(_MIGRATIONS)


class SqliteStore:
    """A `Store` in a folder, made with mode 0700 when it is missing."""

    def __init__(self, folder: Path) -> None:
        """Lock the folder and open the file there, an earlier version of which is brought to this one.

        Raises ``ConfigurationError``: ``in_use`` where another process has the folder, ``version``, ``not_writable``;
        ``PlatformError`` (``disk``) where the file cannot be read or made.
        """
        self._path = folder / "run.db"
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _MODE)
        except OSError as error:
            raise ConfigurationError(
                f"{folder}: cannot use the state folder: {error.strerror}", reason="not_writable"
            ) from error
        try:
            self._require_alone(folder)
            self._migrate()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let another process have the folder. Closing twice is harmless."""
        lock, self._lock = self._lock, -1
        if lock >= 0:
            os.close(lock)

    def begin(self, run: KeptRun) -> None:
        """Begin a run, or go on with the kept one (`Store.begin`)."""
        with self._writing() as database:
            row = database.execute("SELECT federation, initial FROM run").fetchone()
            if row is None:
                database.execute("INSERT INTO run VALUES (1, ?, ?)", (run.federation, run.initial_digest))
            else:
                KeptRun(*row).require_same(run, str(self._path.parent))

    def is_begun(self) -> bool:
        """Whether a run is kept here."""
        with self._connection() as database:
            return database.execute("SELECT 1 FROM run").fetchone() is not None

    def model(self) -> KeptModel | None:
        """Return the latest model that is out."""
        with self._connection() as database:
            row = database.execute("SELECT version, digest FROM models ORDER BY version DESC LIMIT 1").fetchone()
        return None if row is None else KeptModel(*row)

    def round(self) -> KeptRound | None:
        """Return the last opening of a round."""
        with self._connection() as database:
            row = database.execute(
                "SELECT federation, number, challenge, suite, base, receiving, max_bytes, expected, quorum, deadline,"
                " not_after, attempt, roster, standing FROM rounds ORDER BY place DESC LIMIT 1"
            ).fetchone()
            if row is None:
                return None
            federation, number, challenge, suite, base, receiving, max_bytes, expected, *rest = row
            quorum, deadline, not_after, attempt, roster, standing = rest
            found = database.execute(
                "SELECT sender, envelope_id, prologue, signer, samples FROM updates WHERE challenge = ? ORDER BY place",
                (challenge,),
            ).fetchall()
        terms = Terms(
            federation, number, challenge, suite, base, receiving, max_bytes, frozenset(json.loads(expected)), quorum,
            deadline, not_after,
        )  # fmt: skip
        updates = tuple(KeptUpdate(Receipt(number, *receipt), samples) for *receipt, samples in found)
        return KeptRound(terms, attempt, roster, Standing(standing), updates)

    def open(self, opened: KeptRound) -> None:
        """Keep an opening of a round; of the one before, if nothing came of it, it is kept that it failed."""
        terms = opened.terms
        with self._writing() as database:
            database.execute(
                "UPDATE rounds SET standing = ? WHERE standing != ?", (Standing.FAILED, Standing.PUBLISHED)
            )
            database.execute(
                "INSERT INTO rounds (federation, number, challenge, suite, base, receiving, max_bytes, expected,"
                " quorum, deadline, not_after, attempt, roster, standing) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
                (
                    terms.federation, terms.number, terms.challenge, terms.suite, terms.base_digest,
                    terms.receiving_fingerprint, terms.max_plaintext_bytes, json.dumps(sorted(terms.expected)),
                    terms.quorum, terms.deadline, terms.not_after, opened.attempt, opened.roster, opened.standing,
                ),
            )  # fmt: skip

    def accept(self, challenge: bytes, update: KeptUpdate) -> None:
        """Keep an update (`Store.accept`)."""
        receipt = update.receipt
        with self._writing() as database:
            row = database.execute("SELECT standing FROM rounds WHERE challenge = ?", (challenge,)).fetchone()
            if row is None or row[0] != Standing.COLLECTING:
                raise RoundError(f"round {receipt.round} takes no more updates", reason="closed")
            try:
                database.execute(
                    "INSERT INTO updates (challenge, sender, envelope_id, prologue, signer, samples)"
                    " VALUES (?, ?, ?, ?, ?, ?)",
                    (
                        challenge, receipt.sender, receipt.envelope_id, receipt.prologue_digest, receipt.signer,
                        update.samples,
                    ),
                )  # fmt: skip
            except sqlite3.IntegrityError:
                sentence = f"an update of {receipt.sender} was accepted before"
                raise RoundError(sentence, reason="duplicate") from None

    def end(self, challenge: bytes, standing: Standing) -> None:
        """Say where an opening stands now; one that is published stays so."""
        with self._writing() as database:
            database.execute(
                "UPDATE rounds SET standing = ? WHERE challenge = ? AND standing != ?",
                (standing, challenge, Standing.PUBLISHED),
            )

    def publish(self, model: KeptModel) -> None:
        """Keep that a model is out, and the opening that it was made of published."""
        with self._writing() as database:
            database.execute("INSERT OR IGNORE INTO models VALUES (?, ?)", (model.version, model.digest))
            database.execute(
                "UPDATE rounds SET standing = ? WHERE number = ? AND standing = ?",
                (Standing.PUBLISHED, model.version, Standing.AGGREGATING),
            )

    def _require_alone(self, folder: Path) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigurationError(f"{folder}: another aggregator works with this folder", reason="in_use") from None

    def _migrate(self) -> None:
        with self._writing() as database:
            (application,) = database.execute("PRAGMA application_id").fetchone()
            (version,) = database.execute("PRAGMA user_version").fetchone()
            (tables,) = database.execute("SELECT count(*) FROM sqlite_master").fetchone()
            if (tables and application != _APPLICATION_ID) or version > VERSION:
                raise ConfigurationError(
                    f"{self._path}: is no run of version {VERSION} or before (application {application:#x}, version"
                    f" {version})",
                    reason="version",
                )
            for statement in (one for script in _MIGRATIONS[version:] for one in script):
                database.execute(statement)
            database.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
            database.execute(f"PRAGMA user_version = {VERSION}")

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._connection() as database:
            database.execute("BEGIN IMMEDIATE")
            yield database
            database.execute("COMMIT")

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        try:
            # SQLite would make the file with whatever the umask says.
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _MODE))
            # A connection for each use: threads share none.
            with closing(sqlite3.connect(self._path, timeout=_BUSY_SECONDS, isolation_level=None)) as database:
                database.execute("PRAGMA journal_mode = DELETE")
                database.execute("PRAGMA synchronous = EXTRA")
                database.execute("PRAGMA trusted_schema = OFF")
                yield database
        except (sqlite3.Error, OSError) as error:
            raise PlatformError(f"{self._path}: the state of the run: {error}", reason="disk") from error
