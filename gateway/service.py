"""The sidecar as a service: listens, shakes hands, relays, counts, logs, and ends in order."""

import asyncio
import contextlib
import signal
import socket
import time
from dataclasses import dataclass

from aiohttp import web

from gateway import sockets
from gateway.config import SidecarConfig
from gateway.metrics import Metrics, PeerTotals
from gateway.relay import Close, Direction
from gateway.status import serve_status
from gateway.tcp import Pump, SharedBuffers, shake_hands
from pqfl_transport.audit import AuditLog, EventKind
from pqfl_transport.crypto.selftest import run_self_test
from pqfl_transport.errors import PeerError, PqflError, TransportError
from pqfl_transport.net.listening import bound_address, listen
from pqfl_transport.net.logs import EventLog
from pqfl_transport.tls.config import Role
from pqfl_transport.tls.engine import TlsContext, TlsEngine, openssl_version


@dataclass(slots=True)
class _Side:
    """The TLS end of a connection, once its handshake is complete."""

    engine: TlsEngine
    socket: socket.socket
    totals: PeerTotals


class Sidecar:
    """One listener and everything behind it."""

    def __init__(self, config: SidecarConfig, log: EventLog) -> None:
        run_self_test()
        self._config = config
        self._log = log
        self._context = TlsContext(config.tls)
        self._buffers = SharedBuffers()
        self._metrics = Metrics(config.role, openssl_version())
        self._audit = None if config.audit is None else AuditLog(config.audit)
        self._connections: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Serve until TERM or INT; then let connections end, for as long as the shutdown timeout; a second one ends."""
        stop, force = asyncio.Event(), asyncio.Event()
        self._handle_signals(stop, force)
        config = self._config
        listener = listen(config.listen, "--listen")
        with contextlib.closing(listener):
            status_address, runner = await self._serve_status()
            address = str(bound_address(listener, config.listen))
            self._record(EventKind.START, role=config.role.value, address=address, policy=config.tls.policy.name)
            self._log.event(
                "listening", role=config.role.value, address=address, target=str(config.target), status=status_address,
                policy=config.tls.policy.name, openssl=self._metrics.openssl,
            )  # fmt: skip
            accepting = asyncio.create_task(self._accept(listener))
            await stop.wait()
            accepting.cancel()
        await self._drain(force)
        if runner is not None:
            await runner.cleanup()
        self._record(EventKind.STOP)
        self._log.event("stop")
        if self._audit is not None:
            self._audit.close()

    def _handle_signals(self, stop: asyncio.Event, force: asyncio.Event) -> None:
        def on_signal() -> None:
            (force if stop.is_set() else stop).set()

        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, on_signal)

    async def _serve_status(self) -> tuple[str | None, web.AppRunner | None]:
        if self._config.status is None:
            return None, None
        listener = listen(self._config.status, "--status")
        runner = await serve_status(
            listener, lambda: self._metrics.status(self._buffers.crypto_seconds), self._metrics.prometheus
        )
        return str(bound_address(listener, self._config.status)), runner

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, where = await loop.sock_accept(listener)
            except OSError as error:
                # Out of descriptors: wait for a connection to end rather than spin.
                self._log.event("accept_failed", detail=error.strerror)
                await asyncio.sleep(0.1)
                continue
            sockets.set_no_delay(connection)
            task = asyncio.create_task(self._serve(connection, _where(where)))
            self._connections.add(task)
            task.add_done_callback(self._connections.discard)

    async def _drain(self, force: asyncio.Event) -> None:
        if not self._connections:
            return
        self._log.event("draining", connections=len(self._connections))
        waiting = asyncio.create_task(asyncio.wait(set(self._connections)))
        forced = asyncio.create_task(force.wait())
        await asyncio.wait(
            {waiting, forced},
            timeout=self._config.shutdown_timeout_seconds,
            return_when=asyncio.FIRST_COMPLETED,
        )
        for task in (forced, waiting, *self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _serve(self, accepted: socket.socket, client: str) -> None:
        started = time.monotonic()
        self._metrics.connections_open += 1
        try:
            if self._config.role is Role.SERVER:
                await self._serve_tls_client(accepted, client, started)
            else:
                await self._serve_plain_client(accepted, client, started)
        except PeerError as error:
            self._metrics.failures[error.reason] += 1
            self._record(EventKind.REFUSAL, client=client, reason=error.reason, detail=str(error))
            self._log.event("refusal", client=client, reason=error.reason, detail=str(error))
        except TransportError as error:
            self._log.event("failure", client=client, reason=error.reason, detail=str(error))
        except OSError as error:
            self._log.event("failure", client=client, reason="network", detail=error.strerror or str(error))
        finally:
            sockets.abort(accepted)
            self._metrics.connections_open -= 1

    async def _serve_tls_client(self, accepted: socket.socket, client: str, started: float) -> None:
        side = await self._handshake(accepted, None)
        try:
            plain = await sockets.connect(self._config.target, self._config.connect_timeout_seconds)
        except TransportError:
            accepted.close()
            raise
        await self._relay(side, plain, client, started)

    async def _serve_plain_client(self, accepted: socket.socket, client: str, started: float) -> None:
        target = self._config.target
        connection = await sockets.connect(target, self._config.connect_timeout_seconds)
        try:
            side = await self._handshake(connection, target.host or None)
            await self._relay(side, accepted, client, started)
        finally:
            sockets.abort(connection)

    async def _handshake(self, connection: socket.socket, host: str | None) -> _Side:
        engine = self._context.new_engine(host)
        started = time.monotonic()
        timeout_seconds = self._config.handshake_timeout_seconds
        try:
            async with asyncio.timeout(timeout_seconds):
                await shake_hands(engine, connection, self._buffers)
        except TimeoutError:
            raise PeerError(f"no complete handshake within {timeout_seconds:g} s", reason="timeout") from None
        return _Side(engine, connection, self._metrics.handshake(engine.peer, time.monotonic() - started))

    async def _relay(self, side: _Side, plain: socket.socket, client: str, started: float) -> None:
        pump = Pump(side.engine, side.socket, plain, self._buffers)
        reason: str = Close.SHUTDOWN
        try:
            reason = await pump.run()
        finally:
            bytes_in = pump.relay.relayed_bytes[Direction.INWARD]
            bytes_out = pump.relay.relayed_bytes[Direction.OUTWARD]
            side.totals.bytes_in += bytes_in
            side.totals.bytes_out += bytes_out
            peer = side.engine.peer
            facts = {
                "client": client, "peer": str(peer.id), "group": peer.group, "cipher_suite": peer.cipher_suite,
                "own_sigalg": peer.own_sigalg, "peer_sigalg": peer.peer_sigalg, "alpn": peer.alpn,
                "bytes_in": bytes_in, "bytes_out": bytes_out, "seconds": round(time.monotonic() - started, 6),
                "reason": reason,
            }  # fmt: skip
            self._record(EventKind.CONNECTION, **facts)
            self._log.event("connection", **facts)

    def _record(self, kind: EventKind, **facts: object) -> None:
        if self._audit is not None:
            self._audit.event(kind, **facts)


def serve(config: SidecarConfig, log: EventLog) -> None:
    """Run one sidecar until it is told to end. Raises ``PqflError`` when it cannot start."""
    try:
        asyncio.run(Sidecar(config, log).run())
    except PqflError:
        raise
    except KeyboardInterrupt:
        log.event("stop")


def _where(address: object) -> str:
    if isinstance(address, tuple):
        return f"[{address[0]}]:{address[1]}" if ":" in address[0] else f"{address[0]}:{address[1]}"
    return "unix"
