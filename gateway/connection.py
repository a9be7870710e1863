"""One connection of a sidecar, from its acceptance to its last log line.

Theory of operation. A server shakes hands with who was accepted, admits the peer, dials a target and relays. A client
dials first, shakes hands with the gateway and relays. Each step begins the next one when it is done, by a callback;
there is a task only where something has to be waited for in order: dialling across a network, and HTTP. Whatever ends
a connection, at whichever step, goes through `_over`, once.
"""

import asyncio
import contextlib
import socket
from collections.abc import Coroutine
from typing import TYPE_CHECKING

from gateway import sockets
from gateway.config import Mode
from gateway.handshake import Failure, Handshake
from gateway.metrics import PeerTotals
from gateway.relay import Close
from gateway.tcp import Pump
from pqfl_transport.errors import PeerError, PqflError, TransportError
from pqfl_transport.net.address import Address
from pqfl_transport.tls.config import Role
from pqfl_transport.tls.engine import TlsEngine

if TYPE_CHECKING:
    from gateway.listener import Listener

# A connection that moved nothing between so many sweeps gives back the buffers that traffic left behind.
_QUIET_SWEEPS = 2
# How long a request may go on over a connection that should not be any more.
_LAST_REQUEST_SECONDS = 30.0


class Connection:
    """One connection. Made by its listener, which it tells when it is over."""

    __slots__ = (
        "_accepted", "_dialled", "_engine", "_handshake", "_idle_since", "_is_over", "_moved_bytes", "_pump", "_reason",
        "_released", "_task", "_totals", "client", "listener", "peer_name", "since", "target",
    )  # fmt: skip

    def __init__(self, listener: "Listener", accepted: socket.socket, client: str, now: float) -> None:
        self.listener, self._accepted, self.client, self.since = listener, accepted, client, now
        self._dialled: socket.socket | None = None
        self._engine: TlsEngine | None = None
        self._handshake: Handshake | None = None
        self._pump: Pump | None = None
        self._task: asyncio.Task[None] | None = None
        self._totals: PeerTotals | None = None
        self._reason: str | None = None
        self._idle_since, self._moved_bytes = now, 0
        self._released = self._is_over = False
        self.peer_name: str | None = None
        """Who it is, once the peer was admitted."""
        self.target: Address | None = None

    def start(self) -> None:
        """Begin."""
        if self.listener.config.role is Role.SERVER:
            self._shake_hands(self._accepted, None)
        else:
            self._dial()

    def close(self, reason: str) -> None:
        """End it now, whatever it is doing."""
        if self._is_over:
            return
        self._reason = reason
        if self._handshake is not None and not self._handshake.over:
            self._handshake.abandon()
        if self._task is not None:
            # What the task was doing ends with it, and tells us.
            self._task.cancel()
        elif self._pump is not None:
            self._pump.close(reason)
        else:
            self._over(None)

    def retire(self, reason: str) -> None:
        """End it as soon as nothing is cut in the middle: in HTTP mode with the request under way, else now."""
        if self._task is not None and self.listener.config.mode is Mode.HTTP:
            # The front that serves it is being drained and closes it; a stream of events would go on for hours.
            self._reason = reason
            self.listener.loop.call_later(_LAST_REQUEST_SECONDS, self.close, reason)
        else:
            self.close(reason)

    def sweep(self, now: float) -> None:
        """Hold the connection to its times; called about once a second."""
        limits, handshake, pump = self.listener.config.limits, self._handshake, self._pump
        if handshake is not None:
            if now - handshake.started > limits.handshake_timeout_seconds:
                seconds = limits.handshake_timeout_seconds
                handshake.fail(PeerError(f"no complete handshake within {seconds:g} s", reason="timeout"))
            return
        if pump is None:
            return
        if limits.max_lifetime_seconds and now - self.since > limits.max_lifetime_seconds:
            self.close(Close.LIFETIME)
            return
        moved = pump.relay.relayed_bytes
        if moved != self._moved_bytes:
            self._moved_bytes, self._idle_since, self._released = moved, now, False
        elif not self._released and moved:
            self._released = True
            pump.release_buffers()
        elif limits.idle_timeout_seconds and now - self._idle_since > limits.idle_timeout_seconds:
            self.close(Close.IDLE)

    @property
    def shaking_hands(self) -> Handshake | None:
        """The handshake, while it runs."""
        return self._handshake

    @property
    def engine(self) -> TlsEngine | None:
        """The TLS end, once the handshake is complete."""
        return self._engine if self.peer_name is not None else None

    def _shake_hands(self, connection: socket.socket, host: str | None) -> None:
        listener = self.listener
        try:
            self._engine = listener.new_engine(host)
        except PqflError as error:
            self._over(error)
            return
        self._handshake = Handshake(self._engine, connection, listener.scratch, self._shaken)
        self._handshake.start(speaks_first=listener.config.role is Role.CLIENT)

    def _shaken(self, failure: Failure | None) -> None:
        handshake, self._handshake = self._handshake, None
        assert handshake is not None and self._engine is not None  # noqa: S101, PT018
        listener, peer_socket = self.listener, self._peer_socket
        if failure is not None:
            # The handshake takes care of its socket, so that the alert arrives.
            self._forget(peer_socket)
            self._over(failure, in_handshake=True)
            return
        now, peer = listener.loop.time(), self._engine.peer
        try:
            listener.require_current(self._engine)
            listener.admission.enter(peer.name, now)
        except PqflError as error:
            self._say_goodbye(peer_socket)
            self._over(error)
            return
        self.peer_name = peer.name
        self._totals = listener.shaken(peer, now - handshake.started)
        self._totals.opened(post_quantum=peer.post_quantum)
        if listener.config.role is Role.SERVER:
            self._serve_peer()
        else:
            self._relay(peer_socket, self._accepted)

    def _serve_peer(self) -> None:
        if self.listener.config.mode is Mode.HTTP:
            self._begin(self._serve_http())
        else:
            self._dial()

    def _dial(self) -> None:
        try:
            found = self.listener.dial_at_once()
        except PqflError as error:
            self._over(error)
            return
        if found is None:
            self._begin(self._dial_patiently())
        else:
            self._connected(*found)

    async def _dial_patiently(self) -> None:
        dialled, target = await self.listener.dial()
        self._task = None
        self._connected(dialled, target)

    def _connected(self, dialled: socket.socket, target: Address) -> None:
        self._dialled, self.target = dialled, target
        if self.listener.config.role is Role.SERVER:
            self._relay(self._accepted, dialled)
        else:
            self._shake_hands(dialled, target.host or None)

    def _relay(self, tls: socket.socket, plain: socket.socket) -> None:
        assert self._engine is not None and self.peer_name is not None  # noqa: S101, PT018
        listener = self.listener
        self._idle_since = listener.loop.time()
        try:
            listener.introduce(self._engine.peer, self._accepted, plain)
        except OSError as error:
            self._over(TransportError(f"target {self.target}: {error.strerror or error}", reason="target_down"))
            return
        throttle = listener.throttle(self.peer_name)
        self._pump = Pump(self._engine, tls, plain, listener.scratch, self._pumped, throttle=throttle)
        self._pump.start()

    def _pumped(self, reason: str) -> None:
        assert self._pump is not None  # noqa: S101
        relay = self._pump.relay
        self._reason = reason
        if self._engine is not None and self.listener.config.role is Role.CLIENT and self.target is not None:
            self.listener.keep_session(self._engine, self.target.host or None)
        self._over(None, bytes_in=relay.inward.relayed_bytes, bytes_out=relay.outward.relayed_bytes)

    async def _serve_http(self) -> None:
        assert self._engine is not None  # noqa: S101
        outcome = await self.listener.serve_http(self._engine, self._accepted, self.client)
        self._reason = self._reason or outcome.reason
        self._over(None, bytes_in=outcome.bytes_in, bytes_out=outcome.bytes_out, requests=outcome.requests)

    def _begin(self, step: Coroutine[None, None, None]) -> None:
        self._task = self.listener.loop.create_task(step)
        self._task.add_done_callback(self._task_ended)

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        if self._is_over:
            return
        if task.cancelled():
            self._reason = self._reason or Close.SHUTDOWN
            self._over(None)
        elif (error := task.exception()) is not None:
            self._over(error)

    @property
    def _peer_socket(self) -> socket.socket:
        if self.listener.config.role is Role.SERVER:
            return self._accepted
        assert self._dialled is not None  # noqa: S101
        return self._dialled

    def _say_goodbye(self, connection: socket.socket) -> None:
        assert self._engine is not None  # noqa: S101
        with contextlib.suppress(OSError, PeerError):
            self._engine.send_close_notify()
            connection.send(self._engine.data_to_send())
            sockets.end_output(connection)
        connection.close()

    def _forget(self, connection: socket.socket) -> None:
        """Leave a socket to somebody else."""
        if connection is self._dialled:
            self._dialled = None

    def _over(self, error: BaseException | None, *, in_handshake: bool = False, **counts: int) -> None:
        if self._is_over:
            return
        self._is_over = True
        kept_by_handshake = in_handshake and self.listener.config.role is Role.SERVER
        for connection in (None if kept_by_handshake else self._accepted, self._dialled):
            # Closed before where the pump has done it.
            if connection is not None:
                sockets.abort(connection)
        if self._totals is not None and self._engine is not None:
            self._totals.closed(post_quantum=self._engine.peer.post_quantum)
            self._totals.bytes_in += counts.get("bytes_in", 0)
            self._totals.bytes_out += counts.get("bytes_out", 0)
        if error is not None:
            self.listener.failed(self, error, in_handshake=in_handshake)
        else:
            self.listener.ended(self, self._engine if self.peer_name else None, self._reason or "", counts)
