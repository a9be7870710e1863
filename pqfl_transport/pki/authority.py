"""Making certificates: a root, an issuing authority beneath it, and leaves (RFC 5280, ML-DSA by RFC 9881).

    root (ML-DSA-87, offline)  ──signs──▶  issuing (the federation's level)  ──signs──▶  leaves
      └─ signs the roster

Both authorities carry a critical name constraint (RFC 5280 §4.2.1.10): URIs of this federation only. Host names are
not constrained, because gateways live under whatever names their networks have, and no one here trusts them.
Nothing here reads a clock or a file: keys, names and ``now`` come in, certificates go out.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from ipaddress import IPv4Address, IPv6Address

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import NameOID

from pqfl_transport.crypto.pyca import SigningKey, VerifyingKey
from pqfl_transport.errors import ConfigurationError
from pqfl_transport.pki.chain import permitted_federations, verifying_key
from pqfl_transport.pki.profiles import (
    BACKDATE_SECONDS,
    DAY_SECONDS,
    ISSUING_DAYS,
    MIN_LEAF_SECONDS,
    ROOT_DAYS,
    Profile,
    Usage,
)
from pqfl_transport.pki.spiffe import SpiffeId, require_label
from pqfl_transport.policy import SecurityLevel, for_level, leaf_algorithm

ROOT_ALGORITHM = "ML-DSA-87"
"""Roots outlive every choice made below them, so all levels share the strongest."""

Host = str | IPv4Address | IPv6Address
"""A host name in ASCII, perhaps with ``*`` as its first label, or an address."""

_KEY_IDENTIFIER_BYTES = 20
_MAX_HOST_NAME_BYTES = 253
_HOST_LABEL = "[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_HOST_NAME = re.compile(rf"(?:\*\.)?{_HOST_LABEL}(?:\.{_HOST_LABEL})*", re.ASCII)


@dataclass(frozen=True, slots=True)
class Issuer:
    """A certificate that may sign others, with its private key."""

    certificate: x509.Certificate
    key: SigningKey

    @property
    def federation(self) -> str:
        """The one federation that this authority's name constraint permits."""
        (federation,) = permitted_federations(self.certificate) or ("",)
        return federation


def create_root(federation: str, *, now: datetime, days: int = ROOT_DAYS, name: str = "root") -> Issuer:
    """Make a self-signed root for one federation; ``name`` tells it from its successors.

    Raises ``CertificateError`` where the federation's name is outside the grammar.
    """
    require_label("federation", federation)
    key = SigningKey.generate(ROOT_ALGORITHM)
    subject = _distinguished_name(federation, "authority", name)
    builder = _builder(subject, subject, key.verifying_key, now, now + timedelta(days=days))
    builder = _as_authority(builder, federation, path_length=1)
    builder = builder.add_extension(_key_identifier(key.verifying_key), critical=False)
    return Issuer(builder.sign(key.pyca_key, None), key)


def create_issuing(
    root: Issuer, level: SecurityLevel, *, now: datetime, days: int = ISSUING_DAYS, name: str = "issuing"
) -> Issuer:
    """Make the authority that signs leaves of ``level``; its key is of the same algorithm as theirs."""
    key = SigningKey.generate(leaf_algorithm(for_level(level)))
    subject = _distinguished_name(root.federation, "authority", name)
    return Issuer(_certify_authority(root, subject, key.verifying_key, now, days, path_length=0), key)


def recertify_issuing(root: Issuer, issuing: x509.Certificate, *, now: datetime, days: int) -> x509.Certificate:
    """Certify an issuing authority, its name and its key, under another root: what it issued leads to either one."""
    return _certify_authority(root, issuing.subject, verifying_key(issuing), now, days, path_length=0)


def cross_sign(old: Issuer, new_root: x509.Certificate, *, now: datetime) -> x509.Certificate:
    """Certify a new root by the old one, until the old one ends: whoever trusts the old one can check the new one.

    It vouches for a key and belongs in no chain; the new root's own certificate goes into ``ca.pem``.
    """
    end = min(old.certificate.not_valid_after_utc, new_root.not_valid_after_utc)
    return _certify_authority(old, new_root.subject, verifying_key(new_root), now, (end - now).days, path_length=1)


def issue_tls(
    issuer: Issuer,
    profile: Profile,
    spiffe_id: SpiffeId,
    public_key: VerifyingKey,
    *,
    now: datetime,
    seconds: int,
    hosts: Sequence[Host] = (),
) -> x509.Certificate:
    """Sign the certificate a party shows in TLS handshakes, for the one direction of its profile, for so many seconds.

    ``hosts`` are further subject alternative names, for peers that check host names. Raises
    ``ConfigurationError`` where the ID is of another federation or role, or the certificate would outlive the issuer.
    """
    if spiffe_id.role is not profile.role:
        raise ConfigurationError(f"{spiffe_id} is no {profile.role.value}", reason="bad_name")
    names = [_general_name(host) for host in hosts]
    for host in hosts:
        profile.require_host(host)
    return _issue_leaf(issuer, spiffe_id, public_key, profile.tls_usage, names, now, seconds)


def issue_signing(
    issuer: Issuer, spiffe_id: SpiffeId, public_key: VerifyingKey, *, now: datetime, seconds: int
) -> x509.Certificate:
    """Sign the certificate of the key that a party signs content with (RFC 9336). Raises as ``issue_tls`` does."""
    return _issue_leaf(issuer, spiffe_id, public_key, Usage.SIGNING, (), now, seconds)


def require_host(host: Host) -> None:
    """Raise ``ConfigurationError`` (``bad_host``) for what can be no host name, and for an address with a scope."""
    if isinstance(host, str):
        # The last label tells names from addresses (RFC 1123 §2.1): an address as text would never match one.
        if not _HOST_NAME.fullmatch(host) or len(host) > _MAX_HOST_NAME_BYTES or host.rpartition(".")[2].isdigit():
            raise ConfigurationError(f"{host[:80]!r} is not a host name (RFC 1123 §2.1)", reason="bad_host")
    elif isinstance(host, IPv6Address) and host.scope_id is not None:
        raise ConfigurationError(f"{host} has a scope, which a certificate can not hold", reason="bad_host")


def _certify_authority(
    root: Issuer, subject: x509.Name, key: VerifyingKey, now: datetime, days: int, *, path_length: int
) -> x509.Certificate:
    builder = _leaf_or_issuing(root, subject, key, now, days * DAY_SECONDS)
    builder = _as_authority(builder, root.federation, path_length=path_length)
    return builder.sign(root.key.pyca_key, None)


def _issue_leaf(
    issuer: Issuer,
    spiffe_id: SpiffeId,
    public_key: VerifyingKey,
    usage: Usage,
    other_names: Sequence[x509.GeneralName],
    now: datetime,
    seconds: int,
) -> x509.Certificate:
    if spiffe_id.federation != issuer.federation:
        raise ConfigurationError(
            f"{spiffe_id} is outside the federation {issuer.federation!r} of this authority", reason="bad_name"
        )
    subject = _distinguished_name(spiffe_id.federation, spiffe_id.role.value, spiffe_id.name)
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(str(spiffe_id)), *other_names])
    builder = _leaf_or_issuing(issuer, subject, public_key, now, seconds)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_key_usage(is_authority=False), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([usage.oid]), critical=False)
    builder = builder.add_extension(names, critical=False)
    return builder.sign(issuer.key.pyca_key, None)


def _leaf_or_issuing(
    issuer: Issuer, subject: x509.Name, public_key: VerifyingKey, now: datetime, seconds: int
) -> x509.CertificateBuilder:
    """Return a builder with what every certificate under an issuer has: names, dates and both key identifiers."""
    latest = issuer.certificate.not_valid_after_utc
    if not MIN_LEAF_SECONDS <= seconds <= (latest - now).total_seconds():
        raise ConfigurationError(
            f"{_spoken(seconds)} of validity: at least {MIN_LEAF_SECONDS} seconds, and not beyond the issuer's own end,"
            f" {latest:%Y-%m-%d}",
            reason="bad_validity",
        )
    not_after = now + timedelta(seconds=seconds)
    builder = _builder(subject, issuer.certificate.subject, public_key, now, not_after)
    builder = builder.add_extension(_key_identifier(public_key), critical=False)
    authority = x509.AuthorityKeyIdentifier(_key_identifier(issuer.key.verifying_key).digest, None, None)
    return builder.add_extension(authority, critical=False)


def _spoken(seconds: int) -> str:
    days, rest = divmod(seconds, DAY_SECONDS)
    return f"{seconds} seconds" if rest else f"{days} days"


def _builder(
    subject: x509.Name, issuer: x509.Name, public_key: VerifyingKey, now: datetime, not_after: datetime
) -> x509.CertificateBuilder:
    # Two thirds of a short life have to lie after its making, or a renewal would be due at once.
    early = min(timedelta(seconds=BACKDATE_SECONDS), (not_after - now) / 2)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key.pyca_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - early)
        .not_valid_after(not_after)
    )


def _as_authority(builder: x509.CertificateBuilder, federation: str, *, path_length: int) -> x509.CertificateBuilder:
    permitted = x509.NameConstraints([x509.UniformResourceIdentifier(federation)], None)
    return (
        builder.add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(_key_usage(is_authority=True), critical=True)
        .add_extension(permitted, critical=True)
    )


def _key_usage(*, is_authority: bool) -> x509.KeyUsage:
    """RFC 9881 §5: ML-DSA keys sign, so a leaf has digitalSignature and an authority the two signing bits."""
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


def _key_identifier(key: VerifyingKey) -> x509.SubjectKeyIdentifier:
    """RFC 7093 §2, method 1: the leftmost 160 bits of SHA-256 over the key itself."""
    raw = key.pyca_key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    return x509.SubjectKeyIdentifier(hashlib.sha256(raw).digest()[:_KEY_IDENTIFIER_BYTES])


def _distinguished_name(federation: str, unit: str, name: str) -> x509.Name:
    """Return a name for people to read. No program trusts it: the URI in the subject alternative name counts."""
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, federation),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, unit),
            x509.NameAttribute(NameOID.COMMON_NAME, name),
        ]
    )


def _general_name(host: Host) -> x509.GeneralName:
    require_host(host)
    return x509.DNSName(host) if isinstance(host, str) else x509.IPAddress(host)
