"""New receiving keys of parties: which statements an authority takes, and its record of those it took.

``rekeyed.jsonl`` has one JSON line for each, in the order of taking. It is what makes an old statement old: a key that
was in a roster, or that a later one took the place of, never comes back.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Self

from certs.entry import Entry, to_text, to_time
from pqfl_transport.content.recipients import RecipientKey
from pqfl_transport.errors import ConfigurationError, MessageError, PolicyError
from pqfl_transport.pki.documents import parse_object, require_fields
from pqfl_transport.pki.files import read_public, write_public
from pqfl_transport.pki.profiles import Usage
from pqfl_transport.pki.roster import Party, Roster
from pqfl_transport.pki.statements import MAX_SKEW_SECONDS, Statement
from pqfl_transport.policy import Policy

_MAX_RECORD_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Rekeyed:
    """One statement that was taken. Fingerprints and the digest are lower-case hex, the time RFC 3339 in UTC."""

    at: str
    id: str
    made: int
    """Unix seconds, as the party says."""
    before: str
    after: str
    statement_sha256: str

    @classmethod
    def of(cls, party: Party, statement: Statement, data: bytes, now: datetime) -> Self:
        """Describe a statement that is being taken."""
        return cls(
            to_text(now), str(party.id), statement.made, party.receiving_fingerprint.hex(),
            statement.receiving_fingerprint.hex(), hashlib.sha256(data).hexdigest(),
        )  # fmt: skip


_FIELDS = {"at": str, "id": str, "made": int, "before": str, "after": str, "statement_sha256": str}


def require_acceptable(
    party: Party, statement: Statement, *, roster: Roster, record: Iterable[Rekeyed], ledger: Iterable[Entry],
    policy: Policy,
) -> None:  # fmt: skip
    """Raise unless this statement, which the party's signature holds for, says something new.

    ``MessageError``: ``already_listed``, ``stale`` for one made before the last that was taken or before the party
    itself was issued, ``key_reused`` for a key that is or was anybody's; ``PolicyError`` (``wrong_kem``) and
    ``ConfigurationError`` (``bad_key``) for a key that is not of the federation's level.
    """
    fingerprint, record = statement.receiving_fingerprint.hex(), tuple(record)
    if statement.receiving_fingerprint == party.receiving_fingerprint:
        raise MessageError(f"roster {roster.number} lists this key of {party.id} already", reason="already_listed")
    latest = max((one.made for one in record if one.id == str(party.id)), default=_issued_at(party, ledger))
    if statement.made <= latest:
        raise MessageError(f"{party.id} has made a later key since: this statement is an old one", reason="stale")
    present = {one.receiving_fingerprint.hex() for one in roster.parties.values()}
    if fingerprint in present.union(*({one.before, one.after} for one in record)):
        raise MessageError("this receiving key is, or was, in a roster: a new one has to be made", reason="key_reused")
    kem = RecipientKey.from_bytes(statement.receiving_key).kem
    if kem != policy.content_suite.kem:
        raise PolicyError(
            f"a key of {kem}, and level {policy.level.value} seals to {policy.content_suite.kem}", reason="wrong_kem"
        )


def read_record(path: Path) -> tuple[Rekeyed, ...]:
    """Return all entries, oldest first; none where the file is not there yet. Raises ``ConfigurationError``."""
    if not path.exists():
        return ()
    lines = read_public(path, max_bytes=_MAX_RECORD_BYTES).splitlines()
    return tuple(_parse(line, f"{path}: line {number}") for number, line in enumerate(lines, start=1))


def write_record(path: Path, entries: Iterable[Rekeyed]) -> None:
    """Replace the file by one with these entries, whole or not at all."""
    write_public(path, b"".join(json.dumps(asdict(entry)).encode() + b"\n" for entry in entries))


def _issued_at(party: Party, ledger: Iterable[Entry]) -> int:
    """Return when the party got its first receiving key, as far as clocks can be compared; 0 where nobody knows."""
    issued = [entry.issued_at for entry in ledger if entry.id == str(party.id) and entry.usage == Usage.SIGNING]
    if not issued:
        return 0
    return int(to_time(issued[0]).timestamp()) - MAX_SKEW_SECONDS


def _parse(line: bytes, where: str) -> Rekeyed:
    try:
        return Rekeyed(**require_fields(parse_object(line, where), _FIELDS, where))
    except MessageError as error:
        raise ConfigurationError(str(error), reason="malformed") from error
