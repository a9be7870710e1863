"""What every certificate that we make consists of, whatever signs it: names, dates, key identifiers, extensions.

The builders come back unsigned: `pki.authority` has them signed with ML-DSA, `pki.twins` with ECDSA. Nothing here reads
a clock or a file.
"""

import hashlib
from collections.abc import Sequence
from datetime import datetime, timedelta
from ipaddress import ip_network

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from pqfl_transport.crypto.pyca import MLDSAPublicKey
from pqfl_transport.errors import CertificateError, ConfigurationError
from pqfl_transport.pki.constraints import (
    EVERY_ADDRESS,
    EVERY_HOST,
    NO_MAIL,
    permitted_federations,
    require_names_permitted,
)
from pqfl_transport.pki.profiles import BACKDATE_SECONDS, DAY_SECONDS, MIN_LEAF_SECONDS, Usage, is_domain
from pqfl_transport.pki.spiffe import SpiffeId

PublicKey = MLDSAPublicKey | ec.EllipticCurvePublicKey

_KEY_IDENTIFIER_BYTES = 20


def root(
    federation: str, name: str, public_key: PublicKey, constraints: x509.NameConstraints, *, now: datetime, days: int,
    path_length: int,
) -> x509.CertificateBuilder:  # fmt: skip
    """Return the certificate of a self-signed authority for one federation."""
    subject = distinguished_name(federation, "authority", name)
    builder = _builder(subject, subject, public_key, now, now + timedelta(days=days))
    builder = as_authority(builder, constraints, path_length=path_length)
    return builder.add_extension(key_identifier(public_key), critical=False)


def leaf(
    issuer: x509.Certificate,
    spiffe_id: SpiffeId,
    public_key: PublicKey,
    usage: Usage,
    other_names: Sequence[x509.GeneralName],
    *,
    now: datetime,
    seconds: int,
) -> x509.CertificateBuilder:
    """Return the certificate of a party, for one use.

    Raises ``ConfigurationError``: ``bad_name`` where the ID is of another federation, ``bad_host`` where the issuer
    does not permit one of the names, ``bad_validity`` as `under` does.
    """
    (federation,) = permitted_federations(issuer) or ("",)
    if spiffe_id.federation != federation:
        raise ConfigurationError(
            f"{spiffe_id} is outside the federation {federation!r} of this authority", reason="bad_name"
        )
    subject = distinguished_name(spiffe_id.federation, spiffe_id.role.value, spiffe_id.name)
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(str(spiffe_id)), *other_names])
    try:
        require_names_permitted(issuer, [(type(one), one.value) for one in names], str(spiffe_id))
    except CertificateError as error:
        raise ConfigurationError(str(error), reason="bad_host") from error
    builder = under(issuer, subject, public_key, now=now, seconds=seconds)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_key_usage(is_authority=False), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([usage.oid]), critical=False)
    return builder.add_extension(names, critical=False)


def under(
    issuer: x509.Certificate, subject: x509.Name, public_key: PublicKey, *, now: datetime, seconds: int
) -> x509.CertificateBuilder:
    """Return a builder with what every certificate under an issuer has: names, dates and both key identifiers.

    Raises ``ConfigurationError`` (``bad_validity``) for less than a minute, and for an end beyond the issuer's.
    """
    latest = issuer.not_valid_after_utc
    if not MIN_LEAF_SECONDS <= seconds <= (latest - now).total_seconds():
        raise ConfigurationError(
            f"{_spoken(seconds)} of validity: at least {MIN_LEAF_SECONDS} seconds, and not beyond the issuer's own end,"
            f" {latest:%Y-%m-%d}",
            reason="bad_validity",
        )
    not_after = now + timedelta(seconds=seconds)
    builder = _builder(subject, issuer.subject, public_key, now, not_after)
    builder = builder.add_extension(key_identifier(public_key), critical=False)
    above = x509.AuthorityKeyIdentifier(key_identifier(issuer.public_key()).digest, None, None)  # type: ignore[arg-type]
    return builder.add_extension(above, critical=False)


def as_authority(
    builder: x509.CertificateBuilder, constraints: x509.NameConstraints, *, path_length: int
) -> x509.CertificateBuilder:
    """Add what makes a certificate that of an authority (RFC 5280 §4.2.1.9 and §4.2.1.10)."""
    return (
        builder.add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(_key_usage(is_authority=True), critical=True)
        .add_extension(constraints, critical=True)
    )


def constraints_of(
    federation: str, *, hosts: Sequence[str] | None = None, directory: bool = False
) -> x509.NameConstraints:
    """Return what an authority of one federation permits: its URIs, no e-mail addresses, and hosts (`parse_hosts`).

    ``directory`` adds that subjects have the federation as their organization. Go refuses everything beneath such an
    authority, because it evaluates no directory names: it is for issuing authorities of ML-DSA, which are replaced with
    ease, and for none whose certificates Go verifies today.
    """
    permitted: list[x509.GeneralName] = [x509.UniformResourceIdentifier(federation), NO_MAIL]
    excluded: list[x509.GeneralName] = []
    if directory:
        organization = x509.NameAttribute(NameOID.ORGANIZATION_NAME, federation)
        permitted.append(x509.DirectoryName(x509.Name([organization])))
    if hosts is not None:
        domains = [x509.DNSName(one) for one in hosts if is_domain(one)]
        networks = [x509.IPAddress(ip_network(one)) for one in hosts if not is_domain(one)]
        permitted += [*domains, *networks]
        excluded += [*([] if domains else [EVERY_HOST]), *([] if networks else EVERY_ADDRESS)]
    return x509.NameConstraints(permitted, excluded or None)


def key_identifier(key: PublicKey) -> x509.SubjectKeyIdentifier:
    """RFC 7093 §2, method 1: the leftmost 160 bits of SHA-256 over the key itself, the value of its BIT STRING."""
    if isinstance(key, ec.EllipticCurvePublicKey):
        encoding, form = serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
    else:
        encoding, form = serialization.Encoding.Raw, serialization.PublicFormat.Raw
    raw = key.public_bytes(encoding, form)
    return x509.SubjectKeyIdentifier(hashlib.sha256(raw).digest()[:_KEY_IDENTIFIER_BYTES])


def distinguished_name(federation: str, unit: str, name: str) -> x509.Name:
    """Return a name for people to read. No program trusts it: the URI in the subject alternative name counts."""
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, federation),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, unit),
            x509.NameAttribute(NameOID.COMMON_NAME, name),
        ]
    )


def _spoken(seconds: int) -> str:
    days, rest = divmod(seconds, DAY_SECONDS)
    return f"{seconds} seconds" if rest else f"{days} days"


def _builder(
    subject: x509.Name, issuer: x509.Name, public_key: PublicKey, now: datetime, not_after: datetime
) -> x509.CertificateBuilder:
    # Two thirds of a short life have to lie after its making, or a renewal would be due at once.
    early = min(timedelta(seconds=BACKDATE_SECONDS), (not_after - now) / 2)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - early)
        .not_valid_after(not_after)
    )


def _key_usage(*, is_authority: bool) -> x509.KeyUsage:
    """RFC 9881 §5, and the same for ECDSA: these keys sign, a leaf's in handshakes, an authority's what it issues."""
    return x509.KeyUsage(
        digital_signature=not is_authority,
        key_cert_sign=is_authority,
        crl_sign=is_authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
