"""One handshake over a socket, driven by callbacks: no task and no timer of its own.

Most of a sidecar's processor time goes into handshakes, and what is around them should stay small.

Whoever starts one watches the clock: `Handshake.started` says since when it runs, `Handshake.heard` whether the other
end has sent anything, and `Handshake.fail` gives up.
"""

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable

from gateway import sockets
from gateway.tcp import Scratch
from pqfl_transport.errors import PeerError, TransportError
from pqfl_transport.tls.engine import TlsEngine

_READ_BYTES = 16 * 1024
_LINGER_SECONDS = 1.0
_WOULD_BLOCK = (BlockingIOError, InterruptedError)

Failure = PeerError | TransportError
_farewells: set[asyncio.Task[None]] = set()


class Handshake:
    """A handshake that runs. ``done`` is called once: with nothing, or with the error that ended it.

    After an error the socket is taken care of here: the peer gets the alert that says why, and then the connection is
    closed. After success it is the caller's.
    """

    __slots__ = ("_done", "_engine", "_loop", "_scratch", "_socket", "_unsent", "heard", "over", "started")

    def __init__(
        self,
        engine: TlsEngine,
        connection: socket.socket,
        scratch: Scratch,
        done: Callable[[Failure | None], None],
    ) -> None:
        self._engine, self._socket, self._scratch, self._done = engine, connection, scratch, done
        self._loop = asyncio.get_running_loop()
        self._unsent = b""
        self.started = self._loop.time()
        self.heard = False
        self.over = False

    def start(self, *, speaks_first: bool) -> None:
        """Begin; a client speaks first."""
        self._loop.add_reader(self._socket, self._readable)
        if speaks_first:
            self._advance()

    def fail(self, failure: Failure) -> None:
        """Give up: because of what the peer did, or because the time is over."""
        if self.over:
            return
        self._finish()
        farewell = self._loop.create_task(_farewell(self._loop, self._engine, self._socket))
        # The loop itself keeps only a weak reference.
        _farewells.add(farewell)
        farewell.add_done_callback(_farewells.discard)
        self._done(failure)

    def abandon(self) -> None:
        """Give up without a word, when the process ends."""
        if not self.over:
            self._finish()
            sockets.abort(self._socket)

    def _readable(self) -> None:
        try:
            data = self._socket.recv(_READ_BYTES)
        except _WOULD_BLOCK:
            return
        except OSError as error:
            self.fail(_network(error))
            return
        if data:
            self.heard = True
            self._engine.receive(data)
        else:
            self._engine.receive_eof()
        self._advance()

    def _advance(self) -> None:
        started = time.perf_counter()
        try:
            complete = self._engine.do_handshake()
        except PeerError as error:
            self.fail(error)
            return
        finally:
            self._scratch.crypto_seconds += time.perf_counter() - started
        # Also the last flight has to be on its way before anything else is: the pump sends what comes after it.
        self._unsent += self._all_to_send()
        if not self._flush():
            if not self.over:
                self._loop.add_writer(self._socket, self._writable)
        elif complete:
            self._finish()
            self._done(None)

    def _all_to_send(self) -> bytes:
        flight = self._engine.data_to_send()
        while more := self._engine.data_to_send():
            flight += more
        return flight

    def _writable(self) -> None:
        if self._flush():
            self._loop.remove_writer(self._socket)
            if self._engine.handshake_complete:
                self._finish()
                self._done(None)

    def _flush(self) -> bool:
        """Send what can be sent; whether nothing is left, or the connection is lost, which `_done` was told."""
        if self._unsent and not self.over:
            try:
                sent = self._socket.send(self._unsent)
            except _WOULD_BLOCK:
                sent = 0
            except OSError as error:
                self.fail(_network(error))
                return False
            self._unsent = self._unsent[sent:]
        return not self._unsent

    def _finish(self) -> None:
        self.over = True
        self._loop.remove_reader(self._socket)
        if self._unsent:
            self._loop.remove_writer(self._socket)


def _network(error: OSError) -> TransportError:
    return TransportError(f"the connection failed during the handshake: {error.strerror or error}", reason="network")


async def _farewell(loop: asyncio.AbstractEventLoop, engine: TlsEngine, connection: socket.socket) -> None:
    # A socket closed with unread bytes sends a reset, and the peer would see that instead of the alert: so say that
    # nothing more comes, and read what is still on its way for a moment.
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(_LINGER_SECONDS):
            while data := engine.data_to_send():
                await loop.sock_sendall(connection, data)
            sockets.end_output(connection)
            while await loop.sock_recv(connection, _READ_BYTES):
                pass
    connection.close()
