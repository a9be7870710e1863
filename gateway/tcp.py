"""One connection over sockets after its handshake: bytes both ways as `gateway.relay` allows.

The engine is driven directly and not through asyncio's own TLS protocol: one large read, one pass through OpenSSL, one
large write, all in memory that every connection of the process shares, because each callback leaves it empty. Only
what a slow reader has not taken yet is kept with the connection. What happens here happens a thousand times a second
and more, so there is one callback for each direction and little between the socket and OpenSSL.
"""

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable

from gateway import sockets
from gateway.relay import Close, Flow, Relay, State
from pqfl_transport.errors import PeerError
from pqfl_transport.tls.engine import TlsEngine, Workspace

READ_BYTES = 512 * 1024
_WOULD_BLOCK = (BlockingIOError, InterruptedError)
# 2^24.5 full records is what AES-GCM allows one key (RFC 9846 §5.5). Keys cannot be replaced from here, so a connection
# ends a little before.
KEY_LIMIT_RECORDS = int(2**24.5) - 4096


class Scratch:
    """What the connections of a process share: memory, and the time spent inside the engine."""

    def __init__(self) -> None:
        self.workspace = Workspace(READ_BYTES)
        self.crypto_seconds = 0.0


class Pump:
    """Relays one connection. ``ended`` is called once, with the reason; then both sockets are closed.

    ``throttle`` takes a number of bytes and returns for how many seconds nothing more may be read.
    """

    __slots__ = (
        "_ended", "_engine", "_held_inward", "_held_outward", "_key_limit_records", "_loop", "_outgoing", "_paused",
        "_plain", "_reading_plain", "_reading_tls", "_scratch", "_throttle", "_tls", "_workspace", "done", "relay",
    )  # fmt: skip

    def __init__(
        self,
        engine: TlsEngine,
        tls: socket.socket,
        plain: socket.socket,
        scratch: Scratch,
        ended: Callable[[str], None],
        *,
        throttle: Callable[[int], float] | None = None,
        key_limit_records: int = KEY_LIMIT_RECORDS,
    ) -> None:
        self._engine, self._tls, self._plain = engine, tls, plain
        self._scratch, self._workspace, self._outgoing = scratch, scratch.workspace, scratch.workspace.outgoing
        self._loop = asyncio.get_running_loop()
        self._ended = ended
        self._throttle, self._key_limit_records = throttle, key_limit_records
        self._held_inward: bytearray | None = None
        self._held_outward: bytearray | None = None
        self._reading_tls = self._reading_plain = False
        self._paused: asyncio.TimerHandle | None = None
        self.done = False
        self.relay = Relay()

    def start(self) -> None:
        """Begin. The first bytes may have come with the end of the handshake: nothing announces those again."""
        self._run(self._inward_at_hand)

    def close(self, reason: str) -> None:
        """End the connection from outside; both sides see a reset."""
        self._end(reason)

    def release_buffers(self) -> None:
        """Give back what much traffic left behind: for a connection that is idle now."""
        self._engine.release_buffers()

    def _inward_at_hand(self) -> None:
        while self._inward(0):
            pass

    def _on_tls_readable(self) -> None:
        self._run(self._tls_readable)

    def _on_plain_readable(self) -> None:
        self._run(self._plain_readable)

    def _run(self, step: Callable[[], None]) -> None:
        """Take a step; what goes wrong in it ends the connection with a reason."""
        if self.done:
            return
        try:
            step()
        except PeerError as error:
            self._send_alert()
            self._end(error.reason)
        except _SideError as error:
            self._end(error.reason)
        else:
            if self.relay.complete:
                self._end(Close.COMPLETE)
            else:
                self._watch()

    def _watch(self) -> None:
        """Read where the rules say so."""
        relay, paused = self.relay, self._paused is not None
        wanted = relay.inward.may_read and not paused
        if wanted is not self._reading_tls:
            self._reading_tls = wanted
            if wanted:
                self._loop.add_reader(self._tls, self._on_tls_readable)
            else:
                self._loop.remove_reader(self._tls)
        wanted = relay.outward.may_read and not paused
        if wanted is not self._reading_plain:
            self._reading_plain = wanted
            if wanted:
                self._loop.add_reader(self._plain, self._on_plain_readable)
            else:
                self._loop.remove_reader(self._plain)

    def _tls_readable(self) -> None:
        try:
            count = self._tls.recv_into(self._workspace.incoming)
        except _WOULD_BLOCK:
            return
        except OSError as error:
            raise _SideError(Close.TLS_RESET) from error
        if not count:
            self._engine.receive_eof()
        self._inward(count)

    def _inward(self, count: int) -> int:
        """Decrypt what came and pass it on; return how much that was."""
        engine, scratch = self._engine, self._scratch
        started = time.perf_counter()
        count = engine.decrypt(self._workspace, count)
        scratch.crypto_seconds += time.perf_counter() - started
        flow = self.relay.inward
        if count:
            self._pass_inward(count, flow)
        if engine.peer_closed and flow.state is State.OPEN:
            flow.source_ended()
            if flow.holds(flow.held_bytes):
                sockets.end_output(self._plain)
        if engine.answers:
            # Reading can make the engine answer, to a key update for instance.
            self._flush_tls()
        return count

    def _pass_inward(self, count: int, flow: Flow) -> None:
        flow.relayed_bytes += count
        data, held = self._outgoing[:count], self._held_inward
        sent = 0 if held else self._send(self._plain, data, Close.PLAIN_RESET)
        if sent < count:
            if held is None:
                held = self._held_inward = bytearray()
            held += data[sent:]
            flow.holds(len(held))
            self._loop.add_writer(self._plain, self._run, self._flush_plain)
        self._account(count)

    def _flush_plain(self) -> None:
        held, flow = self._held_inward, self.relay.inward
        if held:
            with memoryview(held) as view:
                sent = self._send(self._plain, view, Close.PLAIN_RESET)
            del held[:sent]
        if not held:
            self._held_inward = None
            self._loop.remove_writer(self._plain)
        if flow.holds(len(held or b"")):
            sockets.end_output(self._plain)

    def _plain_readable(self) -> None:
        try:
            count = self._plain.recv_into(self._workspace.incoming)
        except _WOULD_BLOCK:
            return
        except OSError as error:
            raise _SideError(Close.PLAIN_RESET) from error
        engine, scratch, flow = self._engine, self._scratch, self.relay.outward
        if not count:
            engine.send_close_notify()
            flow.source_ended()
            self._flush_tls()
            return
        started = time.perf_counter()
        encrypted = engine.encrypt(self._workspace, count)
        scratch.crypto_seconds += time.perf_counter() - started
        flow.relayed_bytes += count
        self._pass_outward(encrypted, flow)
        self._account(count)

    def _pass_outward(self, count: int, flow: Flow) -> None:
        # The plain side is read only while nothing is held, so this comes first.
        data = self._outgoing[:count]
        sent = self._send(self._tls, data, Close.TLS_RESET)
        if sent < count:
            self._held_outward = bytearray(data[sent:])
            flow.holds(count - sent)
            self._loop.add_writer(self._tls, self._run, self._flush_tls)

    def _flush_tls(self) -> None:
        engine, flow, held = self._engine, self.relay.outward, self._held_outward
        waited = held is not None
        if held:
            with memoryview(held) as view:
                sent = self._send(self._tls, view, Close.TLS_RESET)
            del held[:sent]
        while not held and (count := engine.take_to(self._workspace)):
            data = self._outgoing[:count]
            sent = self._send(self._tls, data, Close.TLS_RESET)
            if sent < count:
                held = bytearray(data[sent:])
        self._held_outward = held or None
        if held and not waited:
            self._loop.add_writer(self._tls, self._run, self._flush_tls)
        elif waited and not held:
            self._loop.remove_writer(self._tls)
        if flow.holds(len(held or b"")):
            sockets.end_output(self._tls)

    def _send(self, connection: socket.socket, data: memoryview, failure: Close) -> int:
        try:
            return connection.send(data)
        except _WOULD_BLOCK:
            return 0
        except OSError as error:
            raise _SideError(failure) from error

    def _account(self, count: int) -> None:
        """Hold the connection to its limits after ``count`` more bytes."""
        if self._engine.records > self._key_limit_records:
            # What was accepted is on its way or refused with an alert by now; the rest waits for another connection.
            self._engine.send_close_notify()
            self._flush_tls()
            raise _SideError(Close.KEY_LIMIT)
        if self._throttle is not None:
            seconds = self._throttle(count)
            if seconds > 0 and self._paused is None:
                self._paused = self._loop.call_later(seconds, self._resume)

    def _resume(self) -> None:
        self._paused = None
        if not self.done:
            self._watch()

    def _send_alert(self) -> None:
        with contextlib.suppress(OSError):
            while data := self._engine.data_to_send():
                self._tls.send(data)
            sockets.end_output(self._tls)

    def _end(self, reason: str) -> None:
        if self.done:
            return
        self.done = True
        self._forget()
        if reason == Close.COMPLETE:
            self._plain.close()
            self._tls.close()
        else:
            sockets.abort(self._plain)
            # After an alert of ours an ordinary close lets the peer read it.
            (sockets.abort if reason in _RESETS else socket.socket.close)(self._tls)
        self._ended(reason)

    def _forget(self) -> None:
        if self._paused is not None:
            self._paused.cancel()
        for connection in (self._tls, self._plain):
            if connection.fileno() >= 0:
                self._loop.remove_reader(connection)
                self._loop.remove_writer(connection)


_RESETS = frozenset(Close) - {Close.KEY_LIMIT}


class _SideError(Exception):
    def __init__(self, reason: Close) -> None:
        super().__init__(reason)
        self.reason = reason
