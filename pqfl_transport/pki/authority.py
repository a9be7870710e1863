"""Making certificates: a root, an issuing authority beneath it, and leaves (RFC 5280, ML-DSA by RFC 9881).

    root (ML-DSA-87, offline)  ──signs──▶  issuing (the federation's level)  ──signs──▶  leaves
      └─ signs the roster

Both authorities carry critical name constraints (RFC 5280 §4.2.1.10): URIs of this federation only, and no e-mail
addresses. The issuing authority constrains directory names as well, and host names and addresses where its federation
says which; the root does not, so that they change by replacing the issuing authority alone.
Nothing here reads a clock or a file: keys, names and ``now`` come in, certificates go out.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from ipaddress import IPv4Address, IPv6Address

from cryptography import x509

from pqfl_transport.crypto.pyca import SigningKey, VerifyingKey
from pqfl_transport.errors import ConfigurationError
from pqfl_transport.pki import builders
from pqfl_transport.pki.chain import verifying_key
from pqfl_transport.pki.constraints import permitted_federations, permitted_hosts
from pqfl_transport.pki.profiles import DAY_SECONDS, ISSUING_DAYS, ROOT_DAYS, Profile, Usage
from pqfl_transport.pki.spiffe import SpiffeId, require_label
from pqfl_transport.policy import SecurityLevel, for_level, leaf_algorithm

ROOT_ALGORITHM = "ML-DSA-87"
"""Roots outlive every choice made below them, so all levels share the strongest."""

Host = str | IPv4Address | IPv6Address
"""A host name in ASCII, perhaps with ``*`` as its first label, or an address."""

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
    constraints = builders.constraints_of(federation)
    builder = builders.root(federation, name, key.pyca_key.public_key(), constraints, now=now, days=days, path_length=1)
    return Issuer(builder.sign(key.pyca_key, None), key)


def create_issuing(
    root: Issuer, level: SecurityLevel, *, now: datetime, days: int = ISSUING_DAYS, name: str = "issuing",
    hosts: Sequence[str] | None = None,
) -> Issuer:  # fmt: skip
    """Make the authority that signs leaves of ``level``; its key is of the same algorithm as theirs.

    ``hosts`` are the domains and networks that it permits (`profiles.parse_hosts`).
    """
    key = SigningKey.generate(leaf_algorithm(for_level(level)))
    subject = builders.distinguished_name(root.federation, "authority", name)
    return Issuer(_certify_issuing(root, subject, key.verifying_key, now, days, hosts), key)


def recertify_issuing(root: Issuer, issuing: x509.Certificate, *, now: datetime, days: int) -> x509.Certificate:
    """Certify an issuing authority, its name and its key, under another root: what it issued leads to either one."""
    return _certify_issuing(root, issuing.subject, verifying_key(issuing), now, days, permitted_hosts(issuing))


def cross_sign(old: Issuer, new_root: x509.Certificate, *, now: datetime) -> x509.Certificate:
    """Certify a new root by the old one, until the old one ends: whoever trusts the old one can check the new one.

    It vouches for a key and belongs in no chain; the new root's own certificate goes into ``ca.pem``.
    """
    end = min(old.certificate.not_valid_after_utc, new_root.not_valid_after_utc)
    constraints = builders.constraints_of(old.federation)
    key, days = verifying_key(new_root), (end - now).days
    return _certify_authority(old, new_root.subject, key, now, days, constraints, path_length=1)


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
    names = general_names(profile, hosts)
    builder = builders.leaf(
        issuer.certificate, spiffe_id, public_key.pyca_key, profile.tls_usage, names, now=now, seconds=seconds
    )
    return builder.sign(issuer.key.pyca_key, None)


def issue_signing(
    issuer: Issuer, spiffe_id: SpiffeId, public_key: VerifyingKey, *, now: datetime, seconds: int
) -> x509.Certificate:
    """Sign the certificate of the key that a party signs content with (RFC 9336). Raises as ``issue_tls`` does."""
    builder = builders.leaf(
        issuer.certificate, spiffe_id, public_key.pyca_key, Usage.SIGNING, (), now=now, seconds=seconds
    )
    return builder.sign(issuer.key.pyca_key, None)


def require_host(host: Host) -> None:
    """Raise ``ConfigurationError`` (``bad_host``) for what can be no host name, and for an address with a scope."""
    if isinstance(host, str):
        # The last label tells names from addresses (RFC 1123 §2.1): an address as text would never match one.
        if not _HOST_NAME.fullmatch(host) or len(host) > _MAX_HOST_NAME_BYTES or host.rpartition(".")[2].isdigit():
            raise ConfigurationError(f"{host[:80]!r} is not a host name (RFC 1123 §2.1)", reason="bad_host")
    elif isinstance(host, IPv6Address) and host.scope_id is not None:
        raise ConfigurationError(f"{host} has a scope, which a certificate can not hold", reason="bad_host")


def general_names(profile: Profile, hosts: Sequence[Host]) -> list[x509.GeneralName]:
    """Return host names and addresses as a certificate has them.

    Raises ``ConfigurationError`` (``bad_host``) for what is none, and for one that the profile may not name.
    """
    names = [_general_name(host) for host in hosts]
    for host in hosts:
        profile.require_host(host)
    return names


def _certify_issuing(
    root: Issuer, subject: x509.Name, key: VerifyingKey, now: datetime, days: int, hosts: Sequence[str] | None
) -> x509.Certificate:
    constraints = builders.constraints_of(root.federation, hosts=hosts, directory=True)
    return _certify_authority(root, subject, key, now, days, constraints, path_length=0)


def _certify_authority(
    root: Issuer,
    subject: x509.Name,
    key: VerifyingKey,
    now: datetime,
    days: int,
    constraints: x509.NameConstraints,
    *,
    path_length: int,
) -> x509.Certificate:
    builder = builders.under(root.certificate, subject, key.pyca_key, now=now, seconds=days * DAY_SECONDS)
    builder = builders.as_authority(builder, constraints, path_length=path_length)
    return builder.sign(root.key.pyca_key, None)


def _general_name(host: Host) -> x509.GeneralName:
    require_host(host)
    return x509.DNSName(host) if isinstance(host, str) else x509.IPAddress(host)
