"""What is asserted of a TLS peer: its certificate while the handshake runs, the connection once it is complete.

The certificate is checked inside the handshake, where a refusal still reaches the peer as an alert that says why; the
negotiated group and cipher suite are asserted after it, although nothing outside the policy was offered.
"""

from dataclasses import dataclass
from datetime import datetime
from ipaddress import ip_address
from typing import Protocol

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from pqfl_transport.errors import CertificateError, PeerError, PolicyError
from pqfl_transport.pki.chain import key_algorithm_name, verify_chain
from pqfl_transport.pki.profiles import Usage
from pqfl_transport.pki.spiffe import SpiffeId
from pqfl_transport.policy import Policy

TLS_1_3 = "TLSv1.3"


class Named(Protocol):
    """Whoever has the names of a certificate."""

    @property
    def id(self) -> SpiffeId:
        """The one URI."""

    @property
    def dns(self) -> tuple[str, ...]:
        """The DNS names."""

    @property
    def ip(self) -> tuple[str, ...]:
        """The IP addresses, in their shortest text form."""


@dataclass(frozen=True, slots=True)
class CertifiedPeer:
    """What a certificate says of its holder, after its chain, usage and names were verified."""

    id: SpiffeId
    dns: tuple[str, ...]
    ip: tuple[str, ...]
    sigalg: str
    """The row of its key, which fixes the signature of the handshake."""
    serial_number: int
    not_after: datetime
    fingerprint: bytes
    """SHA-256 over the DER certificate, 32 bytes."""


@dataclass(frozen=True, slots=True)
class PeerFacts:
    """What is known of a peer and of the connection to it: the evidence for log, metrics and audit."""

    id: SpiffeId
    dns: tuple[str, ...]
    ip: tuple[str, ...]
    group: str
    """The TLS group, by the name OpenSSL reads back."""
    cipher_suite: str
    own_sigalg: str
    peer_sigalg: str
    alpn: str | None
    serial_number: int
    not_after: datetime
    fingerprint: bytes
    """SHA-256 over the DER certificate, 32 bytes."""


@dataclass(frozen=True, slots=True)
class Negotiated:
    """What OpenSSL says of a connection whose handshake is complete."""

    version: str
    group: str | None
    cipher_suite: str | None
    alpn: str | None
    session_reused: bool
    peer_fingerprint: bytes | None


def check_certificate(
    leaf: x509.Certificate, anchors: tuple[x509.Certificate, ...], *, policy: Policy, usage: Usage, now: datetime
) -> CertifiedPeer:
    """Verify chain, algorithms, validity, usage and the one name. Raises as `verify_chain` does."""
    party = verify_chain(leaf, anchors, policy=policy, usage=usage, now=now)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return CertifiedPeer(
        id=party,
        dns=tuple(names.get_values_for_type(x509.DNSName)),
        ip=tuple(str(address) for address in names.get_values_for_type(x509.IPAddress)),
        sigalg=key_algorithm_name(leaf),
        serial_number=leaf.serial_number,
        not_after=leaf.not_valid_after_utc,
        fingerprint=fingerprint(leaf),
    )


def check_host(peer: Named, host: str) -> None:
    """Raise ``CertificateError`` (``bad_name``) unless the certificate is for this DNS name or IP address.

    Names match as a whole and without wildcards; a final dot of ``host`` does not matter.
    """
    try:
        address = str(ip_address(host))
    except ValueError:
        found = host.rstrip(".").casefold() in {name.casefold() for name in peer.dns}
    else:
        found = address in peer.ip
    if not found:
        names = ", ".join((*peer.dns, *peer.ip)) or "no host at all"
        raise CertificateError(f"{peer.id} is certified for {names} and not for {host!r}", reason="bad_name")


def check_connection(
    certified: CertifiedPeer | None, negotiated: Negotiated, *, policy: Policy, own_sigalg: str
) -> PeerFacts:
    """Assert that what was negotiated is what the policy lists, with the peer whose certificate was checked.

    Raises ``PeerError``: ``no_pq_group``, or ``protocol`` for anything else. The handshake offered nothing outside the
    policy, so this never fires unless the library beneath misbehaves; a handshake counts only once it has passed.
    """
    if certified is None or negotiated.peer_fingerprint != certified.fingerprint:
        raise PeerError("the handshake ended without the certificate that was checked", reason="protocol")
    if negotiated.version != TLS_1_3 or negotiated.session_reused:
        raise PeerError(
            f"the handshake ended in {negotiated.version}, session resumed: {negotiated.session_reused}",
            reason="protocol",
        )
    try:
        policy.require_group(negotiated.group)
        policy.require_tls_suite(negotiated.cipher_suite)
        policy.require_leaf_key(own_sigalg)
    except PolicyError as error:
        reason = error.reason if error.reason == "no_pq_group" else "protocol"
        raise PeerError(f"after the handshake: {error}", reason=reason) from error
    return PeerFacts(
        id=certified.id,
        dns=certified.dns,
        ip=certified.ip,
        group=str(negotiated.group),
        cipher_suite=str(negotiated.cipher_suite),
        own_sigalg=own_sigalg,
        peer_sigalg=certified.sigalg,
        alpn=negotiated.alpn,
        serial_number=certified.serial_number,
        not_after=certified.not_after,
        fingerprint=certified.fingerprint,
    )


def fingerprint(certificate: x509.Certificate) -> bytes:
    """Return SHA-256 over the DER certificate, 32 bytes."""
    return certificate.fingerprint(hashes.SHA256())
