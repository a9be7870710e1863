"""Judging a TLS peer's certificate while the handshake runs, and again when a session is resumed.

A federation's sites come back with the same certificates, so what a certificate says is parsed once and its signatures
are verified once per context; what changes with time (validity, revocation) and whom this end allows is asked on
every connection.
"""

from collections import OrderedDict
from collections.abc import Callable

from cryptography import x509

from pqfl_transport.errors import CertificateError, PeerError
from pqfl_transport.pki.chain import ChainVerifier, key_algorithm_name, load_certificate_der
from pqfl_transport.pki.classical import verify_classical
from pqfl_transport.tls import alerts
from pqfl_transport.tls.config import TlsConfig
from pqfl_transport.tls.peers import CertifiedPeer, check_host, read_certificate

_MAX_REMEMBERED = 1024

Chain = Callable[[], list[bytes]]
"""Gives the certificates above the leaf as OpenSSL found them, DER."""


class Verifier:
    """What one context knows of certificates; every connection asks it."""

    def __init__(self, config: TlsConfig) -> None:
        self._config = config
        self._chains = ChainVerifier(config.identity.anchors, config.policy)
        self._read: OrderedDict[bytes, tuple[x509.Certificate, CertifiedPeer]] = OrderedDict()

    def verify(self, der: bytes, host: str | None, chain: Chain) -> CertifiedPeer:
        """Return what a certificate says of a peer that this end accepts.

        Raises ``CertificateError`` with the reason for which it is none, ``PeerError`` (``not_allowed``).
        """
        config, now = self._config, self._config.clock()
        usage = config.role.peer.own_usage
        known = self._read.get(der)
        leaf = load_certificate_der(der) if known is None else known[0]
        classical = config.policy.classical
        if classical is not None and config.classical is not None and key_algorithm_name(leaf) in classical.leaf_keys:
            above = [load_certificate_der(one) for one in chain()]
            verify_classical(leaf, above, config.classical.anchors, classical=classical, usage=usage, now=now)
        else:
            self._chains.verify(leaf, usage=usage, now=now)
        if config.revocations is not None:
            config.revocations.check(leaf, now)
        certified = read_certificate(leaf) if known is None else known[1]
        if known is None:
            self._remember(der, leaf, certified)
        if config.allowed:
            config.allowed.check(certified, federation=None if config.own.id is None else config.own.id.federation)
        elif host is not None:
            check_host(certified, host)
        return certified

    def _remember(self, der: bytes, leaf: x509.Certificate, certified: CertifiedPeer) -> None:
        self._read[der] = leaf, certified
        if len(self._read) > _MAX_REMEMBERED:
            self._read.popitem(last=False)


class Judge:
    """Decides on one connection's peer, and keeps what it found."""

    __slots__ = ("_peer", "_verifier", "certified", "der", "host", "refusal")

    def __init__(self, verifier: Verifier, peer: str, host: str | None) -> None:
        self._verifier, self._peer, self.host = verifier, peer, host
        self.certified: CertifiedPeer | None = None
        self.der: bytes | None = None
        """The certificate that was judged."""
        self.refusal: PeerError | None = None

    def __call__(self, der: bytes, openssl_error: int, chain: Chain) -> int:
        """Return the X.509 error to refuse with, 0 to accept. Our own rules speak first, in better sentences."""
        self.certified = None
        try:
            certified = self._verifier.verify(der, self.host, chain)
        except CertificateError as error:
            sentence = f"the {self._peer}'s certificate is refused: {error}"
            self.refusal = PeerError(sentence, reason=error.reason)
        except PeerError as error:
            self.refusal = error
        except Exception as error:  # noqa: BLE001 - nothing may be raised into OpenSSL, which called this
            self.refusal = PeerError(f"checking the {self._peer}'s certificate failed", reason="protocol")
            self.refusal.__cause__ = error
        else:
            if not openssl_error:
                self.certified, self.der = certified, der
                return 0
            self.refusal = PeerError(
                f"OpenSSL refuses the {self._peer}'s certificate with error {openssl_error}", reason="untrusted"
            )
        return alerts.x509_error(self.refusal.reason)
