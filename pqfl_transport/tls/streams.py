"""A plain asyncio stream over post-quantum TLS, in which a cut is an error."""

import asyncio
import ssl

from pqfl_transport.errors import ConfigurationError, PeerError
from pqfl_transport.tls.context import PostQuantumContext
from pqfl_transport.tls.translation import to_ssl_error


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
