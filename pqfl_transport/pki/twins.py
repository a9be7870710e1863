"""Classical twins of post-quantum identities, for as long as a migration lasts: ECDSA P-256 under an issuer of its own.

    classical issuer (P-256, self-signed)  ──signs──▶  twins: a party's SPIFFE ID and use, with a P-256 key

The issuer is a trust anchor of its own (``--classical-cacert``) and constrained to its federation as the post-quantum
authorities are. Its type takes no ML-DSA key, and theirs no classical one, so neither can sign for the other half. A
twin is for TLS handshakes only: content is never signed with a classical key. Nothing here reads a clock or a file.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256

from pqfl_transport.errors import CertificateError, ConfigurationError
from pqfl_transport.pki import builders, chain
from pqfl_transport.pki.authority import Host, general_names
from pqfl_transport.pki.constraints import permitted_federations
from pqfl_transport.pki.extensions import describe
from pqfl_transport.pki.profiles import ISSUING_DAYS, Profile, Usage
from pqfl_transport.pki.spiffe import Role, SpiffeId, require_label

TWIN_ROLES = (Role.GATEWAY, Role.SITE)
"""Who meets classical peers: the one listener that serves them, and who dials it."""


@dataclass(frozen=True, slots=True)
class ClassicalIssuer:
    """The certificate that signs twins and their revocation list, with its private key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


def generate_key() -> ec.EllipticCurvePrivateKey:
    """Make a P-256 key."""
    return ec.generate_private_key(ec.SECP256R1())


def create_classical(
    federation: str, *, now: datetime, days: int = ISSUING_DAYS, name: str = "classical",
    hosts: Sequence[str] | None = None,
) -> ClassicalIssuer:  # fmt: skip
    """Make the classical issuer of a federation; nothing but leaves can be beneath it.

    ``hosts`` are the domains and networks that it permits (`profiles.parse_hosts`). It does not constrain directory
    names, because its peers may be in Go (`builders.constraints_of`).
    Raises ``CertificateError`` where the federation's name is outside the grammar.
    """
    require_label("federation", federation)
    key = generate_key()
    constraints = builders.constraints_of(federation, hosts=hosts)
    builder = builders.root(federation, name, key.public_key(), constraints, now=now, days=days, path_length=0)
    return ClassicalIssuer(builder.sign(key, SHA256()), key)


def issue_twin(
    issuer: ClassicalIssuer,
    profile: Profile,
    spiffe_id: SpiffeId,
    public_key: ec.EllipticCurvePublicKey,
    *,
    now: datetime,
    seconds: int,
    hosts: Sequence[Host] = (),
) -> x509.Certificate:
    """Sign a party's classical certificate for TLS, for the one direction of its profile.

    Raises ``ConfigurationError``: ``no_twin`` for a role that meets no classical peers, ``bad_key`` for another curve,
    ``bad_name``, ``bad_host``, ``bad_validity``.
    """
    require_twin(profile.role)
    if spiffe_id.role is not profile.role:
        raise ConfigurationError(f"{spiffe_id} is no {profile.role.value}", reason="bad_name")
    if not isinstance(public_key.curve, ec.SECP256R1):
        raise ConfigurationError(f"a twin's key is on P-256 and not on {public_key.curve.name}", reason="bad_key")
    names = general_names(profile, hosts)
    builder = builders.leaf(
        issuer.certificate, spiffe_id, public_key, profile.tls_usage, names, now=now, seconds=seconds
    )
    return builder.sign(issuer.key, SHA256())


def require_twin(role: Role) -> None:
    """Raise ``ConfigurationError`` (``no_twin``) for a role that meets no classical peers."""
    if role not in TWIN_ROLES:
        raise ConfigurationError(
            f"a twin is for gateways and sites; {role.value}s meet no classical peers", reason="no_twin"
        )


def is_issuer_of(federation: str, certificate: x509.Certificate) -> bool:
    """Whether an authority in a classical trust store is this federation's own and not somebody else's."""
    try:
        permitted = permitted_federations(certificate)
    except CertificateError:
        return False
    return permitted == (federation,) and chain.is_self_signed(certificate)


def is_twin_of(party: SpiffeId, certificate: x509.Certificate, anchors: Iterable[x509.Certificate]) -> bool:
    """Whether a classical certificate is a party's twin, made by its federation's own classical issuer."""
    try:
        named = chain.spiffe_id(certificate)
    except CertificateError:
        return False
    issuers = [one for one in anchors if is_issuer_of(party.federation, one)]
    return named == party and any(chain.is_signed_by(certificate, one) for one in issuers)


def require_twin_granted(
    certificate: x509.Certificate, anchors: Sequence[x509.Certificate], party: SpiffeId,
    key: ec.EllipticCurvePublicKey, *, usage: Usage, now: datetime,
) -> None:  # fmt: skip
    """Raise ``CertificateError`` unless this is the twin that was asked for, under issuers of this federation alone.

    ``wrong_answer``; ``expired``, ``not_yet_valid``, ``bad_usage`` of the certificate.
    """
    foreign = [one for one in anchors if not is_issuer_of(party.federation, one)]
    if foreign or not is_twin_of(party, certificate, anchors) or chain.public_key(certificate) != key:
        raise CertificateError(f"{describe(certificate)} is not the twin that was asked for",
                               reason="wrong_answer")  # fmt: skip
    chain.require_valid_now(certificate, now)
    chain.require_usage(certificate, usage)


def with_issuers(
    store: Iterable[x509.Certificate], issuers: Sequence[x509.Certificate], federation: str
) -> tuple[x509.Certificate, ...]:
    """Return a classical trust store with these issuers of the federation in place of those that it had."""
    return (*issuers, *(one for one in store if not is_issuer_of(federation, one)))


def key_to_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return a twin's or its issuer's private key as PKCS#8, unencrypted."""
    form, nothing = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, form, nothing)


def key_from_pem(pem: bytes) -> ec.EllipticCurvePrivateKey:
    """Parse an unencrypted P-256 private key. Raises ``ConfigurationError`` (``bad_key``) for anything else."""
    try:
        key = serialization.load_pem_private_key(pem, None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigurationError(f"not a private key: {error}", reason="bad_key") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ConfigurationError("not an ECDSA private key on P-256", reason="bad_key")
    return key
