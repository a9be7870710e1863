"""The ledger: every certificate that the authority ever signed, and an append-only hash chain of all that it did.

One SQLite file, ``ledger.db``. What a command does is one transaction: certificates, events and whatever else it
changes are there together or not at all, and on the disk before anything leaves the authority. Writers take turns by
the lock on the folder; readers need none. The journal is SQLite's rollback journal and not its write-ahead log, so that
between two commands the one file is everything, to be copied as a backup or for an auditor: it holds no secret.

The events are lines of `pqfl_transport.hashchain`, as in the audit logs of gateways and aggregators.
"""

import json
import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from certs.entry import Entry, State, to_text, to_time
from pqfl_transport.crypto.pyca import SigningKey
from pqfl_transport.errors import ConfigurationError, PlatformError
from pqfl_transport.hashchain import CHECKPOINT, GENESIS, canonical, checkpoint_facts, make_line

VERSION = 1
_APPLICATION_ID = 0x7071666C
"""``pqfl``, in the file's header."""
_BUSY_SECONDS = 30.0
_MODE = 0o644

_SCHEMA = """
CREATE TABLE certificates (
    number INTEGER PRIMARY KEY, issued_at TEXT NOT NULL, id TEXT NOT NULL, usage TEXT NOT NULL,
    algorithm TEXT NOT NULL, serial TEXT NOT NULL, sha256 TEXT NOT NULL UNIQUE, not_after TEXT NOT NULL,
    not_before TEXT NOT NULL, issuer TEXT NOT NULL, key_sha256 TEXT NOT NULL, state TEXT NOT NULL,
    revoked_at TEXT NOT NULL, reason TEXT NOT NULL, der BLOB, UNIQUE (issuer, serial));
CREATE INDEX certificates_by_id ON certificates (id);
CREATE INDEX certificates_by_key ON certificates (key_sha256);
CREATE TABLE events (seq INTEGER PRIMARY KEY, line TEXT NOT NULL);
CREATE TABLE candidates (
    id TEXT PRIMARY KEY, signing_key BLOB NOT NULL, receiving_key BLOB, since TEXT NOT NULL);
CREATE TABLE lists (issuer TEXT PRIMARY KEY, number INTEGER NOT NULL, next_update TEXT NOT NULL);
CREATE TABLE preparations (
    id TEXT PRIMARY KEY, request TEXT NOT NULL, stage TEXT NOT NULL, target TEXT NOT NULL, roster BLOB);
CREATE TRIGGER certificates_stay BEFORE DELETE ON certificates BEGIN SELECT RAISE(ABORT, 'never deleted'); END;
CREATE TRIGGER certificates_are_final
    BEFORE UPDATE OF number, issued_at, id, usage, algorithm, serial, sha256, not_after, not_before, issuer,
        key_sha256, der ON certificates BEGIN SELECT RAISE(ABORT, 'never changed'); END;
CREATE TRIGGER events_stay BEFORE DELETE ON events BEGIN SELECT RAISE(ABORT, 'never deleted'); END;
CREATE TRIGGER events_are_final BEFORE UPDATE ON events BEGIN SELECT RAISE(ABORT, 'never changed'); END;
"""
_COLUMNS = tuple(Entry.__dataclass_fields__)


@dataclass(frozen=True, slots=True)
class Candidate:
    """Keys of a party that were certified and that the next roster may name."""

    id: str
    signing_key: bytes
    """Its SPKI."""
    receiving_key: bytes | None
    """The bytes of its public block; None where the one in the roster stays."""
    since: str


@dataclass(frozen=True, slots=True)
class Preparation:
    """A folder that is about to be published: what has to be finished or taken back after a crash."""

    id: str
    request: str
    """What was asked for, as canonical JSON: the same command again is known by it."""
    stage: str
    target: str
    roster: bytes | None
    """The signed roster that goes with it."""


class Ledger:
    """The ledger in one file. Every method raises ``PlatformError`` (``ledger``) where the file cannot be used."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextmanager
    def creating(self, now: datetime) -> Iterator["Writing"]:
        """Make a ledger together with what it begins with. Raises ``ConfigurationError`` (``exists``)."""
        with self._connection(os.O_CREAT) as database:
            database.execute("BEGIN IMMEDIATE")
            if _has_tables(database):
                raise ConfigurationError(f"{self.path}: exists already", reason="exists")
            _make_schema(database)
            yield Writing(database, now)
            database.execute("COMMIT")

    def is_made(self) -> bool:
        """Whether the file is there and not the empty one of a making that was killed."""
        if not self.path.exists():
            return False
        with self._connection() as database:
            return _has_tables(database)

    @contextmanager
    def writing(self, now: datetime) -> Iterator["Writing"]:
        """Give one transaction, which is on the disk when the block ends without an error, and undone otherwise."""
        with self._connection() as database:
            self._require_version(database)
            database.execute("BEGIN IMMEDIATE")
            yield Writing(database, now)
            database.execute("COMMIT")

    def entries(self, *, party: str | None = None) -> tuple[Entry, ...]:
        """Return all certificates, oldest first, or those of one SPIFFE ID."""
        return self._entries("" if party is None else "WHERE id = ?", *([] if party is None else [party]))

    def entries_of_key(self, key_sha256: str) -> tuple[Entry, ...]:
        """Return the certificates of one key."""
        return self._entries("WHERE key_sha256 = ?", key_sha256)

    def certificate(self, sha256: str) -> x509.Certificate | None:
        """Return a certificate itself; ``None`` where it was issued before ledgers kept them."""
        with self._reading() as database:
            row = database.execute("SELECT der FROM certificates WHERE sha256 = ?", (sha256,)).fetchone()
        return None if row is None or row[0] is None else x509.load_der_x509_certificate(row[0])

    def candidates(self) -> tuple[Candidate, ...]:
        """Return the latest certified keys of every party that has content keys, by ID."""
        with self._reading() as database:
            return tuple(Candidate(*row) for row in database.execute("SELECT * FROM candidates ORDER BY id"))

    def preparations(self) -> tuple[Preparation, ...]:
        """Return what was begun and not finished."""
        with self._reading() as database:
            return tuple(Preparation(*row) for row in database.execute("SELECT * FROM preparations ORDER BY id"))

    def list_number(self, issuer: str) -> int:
        """Return the number of the last revocation list of an authority, 0 before there was any."""
        with self._reading() as database:
            row = database.execute("SELECT number FROM lists WHERE issuer = ?", (issuer,)).fetchone()
        return int(row[0]) if row else 0

    def list_end(self, issuer: str) -> datetime | None:
        """Return the next update of the last revocation list of an authority, ``None`` before there was any."""
        with self._reading() as database:
            row = database.execute("SELECT next_update FROM lists WHERE issuer = ?", (issuer,)).fetchone()
        return to_time(row[0]) if row else None

    def lines(self) -> Iterator[bytes]:
        """Yield the lines of the chain of events, oldest first, each with its newline."""
        with self._reading() as database:
            for (line,) in database.execute("SELECT line FROM events ORDER BY seq"):
                yield str(line).encode() + b"\n"

    def _entries(self, where: str, *values: str) -> tuple[Entry, ...]:
        query = f"SELECT {', '.join(_COLUMNS)} FROM certificates {where} ORDER BY number"  # noqa: S608 -- our words only
        with self._reading() as database:
            return tuple(Entry(*row) for row in database.execute(query, values))

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._connection() as database:
            self._require_version(database)
            yield database

    @contextmanager
    def _connection(self, how: int = 0) -> Iterator[sqlite3.Connection]:
        try:
            # SQLite would make the file with whatever the umask says.
            os.close(os.open(self.path, os.O_RDWR | os.O_CLOEXEC | how, _MODE))
        except FileNotFoundError as error:
            raise ConfigurationError(f"{self.path}: no such file", reason="missing") from error
        except OSError as error:
            raise PlatformError(f"{self.path}: cannot be opened: {error.strerror}", reason="ledger") from error
        try:
            # A connection for each use: threads share none, and a process that forks inherits none.
            with closing(sqlite3.connect(self.path, timeout=_BUSY_SECONDS, isolation_level=None)) as database:
                database.execute("PRAGMA journal_mode = DELETE")
                database.execute("PRAGMA synchronous = EXTRA")
                database.execute("PRAGMA trusted_schema = OFF")
                yield database
        except sqlite3.Error as error:
            raise PlatformError(f"{self.path}: the ledger: {error}", reason="ledger") from error

    def _require_version(self, database: sqlite3.Connection) -> None:
        (application,) = database.execute("PRAGMA application_id").fetchone()
        (version,) = database.execute("PRAGMA user_version").fetchone()
        if (application, version) != (_APPLICATION_ID, VERSION):
            raise ConfigurationError(
                f"{self.path}: is no ledger of version {VERSION} (application {application:#x}, version {version})",
                reason="version",
            )


class Writing:
    """One transaction on a ledger."""

    def __init__(self, database: sqlite3.Connection, now: datetime) -> None:
        self._database, self._now = database, now

    def enter(self, entry: Entry, certificate: x509.Certificate | None, *, kind: str = "issue") -> None:
        """Add a certificate, and the event of its issuing."""
        values = [getattr(entry, name) for name in _COLUMNS]
        der = None if certificate is None else certificate.public_bytes(Encoding.DER)
        marks = ", ".join("?" * (len(_COLUMNS) + 1))
        self._database.execute(
            f"INSERT INTO certificates ({', '.join(_COLUMNS)}, der) VALUES ({marks})",  # noqa: S608 -- our words only
            (*values, der),
        )
        self.record(kind, **entry.event_facts())

    def revoke(self, entry: Entry, reason: str, *, state: State | None = None) -> Entry:
        """Mark a certificate as revoked from now on, and record it."""
        revoked = replace(entry, revoked_at=to_text(self._now), reason=reason, state=state or entry.state)
        self._database.execute(
            "UPDATE certificates SET revoked_at = ?, reason = ?, state = ? WHERE sha256 = ?",
            (revoked.revoked_at, revoked.reason, revoked.state, entry.sha256),
        )
        facts = {"id": entry.id, "usage": entry.usage, "serial": entry.serial, "sha256": entry.sha256}
        self.record("revoke", **facts, reason=reason, revoked_at=revoked.revoked_at, state=str(revoked.state))
        return revoked

    def propose(self, candidate: Candidate) -> None:
        """Keep keys for the next roster, in the place of what this party had proposed before."""
        self._database.execute(
            "INSERT INTO candidates VALUES (?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET"
            " signing_key = excluded.signing_key, receiving_key = coalesce(excluded.receiving_key, receiving_key),"
            " since = excluded.since",
            (candidate.id, candidate.signing_key, candidate.receiving_key, candidate.since),
        )

    def forget_candidate(self, party: str) -> None:
        """Drop what a party had proposed."""
        self._database.execute("DELETE FROM candidates WHERE id = ?", (party,))

    def number_list(self, issuer: str, number: int, next_update: datetime) -> None:
        """Keep the number of a revocation list, which is higher than the last."""
        self._database.execute(
            "INSERT INTO lists VALUES (?, ?, ?) ON CONFLICT (issuer) DO UPDATE SET"
            " number = excluded.number, next_update = excluded.next_update",
            (issuer, number, to_text(next_update)),
        )

    def prepare(self, preparation: Preparation) -> None:
        """Keep what a crash must not leave half-done."""
        values = (preparation.id, preparation.request, preparation.stage, preparation.target, preparation.roster)
        self._database.execute("INSERT INTO preparations VALUES (?, ?, ?, ?, ?)", values)

    def settle(self, party: str) -> None:
        """Call what was prepared for this party issued, where it was not withdrawn, and forget the preparation."""
        self._database.execute(
            "UPDATE certificates SET state = ? WHERE id = ? AND state = ?",
            (State.ISSUED.value, party, State.PREPARED.value),
        )
        self._database.execute("DELETE FROM preparations WHERE id = ?", (party,))

    def record(self, kind: str, **facts: Any) -> None:
        """Append an event to the chain."""
        self._append(kind, facts, None)

    def sign_head(self, key: SigningKey) -> str:
        """Return the signed head of the chain, which is its last line; a new one where something came after it."""
        last = self._last_line()
        if last is None or last["kind"] != CHECKPOINT or last["facts"] != checkpoint_facts(key):
            return self._append(CHECKPOINT, checkpoint_facts(key), key)
        return canonical(last).decode()

    def _append(self, kind: str, facts: Mapping[str, Any], key: SigningKey | None) -> str:
        last = self._last_line()
        line = make_line(
            sequence=0 if last is None else last["seq"] + 1,
            previous=GENESIS if last is None else last["hash"],
            now=self._now.timestamp(),
            kind=kind,
            facts=facts,
            key=key,
        )
        text = canonical(line).decode()
        self._database.execute("INSERT INTO events VALUES (?, ?)", (line["seq"], text))
        return text

    def _last_line(self) -> dict[str, Any] | None:
        row = self._database.execute("SELECT line FROM events ORDER BY seq DESC LIMIT 1").fetchone()
        return None if row is None else dict(json.loads(row[0]))


def _has_tables(database: sqlite3.Connection) -> bool:
    (tables,) = database.execute("SELECT count(*) FROM sqlite_master").fetchone()
    return bool(tables)


def _make_schema(database: sqlite3.Connection) -> None:
    for statement in _statements():
        database.execute(statement)
    database.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
    database.execute(f"PRAGMA user_version = {VERSION}")


def _statements() -> Iterator[str]:
    # `executescript` would commit the transaction that it is called in.
    statement = ""
    for line in _SCHEMA.strip().splitlines():
        statement += line + "\n"
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
