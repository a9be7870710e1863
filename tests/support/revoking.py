"""Revocation lists of a test's federation, signed by its issuing authority: who is on them, how old they are."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509

from pqfl_transport.pki import keystore
from tests.support.classical import Signer, make_crl, pem
from tests.support.pki import Federation, federation_signer

TLS, SIGNING = "tls.pem", "signing.pem"


def crl(
    federation: Federation,
    revoked: Iterable[Path] = (),
    *,
    number: int = 1,
    age_seconds: float = 0,
    days: float = 7,
    certificates: Iterable[str] = (TLS, SIGNING),
) -> bytes:
    """A list, PEM, that revokes these identity folders; ``certificates`` says which of each."""
    names = tuple(certificates)
    files = [folder / name for folder in revoked for name in names if (folder / name).exists()]
    serials = {x509.load_pem_x509_certificate(file.read_bytes()).serial_number: None for file in files}
    begin = datetime.now(UTC) - timedelta(seconds=age_seconds) + timedelta(minutes=1)
    issuing = federation_signer(federation)
    signer = Signer(issuing.certificate, issuing.key)
    return pem(make_crl(signer, number=number, revoked=serials, begin=begin, days=days))


def publish_crl(
    federation: Federation,
    path: Path,
    revoked: Iterable[Path] = (),
    *,
    number: int = 1,
    age_seconds: float = 0,
    days: float = 7,
    certificates: Iterable[str] = (TLS, SIGNING),
) -> Path:
    """Write such a list and return its path."""
    data = crl(federation, revoked, number=number, age_seconds=age_seconds, days=days, certificates=certificates)
    keystore.write_public(path, data)
    return path
