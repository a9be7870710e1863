"""Making certificate revocation lists (RFC 5280 §5; ML-DSA by RFC 9881). Reading them is `pki.revocation`.

A list is complete: it speaks about all certificates of its authority. Nothing here reads a clock or a file.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from pqfl_transport.crypto.pyca import MLDSAPrivateKey
from pqfl_transport.errors import ConfigurationError
from pqfl_transport.pki.extensions import describe, find_extension
from pqfl_transport.pki.revocation import MAX_CRL_BYTES

REASONS = tuple(
    reason.value
    for reason in x509.ReasonFlags
    # A hold can be lifted, which this authority does not do, and the other is for lists of differences only.
    if reason not in {x509.ReasonFlags.certificate_hold, x509.ReasonFlags.remove_from_crl}
)
"""The words of RFC 5280 §5.3.1 for why a certificate is revoked."""


@dataclass(frozen=True, slots=True)
class Revoked:
    """One line of a list."""

    serial: int
    at: datetime
    reason: str
    """One of `REASONS`."""


def sign_crl(
    authority: x509.Certificate,
    key: MLDSAPrivateKey | ec.EllipticCurvePrivateKey,
    revoked: Iterable[Revoked],
    *,
    number: int,
    now: datetime,
    next_update: datetime,
) -> bytes:
    """Return an authority's list as PEM. Raises ``ConfigurationError`` (``too_large``) where no reader would take it.

    The key is the authority's; ``number`` has to be higher than that of its last list.
    """
    builder = x509.CertificateRevocationListBuilder().issuer_name(authority.subject)
    builder = builder.last_update(now).next_update(next_update)
    builder = builder.add_extension(x509.CRLNumber(number), critical=False)
    identifier = find_extension(authority, x509.SubjectKeyIdentifier)
    if identifier is not None:
        issuer = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)
        builder = builder.add_extension(issuer, critical=False)
    for one in revoked:
        builder = builder.add_revoked_certificate(_line(one))
    digest = SHA256() if isinstance(key, ec.EllipticCurvePrivateKey) else None
    pem = builder.sign(key, digest).public_bytes(Encoding.PEM)
    if len(pem) > MAX_CRL_BYTES:
        raise ConfigurationError(f"the list of {describe(authority)} has {len(pem)} bytes", reason="too_large")
    return pem


def _line(one: Revoked) -> x509.RevokedCertificate:
    builder = x509.RevokedCertificateBuilder().serial_number(one.serial).revocation_date(one.at)
    reason = x509.ReasonFlags(one.reason)
    # RFC 5280 §5.3.1: "unspecified" is said by leaving the extension out.
    if reason is not x509.ReasonFlags.unspecified:
        builder = builder.add_extension(x509.CRLReason(reason), critical=False)
    return builder.build()
