"""Certificates of classical peers, which a migration still serves: under a trust store of their own, never mixed.

OpenSSL has verified a path in the handshake; what it built is what comes here as ``intermediates``. Name constraints
are evaluated again. Added here is what it does not know: that the path ends in the classical trust store and nowhere
else, and that every key and signature of it is listed by the policy as a classical one, so that a post-quantum
authority never vouches for a classical certificate or the other way round.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.x509.oid import ExtendedKeyUsageOID

from pqfl_transport.errors import CertificateError
from pqfl_transport.pki.chain import (
    is_signed_by,
    key_algorithm_name,
    public_key,
    require_authority,
    require_understood,
    require_valid_now,
    signature_algorithm_name,
)
from pqfl_transport.pki.constraints import require_permitted
from pqfl_transport.pki.extensions import describe, find_extension, require_readable
from pqfl_transport.pki.profiles import Usage
from pqfl_transport.policy import Classical

MAX_INTERMEDIATES = 4
_MIN_RSA_BITS = 2048


def verify_classical(
    leaf: x509.Certificate,
    intermediates: Sequence[x509.Certificate],
    anchors: Sequence[x509.Certificate],
    *,
    classical: Classical,
    usage: Usage,
    now: datetime,
) -> None:
    """Verify a classical leaf up to one of the classical ``anchors``, self-signed or not.

    ``intermediates`` come from the peer, in any order; of those that are no anchors there are 4 at most. Certificates
    for both TLS roles are common elsewhere, so the leaf's extended key usage has to include ``usage`` and may say more.
    Raises ``CertificateError``: ``untrusted``, ``bad_sigalg``, ``expired``, ``not_yet_valid``, ``bad_usage``,
    ``bad_name`` for a name that an authority does not permit, ``malformed``.
    """
    between = [one for one in dict.fromkeys(intermediates) if one not in anchors]
    if len(between) > MAX_INTERMEDIATES:
        raise CertificateError(
            f"{describe(leaf)} comes with {len(between)} certificates above it, and {MAX_INTERMEDIATES} are looked at",
            reason="untrusted",
        )
    for certificate in (leaf, *between):
        require_readable(certificate)
    # A leaf of the wrong algorithm is told so whatever it leads to: that is the one thing its owner has to change.
    _require_key(leaf, classical)
    failure: CertificateError | None = None
    for path in _paths(leaf, between, anchors):
        try:
            _verify_path(path, classical, usage, now)
        except CertificateError as error:
            failure = failure or error
        else:
            return
    raise failure or CertificateError(
        f"{describe(leaf)} was issued by {leaf.issuer.rfc4514_string()!r}, which leads to no classical authority",
        reason="untrusted",
    )


def _paths(
    leaf: x509.Certificate, between: Sequence[x509.Certificate], anchors: Sequence[x509.Certificate]
) -> Iterator[list[x509.Certificate]]:
    """Yield every chain of good signatures from the leaf to an anchor, the leaf first."""
    known: dict[tuple[x509.Certificate, x509.Certificate], bool] = {}

    def signs(issuer: x509.Certificate, certificate: x509.Certificate) -> bool:
        # A stranger may send certificates that sign each other in circles: no signature is verified twice.
        pair = issuer, certificate
        if pair not in known:
            known[pair] = is_signed_by(certificate, issuer)
        return known[pair]

    unfinished = [[leaf]]
    while unfinished:
        path = unfinished.pop()
        for anchor in anchors:
            if signs(anchor, path[-1]):
                yield [*path, anchor]
        unfinished += [[*path, one] for one in between if one not in path and signs(one, path[-1])]


def _verify_path(path: Sequence[x509.Certificate], classical: Classical, usage: Usage, now: datetime) -> None:
    for depth, certificate in enumerate(path):
        _require_key(certificate, classical)
        # The anchor's own signature proves nothing here: whoever configured it trusts its key.
        if certificate is not path[-1]:
            _require_signature(certificate, classical)
        require_valid_now(certificate, now)
        require_understood(certificate)
        if depth:
            require_authority(certificate, authorities_below=depth - 1)
            _require_purpose_of_authority(certificate, usage)
    _require_usage(path[0], usage)
    require_permitted(path)


def _require_key(certificate: x509.Certificate, classical: Classical) -> None:
    name = key_algorithm_name(certificate)
    if name not in classical.leaf_keys:
        raise CertificateError(
            f"{describe(certificate)} holds a key of {name}; classical peers and their authorities may have"
            f" {', '.join(classical.leaf_keys)}",
            reason="bad_sigalg",
        )
    key = public_key(certificate)
    if key is None:
        raise CertificateError(f"{describe(certificate)} holds a key that cannot be read", reason="malformed")
    if isinstance(key, RSAPublicKey) and key.key_size < _MIN_RSA_BITS:
        raise CertificateError(
            f"{describe(certificate)} has an RSA key of {key.key_size} bits; {_MIN_RSA_BITS} are the least",
            reason="bad_sigalg",
        )


def _require_signature(certificate: x509.Certificate, classical: Classical) -> None:
    name = signature_algorithm_name(certificate)
    if name not in classical.ca_signatures:
        raise CertificateError(
            f"{describe(certificate)} is signed with {name}; classical authorities may use"
            f" {', '.join(classical.ca_signatures)}",
            reason="bad_sigalg",
        )


def _require_purpose_of_authority(certificate: x509.Certificate, usage: Usage) -> None:
    """An authority without extended key usage certifies for every use; one that has it, for those."""
    extended = find_extension(certificate, x509.ExtendedKeyUsage)
    if extended is not None and not {usage.oid, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE} & set(extended):
        raise CertificateError(f"{describe(certificate)} may not certify for {usage.value} use", reason="bad_usage")


def _require_usage(leaf: x509.Certificate, usage: Usage) -> None:
    constraints = find_extension(leaf, x509.BasicConstraints)
    if constraints is not None and constraints.ca:
        raise CertificateError(f"{describe(leaf)} is an authority's and not an end entity's", reason="bad_usage")
    key_usage = find_extension(leaf, x509.KeyUsage)
    if key_usage is not None and not key_usage.digital_signature:
        raise CertificateError(f"{describe(leaf)} has a key usage without digitalSignature", reason="bad_usage")
    extended = find_extension(leaf, x509.ExtendedKeyUsage)
    # One without any would be a certificate for everything, and "any" is no name of a use.
    if extended is None or usage.oid not in set(extended):
        raise CertificateError(f"{describe(leaf)} is not for {usage.value} use", reason="bad_usage")
