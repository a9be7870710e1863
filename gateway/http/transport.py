"""A TLS connection as an asyncio transport, so that aiohttp serves HTTP over the same engine that relays bytes.

It reads only while the protocol wants to, and tells it to wait while the peer does not read. A stream that ends without
close_notify is a lost connection and never an end.
"""

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable
from typing import Any, cast

from gateway import sockets
from gateway.relay import Close
from gateway.tcp import KEY_LIMIT_RECORDS, Scratch
from pqfl_transport.errors import PeerError
from pqfl_transport.tls.engine import TlsEngine

HIGH_WATER_BYTES = 256 * 1024
_READ_BYTES = 128 * 1024
_LINGER_SECONDS = 1.0
# What a request that is under way may still use of a key; together with the limit it stays below what AES-GCM allows.
_LAST_RECORDS = 4000
_WOULD_BLOCK = (BlockingIOError, InterruptedError)


class EngineTransport(asyncio.Transport):
    """One connection whose handshake is complete. ``closed`` is called once, with the reason, when its socket is."""

    def __init__(
        self,
        engine: TlsEngine,
        connection: socket.socket,
        scratch: Scratch,
        closed: Callable[[str], None],
        session: object = None,
        throttle: Callable[[int], float] | None = None,
    ) -> None:
        super().__init__(
            {
                "peername": _name_of(connection.getpeername),
                "sockname": _name_of(connection.getsockname),
                # What asks for this only wants to know whether there is TLS.
                "ssl_object": engine,
                "sslcontext": engine,
            }
        )
        self._engine, self._socket, self._scratch, self._closed = engine, connection, scratch, closed
        self.session = session
        """What the connection's owner wants to find again."""
        self._throttle = throttle
        self._throttled = False
        self.used_up: Callable[[], None] | None = None
        """Called when the keys of this connection should carry no further request."""
        self._incoming = scratch.workspace.incoming[:_READ_BYTES]
        self._loop = asyncio.get_running_loop()
        self._protocol: asyncio.Protocol | None = None
        self._held = bytearray()
        self._reason: str = Close.COMPLETE
        self._reading = self._paused = self._peer_waits = False
        self._closing = self._lost = self._said_goodbye = False
        self.received_bytes = self.sent_bytes = 0

    def start(self, protocol: asyncio.Protocol) -> None:
        """Connect a protocol. The first bytes may have come with the end of the handshake."""
        self._protocol = protocol
        protocol.connection_made(self)
        self._run(self._at_hand)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Connect another protocol, as an upgrade does."""
        self._protocol = cast("asyncio.Protocol", protocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Return the protocol that is connected."""
        assert self._protocol is not None  # noqa: S101
        return self._protocol

    def is_reading(self) -> bool:
        """Whether data is being received."""
        return self._reading

    def pause_reading(self) -> None:
        """Receive nothing until `resume_reading`."""
        self._paused = True
        self._watch()

    def resume_reading(self) -> None:
        """Receive again."""
        self._paused = False
        self._watch()

    def get_write_buffer_size(self) -> int:
        """Return how many bytes the peer has not taken yet."""
        return len(self._held)

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """Return when the protocol is told to go on and to wait."""
        return HIGH_WATER_BYTES // 4, HIGH_WATER_BYTES

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Keep the limits: they are the same for every connection."""
        del high, low

    def write(self, data: Any) -> None:
        """Encrypt and send; what the peer does not take now is held."""
        if self._closing or self._lost or not data:
            return
        self.sent_bytes += len(data)

        def encrypt() -> None:
            started = time.perf_counter()
            self._engine.write(bytes(data) if isinstance(data, bytearray) else data)
            self._scratch.crypto_seconds += time.perf_counter() - started
            self._flush()

        self._run(encrypt)
        self._account(len(data))

    def can_write_eof(self) -> bool:
        """Return False: HTTP ends connections as a whole."""
        return False

    def write_eof(self) -> None:
        """Raise ``NotImplementedError``, as `can_write_eof` said."""
        raise NotImplementedError

    def is_closing(self) -> bool:
        """Whether the connection ends."""
        return self._closing or self._lost

    def close(self) -> None:
        """Send what is held, then close_notify, then end."""
        if not self._closing and not self._lost:
            self._closing = True
            self._watch()
            self._run(self._flush)

    def abort(self) -> None:
        """End at once; the peer sees a reset."""
        self.fail(Close.PLAIN_RESET)

    def fail(self, reason: str) -> None:
        """End at once with a reason; the peer sees a reset."""
        if not self._lost:
            self._reason = reason
            sockets.abort_later(self._socket)
            self._lose(None)

    def _run(self, step: Callable[[], object]) -> None:
        if self._lost:
            return
        try:
            step()
        except PeerError as error:
            self._reason = error.reason
            with contextlib.suppress(OSError):
                while data := self._engine.data_to_send():
                    self._socket.send(data)
            self._lose(ConnectionAbortedError(str(error)))
        except OSError as error:
            self._reason = Close.TLS_RESET
            self._lose(error)

    def _at_hand(self) -> None:
        while self._take(0) and not self._lost:
            pass
        self._watch()

    def _on_readable(self) -> None:
        self._run(self._receive)

    def _receive(self) -> None:
        try:
            count = self._socket.recv_into(self._incoming)
        except _WOULD_BLOCK:
            return
        if not count:
            self._engine.receive_eof()
        self._take(count)

    def _take(self, count: int) -> int:
        started = time.perf_counter()
        count = self._engine.decrypt(self._scratch.workspace, count)
        self._scratch.crypto_seconds += time.perf_counter() - started
        if count and not self._closing:
            self.received_bytes += count
            data = bytes(self._scratch.workspace.outgoing[:count])
            assert self._protocol is not None  # noqa: S101
            self._protocol.data_received(data)
            self._account(count)
        if self._engine.peer_closed and not self._lost:
            if self._closing:
                self._lose(None)
            elif self._protocol is not None and not self._protocol.eof_received():
                self.close()
        elif self._engine.answers:
            self._flush()
        return count

    def _account(self, count: int) -> None:
        """Hold the connection to its limits after ``count`` more bytes."""
        if self._engine.records > KEY_LIMIT_RECORDS and self.used_up is not None:
            used_up, self.used_up = self.used_up, None
            used_up()
        if self._engine.records > KEY_LIMIT_RECORDS + _LAST_RECORDS:
            # One request went on beyond what was left for it.
            self.fail(Close.KEY_LIMIT)
        if self._throttle is not None and not self._throttled and (seconds := self._throttle(count)) > 0:
            self._throttled = True
            self._watch()
            self._loop.call_later(seconds, self._go_on)

    def _go_on(self) -> None:
        self._throttled = False
        self._watch()

    def _flush(self) -> None:
        """Send what there is, and tell the protocol whether to wait."""
        workspace = self._scratch.workspace
        had = bool(self._held)
        if self._held:
            with memoryview(self._held) as view:
                sent = self._send(view)
            del self._held[:sent]
        if self._closing and not self._held and not self._said_goodbye:
            self._said_goodbye = True
            self._engine.send_close_notify()
        while count := self._engine.take_to(workspace):
            data = workspace.outgoing[:count]
            sent = 0 if self._held else self._send(data)
            if sent < count:
                self._held += data[sent:]
        if self._held and not had:
            self._loop.add_writer(self._socket, self._run, self._flush)
        elif had and not self._held:
            self._loop.remove_writer(self._socket)
            if self._closing and not self._said_goodbye:
                self._flush()
                return
        self._tell_protocol()
        if self._said_goodbye and not self._held:
            self._linger()

    def _tell_protocol(self) -> None:
        assert self._protocol is not None  # noqa: S101
        if not self._peer_waits and len(self._held) > HIGH_WATER_BYTES:
            self._peer_waits = True
            self._protocol.pause_writing()
        elif self._peer_waits and len(self._held) <= HIGH_WATER_BYTES // 4:
            self._peer_waits = False
            self._protocol.resume_writing()

    def _send(self, data: memoryview) -> int:
        try:
            return self._socket.send(data)
        except _WOULD_BLOCK:
            return 0

    def _linger(self) -> None:
        # A socket closed with unread bytes sends a reset, which can overtake the answer: read for a moment longer.
        sockets.end_output(self._socket)
        self._paused = False
        self._watch()
        self._loop.call_later(_LINGER_SECONDS, self._lose, None)

    def _watch(self) -> None:
        held_back = self._paused or self._throttled
        wanted = not self._lost and not held_back and (not self._closing or self._said_goodbye)
        if wanted and not self._reading:
            self._loop.add_reader(self._socket, self._on_readable)
        elif not wanted and self._reading:
            self._loop.remove_reader(self._socket)
        self._reading = wanted

    def _lose(self, error: Exception | None) -> None:
        if self._lost:
            return
        self._lost = True
        self._watch()
        self._loop.remove_writer(self._socket)
        self._held.clear()
        self._loop.call_soon(self._tell_lost, error)

    def _tell_lost(self, error: Exception | None) -> None:
        if self._protocol is not None:
            self._protocol.connection_lost(error)
        (sockets.abort if error is not None else socket.socket.close)(self._socket)
        self._closed(self._reason)


def _name_of(ask: Callable[[], Any]) -> Any:
    try:
        return ask()
    except OSError:
        return None
