"""Verifying certificates: the chain, what its algorithms are, what a leaf may be used for and whom it names.

OpenSSL has verified the chain of a TLS peer before this is asked, but it stops short of what this project promises:
it accepts an ML-DSA leaf under an ECDSA root (which a quantum attacker forges), a leaf without extended key usage in
both directions, and any number of names. So every signature up to and including the anchor's own has to be in the
policy, the usage has to be exactly the one asked for, and there has to be exactly one URI.

A chain ends at a self-signed certificate among the anchors. Certificates between it and the leaf are anchors too:
peers send leaves only, and everyone's ``ca.pem`` holds the issuing certificates.
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512
from cryptography.x509.oid import ExtensionOID, PublicKeyAlgorithmOID, SignatureAlgorithmOID

from pqfl_transport.algorithms import TABLE
from pqfl_transport.crypto.pyca import MLDSAPublicKey, VerifyingKey
from pqfl_transport.errors import CertificateError, PolicyError
from pqfl_transport.pki.constraints import require_permitted
from pqfl_transport.pki.extensions import all_extensions, describe, find_extension, require_readable
from pqfl_transport.pki.profiles import Usage
from pqfl_transport.pki.spiffe import SpiffeId
from pqfl_transport.policy import Policy

MAX_PEM_BYTES = 1024 * 1024
MAX_CERTIFICATES = 64
_MAX_CHAIN_CERTIFICATES = 4
_MAX_REMEMBERED = 4096

_BEGIN = b"-----BEGIN CERTIFICATE-----"

_ROW_NAMES = MappingProxyType({row.oid: row.name for row in TABLE if row.oid is not None})
_CURVES = MappingProxyType({"secp256r1": "ECDSA-P256", "secp384r1": "ECDSA-P384"})
# An ECDSA signature names its hash and not its curve: whoever accepts one looks at the issuer's key as well.
_CLASSICAL_SIGNATURES = MappingProxyType(
    {
        SignatureAlgorithmOID.ECDSA_WITH_SHA256: "ECDSA-P256",
        SignatureAlgorithmOID.ECDSA_WITH_SHA384: "ECDSA-P384",
        SignatureAlgorithmOID.RSA_WITH_SHA256: "RSA-PKCS1-SHA256",
        SignatureAlgorithmOID.RSA_WITH_SHA384: "RSA-PKCS1-SHA384",
        SignatureAlgorithmOID.ED25519: "Ed25519",
    }
)
_CLASSICAL_KEYS = MappingProxyType(
    {
        PublicKeyAlgorithmOID.RSAES_PKCS1_v1_5: "RSA-PSS",
        PublicKeyAlgorithmOID.ED25519: "Ed25519",
    }
)

# RFC 5280 §4.2: a critical extension that is not understood refuses the certificate.
_UNDERSTOOD = frozenset(
    {
        ExtensionOID.BASIC_CONSTRAINTS,
        ExtensionOID.KEY_USAGE,
        ExtensionOID.EXTENDED_KEY_USAGE,
        ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
        ExtensionOID.NAME_CONSTRAINTS,
    }
)


def load_certificates(pem: bytes) -> list[x509.Certificate]:
    """Parse one or more PEM certificates, at most 64 in at most 1 MiB. Raises ``CertificateError`` (``malformed``)."""
    if len(pem) > MAX_PEM_BYTES or pem.count(_BEGIN) > MAX_CERTIFICATES:
        raise CertificateError(
            f"more than {MAX_CERTIFICATES} certificates or {MAX_PEM_BYTES} bytes", reason="malformed"
        )
    try:
        certificates = x509.load_pem_x509_certificates(pem)
    except (ValueError, x509.InvalidVersion) as error:
        raise CertificateError(f"not PEM certificates: {error}", reason="malformed") from error
    for certificate in certificates:
        require_readable(certificate)
    return certificates


def load_certificate_der(der: bytes) -> x509.Certificate:
    """Parse one certificate as a peer or a message brings it. Raises ``CertificateError`` (``malformed``)."""
    try:
        certificate = x509.load_der_x509_certificate(der)
    except (ValueError, x509.InvalidVersion) as error:
        # OpenSSL parses some certificates that are none by RFC 5280.
        raise CertificateError(f"malformed certificate: {error}", reason="malformed") from error
    require_readable(certificate)
    return certificate


class ChainVerifier:
    """Verifies any number of leaves against the same ``anchors`` (roots and issuing certificates) under one policy.

    How the anchors hang together is found out once, and what does not depend on time is remembered of the last leaves
    that were good: signatures, algorithms, usage, name. Dates are looked at every time; a refusal is never remembered.
    """

    def __init__(self, anchors: Sequence[x509.Certificate], policy: Policy) -> None:
        self._anchors = tuple(anchors)
        # Where classical peers are served too, their half of the policy is no excuse for anything in this chain.
        self._policy = policy.post_quantum_half
        self._roots = [anchor for anchor in self._anchors if is_self_signed(anchor)]
        self._signers = {
            anchor.fingerprint(SHA256()): [other for other in self._anchors if is_signed_by(anchor, other)]
            for anchor in self._anchors
        }
        self._remembered: OrderedDict[tuple[bytes, Usage], _Good] = OrderedDict()

    def verify(self, leaf: x509.Certificate, *, usage: Usage, now: datetime) -> SpiffeId:
        """Return the party that a leaf names. ``now`` is an aware datetime.

        Raises ``CertificateError`` with the reason ``untrusted`` (no chain to a root among the anchors),
        ``bad_sigalg`` (a key or signature outside the policy), ``expired``, ``not_yet_valid``, ``bad_usage`` (basic
        constraints, key usage, extended key usage, an unknown critical extension), ``bad_name`` or ``malformed``.
        """
        key = leaf.fingerprint(SHA256()), usage
        # Taken out and put back: the order is that of the last use, and two threads never meet inside one step.
        good = self._remembered.pop(key, None)
        if good is not None and good.not_before <= now <= good.not_after:
            self._remembered[key] = good
            return good.party
        require_readable(leaf)
        # A leaf of the wrong algorithm is told so whatever it chains to: that is the one thing its owner has to change.
        _require_leaf_algorithms(leaf, self._policy)
        failure: CertificateError | None = None
        for path in self._paths(leaf):
            try:
                _verify_path(path, self._policy, now)
                require_usage(leaf, usage)
                party = spiffe_id(leaf)
                require_permitted(path)
            except CertificateError as error:
                failure = failure or error
            else:
                self._remember(key, path, party)
                return party
        raise failure or _untrusted(leaf, self._anchors)

    def _remember(self, key: tuple[bytes, Usage], path: Sequence[x509.Certificate], party: SpiffeId) -> None:
        self._remembered[key] = _Good(
            party,
            max(certificate.not_valid_before_utc for certificate in path),
            min(certificate.not_valid_after_utc for certificate in path),
        )
        if len(self._remembered) > _MAX_REMEMBERED:
            self._remembered.popitem(last=False)

    def _paths(self, leaf: x509.Certificate) -> Iterator[list[x509.Certificate]]:
        """Yield every chain of good signatures from the leaf to a self-signed anchor, the leaf first."""
        unfinished = [[leaf]]
        while unfinished:
            path = unfinished.pop()
            for anchor in self._signers_of(path[-1]):
                if anchor in path:
                    continue
                longer = [*path, anchor]
                if anchor in self._roots:
                    yield longer
                elif len(longer) < _MAX_CHAIN_CERTIFICATES:
                    unfinished.append(longer)

    def _signers_of(self, certificate: x509.Certificate) -> list[x509.Certificate]:
        known = self._signers.get(certificate.fingerprint(SHA256()))
        return [anchor for anchor in self._anchors if is_signed_by(certificate, anchor)] if known is None else known


@dataclass(frozen=True, slots=True)
class _Good:
    """A leaf that verified, and while it does: the validity of its whole chain."""

    party: SpiffeId
    not_before: datetime
    not_after: datetime


def verify_chain(
    leaf: x509.Certificate, anchors: Sequence[x509.Certificate], *, policy: Policy, usage: Usage, now: datetime
) -> SpiffeId:
    """Verify one leaf and return the party it names. Raises as `ChainVerifier.verify` does."""
    return ChainVerifier(anchors, policy).verify(leaf, usage=usage, now=now)


def require_valid_now(certificate: x509.Certificate, now: datetime) -> None:
    """Raise ``CertificateError`` (``not_yet_valid``, ``expired``) unless ``now`` lies within the validity."""
    if now < certificate.not_valid_before_utc:
        raise CertificateError(
            f"{describe(certificate)} is not valid before {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC",
            reason="not_yet_valid",
        )
    if now > certificate.not_valid_after_utc:
        raise CertificateError(
            f"{describe(certificate)} expired {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC", reason="expired"
        )


def require_usage(leaf: x509.Certificate, usage: Usage) -> None:
    """Raise ``CertificateError`` (``bad_usage``) unless this end-entity certificate is for ``usage`` and nothing else.

    OpenSSL takes a certificate without extended key usage for every use; here none and one too many are refused.
    """
    constraints = find_extension(leaf, x509.BasicConstraints)
    if constraints is not None and constraints.ca:
        raise _bad_usage(leaf, "is an authority's and not an end entity's")
    key_usage = find_extension(leaf, x509.KeyUsage)
    if key_usage is None or not key_usage.digital_signature:
        raise _bad_usage(leaf, "has no key usage digitalSignature")
    extended = find_extension(leaf, x509.ExtendedKeyUsage)
    if extended is None:
        raise _bad_usage(leaf, f"has no extended key usage; it has to be for {usage.value} use only")
    if list(extended) != [usage.oid]:
        found = ", ".join(oid.dotted_string for oid in extended)
        raise _bad_usage(leaf, f"is for {found} and has to be for {usage.value} use only ({usage.oid.dotted_string})")


def spiffe_id(leaf: x509.Certificate) -> SpiffeId:
    """Return the one party a certificate names. Raises ``CertificateError`` (``bad_name``) for none, two, malformed."""
    names = find_extension(leaf, x509.SubjectAlternativeName)
    uris = [] if names is None else names.get_values_for_type(x509.UniformResourceIdentifier)
    if len(uris) != 1:
        raise CertificateError(f"{describe(leaf)} has {len(uris)} URIs and not exactly one", reason="bad_name")
    return SpiffeId.parse(uris[0])


def signature_algorithm_name(signed: x509.Certificate | x509.CertificateRevocationList) -> str:
    """Return the row's name of the algorithm that signed this certificate or list, or the OID where no row has it."""
    oid = signed.signature_algorithm_oid
    # The OID of PSS is the same for every hash, SHA-1 among them.
    if oid == SignatureAlgorithmOID.RSASSA_PSS and isinstance(
        signed.signature_hash_algorithm, (SHA256, SHA384, SHA512)
    ):
        return "RSA-PSS"
    return _ROW_NAMES.get(oid.dotted_string) or _CLASSICAL_SIGNATURES.get(oid) or oid.dotted_string


def key_algorithm_name(certificate: x509.Certificate) -> str:
    """Return the row's name of the key in this certificate, or the OID where no row has it."""
    oid = certificate.public_key_algorithm_oid
    if oid == PublicKeyAlgorithmOID.EC_PUBLIC_KEY:
        return _curve_name(certificate)
    return _ROW_NAMES.get(oid.dotted_string) or _CLASSICAL_KEYS.get(oid) or oid.dotted_string


def verifying_key(certificate: x509.Certificate) -> VerifyingKey:
    """Return the ML-DSA key of a certificate. Raises ``CertificateError`` (``bad_sigalg``) for any other kind."""
    key = public_key(certificate)
    if not isinstance(key, MLDSAPublicKey):
        raise CertificateError(
            f"{describe(certificate)} holds a key of {key_algorithm_name(certificate)} and not of ML-DSA",
            reason="bad_sigalg",
        )
    return VerifyingKey(key)


def is_self_signed(certificate: x509.Certificate) -> bool:
    """Whether a certificate is a root: it names itself as issuer and its signature is its own key's."""
    return is_signed_by(certificate, certificate)


def is_signed_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    """Whether this issuer's key signed a certificate in this issuer's name."""
    if certificate.issuer != issuer.subject:
        return False
    try:
        certificate.verify_directly_issued_by(issuer)
    except (InvalidSignature, ValueError, TypeError, UnsupportedAlgorithm):
        return False
    return True


def _verify_path(path: Sequence[x509.Certificate], policy: Policy, now: datetime) -> None:
    for depth, certificate in enumerate(path):
        issuer = path[min(depth + 1, len(path) - 1)]
        _require_signature_algorithm(certificate, issuer, policy)
        require_valid_now(certificate, now)
        require_understood(certificate)
        if depth > 0:
            require_authority(certificate, authorities_below=depth - 1)


def _require_leaf_algorithms(leaf: x509.Certificate, policy: Policy) -> None:
    try:
        policy.require_leaf_key(key_algorithm_name(leaf))
        policy.require_ca_signature(signature_algorithm_name(leaf))
    except PolicyError as error:
        raise CertificateError(f"{describe(leaf)}: {error}", reason="bad_sigalg") from error


def _require_signature_algorithm(certificate: x509.Certificate, issuer: x509.Certificate, policy: Policy) -> None:
    name = signature_algorithm_name(certificate)
    try:
        policy.require_ca_signature(name)
    except PolicyError as error:
        raise CertificateError(f"{describe(certificate)}: {error}", reason="bad_sigalg") from error
    if key_algorithm_name(issuer) != name:
        raise CertificateError(
            f"{describe(certificate)}: signed as {name} with a key of {key_algorithm_name(issuer)}",
            reason="bad_sigalg",
        )


def require_understood(certificate: x509.Certificate) -> None:
    """Raise ``CertificateError`` (``bad_usage``) for a critical extension that nobody here evaluates."""
    for extension in all_extensions(certificate):
        if extension.critical and extension.oid not in _UNDERSTOOD:
            raise _bad_usage(certificate, f"has the critical extension {extension.oid.dotted_string}")


def require_authority(certificate: x509.Certificate, *, authorities_below: int) -> None:
    """Raise ``CertificateError`` (``bad_usage``) unless a certificate may sign others, with so many beneath it."""
    constraints = find_extension(certificate, x509.BasicConstraints)
    key_usage = find_extension(certificate, x509.KeyUsage)
    if constraints is None or not constraints.ca or key_usage is None or not key_usage.key_cert_sign:
        raise _bad_usage(certificate, "signed another one and is no authority's")
    if constraints.path_length is not None and authorities_below > constraints.path_length:
        raise _bad_usage(certificate, f"permits {constraints.path_length} authorities beneath it")


def public_key(certificate: x509.Certificate) -> object:
    """Return the key as a class of ``cryptography``, or ``None`` where it has none for it."""
    try:
        return certificate.public_key()
    except (ValueError, UnsupportedAlgorithm):
        return None


def _curve_name(certificate: x509.Certificate) -> str:
    key = public_key(certificate)
    if isinstance(key, ec.EllipticCurvePublicKey):
        return _CURVES.get(key.curve.name, key.curve.name)
    return PublicKeyAlgorithmOID.EC_PUBLIC_KEY.dotted_string


def _untrusted(leaf: x509.Certificate, anchors: Sequence[x509.Certificate]) -> CertificateError:
    # Two authorities of one name are the classic puzzle of an operator: say that the name is right and the key is not.
    namesake = any(anchor.subject == leaf.issuer for anchor in anchors)
    why = "a trusted authority has that name but did not sign it" if namesake else "no trusted authority has that name"
    return CertificateError(
        f"{describe(leaf)} was issued by {leaf.issuer.rfc4514_string()!r}: {why}, or its root is missing",
        reason="untrusted",
    )


def _bad_usage(certificate: x509.Certificate, why: str) -> CertificateError:
    return CertificateError(f"{describe(certificate)} {why}", reason="bad_usage")
