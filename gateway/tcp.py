"""One connection over sockets: the handshake, then bytes both ways as `gateway.relay` allows.

The engine is driven directly and not through asyncio's own TLS protocol: one large read, one pass through OpenSSL, one
large write, all in buffers that every connection of the process shares, because each callback leaves them empty. Only
what a slow reader has not taken yet is kept with the connection.
"""

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from gateway import sockets
from gateway.relay import Close, Direction, Relay, State
from pqfl_transport.errors import PeerError
from pqfl_transport.tls.engine import TlsEngine

READ_BYTES = 256 * 1024
_HANDSHAKE_READ_BYTES = 16 * 1024
_LINGER_SECONDS = 1.0
_WOULD_BLOCK = (BlockingIOError, InterruptedError)


class SharedBuffers:
    """Scratch memory of the process: what was read, and what came out of the engine."""

    def __init__(self) -> None:
        self.read = memoryview(bytearray(READ_BYTES))
        # A little more room than one read can decrypt to, or encrypt to.
        self.processed = memoryview(bytearray(READ_BYTES + 64 * 1024))
        self.crypto_seconds = 0.0

    @contextmanager
    def crypto(self) -> Iterator[None]:
        """Count the time spent inside the engine."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.crypto_seconds += time.perf_counter() - started


async def shake_hands(engine: TlsEngine, tls: socket.socket, buffers: SharedBuffers) -> None:
    """Complete the handshake. Raises ``PeerError``; then the alert that says why has been sent to the peer."""
    loop = asyncio.get_running_loop()
    while True:
        try:
            with buffers.crypto():
                complete = engine.do_handshake()
        except PeerError:
            await _farewell(engine, tls)
            raise
        while data := engine.data_to_send():
            await loop.sock_sendall(tls, data)
        if complete:
            return
        if data := await loop.sock_recv(tls, _HANDSHAKE_READ_BYTES):
            engine.receive(data)
        else:
            engine.receive_eof()


async def _farewell(engine: TlsEngine, tls: socket.socket) -> None:
    # A socket closed with unread bytes sends a reset, and the peer would see that instead of the alert: so say that
    # nothing more comes, and read what is still on its way for a moment.
    loop = asyncio.get_running_loop()
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(_LINGER_SECONDS):
            while data := engine.data_to_send():
                await loop.sock_sendall(tls, data)
            sockets.end_output(tls)
            while await loop.sock_recv(tls, _HANDSHAKE_READ_BYTES):
                pass


class Pump:
    """Relays one connection after its handshake. `run` returns the reason of its end and closes both sockets."""

    def __init__(self, engine: TlsEngine, tls: socket.socket, plain: socket.socket, buffers: SharedBuffers) -> None:
        self._engine, self._tls, self._plain, self._buffers = engine, tls, plain, buffers
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[str] = self._loop.create_future()
        self._held = {Direction.INWARD: bytearray(), Direction.OUTWARD: bytearray()}
        self._reading: set[socket.socket] = set()
        self.relay = Relay()

    async def run(self) -> str:
        """Relay until both directions ended, or one side failed; cancelling it resets both sides."""
        try:
            # The first bytes may have come together with the end of the handshake: nothing announces those again.
            self._guard(self._decrypt)
            self._watch()
            # Shielded: being cancelled must not look like having ended, or both sockets would be left open.
            return await asyncio.shield(self._ended)
        except asyncio.CancelledError:
            self._end(Close.SHUTDOWN)
            raise
        finally:
            self._forget()

    def _watch(self) -> None:
        """Read where the rules say so."""
        if self._ended.done():
            return
        for connection, direction, callback in (
            (self._tls, Direction.INWARD, self._tls_readable),
            (self._plain, Direction.OUTWARD, self._plain_readable),
        ):
            wanted = self.relay.may_read(direction)
            if wanted and connection not in self._reading:
                self._loop.add_reader(connection, self._guard, callback)
                self._reading.add(connection)
            elif not wanted and connection in self._reading:
                self._loop.remove_reader(connection)
                self._reading.discard(connection)

    def _guard(self, callback: Callable[[], None]) -> None:
        """Run a callback; what goes wrong in it ends the connection with a reason."""
        if self._ended.done():
            return
        try:
            callback()
            if self.relay.complete:
                self._end(Close.COMPLETE)
            else:
                self._watch()
        except PeerError as error:
            self._send_alert()
            self._end(error.reason)
        except _SideError as error:
            self._end(error.reason)

    def _tls_readable(self) -> None:
        count = self._recv(self._tls, Close.TLS_RESET)
        if count is None:
            return
        with self._buffers.crypto():
            if count:
                self._engine.receive(self._buffers.read[:count])
            else:
                self._engine.receive_eof()
        self._decrypt()

    def _decrypt(self) -> None:
        """Pass on everything the engine can decrypt by now."""
        buffer, held = self._buffers.processed, self._held[Direction.INWARD]
        while True:
            with self._buffers.crypto():
                count = self._engine.read_into(buffer)
            if not count:
                break
            self.relay.arrived(Direction.INWARD, count)
            sent = 0 if held else self._send(self._plain, buffer[:count], Close.PLAIN_RESET)
            held += buffer[sent:count]
        if self._engine.peer_closed and self.relay.states[Direction.INWARD] is State.OPEN:
            self.relay.source_ended(Direction.INWARD)
        self._flush_plain()
        # Reading can make the engine answer, to a key update for instance.
        self._flush_tls()

    def _plain_readable(self) -> None:
        count = self._recv(self._plain, Close.PLAIN_RESET)
        if count is None:
            return
        with self._buffers.crypto():
            if count:
                self._engine.write(self._buffers.read[:count])
            else:
                self._engine.send_close_notify()
        if count:
            self.relay.arrived(Direction.OUTWARD, count)
        else:
            self.relay.source_ended(Direction.OUTWARD)
        self._flush_tls()

    def _flush_plain(self) -> None:
        held = self._held[Direction.INWARD]
        if held:
            with memoryview(held) as view:
                sent = self._send(self._plain, view, Close.PLAIN_RESET)
            del held[:sent]
        self._await_writing(self._plain, Direction.INWARD, self._flush_plain)
        if self.relay.holds(Direction.INWARD, len(held)):
            sockets.end_output(self._plain)

    def _flush_tls(self) -> None:
        buffer, held = self._buffers.processed, self._held[Direction.OUTWARD]
        if held:
            with memoryview(held) as view:
                sent = self._send(self._tls, view, Close.TLS_RESET)
            del held[:sent]
        while not held and (count := self._engine.data_to_send_into(buffer)):
            sent = self._send(self._tls, buffer[:count], Close.TLS_RESET)
            held += buffer[sent:count]
        self._await_writing(self._tls, Direction.OUTWARD, self._flush_tls)
        if self.relay.holds(Direction.OUTWARD, len(held)):
            sockets.end_output(self._tls)

    def _await_writing(self, connection: socket.socket, direction: Direction, callback: Callable[[], None]) -> None:
        if self._held[direction]:
            self._loop.add_writer(connection, self._guard, callback)
        elif self.relay.held_bytes[direction]:
            self._loop.remove_writer(connection)

    def _send(self, connection: socket.socket, data: memoryview, failure: Close) -> int:
        with _side(failure):
            try:
                return connection.send(data)
            except _WOULD_BLOCK:
                return 0

    def _recv(self, connection: socket.socket, failure: Close) -> int | None:
        """Read into the shared buffer; ``None`` for a wake-up without bytes."""
        with _side(failure):
            try:
                return connection.recv_into(self._buffers.read)
            except _WOULD_BLOCK:
                return None

    def _send_alert(self) -> None:
        with contextlib.suppress(OSError):
            while data := self._engine.data_to_send():
                self._tls.send(data)
            sockets.end_output(self._tls)

    def _end(self, reason: str) -> None:
        if not self._ended.done():
            self._forget()
            if reason == Close.COMPLETE:
                self._plain.close()
                self._tls.close()
            else:
                sockets.abort(self._plain)
                # After an alert of ours an ordinary close lets the peer read it.
                (sockets.abort if reason in set(Close) else socket.socket.close)(self._tls)
            self._ended.set_result(reason)

    def _forget(self) -> None:
        for connection in (self._tls, self._plain):
            if connection.fileno() >= 0:
                self._loop.remove_reader(connection)
                self._loop.remove_writer(connection)


class _SideError(Exception):
    def __init__(self, reason: Close) -> None:
        super().__init__(reason)
        self.reason = reason


@contextmanager
def _side(reason: Close) -> Iterator[None]:
    """Turn a socket's failure into the reason that names its side; a spurious wake-up is none."""
    try:
        yield
    except OSError as error:
        raise _SideError(reason) from error
