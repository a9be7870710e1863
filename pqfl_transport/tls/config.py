"""What one end of a TLS connection is given: who it is, whom it accepts, and under which policy.

Everything is checked here and when a context is made from it, so a wrong file stops a service at its start and not
at its first connection.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Self

from cryptography import x509

from pqfl_transport.errors import CertificateError, ConfigurationError
from pqfl_transport.pki.chain import load_certificates
from pqfl_transport.pki.classical import verify_classical
from pqfl_transport.pki.extensions import describe
from pqfl_transport.pki.keystore import load_private_pem, open_keystore, read_public, read_secret, root_keys
from pqfl_transport.pki.passphrases import PassphraseSource, from_environment
from pqfl_transport.pki.profiles import Usage
from pqfl_transport.pki.revocation import Revocations
from pqfl_transport.policy import Policy
from pqfl_transport.tls.allowed import AllowedPeers
from pqfl_transport.tls.peers import NO_CERTIFICATE, CertifiedPeer, check_certificate, read_certificate

__all__ = ["AllowedPeers", "ClassicalSide", "Role", "TlsConfig", "TlsIdentity"]

MAX_RESUME_SECONDS = 24 * 3600
_MAX_PROTOCOL_BYTES = 255


class Role(StrEnum):
    """Which end of the connection this is."""

    SERVER = "server"
    CLIENT = "client"

    @property
    def own_usage(self) -> Usage:
        """What the certificate of this end has to be for."""
        return Usage.SERVER if self is Role.SERVER else Usage.CLIENT

    @property
    def peer(self) -> "Role":
        """The other end."""
        return Role.CLIENT if self is Role.SERVER else Role.SERVER


@dataclass(frozen=True, slots=True)
class TlsIdentity:
    """A certificate, its private key and the authorities this end trusts, each as PEM.

    The ``…_name`` fields say in messages where each came from: a path when it was loaded from a file.
    """

    certificate_pem: bytes
    """Only the first certificate is used: peers hold the issuing certificates themselves."""
    private_key_pem: bytes = field(repr=False)
    """PKCS#8, unencrypted; ML-DSA keys as seed, expanded, or both."""
    anchors_pem: bytes
    """Roots and issuing certificates."""
    certificate_name: str = "the certificate"
    private_key_name: str = field(default="the private key")
    anchors_name: str = "the trusted authorities"

    @classmethod
    def load(
        cls,
        cert_path: Path | str,
        key_path: Path | str,
        ca_path: Path | str,
        passphrases: PassphraseSource = from_environment,
    ) -> Self:
        """Read the three files; ``passphrases`` is asked where the key is encrypted.

        Raises ``ConfigurationError`` naming the file that is missing, unreadable or malformed, or does not open.

        Whether the certificate fits a role, a policy and the key is known when a `TlsConfig` and a context are made.
        """
        cert, key, anchors = Path(cert_path), Path(key_path), Path(ca_path)
        key_pem = load_private_pem(key, passphrases)
        identity = cls(read_public(cert), key_pem, read_public(anchors), str(cert), str(key), str(anchors))
        _ = identity.leaf, identity.anchors
        return identity

    @classmethod
    def load_keystore(cls, path: Path | str, ca_path: Path | str, password: bytes | None = None) -> Self:
        """Read certificate and key from one file of mode 0600, a PEM bundle or PKCS#12 (`keystore.open_keystore`).

        Raises ``ConfigurationError`` naming the file that is missing, unreadable or malformed.
        """
        store, anchors = Path(path), Path(ca_path)
        certificate_pem, key_pem = open_keystore(read_secret(store), password, str(store))
        identity = cls(certificate_pem, key_pem, read_public(anchors), str(store), str(store), str(anchors))
        _ = identity.leaf, identity.anchors
        return identity

    @classmethod
    def of_nobody(cls, anchors_pem: bytes, anchors_name: str = "the trusted authorities") -> Self:
        """Return what a client has that has no certificate yet: whom it trusts. No other end takes it."""
        return cls(b"", b"", anchors_pem, anchors_name=anchors_name)

    @property
    def is_nobody(self) -> bool:
        """Whether there is no certificate to show."""
        return not self.certificate_pem

    @property
    def leaf(self) -> x509.Certificate:
        """The certificate shown to peers. Raises ``ConfigurationError``."""
        return _certificates(self.certificate_pem, self.certificate_name)[0]

    @property
    def anchors(self) -> tuple[x509.Certificate, ...]:
        """The trusted roots and issuing certificates. Raises ``ConfigurationError`` also where no root is there."""
        anchors = tuple(_certificates(self.anchors_pem, self.anchors_name))
        if not root_keys(anchors):
            raise ConfigurationError(
                f"{self.anchors_name}: holds no self-signed ML-DSA root certificate", reason="no_root"
            )
        return anchors


@dataclass(frozen=True, slots=True)
class ClassicalSide:
    """What a migration needs beside the post-quantum half: whom to trust, and what to show to those who need it."""

    anchors: tuple[x509.Certificate, ...]
    """The trust store of classical peers, and of nobody else."""
    identity: TlsIdentity | None = None
    """A second certificate, with a classical key, for peers that cannot verify the first one."""
    anchors_name: str = "the classical authorities"

    @classmethod
    def load(
        cls,
        ca_path: Path | str,
        certs: Sequence[Path | str] = (),
        keys: Sequence[Path | str] = (),
        passphrases: PassphraseSource = from_environment,
    ) -> Self:
        """Read the trust store, and a second certificate with its key if there is one.

        Raises ``ConfigurationError`` naming the file that is missing, unreadable or malformed.
        """
        store = Path(ca_path)
        if len(certs) > 1 or len(certs) != len(keys):
            raise ConfigurationError(
                f"{len(certs)} classical certificates and {len(keys)} keys: there is one at most, with its key",
                reason="classical",
            )
        anchors_pem = read_public(store)
        identity = None
        for cert, key in zip(map(Path, certs), map(Path, keys), strict=True):
            key_pem = load_private_pem(key, passphrases)
            identity = TlsIdentity(read_public(cert), key_pem, anchors_pem, str(cert), str(key), str(store))
        return cls(tuple(_certificates(anchors_pem, str(store))), identity, str(store))


def _system_clock() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class TlsConfig:
    """One end of TLS connections, complete. Raises ``ConfigurationError`` naming the file or the rule that is wrong."""

    role: Role
    identity: TlsIdentity
    policy: Policy
    allowed: AllowedPeers
    alpn: tuple[str, ...] = ()
    """Application protocols, the preferred one first (RFC 7301)."""
    server_name: str | None = None
    """Client: the name to send and, without rules, to check, instead of the host connected to."""
    classical: ClassicalSide | None = None
    """Where classical peers are served too; the policy has to list what they may use."""
    revocations: Revocations | None = None
    """Whom the authorities revoked, asked about peers only: a list that names this end too still has to count."""
    resume_seconds: int = 0
    """How long a session may be resumed, with a key exchange of its own; 0 for never."""
    admits_strangers: bool = False
    """Server: clients without a certificate get in as well, and are sent the certificates above this end's own, which
    they do not have yet. For the enrolment service and nobody else."""
    clock: Callable[[], datetime] = field(default=_system_clock, compare=False)
    """What certificates are checked against: gives an aware time."""
    own: CertifiedPeer = field(init=False, compare=False)
    """What this end's own certificate says."""
    own_classical: CertifiedPeer | None = field(init=False, compare=False)
    """What its second certificate says."""

    def __post_init__(self) -> None:
        if self.role is Role.SERVER and not self.allowed:
            raise ConfigurationError(
                "a server has to be told whom it allows: a SPIFFE ID, a DNS name, or everybody of the federation",
                reason="nobody_allowed",
            )
        if any(not 1 <= len(name.encode()) <= _MAX_PROTOCOL_BYTES for name in self.alpn):
            raise ConfigurationError("an ALPN protocol has 1 to 255 bytes", reason="bad_alpn")
        if not 0 <= self.resume_seconds <= MAX_RESUME_SECONDS:
            raise ConfigurationError(
                f"sessions are resumed within 0 to {MAX_RESUME_SECONDS} seconds", reason="bad_resume"
            )
        object.__setattr__(self, "own", self._check_own())
        object.__setattr__(self, "own_classical", self._check_classical())

    def certificates(self) -> tuple[CertifiedPeer, ...]:
        """Return what ends some day: own certificates, and the authorities this end trusts."""
        anchors = (*self.identity.anchors, *(self.classical.anchors if self.classical else ()))
        own = (self.own,) if self.own_classical is None else (self.own, self.own_classical)
        return (*own, *(read_certificate(anchor) for anchor in anchors))

    def _check_own(self) -> CertifiedPeer:
        identity = self.identity
        if identity.is_nobody and self.role is Role.CLIENT:
            return NO_CERTIFICATE
        try:
            return check_certificate(
                identity.leaf, identity.anchors, policy=self.policy, usage=self.role.own_usage, now=self.clock()
            )
        except CertificateError as error:
            raise ConfigurationError(f"{identity.certificate_name}: {error}", reason=error.reason) from error

    def _check_classical(self) -> CertifiedPeer | None:
        side, sets = self.classical, self.policy.classical
        if (side is None) is not (sets is None):
            sentence = (
                f"policy {self.policy.name} serves classical peers and needs a trust store for them"
                if side is None
                else f"policy {self.policy.name} lists nothing classical, so classical authorities are of no use"
            )
            raise ConfigurationError(sentence, reason="classical")
        if side is None or sets is None:
            return None
        if not side.anchors:
            raise ConfigurationError(f"{side.anchors_name}: holds no authority", reason="classical")
        in_both = set(side.anchors) & set(self.identity.anchors)
        if in_both:
            raise ConfigurationError(
                f"{side.anchors_name}: {describe(in_both.pop())} is in {self.identity.anchors_name} too; classical"
                " peers have a trust store of their own",
                reason="classical",
            )
        if side.identity is None:
            return None
        leaf, *above = _certificates(side.identity.certificate_pem, side.identity.certificate_name)
        try:
            verify_classical(leaf, above, side.anchors, classical=sets, usage=self.role.own_usage, now=self.clock())
        except CertificateError as error:
            raise ConfigurationError(f"{side.identity.certificate_name}: {error}", reason=error.reason) from error
        return read_certificate(leaf)


def _certificates(pem: bytes, name: str) -> list[x509.Certificate]:
    try:
        return load_certificates(pem)
    except CertificateError as error:
        raise ConfigurationError(f"{name}: {error}", reason=error.reason) from error
