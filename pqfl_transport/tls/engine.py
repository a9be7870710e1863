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

import hashlib
from ipaddress import ip_address

from cryptography.hazmat.primitives.serialization import Encoding

from pqfl_transport.algorithms import Kind, find
from pqfl_transport.crypto.pyca import Buffer
from pqfl_transport.errors import ConfigurationError, PeerError
from pqfl_transport.tls import alerts, libssl
from pqfl_transport.tls.config import Role, TlsConfig
from pqfl_transport.tls.judging import Judge, Verifier
from pqfl_transport.tls.libssl import Status, openssl_version
from pqfl_transport.tls.link import Workspace
from pqfl_transport.tls.peers import NO_CERTIFICATE, Negotiated, PeerFacts, check_connection
from pqfl_transport.tls.probe import negotiable_groups, negotiable_signatures

__all__ = ["TlsContext", "TlsEngine", "Workspace", "negotiable_groups", "negotiable_signatures", "openssl_version"]

MAX_SEND_BYTES = 256 * 1024
_MAX_HOST_CHARACTERS = 253


class TlsContext:
    """One configuration, ready for any number of connections; to change it, make another one.

    Raises ``ConfigurationError`` where the key does not fit the certificate, ``PlatformError`` where the libcrypto in
    use lacks an algorithm of the policy.
    """

    def __init__(self, config: TlsConfig) -> None:
        self.config = config
        self._verifier = Verifier(config)
        self._sessions: dict[str | None, libssl.Session] = {}
        policy = config.policy
        settings = libssl.Settings(
            server=config.role is Role.SERVER,
            groups=_openssl_names(policy.all_groups, Kind.TLS_GROUP),
            signature_algorithms=_openssl_names(policy.all_signatures, Kind.SIGNATURE),
            cipher_suites=_openssl_names(policy.tls_suites, Kind.TLS_SUITE),
            identities=_identities(config),
            anchors=(*config.identity.anchors, *(config.classical.anchors if config.classical else ())),
            alpn=config.alpn,
            resume_seconds=config.resume_seconds,
            client_may_be_nobody=config.admits_strangers,
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
        judge = Judge(self._verifier, self.config.role.peer.value, host)
        link = self._factory.new_link(
            judge, server_name=_to_send(host), now=self.config.clock(), session=self._sessions.pop(host, None)
        )
        return TlsEngine(self.config, judge, link)

    def keep_session(self, engine: "TlsEngine", server_name: str | None = None) -> None:
        """Let the next connection of a client to this host resume the session of one that ends now, where switched on.

        Each session is resumed once at most (RFC 9846 §C.4).
        """
        host = self.config.server_name or server_name
        if self.config.resume_seconds and self.config.role is Role.CLIENT:
            session = engine.session
            if session is not None:
                self._sessions[host] = session

    def judge_again(self, engine: "TlsEngine") -> None:
        """Check an open connection, what it negotiated and its peer, by this context's configuration.

        Raises ``PolicyError`` where it rests on an algorithm that is not listed any more, ``PeerError`` or
        ``CertificateError`` with the reason for which its peer would not be accepted now.
        """
        policy, peer = self.config.policy, engine.peer
        policy.require_group(peer.group)
        policy.require_tls_suite(peer.cipher_suite)
        policy.require_leaf_key(peer.own_sigalg)
        policy.require_leaf_key(peer.peer_sigalg)
        self._verifier.verify(engine.peer_certificate_der, engine.host, engine.peer_chain)


class TlsEngine:
    """One connection. See the theory of operation at the top of this file."""

    __slots__ = ("_config", "_eof", "_failure", "_judge", "_link", "_peer", "_peer_closed", "_sent_close", "_trimmed")

    def __init__(self, config: TlsConfig, judge: Judge, link: libssl.Link) -> None:
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
        self._assert_negotiated()
        return True

    def data_to_send(self, max_bytes: int = MAX_SEND_BYTES) -> bytes:
        """Return bytes for the network, ``b""`` when there are none."""
        data = self._link.take(max_bytes)
        if not data:
            self._trim_once()
        return data

    def take_to(self, workspace: Workspace) -> int:
        """Put bytes for the network at the beginning of ``workspace.outgoing`` and return how many; 0: there are none.

        They have to be sent, or copied, before the workspace is used again.
        """
        count = self._link.take_to(workspace)
        if not count:
            self._trim_once()
        return count

    def decrypt(self, workspace: Workspace, count: int) -> int:
        """Decrypt ``count`` bytes that were read into ``workspace.incoming``; return how much plaintext there is.

        The plaintext lies at the beginning of ``workspace.outgoing`` and has to be taken from there before the
        workspace is used again. Before the first call with bytes, call with 0 until that gives 0: the handshake may
        have brought some. Raises and returns 0 as `read_into` does.
        """
        if self._peer is None or self._failure is not None or self._peer_closed:
            return self.read_into(workspace.outgoing)
        return self._came(*self._link.decrypt(workspace, count))

    def encrypt(self, workspace: Workspace, count: int) -> int:
        """Encrypt ``count`` bytes of ``workspace.incoming``; return how many bytes for the network there are.

        They lie at the beginning of ``workspace.outgoing``, behind whatever waited for the network before, and have to
        be sent, or copied, before the workspace is used again. Raises as `write` does.
        """
        self._require_writable()
        filled, status = self._link.encrypt(workspace, count)
        if status is Status.FAILED:
            raise self._fail(self._connection_failure())
        return filled

    def read_into(self, buffer: memoryview) -> int:
        """Decrypt into ``buffer`` all that is at hand and fits; return how many bytes.

        0: `receive` more, or nothing will come any more: see `peer_closed`. Raises ``PeerError``, ``truncated`` where
        the network ended without close_notify, or with the reason for which the peer refused us.
        """
        self._require_complete()
        if self._peer_closed or not len(buffer):
            return 0
        self._raise_failure()
        return self._came(*self._link.read_into(buffer))

    def write(self, data: Buffer) -> int:
        """Encrypt ``data`` for the network; return how much was taken, which is all of it up to 2 GiB."""
        self._require_writable()
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
    def config(self) -> TlsConfig:
        """The configuration that this connection was begun under."""
        return self._config

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
        """The peer's certificate; empty for a client without one, where such are admitted.

        Raises ``ConfigurationError`` before the handshake is complete.
        """
        self._require_complete()
        return self._link.peer_certificate_der or b""

    @property
    def peer_closed(self) -> bool:
        """Whether the peer ended its direction with close_notify and all it sent was read."""
        return self._peer_closed

    @property
    def host(self) -> str | None:
        """The host a client asked for."""
        return self._judge.host

    def peer_chain(self) -> list[bytes]:
        """Return the certificates above the peer's own that it sent, DER."""
        return self._link.peer_chain_der()

    @property
    def session(self) -> libssl.Session | None:
        """What a later connection can resume."""
        return self._link.session

    @property
    def answers(self) -> bool:
        """Whether there are bytes for the network, as after reading a key update."""
        return self._link.outgoing_bytes > 0

    @property
    def records(self) -> int:
        """Records of application data under one key so far, in the direction that has more of them."""
        return max(self._link.records_received, self._link.records_sent)

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

    def _came(self, count: int, status: Status) -> int:
        if status is Status.CLOSED:
            self._peer_closed = True
        elif status is Status.FAILED:
            failure = self._fail(self._connection_failure())
            # What was decrypted before the failure is authentic: it goes out first, the failure with the next call.
            if not count:
                raise failure
        return count

    def _require_writable(self) -> None:
        self._require_complete()
        self._raise_failure()
        if self._sent_close:
            raise ConfigurationError("nothing can be written after close_notify", reason="closed")

    def _assert_negotiated(self) -> None:
        link, judge, config = self._link, self._judge, self._config
        der = link.peer_certificate_der
        resumed = link.session_reused
        if resumed and der is not None:
            # No certificate came in this handshake: the one of the session is judged by what holds now.
            judge(der, 0, self.peer_chain)
            if judge.refusal is not None:
                raise self._fail(judge.refusal)
        nobody = der is None and config.admits_strangers
        certified = NO_CERTIFICATE if nobody else judge.certified
        same = nobody or (der is not None and der == judge.der)
        negotiated = Negotiated(
            version=link.version,
            group=link.group,
            cipher_suite=link.cipher_suite,
            alpn=link.alpn,
            session_reused=resumed,
            peer_fingerprint=certified.fingerprint if same and certified else None,
        )
        try:
            self._peer = check_connection(
                certified, negotiated, policy=config.policy, own_sigalg=self._own_sigalg(),
                resumption=bool(config.resume_seconds),
            )  # fmt: skip
        except PeerError as error:
            raise self._fail(error) from error.__cause__

    def _own_sigalg(self) -> str:
        config = self._config
        classical = config.own_classical
        if classical is None:
            return config.own.sigalg
        shown = self._link.own_certificate_der
        is_second = shown is not None and hashlib.sha256(shown).digest() == classical.fingerprint
        return classical.sigalg if is_second else config.own.sigalg

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


def _identities(config: TlsConfig) -> tuple[libssl.Identity, ...]:
    own = config.identity
    if own.is_nobody:
        return ()
    # Whoever joins has nothing yet to build a chain with.
    chain = own.leaf.public_bytes(Encoding.PEM) + own.anchors_pem if config.admits_strangers else b""
    found = (libssl.Identity(own.leaf, own.private_key_pem, chain),)
    if config.classical is None or config.classical.identity is None:
        return found
    second = config.classical.identity
    # A federation's parties hold the issuing certificates themselves; the rest of the world expects to be sent them.
    return (*found, libssl.Identity(second.leaf, second.private_key_pem, second.certificate_pem))


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
