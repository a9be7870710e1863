"""The library's face for other libraries: an ``ssl.SSLContext`` whose connections are `TlsEngine`s.

asyncio, ``aiohttp.web`` and ``aiohttp.ClientSession`` take it as ``ssl=context`` and notice nothing: `wrap_bio` gives
what asyncio drives over two memory BIOs, `wrap_socket` a blocking socket. What was negotiated and who is there is
``ssl_object.peer`` (`PeerFacts`); a refusal is an ``ssl.SSLError`` with our `PeerError` as its cause and its reason in
the text.

asyncio takes any end of a connection for a good one, also one that was cut. Where the application's protocol does not
say how long a message is, ask ``ssl_object.peer_closed``; streams of `connect` do that by themselves and raise.

Whatever could weaken the policy (other certificates, ciphers, versions, no verification) raises ``ConfigurationError``:
a call that had no effect would be worse than one that fails.
"""

import asyncio
import logging
import ssl
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn, Self

from pqfl_transport.errors import ConfigurationError, PeerError
from pqfl_transport.policy import DEFAULT_LEVEL, SecurityLevel, for_level
from pqfl_transport.tls.config import AllowedPeers, Role, TlsConfig, TlsIdentity
from pqfl_transport.tls.engine import TlsContext, TlsEngine
from pqfl_transport.tls.facts import ConnectionFacts, refuse
from pqfl_transport.tls.sockets import TlsSocket
from pqfl_transport.tls.translation import to_ssl_error

_log = logging.getLogger(__name__)

_SCRATCH_BYTES = 64 * 1024
_UNHEARD_BYTES = 1024 * 1024
"""How much a refused client may send before it has read the alert."""


def server_context(  # noqa: PLR0913 -- one call says everything; all but the files are keywords
    cert: Path | str,
    key: Path | str,
    cacert: Path | str,
    *,
    allow_uris: str | Sequence[str] = (),
    allow_dns: str | Sequence[str] = (),
    allow_all: bool = False,
    level: SecurityLevel | str = DEFAULT_LEVEL,
    alpn: Sequence[str] = (),
) -> ssl.SSLContext:
    """Return the context of a server that lets in these SPIFFE IDs, these DNS names, or everybody of its federation.

    Raises ``ConfigurationError`` naming the file or the rule that is wrong, ``PlatformError`` where the libcrypto lacks
    an algorithm of the level.
    """
    allowed = AllowedPeers(uris=_several(allow_uris), dns=_several(allow_dns), any_of_federation=allow_all)
    identity = TlsIdentity.load(cert, key, cacert)
    return PostQuantumContext(TlsConfig(Role.SERVER, identity, for_level(level), allowed, tuple(alpn)))


def client_context(
    cert: Path | str,
    key: Path | str,
    cacert: Path | str,
    *,
    verify_uri: str | Sequence[str] | None = None,
    verify_dns: str | Sequence[str] | None = None,
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
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(loop=loop)
        protocol = _UncutProtocol(reader, loop)
        transport, _ = await loop.create_connection(
            lambda: protocol, host, port, ssl=context, server_hostname=server_name or host
        )
        return reader, asyncio.StreamWriter(transport, protocol, reader, loop)
    except ssl.SSLError as error:
        if isinstance(error.__cause__, PeerError):
            raise error.__cause__ from error
        raise


class PostQuantumContext(ssl.SSLContext):
    """One end's configuration, as the type that other libraries expect."""

    _ready = False

    def __new__(cls, config: TlsConfig) -> Self:
        """Make the standard library's part, which is never used for a connection."""
        is_server = config.role is Role.SERVER
        return super().__new__(cls, ssl.PROTOCOL_TLS_SERVER if is_server else ssl.PROTOCOL_TLS_CLIENT)

    def __init__(self, config: TlsConfig) -> None:
        self._tls = TlsContext(config)
        # What other libraries may read there is what holds here.
        self.minimum_version = ssl.TLSVersion.TLSv1_3
        self.verify_mode = ssl.CERT_REQUIRED
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
        name = _host(server_hostname)
        engine = self._new_engine(server_side, name, session)
        return PostQuantumObject(self, engine, incoming, outgoing, name)

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
        name = _host(server_hostname)
        wrapped = TlsSocket(sock, self._new_engine(server_side, name, session), self.config, self, name)
        if do_handshake_on_connect:
            try:
                wrapped.do_handshake()
            except BaseException:
                wrapped.close()
                raise
        return wrapped

    def set_alpn_protocols(self, alpn_protocols: Any) -> None:
        """Offer, or accept, these application protocols from the next connection on."""
        protocols = tuple(alpn_protocols)
        if protocols != self.config.alpn:
            self._tls = TlsContext(replace(self.config, alpn=protocols))

    def get_ca_certs(self, binary_form: bool = False) -> Any:
        """Return the trusted roots and issuing certificates, as DER; there is no other form here."""
        if not binary_form:
            refuse("get_ca_certs(binary_form=False)")
        from cryptography.hazmat.primitives.serialization import Encoding  # noqa: PLC0415 -- rarely asked for

        return [anchor.public_bytes(Encoding.DER) for anchor in self.config.identity.anchors]

    def _new_engine(self, server_side: bool, server_hostname: str | None, session: object) -> TlsEngine:
        if server_side is not (self.config.role is Role.SERVER):
            raise ConfigurationError(
                f"this context is a {self.config.role.value}'s and was used for the other side", reason="wrong_role"
            )
        if session is not None:
            raise ConfigurationError("no session is ever resumed", reason="session")
        return self._tls.new_engine(server_hostname)

    def __setattr__(self, name: str, value: object) -> None:
        # Setting what is already so is harmless and what some libraries do; everything else would be ignored.
        if self._ready and name != "_tls" and getattr(self, name, None) != value:
            refuse(f"{name} = {value!r}")
        super().__setattr__(name, value)


def _refusing(name: str) -> Callable[..., NoReturn]:
    def method(self: ssl.SSLContext, *arguments: object, **options: object) -> NoReturn:
        del self, arguments, options
        refuse(f"{name}()")

    method.__name__ = name
    method.__doc__ = "Raise ``ConfigurationError``: this cannot be changed after the context was made."
    return method


# Also what a later version of Python adds: a setter that nobody has looked at must not seem to work.
for _name in dir(ssl.SSLContext):
    if _name.startswith(("set_", "load_")) and _name not in vars(PostQuantumContext):
        setattr(PostQuantumContext, _name, _refusing(_name))


class PostQuantumObject(ConnectionFacts, ssl.SSLObject):  # type: ignore[misc]
    """One connection over memory BIOs: what asyncio drives. Not made directly."""

    def __init__(
        self,
        context: PostQuantumContext,
        engine: TlsEngine,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_hostname: str | None,
    ) -> None:
        self._context, self._config, self._engine = context, context.config, engine
        self._incoming, self._outgoing = incoming, outgoing
        self._server_hostname = server_hostname
        self._refusal: PeerError | None = None
        self._unheard_bytes = 0

    def do_handshake(self) -> None:
        """Go on with the handshake. Raises ``ssl.SSLWantReadError`` while it needs more from the network.

        A client's own refusal is raised at once, and asyncio then drops the alert that would tell the server why.
        """
        if self._refusal is not None:
            self._wait_until_told(self._refusal)
        self._feed()
        try:
            complete = self._engine.do_handshake()
        except PeerError as error:
            self._flush()
            if self.server_side and not self._incoming.eof:
                _log.info("a client was refused: %s", error)
                self._refusal = error
                self._wait_until_told(error)
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
        if not count and target and not self._engine.peer_closed:
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
        scratch = memoryview(bytearray(_SCRATCH_BYTES))
        try:
            self._engine.send_close_notify()
            # What the peer still sends after our end is for nobody any more.
            while self._engine.read_into(scratch):
                pass
        except PeerError as error:
            raise to_ssl_error(error) from error
        finally:
            self._flush()
        if not self._engine.peer_closed:
            raise ssl.SSLWantReadError(ssl.SSL_ERROR_WANT_READ, "the peer has not ended its direction yet")

    def _wait_until_told(self, refusal: PeerError) -> NoReturn:
        # asyncio drops what is still to be sent when a handshake fails, and resets a client that goes on sending before
        # that one has read why. Asking for more makes it send the alert and read on; the client ends when it has got
        # it. How long that may take is asyncio's limit for handshakes, how much it may send is ours.
        self._unheard_bytes += len(self._incoming.read())
        if self._incoming.eof or self._unheard_bytes > _UNHEARD_BYTES:
            raise to_ssl_error(refusal) from refusal
        raise ssl.SSLWantReadError(ssl.SSL_ERROR_WANT_READ, "the client is being told why") from refusal

    def _feed(self) -> None:
        if self._incoming.pending:
            self._engine.receive(self._incoming.read())
        if self._incoming.eof:
            self._engine.receive_eof()

    def _flush(self) -> None:
        while data := self._engine.data_to_send():
            self._outgoing.write(data)


class _UncutProtocol(asyncio.StreamReaderProtocol):
    """Gives a stream to its reader, and an error where the stream was cut: asyncio takes any end for a good one."""

    def __init__(self, reader: asyncio.StreamReader, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(reader, loop=loop)
        self._uncut_reader = reader
        self._tls: asyncio.BaseTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._tls = transport
        super().connection_made(transport)

    def eof_received(self) -> bool | None:
        if self._tls is not None and not self._tls.is_closing():
            if not self._tls.get_extra_info("ssl_object").peer_closed:
                cut = PeerError("the server closed the connection without saying so", reason="truncated")
                error = to_ssl_error(cut)
                error.__cause__ = cut
                self._uncut_reader.set_exception(error)
        return super().eof_received()


def _several(names: str | Sequence[str] | None) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names or ())


def _host(name: str | bytes | None) -> str | None:
    return (name.decode("ascii") if isinstance(name, bytes) else name) or None
