"""What one end of a TLS connection is given: who it is, whom it accepts, and under which policy.

Everything is checked here and when a context is made from it, so a wrong file stops a service at its start and not
at its first connection.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Self

from cryptography import x509

from pqfl_transport.errors import CertificateError, ConfigurationError, PeerError
from pqfl_transport.pki.chain import load_certificates
from pqfl_transport.pki.keystore import read_public, read_secret, root_keys
from pqfl_transport.pki.profiles import Usage
from pqfl_transport.pki.spiffe import SpiffeId
from pqfl_transport.policy import Policy
from pqfl_transport.tls.peers import CertifiedPeer, Named, check_certificate

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
    def load(cls, cert_path: Path | str, key_path: Path | str, ca_path: Path | str) -> Self:
        """Read the three files. Raises ``ConfigurationError`` naming the one that is missing, unreadable or malformed.

        Whether the certificate fits a role, a policy and the key is known when a `TlsConfig` and a context are made.
        """
        cert, key, anchors = Path(cert_path), Path(key_path), Path(ca_path)
        identity = cls(read_public(cert), read_secret(key), read_public(anchors), str(cert), str(key), str(anchors))
        _ = identity.leaf, identity.anchors
        return identity

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
class AllowedPeers:
    """Whom this end accepts, among those whose certificate is good. One matching rule is enough; no rule accepts none.

    A client without any rule checks the server's certificate against the host name it connects to instead.
    """

    uris: tuple[str, ...] = ()
    """SPIFFE IDs, compared byte for byte."""
    dns: tuple[str, ...] = ()
    """DNS names, compared with the certificate's subject alternative names without wildcards."""
    any_of_federation: bool = False
    """Everybody whom the authorities of this end's federation certified for the other role."""

    def __post_init__(self) -> None:
        for uri in self.uris:
            try:
                SpiffeId.parse(uri)
            except CertificateError as error:
                raise ConfigurationError(f"allowed peer: {error}", reason="bad_name") from error

    def __bool__(self) -> bool:
        return bool(self.uris or self.dns or self.any_of_federation)

    def check(self, peer: Named, *, federation: str | None = None) -> None:
        """Raise ``PeerError`` (``not_allowed``) unless a rule matches; ``federation`` is this end's own, if known."""
        names = {name.casefold() for name in peer.dns}
        if str(peer.id) in self.uris or any(name.casefold() in names for name in self.dns):
            return
        if self.any_of_federation and federation in {None, peer.id.federation}:
            return
        raise PeerError(f"{peer.id} is not on the list of allowed peers", reason="not_allowed")


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
    clock: Callable[[], datetime] = field(default=_system_clock, compare=False)
    """What certificates are checked against: gives an aware time."""
    own: CertifiedPeer = field(init=False, compare=False)
    """What this end's own certificate says."""

    def __post_init__(self) -> None:
        if self.role is Role.SERVER and not self.allowed:
            raise ConfigurationError(
                "a server has to be told whom it allows: a SPIFFE ID, a DNS name, or everybody of the federation",
                reason="nobody_allowed",
            )
        if any(not 1 <= len(name.encode()) <= _MAX_PROTOCOL_BYTES for name in self.alpn):
            raise ConfigurationError("an ALPN protocol has 1 to 255 bytes", reason="bad_alpn")
        identity = self.identity
        try:
            own = check_certificate(
                identity.leaf,
                identity.anchors,
                policy=self.policy,
                usage=self.role.own_usage,
                now=self.clock(),
            )
        except CertificateError as error:
            raise ConfigurationError(f"{identity.certificate_name}: {error}", reason=error.reason) from error
        object.__setattr__(self, "own", own)


def _certificates(pem: bytes, name: str) -> list[x509.Certificate]:
    try:
        return load_certificates(pem)
    except CertificateError as error:
        raise ConfigurationError(f"{name}: {error}", reason=error.reason) from error
