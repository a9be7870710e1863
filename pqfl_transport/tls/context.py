"""The library's face for other libraries: an ``ssl.SSLContext`` whose connections are `TlsEngine`s.

asyncio, ``aiohttp.web`` and ``aiohttp.ClientSession`` take it as ``ssl=context`` and notice nothing: `wrap_bio` gives
what asyncio drives over two memory BIOs, `wrap_socket` a blocking socket. What was negotiated and who is there is
``ssl_object.peer`` (`PeerFacts`); a refusal is an ``ssl.SSLError`` with our `PeerError` as its cause and its reason in
the text.

Whatever could weaken the policy (other certificates, ciphers, versions, no verification) raises ``ConfigurationError``:
a call that had no effect would be worse than one that fails.
"""

import asyncio
import logging
import ssl
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn, Self, cast

from pqfl_transport.errors import ConfigurationError, PeerError
from pqfl_transport.policy import DEFAULT_LEVEL, SecurityLevel, for_level
from pqfl_transport.tls.config import AllowedPeers, Role, TlsConfig, TlsIdentity
from pqfl_transport.tls.engine import TlsContext, TlsEngine
from pqfl_transport.tls.peers import TLS_1_3, PeerFacts
from pqfl_transport.tls.sockets import TlsSocket
from pqfl_transport.tls.translation import peer_certificate, to_ssl_error

_log = logging.getLogger(__name__)

_CIPHER_BITS = 256
_EXPORTER_LABEL = b"EXPORTER-Channel-Binding"


def server_context(  # noqa: PLR0913 -- one call says everything; all but the files are keywords
    cert: Path | str,
    key: Path | str,
    cacert: Path | str,
    *,
    allow_uris: Sequence[str] = (),
    allow_dns: Sequence[str] = (),
    allow_all: bool = False,
    level: SecurityLevel | str = DEFAULT_LEVEL,
    alpn: Sequence[str] = (),
) -> ssl.SSLContext:
    """Return the context of a server that lets in these SPIFFE IDs, these DNS names, or everybody of its federation.

    Raises ``ConfigurationError`` naming the file or the rule that is wrong, ``PlatformError`` where the libcrypto lacks
    an algorithm of the level.
    """
    allowed = AllowedPeers(uris=tuple(allow_uris), dns=tuple(allow_dns), any_of_federation=allow_all)
    identity = TlsIdentity.load(cert, key, cacert)
    return PostQuantumContext(TlsConfig(Role.SERVER, identity, for_level(level), allowed, tuple(alpn)))


def client_context(
    cert: Path | str,
    key: Path | str,
    cacert: Path | str,
    *,
    verify_uri: str | Sequence[str] = (),
    verify_dns: str | Sequence[str] = (),
    level: SecurityLevel | str = DEFAULT_LEVEL,
    alpn: Sequence[str] = (),
) -> ssl.SSLContext:
    """Return the context of a client that expects one of these SPIFFE IDs or DNS names.

    Without either, the server's certificate has to name the host connected to. Raises as `server_context` does.
    """
    allowed = AllowedPeers(uris=_several(verify_uri), dns=_several(verify_dns))
    identity = TlsIdentity.load(cert, key, cacert)
    return PostQuantumContext(TlsConfig(Role.CLIENT, identity, for_level(level), allowed, tuple(alpn)))


async def connect(
    host: str, port: int, context: ssl.SSLContext, *, server_name: str | None = None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect to a server; return a plain stream over TLS whose peer was accepted.

    Raises ``PeerError`` with the reason where either side refuses, ``ConfigurationError`` for a context that is not
    one of `client_context`, and ``OSError`` for the network's own failures.
    """
    if not isinstance(context, PostQuantumContext):
        raise ConfigurationError("connect needs a context made by client_context", reason="no_context")
    try:
        return await asyncio.open_connection(host, port, ssl=context, server_hostname=server_name or host)
    except ssl.SSLError as error:
        if isinstance(error.__cause__, PeerError):
            raise error.__cause__ from error
        raise


class PostQuantumContext(ssl.SSLContext):
    """One end's configuration, as the type that other libraries expect."""

    _ready = False

    def __new__(cls, config: TlsConfig) -> Self:
        """Make the standard library's part, which is never used for a connection."""
        del config
        return super().__new__(cls, ssl.PROTOCOL_TLS_CLIENT)

    def __init__(self, config: TlsConfig) -> None:
        self._tls = TlsContext(config)
        self.minimum_version = ssl.TLSVersion.TLSv1_3
        self._ready = True

    @property
    def config(self) -> TlsConfig:
        """The configuration in force."""
        return self._tls.config

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: object = None,
    ) -> "PostQuantumObject":
        """Start a connection over two memory BIOs, as asyncio does. ``session`` has to be None: nothing is resumed."""
        engine = self._new_engine(server_side, server_hostname, session)
        return PostQuantumObject(self, engine, incoming, outgoing, server_hostname)

    def wrap_socket(  # type: ignore[override]
        self,
        sock: Any,
        server_side: bool = False,
        do_handshake_on_connect: bool = True,
        suppress_ragged_eofs: bool = True,
        server_hostname: str | bytes | None = None,
        session: object = None,
    ) -> TlsSocket:
        """Start a connection over a connected socket, which is taken over. A cut stream is never taken for its end."""
        del suppress_ragged_eofs
        engine = self._new_engine(server_side, server_hostname, session)
        wrapped = TlsSocket(sock, engine)
        if do_handshake_on_connect:
            try:
                wrapped.do_handshake()
            except BaseException:
                wrapped.close()
                raise
        return wrapped

    def set_alpn_protocols(self, alpn_protocols: Any) -> None:
        """Offer, or accept, these application protocols from the next connection on."""
        self._tls = TlsContext(replace(self.config, alpn=tuple(alpn_protocols)))

    def get_ca_certs(self, binary_form: bool = False) -> Any:
        """Return the trusted roots and issuing certificates, as DER; there is no other form here."""
        if not binary_form:
            _refuse("get_ca_certs(binary_form=False)")
        from cryptography.hazmat.primitives.serialization import Encoding  # noqa: PLC0415 -- rarely asked for

        return [anchor.public_bytes(Encoding.DER) for anchor in self.config.identity.anchors]

    def _new_engine(self, server_side: bool, server_hostname: str | bytes | None, session: object) -> TlsEngine:
        if server_side is not (self.config.role is Role.SERVER):
            raise ConfigurationError(
                f"this context is a {self.config.role.value}'s and was used for the other side", reason="wrong_role"
            )
        if session is not None:
            raise ConfigurationError("no session is ever resumed", reason="session")
        name = server_hostname.decode("ascii") if isinstance(server_hostname, bytes) else server_hostname
        return self._tls.new_engine(name or None)

    def __setattr__(self, name: str, value: object) -> None:
        # Setting what is already so is harmless and what some libraries do; everything else would be ignored.
        if self._ready and name != "_tls" and getattr(self, name, None) != value:
            _refuse(f"{name} = {value!r}")
        super().__setattr__(name, value)


def _refuse(what: str) -> NoReturn:
    raise ConfigurationError(
        f"{what} is not possible on a post-quantum context: certificates, authorities, algorithms and who is accepted"
        " are given to server_context or client_context",
        reason="fixed_context",
    )


def _refusing(name: str) -> Callable[..., NoReturn]:
    def method(self: ssl.SSLContext, *arguments: object, **options: object) -> NoReturn:
        del self, arguments, options
        _refuse(f"{name}()")

    method.__name__ = name
    method.__doc__ = "Raise ``ConfigurationError``: this cannot be changed after the context was made."
    return method


for _name in (
    "load_cert_chain", "load_verify_locations", "load_default_certs", "set_default_verify_paths", "set_ciphers",
    "set_ecdh_curve", "load_dh_params", "set_npn_protocols", "set_servername_callback",
):  # fmt: skip
    setattr(PostQuantumContext, _name, _refusing(_name))


class PostQuantumObject(ssl.SSLObject):
    """One connection over memory BIOs: what asyncio drives. Not made directly."""

    def __init__(
        self,
        context: PostQuantumContext,
        engine: TlsEngine,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_hostname: str | bytes | None,
    ) -> None:
        self._context, self._engine = context, engine
        self._incoming, self._outgoing = incoming, outgoing
        self._server_hostname = server_hostname
        self._eof = False
        self._refused = False

    @property
    def peer(self) -> PeerFacts:
        """Who is there and what was negotiated. Raises ``ConfigurationError`` before the handshake is complete."""
        return self._engine.peer

    @property
    def context(self) -> ssl.SSLContext:
        """The context this was made from."""
        return self._context

    @context.setter
    def context(self, context: ssl.SSLContext) -> None:
        del context
        _refuse("another context")

    @property
    def session(self) -> None:  # type: ignore[override]
        """Nothing is resumed, so there is nothing to keep."""
        return

    @property
    def session_reused(self) -> bool:
        """Never."""
        return False

    @property
    def server_side(self) -> bool:
        """Whether this is the server's end."""
        return self._context.config.role is Role.SERVER

    @property
    def server_hostname(self) -> str | None:
        """The host that the client asked for."""
        return cast("str | None", self._server_hostname)

    def do_handshake(self) -> None:
        """Go on with the handshake. Raises ``ssl.SSLWantReadError`` while it needs more from the network."""
        self._feed()
        try:
            complete = self._engine.do_handshake()
        except PeerError as error:
            self._flush()
            if self.server_side and not self._refused:
                # asyncio drops what is still to be sent when a handshake fails, and says nothing of it to the server's
                # program. Asking for more makes it send the alert, so that the client learns why; this error is final,
                # so whatever comes next raises it again.
                self._refused = True
                _log.info("a client was refused: %s", error)
                raise ssl.SSLWantReadError(ssl.SSL_ERROR_WANT_READ, "the client is being told why") from error
            raise to_ssl_error(error) from error
        self._flush()
        if not complete:
            raise ssl.SSLWantReadError(ssl.SSL_ERROR_WANT_READ, "the handshake needs more from the network")

    def read(self, len: int = 1024, buffer: Any = None) -> Any:  # noqa: A002 -- the name in the standard library
        """Return plaintext, or fill ``buffer`` and return how much; nothing once the peer has ended."""
        target = memoryview(bytearray(len)) if buffer is None else memoryview(buffer).cast("B")[: len or None]
        self._feed()
        try:
            count = self._engine.read_into(target)
        except PeerError as error:
            raise to_ssl_error(error) from error
        finally:
            self._flush()
        if not count and not self._engine.peer_closed:
            raise ssl.SSLWantReadError(ssl.SSL_ERROR_WANT_READ, "no plaintext yet")
        return bytes(target[:count]) if buffer is None else count

    def write(self, data: Any) -> int:
        """Encrypt ``data``; return how much was taken."""
        try:
            return self._engine.write(data)
        except PeerError as error:
            raise to_ssl_error(error) from error
        finally:
            self._flush()

    def unwrap(self) -> None:
        """End our direction and wait for the peer's end. Raises ``ssl.SSLWantReadError`` until that has come."""
        self._feed()
        with suppress(PeerError):
            self._engine.send_close_notify()
            scratch = memoryview(bytearray(64 * 1024))
            # What the peer still sends after our end is for nobody any more.
            while self._engine.read_into(scratch):
                pass
        self._flush()
        if not (self._engine.peer_closed or self._eof or self._engine.failure):
            raise ssl.SSLWantReadError(ssl.SSL_ERROR_WANT_READ, "the peer has not ended its direction yet")

    def pending(self) -> int:
        """Return how much plaintext can be read without the network."""
        return self._engine.pending_bytes

    def getpeercert(self, binary_form: bool = False) -> Any:
        """Return the peer's certificate as DER, or as the standard library's dictionary."""
        return peer_certificate(self._engine, binary_form=binary_form)

    def selected_alpn_protocol(self) -> str | None:
        """Return the application protocol that was agreed."""
        return self._engine.peer.alpn

    def selected_npn_protocol(self) -> None:
        """Return None: NPN is not TLS 1.3."""
        return

    def cipher(self) -> tuple[str, str, int] | None:
        """Return cipher suite, protocol and key length in bits; None before the handshake is complete."""
        if not self._engine.handshake_complete:
            return None
        return self._engine.peer.cipher_suite, TLS_1_3, _CIPHER_BITS

    def shared_ciphers(self) -> None:
        """Return None: not known here."""
        return

    def compression(self) -> None:
        """Return None: TLS 1.3 has none."""
        return

    def version(self) -> str | None:
        """Return the protocol; None before the handshake is complete."""
        return TLS_1_3 if self._engine.handshake_complete else None

    def get_channel_binding(self, cb_type: str = "tls-unique") -> bytes | None:
        """Return the channel binding ``tls-exporter`` (RFC 9266), the only one that TLS 1.3 defines."""
        if cb_type != "tls-exporter":
            raise ValueError(f"{cb_type} channel binding type not implemented: TLS 1.3 has tls-exporter")
        return self._engine.exporter(_EXPORTER_LABEL)

    def verify_client_post_handshake(self) -> NoReturn:
        """Raise ``ConfigurationError``: clients are verified in the handshake, all of them."""
        _refuse("verify_client_post_handshake()")

    def _feed(self) -> None:
        if self._incoming.pending:
            self._engine.receive(self._incoming.read())
        if self._incoming.eof and not self._eof:
            self._eof = True
            self._engine.receive_eof()

    def _flush(self) -> None:
        while data := self._engine.data_to_send():
            self._outgoing.write(data)


def _several(names: str | Sequence[str]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)
