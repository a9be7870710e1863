"""Certificates of classical peers, which a migration still serves: under a trust store of their own, never mixed.

OpenSSL has verified the path in the handshake, name constraints included. What is added here is what it does not know:
that the path ends in the classical trust store and nowhere else, and that its keys and signatures are listed by the
policy as classical ones, so that a post-quantum authority never vouches for a classical certificate or the other way
round.
"""

from collections.abc import Sequence
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from pqfl_transport.errors import CertificateError
from pqfl_transport.pki.chain import (
    describe,
    find_extension,
    is_signed_by,
    key_algorithm_name,
    require_authority,
    require_understood,
    require_valid_now,
    signature_algorithm_name,
)
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
    """Verify a classical leaf up to one of the classical ``anchors``; ``intermediates`` are what the peer sent.

    Raises ``CertificateError``: ``untrusted``, ``bad_sigalg``, ``expired``, ``not_yet_valid``, ``bad_usage``.
    """
    if len(intermediates) > MAX_INTERMEDIATES:
        raise CertificateError(f"more than {MAX_INTERMEDIATES} certificates above the leaf", reason="untrusted")
    path = _path(leaf, intermediates, anchors)
    _require_algorithms(path, classical)
    for depth, certificate in enumerate(path):
        require_valid_now(certificate, now)
        require_understood(certificate)
        if depth:
            require_authority(certificate, authorities_below=depth - 1)
    _require_usage(leaf, usage)


def _path(
    leaf: x509.Certificate, intermediates: Sequence[x509.Certificate], anchors: Sequence[x509.Certificate]
) -> list[x509.Certificate]:
    unfinished = [[leaf]]
    while unfinished:
        path = unfinished.pop()
        for anchor in anchors:
            if is_signed_by(path[-1], anchor):
                return [*path, anchor]
        unfinished += [
            [*path, between] for between in intermediates if between not in path and is_signed_by(path[-1], between)
        ]
    raise CertificateError(
        f"{describe(leaf)} was issued by {leaf.issuer.rfc4514_string()!r}, which leads to no classical authority",
        reason="untrusted",
    )


def _require_algorithms(path: Sequence[x509.Certificate], classical: Classical) -> None:
    leaf = path[0]
    if key_algorithm_name(leaf) not in classical.leaf_keys:
        raise CertificateError(
            f"{describe(leaf)} holds a key of {key_algorithm_name(leaf)}; classical peers may have"
            f" {', '.join(classical.leaf_keys)}",
            reason="bad_sigalg",
        )
    # The anchor's own signature proves nothing here: whoever configured it trusts its key.
    for certificate in path[:-1]:
        if signature_algorithm_name(certificate) not in classical.ca_signatures:
            raise CertificateError(
                f"{describe(certificate)} is signed with {signature_algorithm_name(certificate)}; classical authorities"
                f" may use {', '.join(classical.ca_signatures)}",
                reason="bad_sigalg",
            )
    for certificate in path:
        key = certificate.public_key()
        if isinstance(key, RSAPublicKey) and key.key_size < _MIN_RSA_BITS:
            raise CertificateError(
                f"{describe(certificate)} has an RSA key of {key.key_size} bits", reason="bad_sigalg"
            )


def _require_usage(leaf: x509.Certificate, usage: Usage) -> None:
    constraints = find_extension(leaf, x509.BasicConstraints)
    extended = find_extension(leaf, x509.ExtendedKeyUsage)
    # Other authorities often certify both roles at once; none at all would be a certificate for everything.
    if (constraints is not None and constraints.ca) or extended is None or usage.oid not in list(extended):
        raise CertificateError(f"{describe(leaf)} is not for {usage.value} use", reason="bad_usage")
