"""What is asserted of a TLS peer: its certificate while the handshake runs, the connection once it is complete.

The certificate is checked inside the handshake, where a refusal still reaches the peer as an alert that says why; the
negotiated group and cipher suite are asserted after it, although nothing outside the policy was offered.
"""

import hashlib
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import ip_address

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from pqfl_transport.algorithms import TABLE, Kind, Status
from pqfl_transport.errors import CertificateError, PeerError, PolicyError
from pqfl_transport.pki.chain import key_algorithm_name, spiffe_id, verify_chain
from pqfl_transport.pki.extensions import describe, find_extension
from pqfl_transport.pki.profiles import Usage
from pqfl_transport.pki.spiffe import SpiffeId
from pqfl_transport.policy import Policy
from pqfl_transport.tls.allowed import Named

TLS_1_3 = "TLSv1.3"
_CLASSICAL = frozenset(row.name for row in TABLE if row.kind is Kind.SIGNATURE and row.status is Status.CLASSICAL)
_HOST_NAME = re.compile(r"[A-Za-z0-9_*][A-Za-z0-9_.-]{0,252}", re.ASCII)


@dataclass(frozen=True, slots=True)
class CertifiedPeer:
    """What a certificate says of its holder. It counts only after its chain, usage and names were verified."""

    id: SpiffeId | None
    """None only for a classical peer whose certificate has no SPIFFE ID."""
    name: str
    """For logs and counters: the SPIFFE ID, else the first DNS name, else the subject, never one that reads as another
    kind.
    """
    dns: tuple[str, ...]
    ip: tuple[str, ...]
    cn: str | None
    ous: tuple[str, ...]
    subject: str
    """RFC 4514."""
    sigalg: str
    """The row of its key, which fixes the signature of the handshake."""
    serial_number: int
    not_before: datetime
    not_after: datetime
    fingerprint: bytes
    """SHA-256 over the DER certificate, 32 bytes."""
    spki_sha256: bytes
    """SHA-256 over the SubjectPublicKeyInfo, 32 bytes."""
    issuer: str = ""
    """RFC 4514."""

    @property
    def algorithm(self) -> str:
        """The row of its key."""
        return self.sigalg

    @property
    def classical(self) -> bool:
        """Whether its key is one that a quantum computer breaks."""
        return self.sigalg in _CLASSICAL


NO_CERTIFICATE = CertifiedPeer(
    id=None, name="(no certificate)", dns=(), ip=(), cn=None, ous=(), subject="", sigalg="none", serial_number=0,
    not_before=datetime.min.replace(tzinfo=UTC), not_after=datetime.max.replace(tzinfo=UTC), fingerprint=b"",
    spki_sha256=b"",
)  # fmt: skip
"""Stands for an end without any certificate, which only an enrolment service and its new sites ever have."""


@dataclass(frozen=True, slots=True)
class PeerFacts:
    """What is known of a peer and of the connection to it: the evidence for log, metrics and audit."""

    certified: CertifiedPeer
    group: str
    """The TLS group, by the name OpenSSL reads back."""
    cipher_suite: str
    own_sigalg: str
    alpn: str | None
    post_quantum: bool
    """Whether key exchange and both certificates are; where not, the policy serves classical peers too."""
    resumed: bool
    """Whether an earlier session was resumed; the key exchange is a new one all the same."""

    @property
    def id(self) -> SpiffeId | None:
        """The peer's SPIFFE ID."""
        return self.certified.id

    @property
    def name(self) -> str:
        """The peer in logs and counters."""
        return self.certified.name

    @property
    def dns(self) -> tuple[str, ...]:
        """The DNS names of its certificate."""
        return self.certified.dns

    @property
    def ip(self) -> tuple[str, ...]:
        """The IP addresses of its certificate."""
        return self.certified.ip

    @property
    def peer_sigalg(self) -> str:
        """The row of the peer's key."""
        return self.certified.sigalg

    @property
    def serial_number(self) -> int:
        """The serial number of its certificate."""
        return self.certified.serial_number

    @property
    def not_after(self) -> datetime:
        """The end of its certificate."""
        return self.certified.not_after

    @property
    def fingerprint(self) -> bytes:
        """SHA-256 over its DER certificate, 32 bytes."""
        return self.certified.fingerprint


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
    verify_chain(leaf, anchors, policy=policy, usage=usage, now=now)
    return read_certificate(leaf)


def read_certificate(leaf: x509.Certificate) -> CertifiedPeer:
    """Return what a certificate says, without any verification. Raises ``CertificateError`` (``malformed``)."""
    names = find_extension(leaf, x509.SubjectAlternativeName) or x509.SubjectAlternativeName([])
    dns = tuple(names.get_values_for_type(x509.DNSName))
    try:
        party = spiffe_id(leaf)
    except CertificateError:
        party = None
    units = leaf.subject.get_attributes_for_oid(NameOID.ORGANIZATIONAL_UNIT_NAME)
    common = leaf.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return CertifiedPeer(
        id=party,
        name=_name(leaf, party, dns),
        dns=dns,
        ip=tuple(str(address) for address in names.get_values_for_type(x509.IPAddress)),
        # Of two common names it would depend on the reader which one counts.
        cn=str(common[0].value) if len(common) == 1 else None,
        ous=tuple(str(unit.value) for unit in units),
        subject=leaf.subject.rfc4514_string(),
        sigalg=key_algorithm_name(leaf),
        serial_number=leaf.serial_number,
        not_before=leaf.not_valid_before_utc,
        not_after=leaf.not_valid_after_utc,
        fingerprint=fingerprint(leaf),
        spki_sha256=spki_sha256(leaf),
        issuer=leaf.issuer.rfc4514_string(),
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
        raise CertificateError(f"{peer.name} is certified for {names} and not for {host!r}", reason="bad_name")


def check_connection(
    certified: CertifiedPeer | None,
    negotiated: Negotiated,
    *,
    policy: Policy,
    own_sigalg: str,
    resumption: bool = False,
) -> PeerFacts:
    """Assert that what was negotiated is what the policy lists, with the peer whose certificate was checked.

    Raises ``PeerError``: ``no_pq_group``, or ``protocol`` for anything else, a resumed session included unless this end
    lets sessions be resumed (``resumption``). The handshake offered nothing outside the policy, so this never fires
    unless the library beneath misbehaves; a handshake counts only once it has passed.
    """
    if certified is None or negotiated.peer_fingerprint != certified.fingerprint:
        raise PeerError("the handshake ended without the certificate that was checked", reason="protocol")
    if negotiated.version != TLS_1_3 or (negotiated.session_reused and not resumption):
        raise PeerError(
            f"the handshake ended in {negotiated.version}, session resumed: {negotiated.session_reused}",
            reason="protocol",
        )
    try:
        policy.require_group(negotiated.group)
        policy.require_tls_suite(negotiated.cipher_suite)
        certificates = {own_sigalg, certified.sigalg} - {NO_CERTIFICATE.sigalg}
        for sigalg in sorted(certificates):
            policy.require_leaf_key(sigalg)
    except PolicyError as error:
        reason = error.reason if error.reason == "no_pq_group" else "protocol"
        raise PeerError(f"after the handshake: {error}", reason=reason) from error
    group = str(negotiated.group)
    return PeerFacts(
        certified=certified,
        group=group,
        cipher_suite=str(negotiated.cipher_suite),
        own_sigalg=own_sigalg,
        alpn=negotiated.alpn,
        post_quantum=all(policy.is_post_quantum(group, sigalg, sigalg) for sigalg in certificates),
        resumed=negotiated.session_reused,
    )


def fingerprint(certificate: x509.Certificate) -> bytes:
    """Return SHA-256 over the DER certificate, 32 bytes."""
    return certificate.fingerprint(hashes.SHA256())


def spki_sha256(certificate: x509.Certificate) -> bytes:
    """Return SHA-256 over the SubjectPublicKeyInfo, 32 bytes (RFC 7469 §2.4).

    Raises ``CertificateError`` (``malformed``) for a key that cannot be read.
    """
    try:
        spki = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise CertificateError(f"{describe(certificate)}: unreadable key: {error}", reason="malformed") from error
    return hashlib.sha256(spki).digest()


def _name(leaf: x509.Certificate, party: SpiffeId | None, dns: tuple[str, ...]) -> str:
    """Limits and counters go by this name, so no DNS name may pass for an ID, and none may be empty."""
    if party is not None:
        return str(party)
    host = next((name for name in dns if _HOST_NAME.fullmatch(name)), None)
    return host or leaf.subject.rfc4514_string() or f"sha256:{fingerprint(leaf).hex()}"
