"""The ledger of former versions, ``issued.jsonl``: read once, taken into ``ledger.db``, and kept beside it."""

import logging
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from cryptography import x509

from certs.entry import Entry, sha256_of, to_time
from certs.ledger import Ledger
from pqfl_transport.errors import ConfigurationError, MessageError
from pqfl_transport.pki.documents import parse_object, require_fields
from pqfl_transport.pki.keystore import read_public

_log = logging.getLogger(__name__)

_MAX_LEDGER_BYTES = 256 * 1024 * 1024
_FIELDS = dict.fromkeys(("issued_at", "id", "usage", "algorithm", "serial", "sha256", "not_after"), str)
FORMER = "issued.jsonl"
KEPT = "issued.jsonl.migrated"


def migrate_ledger(folder: Path, ledger: Ledger, now: datetime) -> None:
    """Make ``ledger.db`` out of ``issued.jsonl`` where only that is there, and say so in the log.

    The caller holds the folder's lock. Killed at any moment it is begun again by the next command. Raises
    ``ConfigurationError`` (``malformed``) naming the line; then nothing has changed.
    """
    former = folder / FORMER
    if not former.exists():
        return
    if not ledger.is_made():
        entries = read_former_ledger(former)
        own = _own_certificates(folder)
        with ledger.creating(now) as book:
            for entry in entries:
                certificate = own.by_sha256.get(entry.sha256)
                book.enter(own.completed(entry), certificate)
            book.record("migrate", certificates=len(entries), source=FORMER)
        _log.warning("%s: its %d certificates are in %s now", former, len(entries), ledger.path.name)
    former.replace(folder / KEPT)


def read_former_ledger(path: Path) -> tuple[Entry, ...]:
    """Return all entries, oldest first. Raises ``ConfigurationError`` naming the file and the line."""
    lines = read_public(path, max_bytes=_MAX_LEDGER_BYTES).splitlines()
    return tuple(_parse(line, f"{path}: line {number}") for number, line in enumerate(lines, start=1))


@dataclass(frozen=True, slots=True)
class _Own:
    """The authorities' own certificates, which are still there as files."""

    root: str
    issuing: str
    by_sha256: dict[str, x509.Certificate]

    def completed(self, entry: Entry) -> Entry:
        """Return the entry with its issuer and, for an authority, all that its certificate says."""
        issuer = self.root if entry.usage in {"root", "issuing"} else self.issuing
        certificate = self.by_sha256.get(entry.sha256)
        if certificate is None:
            return replace(entry, issuer=issuer)
        whole = Entry.of(certificate, holder=entry.id, usage=entry.usage, now=to_time(entry.issued_at))
        return replace(whole, issuer=issuer)


def _own_certificates(folder: Path) -> _Own:
    root, issuing = (
        x509.load_pem_x509_certificate(read_public(folder / f"{name}.pem")) for name in ("root", "issuing")
    )
    return _Own(sha256_of(root), sha256_of(issuing), {sha256_of(root): root, sha256_of(issuing): issuing})


def _parse(line: bytes, where: str) -> Entry:
    try:
        entry = Entry(**require_fields(parse_object(line, where), _FIELDS, where))
    except MessageError as error:
        raise ConfigurationError(str(error), reason="malformed") from error
    for name in ("issued_at", "not_after"):
        try:
            to_time(getattr(entry, name))
        except ValueError as error:
            raise ConfigurationError(f"{where}: {name} is no time", reason="malformed") from error
    return entry
