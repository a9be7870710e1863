"""A connection over two memory BIOs: what ``SSLContext.wrap_bio`` gives to asyncio and to other event loops.

asyncio takes any end of a connection for a good one, also one that was cut: it does not tell us of it. Where the
application's protocol does not say how long a message is, ask ``ssl_object.peer_closed``; streams of
`pqfl_transport.tls.connect` do that by themselves.
"""

import logging
import ssl
from typing import Any, NoReturn

from pqfl_transport.errors import PeerError
from pqfl_transport.tls.config import TlsConfig
from pqfl_transport.tls.engine import TlsEngine
from pqfl_transport.tls.facts import ConnectionFacts
from pqfl_transport.tls.translation import to_ssl_error

_log = logging.getLogger(__name__)

_SCRATCH_BYTES = 64 * 1024
_UNHEARD_BYTES = 1024 * 1024
"""How much a refused client may send before it has read the alert."""


class PostQuantumObject(ConnectionFacts, ssl.SSLObject):  # type: ignore[misc]
    """One connection over memory BIOs: what asyncio drives. Not made directly."""

    def __init__(
        self,
        engine: TlsEngine,
        config: TlsConfig,
        context: ssl.SSLContext,
        buffers: tuple[ssl.MemoryBIO, ssl.MemoryBIO],
        server_hostname: str | None = None,
    ) -> None:
        self._engine, self._config, self._context = engine, config, context
        self._incoming, self._outgoing = buffers
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
