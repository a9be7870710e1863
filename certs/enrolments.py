"""What the enrolment service remembers: tokens, the requests made with them, and what it answered. SQLite, mode 0600.

A token is kept as what was derived from it (`TokenKeys`), never as its text. Its row goes one way:

    open ──▶ pending ──▶ approved ──▶ issued
      └──────────────────▲   │
                 └───────────┴─▶ denied

``pending`` only where somebody has to approve. Each step is one transaction. The request that was first made with a
token is the only one it is good for: the same bytes again get the same answer, others are refused. Should the process
die before the answer is here, the authority gives the same certificates to the same keys again.
"""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pqfl_transport.errors import ConfigurationError, MessageError, PlatformError
from pqfl_transport.pki.enrolment import State
from pqfl_transport.pki.spiffe import SpiffeId
from pqfl_transport.pki.tokens import TokenKeys, expired

FILE_NAME = "enrolment.sqlite"
_VERSION = 2
_BUSY_SECONDS = 10.0
_KEPT_SECONDS = 30 * 24 * 3600
_SCHEMA = """
CREATE TABLE tokens (
    token_id TEXT PRIMARY KEY, party TEXT NOT NULL, request_key BLOB NOT NULL, answer_key BLOB NOT NULL,
    made_at INTEGER NOT NULL, expires_at INTEGER NOT NULL, by_hand INTEGER NOT NULL, state TEXT NOT NULL,
    asked_at INTEGER, payload BLOB, fingerprint TEXT, answer BLOB, reissue INTEGER NOT NULL DEFAULT 0
) STRICT;
"""
_MIGRATIONS = {
    0: tuple(_SCHEMA.split(";")[:-1]),
    1: ("ALTER TABLE tokens ADD COLUMN reissue INTEGER NOT NULL DEFAULT 0",),
}
"""What makes the present version of an older one; 0 is a new file."""


@dataclass(frozen=True, slots=True)
class Enrolment:
    """One token and what became of it. Times are Unix seconds."""

    keys: TokenKeys
    party: SpiffeId
    made_at: int
    expires_at: int
    by_hand: bool
    """Whether somebody has to approve, whatever the service was started with."""
    reissue: bool
    """Whether it gives a name again that was revoked."""
    state: State
    asked_at: int | None = None
    payload: bytes | None = field(default=None, repr=False)
    answer: bytes | None = field(default=None, repr=False)
    fingerprint: str = ""
    """Of the signing key that asked, hex: what the person who approves compares with the person who asked."""


class Enrolments:
    """The database of one authority's folder; it may be used by several processes at once."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE_NAME

    def add(
        self, keys: TokenKeys, party: SpiffeId, *, now: int, expires_at: int, by_hand: bool, reissue: bool = False
    ) -> None:  # fmt: skip
        """Keep a new token, in the place of unused ones for the same party.

        Raises ``ConfigurationError`` (``pending``) while an earlier one waits for approval or is being answered.
        """
        with self._changing() as database:
            waiting = database.execute(
                "SELECT 1 FROM tokens WHERE party = ? AND state IN ('pending', 'approved')", (str(party),)
            ).fetchone()
            if waiting:
                raise ConfigurationError(
                    f"{party} has asked to join already: approve or deny it, or wait", reason="pending"
                )
            database.execute("DELETE FROM tokens WHERE party = ? AND state IN ('open', 'denied')", (str(party),))
            database.execute("DELETE FROM tokens WHERE expires_at < ?", (now - _KEPT_SECONDS,))
            database.execute(
                "INSERT INTO tokens (token_id, party, request_key, answer_key, made_at, expires_at, by_hand,"
                " reissue, state) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    keys.token_id,
                    str(party),
                    keys.request_key,
                    keys.answer_key,
                    now,
                    expires_at,
                    by_hand,
                    reissue,
                    State.OPEN,
                ),
            )

    def find(self, token_id: str) -> Enrolment:
        """Return a token by its name. Raises ``MessageError`` (``unknown_token``)."""
        with self._changing() as database:
            return self._found(database, token_id)

    def all(self) -> list[Enrolment]:
        """Return all tokens, the oldest first."""
        with self._changing() as database:
            rows = database.execute("SELECT * FROM tokens ORDER BY made_at, rowid").fetchall()
        return [_enrolment(row) for row in rows]

    def claim(self, token_id: str, payload: bytes, fingerprint: str, *, now: int, by_hand: bool) -> Enrolment:
        """Bind a token to the first request that is made with it; return how far that is.

        Raises ``MessageError``: ``token_expired`` for one that was not used in time, ``token_used`` for a second
        request.
        """
        with self._changing() as database:
            found = self._found(database, token_id)
            if found.state is State.OPEN:
                if now > found.expires_at:
                    raise expired(found.party)
                state = State.PENDING if by_hand or found.by_hand else State.APPROVED
                database.execute(
                    "UPDATE tokens SET state = ?, asked_at = ?, payload = ?, fingerprint = ? WHERE token_id = ?",
                    (state, now, payload, fingerprint, token_id),
                )
            elif found.payload != payload:
                raise MessageError(f"the token for {found.party} was used already", reason="token_used")
            return self._found(database, token_id)

    def decide(self, party: SpiffeId, *, approve: bool) -> Enrolment:
        """Approve the request that a party waits with, or deny it, also where it was approved and nothing came of it.

        Raises ``ConfigurationError`` (``not_pending``).
        """
        with self._changing() as database:
            row = database.execute(
                "SELECT token_id FROM tokens WHERE party = ? AND (state = 'pending' OR (state = 'approved' AND ?))",
                (str(party), not approve),
            ).fetchone()
            if row is None:
                raise ConfigurationError(f"{party} does not wait for approval", reason="not_pending")
            state = State.APPROVED if approve else State.DENIED
            database.execute("UPDATE tokens SET state = ? WHERE token_id = ?", (state, row["token_id"]))
            return self._found(database, row["token_id"])

    def finish(self, token_id: str, answer: bytes) -> None:
        """The ledger has it: from now on this is the answer."""
        with self._changing() as database:
            database.execute(
                "UPDATE tokens SET state = 'issued', answer = ? WHERE token_id = ?",
                (answer, token_id),
            )

    @contextmanager
    def _changing(self) -> Iterator[sqlite3.Connection]:
        """One transaction that nobody else comes between."""
        try:
            # Made before SQLite does, which would let the world read it; so are the journal files beside it.
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            with closing(sqlite3.connect(self.path, timeout=_BUSY_SECONDS, isolation_level=None)) as database:
                database.row_factory = sqlite3.Row
                database.execute("PRAGMA synchronous = FULL")
                database.execute("BEGIN IMMEDIATE")
                try:
                    self._migrate(database)
                    yield database
                except BaseException:
                    database.execute("ROLLBACK")
                    raise
                database.execute("COMMIT")
        except (sqlite3.Error, OSError) as error:
            raise PlatformError(f"{self.path}: {error}", reason="database") from error

    def _migrate(self, database: sqlite3.Connection) -> None:
        version = database.execute("PRAGMA user_version").fetchone()[0]
        if version == _VERSION:
            return
        if version not in _MIGRATIONS:
            raise ConfigurationError(f"{self.path}: is of version {version}, newer than this one", reason="version")
        for statement in _MIGRATIONS[version]:
            database.execute(statement)
        database.execute(f"PRAGMA user_version = {_VERSION}")

    def _found(self, database: sqlite3.Connection, token_id: str) -> Enrolment:
        row = database.execute("SELECT * FROM tokens WHERE token_id = ?", (token_id,)).fetchone()
        if row is None:
            raise MessageError(
                "no such token: it was replaced by a later one, or is of another authority", reason="unknown_token"
            )
        return _enrolment(row)


def _enrolment(row: sqlite3.Row) -> Enrolment:
    return Enrolment(
        keys=TokenKeys(row["token_id"], row["request_key"], row["answer_key"]),
        party=SpiffeId.parse(row["party"]),
        made_at=row["made_at"],
        expires_at=row["expires_at"],
        by_hand=bool(row["by_hand"]),
        reissue=bool(row["reissue"]),
        state=State(row["state"]),
        asked_at=row["asked_at"],
        payload=row["payload"],
        answer=row["answer"],
        fingerprint=row["fingerprint"] or "",
    )
