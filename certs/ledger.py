"""The ledger: one JSON line for every certificate that the authority has signed, in the order of signing."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from pqfl_transport.errors import ConfigurationError, MessageError
from pqfl_transport.pki.chain import key_algorithm_name
from pqfl_transport.pki.documents import parse_object, require_fields
from pqfl_transport.pki.keystore import read_public, write_public
from pqfl_transport.pki.profiles import Usage

_MAX_LEDGER_BYTES = 256 * 1024 * 1024
TIME_FORMAT = "%Y-%m-%dT%H:%M:%SZ"


@dataclass(frozen=True, slots=True)
class Entry:
    """One certificate. Times are RFC 3339 in UTC, serial number and fingerprint lower-case hex."""

    issued_at: str
    id: str
    """The SPIFFE ID of its holder; empty for an authority."""
    usage: str
    """``root``, ``issuing``, ``server``, ``client`` or ``signing``."""
    algorithm: str
    serial: str
    sha256: str
    """Over the certificate's DER."""
    not_after: str

    @classmethod
    def of(cls, certificate: x509.Certificate, *, holder: str, usage: Usage | str, now: datetime) -> Self:
        """Describe a certificate that was just made."""
        return cls(
            issued_at=now.astimezone(UTC).strftime(TIME_FORMAT),
            id=holder,
            usage=str(usage),
            algorithm=key_algorithm_name(certificate),
            serial=f"{certificate.serial_number:x}",
            sha256=certificate.fingerprint(hashes.SHA256()).hex(),
            not_after=certificate.not_valid_after_utc.strftime(TIME_FORMAT),
        )


_FIELDS = dict.fromkeys(Entry.__dataclass_fields__, str)


def read_ledger(path: Path) -> tuple[Entry, ...]:
    """Return all entries, oldest first. Raises ``ConfigurationError`` naming the file and the line."""
    lines = read_public(path, max_bytes=_MAX_LEDGER_BYTES).splitlines()
    return tuple(_parse(line, f"{path}: line {number}") for number, line in enumerate(lines, start=1))


def write_ledger(path: Path, entries: Iterable[Entry]) -> None:
    """Replace the file by one with these entries, whole or not at all."""
    write_public(path, b"".join(json.dumps(asdict(entry)).encode() + b"\n" for entry in entries))


def _parse(line: bytes, where: str) -> Entry:
    try:
        return Entry(**require_fields(parse_object(line, where), _FIELDS, where))
    except MessageError as error:
        raise ConfigurationError(str(error), reason="malformed") from error
