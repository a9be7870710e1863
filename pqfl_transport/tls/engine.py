"""TLS 1.3 as a machine without I/O: bytes from the network in, bytes for the network and plaintext out.

Theory of operation. Whoever owns a socket feeds what it read to `TlsEngine.receive` and sends what `data_to_send`
gives, after every call, also after one that raised: the alert that tells the peer why is in there. Calls come in this
order:

    do_handshake … do_handshake  →  read_into / write in any order  →  send_close_notify
          (until True)                       (each direction ends alone)

Before `do_handshake` has returned True no plaintext goes either way. The peer's certificate is judged in the middle of
the handshake, by OpenSSL and by `pqfl_transport.tls.peers`, because only there a refusal still becomes an alert that
names its reason; what was negotiated is asserted at its end. In TLS 1.3 a client is done before the server has judged
it, so a refused client learns that on its first read, as a `PeerError` with the server's reason.

An error is final: the same one is raised again by every later call that would need the connection.
"""

from ipaddress import ip_address

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from pqfl_transport.algorithms import Kind, find
from pqfl_transport.crypto.pyca import Buffer
from pqfl_transport.errors import CertificateError, ConfigurationError, PeerError
from pqfl_transport.policy import Policy
from pqfl_transport.tls import alerts, libssl
from pqfl_transport.tls.config import Role, TlsConfig
from pqfl_transport.tls.libssl import Status, openssl_version
from pqfl_transport.tls.peers import (
    CertifiedPeer,
    Negotiated,
    PeerFacts,
    check_certificate,
    check_connection,
    check_host,
    fingerprint,
)
from pqfl_transport.tls.probe import negotiable_groups, negotiable_signatures

__all__ = ["TlsContext", "TlsEngine", "negotiable_groups", "negotiable_signatures", "openssl_version"]

MAX_SEND_BYTES = 256 * 1024
_MAX_HOST_CHARACTERS = 253


class TlsContext:
    """One configuration, ready for any number of connections; to change it, make another one.

    Raises ``ConfigurationError`` where the key does not fit the certificate, ``PlatformError`` where the libcrypto in
    use lacks an algorithm of the policy.
    """

    def __init__(self, config: TlsConfig) -> None:
        self.config = config
        self._anchors = config.identity.anchors
        policy = config.policy
        settings = libssl.Settings(
            server=config.role is Role.SERVER,
            groups=_openssl_names(policy.groups, Kind.TLS_GROUP),
            signature_algorithms=_openssl_names(_signatures(policy), Kind.SIGNATURE),
            cipher_suites=_openssl_names(policy.tls_suites, Kind.TLS_SUITE),
            certificate=config.identity.leaf,
            private_key_pem=config.identity.private_key_pem,
            anchors=self._anchors,
            alpn=config.alpn,
        )
        try:
            self._factory = libssl.LinkFactory(settings)
        except ConfigurationError as error:
            names = f"{config.identity.private_key_name} (for {config.identity.certificate_name})"
            raise ConfigurationError(f"{names}: {error}", reason=error.reason) from error

    def new_engine(self, server_name: str | None = None) -> "TlsEngine":
        """Start a connection. A client names the host it connects to; the configuration's own name goes first."""
        host = self.config.server_name or server_name
        if self.config.role is Role.SERVER:
            host = None
        elif host is None and not self.config.allowed:
            raise ConfigurationError(
                "a client has to be told whom it expects: a SPIFFE ID or a host name", reason="nobody_allowed"
            )
        judge = _Judge(self.config, self._anchors, host)
        link = self._factory.new_link(judge, server_name=_to_send(host), now=self.config.clock())
        return TlsEngine(self.config, judge, link)


class TlsEngine:
    """One connection. See the theory of operation at the top of this file."""

    __slots__ = ("_config", "_eof", "_failure", "_judge", "_link", "_peer", "_peer_closed", "_sent_close", "_trimmed")

    def __init__(self, config: TlsConfig, judge: "_Judge", link: libssl.Link) -> None:
        self._config = config
        self._judge = judge
        self._link = link
        self._peer: PeerFacts | None = None
        self._failure: PeerError | None = None
        self._peer_closed = False
        self._sent_close = False
        self._trimmed = False
        self._eof = False

    def receive(self, data: Buffer) -> None:
        """Take bytes that came from the network; they are held until a call uses them."""
        self._link.feed(data)

    def receive_eof(self) -> None:
        """The network gives no more. Without a close_notify before it this is a truncation (RFC 9846 §6.1)."""
        self._eof = True
        self._link.feed_eof()

    def do_handshake(self) -> bool:
        """Go on with the handshake. True once it is complete and the peer is who it has to be.

        False: send what `data_to_send` gives, `receive` more, call again. Raises ``PeerError`` with the reason; then
        `data_to_send` still holds the alert for the peer.
        """
        self._raise_failure()
        if self._peer is not None:
            return True
        status = self._link.do_handshake()
        if status is Status.WANT_READ:
            return False
        if status is not Status.DONE:
            raise self._fail(self._handshake_failure(status))
        link, leaf = self._link, self._link.peer_certificate
        negotiated = Negotiated(
            version=link.version,
            group=link.group,
            cipher_suite=link.cipher_suite,
            alpn=link.alpn,
            session_reused=link.session_reused,
            peer_fingerprint=None if leaf is None else fingerprint(leaf),
        )
        own = self._config.own
        try:
            self._peer = check_connection(
                self._judge.certified, negotiated, policy=self._config.policy, own_sigalg=own.sigalg
            )
        except PeerError as error:
            raise self._fail(error) from error.__cause__
        return True

    def data_to_send(self, max_bytes: int = MAX_SEND_BYTES) -> bytes:
        """Return bytes for the network, ``b""`` when there are none."""
        data = self._link.take(max_bytes)
        if not data:
            self._trim_once()
        return data

    def data_to_send_into(self, buffer: memoryview) -> int:
        """Put bytes for the network into ``buffer`` and return how many; 0 when there are none."""
        count = self._link.take_into(buffer)
        if not count:
            self._trim_once()
        return count

    def read_into(self, buffer: memoryview) -> int:
        """Decrypt into ``buffer`` all that is at hand and fits; return how many bytes.

        0: `receive` more, or nothing will come any more: see `peer_closed`. Raises ``PeerError``, ``truncated`` where
        the network ended without close_notify, or with the reason for which the peer refused us.
        """
        self._require_complete()
        if self._peer_closed or not len(buffer):
            return 0
        self._raise_failure()
        count, status = self._link.read_into(buffer)
        if status is Status.CLOSED:
            self._peer_closed = True
        elif status is Status.FAILED:
            failure = self._fail(self._connection_failure())
            # What was decrypted before the failure is authentic: it goes out first, the failure with the next call.
            if not count:
                raise failure
        return count

    def write(self, data: Buffer) -> int:
        """Encrypt ``data`` for the network; return how much was taken, which is all of it up to 2 GiB."""
        self._require_complete()
        self._raise_failure()
        if self._sent_close:
            raise ConfigurationError("nothing can be written after close_notify", reason="closed")
        count, status = self._link.write(data)
        if status is Status.FAILED:
            raise self._fail(self._connection_failure())
        return count

    def send_close_notify(self) -> None:
        """End our direction; the peer may go on with its own. Does nothing the second time or after a failure."""
        if self._peer is None or self._sent_close or self._failure is not None:
            return
        self._sent_close = True
        if self._link.send_close_notify() is Status.FAILED:
            raise self._fail(self._connection_failure())

    def release_buffers(self) -> None:
        """Give back the memory of empty buffers: for a connection that is idle after much traffic."""
        self._link.release_buffers()

    @property
    def handshake_complete(self) -> bool:
        """Whether the handshake is over and the peer accepted by us."""
        return self._peer is not None

    @property
    def peer(self) -> PeerFacts:
        """Who is there, and over what. Raises ``ConfigurationError`` before the handshake is complete."""
        self._require_complete()
        assert self._peer is not None  # noqa: S101
        return self._peer

    @property
    def peer_certificate_der(self) -> bytes:
        """The peer's certificate. Raises ``ConfigurationError`` before the handshake is complete."""
        self._require_complete()
        leaf = self._link.peer_certificate
        assert leaf is not None  # noqa: S101 -- no handshake completes without one
        return leaf.public_bytes(Encoding.DER)

    @property
    def peer_closed(self) -> bool:
        """Whether the peer ended its direction with close_notify and all it sent was read."""
        return self._peer_closed

    @property
    def failure(self) -> PeerError | None:
        """The error that ended this connection."""
        return self._failure

    @property
    def pending_bytes(self) -> int:
        """Decrypted bytes inside OpenSSL that the next `read_into` gives."""
        return self._link.pending_plaintext_bytes

    def exporter(self, label: bytes, length_bytes: int = 32) -> bytes:
        """Return keying material of this connection, to bind a message to it (RFC 9266 §2)."""
        self._require_complete()
        return self._link.exporter(label, length_bytes)

    def _trim_once(self) -> None:
        # The handshake's flights leave buffers of tens of KiB behind, which an idle connection would hold for ever.
        if self._peer is not None and not self._trimmed:
            self._trimmed = True
            self._link.release_buffers()

    def _require_complete(self) -> None:
        if self._peer is None:
            self._raise_failure()
            raise ConfigurationError("the handshake is not complete", reason="too_early")

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _fail(self, failure: PeerError) -> PeerError:
        self._failure = failure
        return failure

    def _handshake_failure(self, status: Status) -> PeerError:
        if self._judge.refusal is not None:
            return self._judge.refusal
        if status is Status.CLOSED:
            return PeerError(f"the {self._config.role.peer} ended the handshake", reason="truncated")
        return self._connection_failure()

    def _connection_failure(self) -> PeerError:
        failure = alerts.explain(self._link.errors, self._config.role.peer)
        return PeerError(failure.sentence, reason=failure.reason)


class _Judge:
    """Decides on the peer's certificate while the handshake runs, and keeps what it found."""

    __slots__ = ("_anchors", "_config", "_host", "certified", "refusal")

    def __init__(self, config: TlsConfig, anchors: tuple[x509.Certificate, ...], host: str | None) -> None:
        self._config = config
        self._anchors = anchors
        self._host = host
        self.certified: CertifiedPeer | None = None
        self.refusal: PeerError | None = None

    def __call__(self, leaf: x509.Certificate, openssl_error: int) -> int:
        """Return the X.509 error to refuse with, 0 to accept. Our own rules speak first, in better sentences."""
        self.certified = None
        try:
            certified = self._check(leaf)
        except CertificateError as error:
            sentence = f"the {self._config.role.peer}'s certificate is refused: {error}"
            self.refusal = PeerError(sentence, reason=error.reason)
        except PeerError as error:
            self.refusal = error
        except Exception as error:  # noqa: BLE001 - nothing may be raised into OpenSSL, which called this
            self.refusal = PeerError(f"checking the {self._config.role.peer}'s certificate failed", reason="protocol")
            self.refusal.__cause__ = error
        else:
            if not openssl_error:
                self.certified = certified
                return 0
            self.refusal = PeerError(
                f"OpenSSL refuses the {self._config.role.peer}'s certificate with error {openssl_error}",
                reason="untrusted",
            )
        return alerts.x509_error(self.refusal.reason)

    def _check(self, leaf: x509.Certificate) -> CertifiedPeer:
        config = self._config
        usage = config.role.peer.own_usage
        certified = check_certificate(leaf, self._anchors, policy=config.policy, usage=usage, now=config.clock())
        if config.allowed:
            config.allowed.check(certified, federation=config.own.id.federation)
        elif self._host is not None:
            check_host(certified, self._host)
        return certified


def _signatures(policy: Policy) -> tuple[str, ...]:
    """The signatures a peer may make or show: those of leaves first, which is the order of preference."""
    return tuple(dict.fromkeys((*policy.leaf_keys, *policy.ca_signatures)))


def _openssl_names(names: tuple[str, ...], kind: Kind) -> tuple[str, ...]:
    found = []
    for name in names:
        row = find(name, kind)
        if row.openssl_name is None:
            raise ConfigurationError(f"{row.name} cannot be used in TLS", reason="unknown_algorithm")
        found.append(row.openssl_name)
    return tuple(found)


def _to_send(host: str | None) -> str | None:
    """The server name indication: a DNS name without its final dot, never an address (RFC 6066 §3)."""
    if host is None:
        return None
    try:
        ip_address(host)
    except ValueError:
        name = host.rstrip(".")
        if not name.isascii() or not 1 <= len(name) <= _MAX_HOST_CHARACTERS or "\0" in name:
            raise ConfigurationError(f"{host!r} is not a host name in ASCII", reason="bad_name") from None
        return name
    return None
