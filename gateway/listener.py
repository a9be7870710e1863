"""One listening socket and all its connections."""

import asyncio
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from gateway import proxy_protocol, sockets
from gateway.admission import Admission
from gateway.config import DEFAULT_NAME, ListenerConfig, Mode
from gateway.connection import Connection
from gateway.dialing import connect_at_once, dial_first, look
from gateway.http.front import HttpFront, HttpOutcome
from gateway.journal import Journal
from gateway.metrics import Metrics, PeerTotals
from gateway.relay import Close
from gateway.targets import Targets
from gateway.tcp import Scratch
from pqfl_transport.audit import EventKind
from pqfl_transport.errors import CertificateError, PeerError, PolicyError, PqflError
from pqfl_transport.net.address import Address
from pqfl_transport.net.listening import bound_address
from pqfl_transport.tls.config import Role
from pqfl_transport.tls.engine import TlsContext, TlsEngine
from pqfl_transport.tls.peers import PeerFacts

_ACCEPTS_AT_ONCE = 16
_SECONDS_WITHOUT_DESCRIPTORS = 0.1


@dataclass(frozen=True, slots=True)
class Prepared:
    """Another configuration of a listener, ready for use."""

    config: ListenerConfig
    context: TlsContext
    front: HttpFront | None


class Listener:
    """Accepts connections and keeps what they share; knows its configuration of the moment."""

    def __init__(
        self, config: ListenerConfig, listening: socket.socket, scratch: Scratch, metrics: Metrics, journal: Journal
    ) -> None:
        self.config = config
        self.scratch = scratch
        self.loop = asyncio.get_running_loop()
        self.admission = Admission(config.limits)
        self.targets = Targets(config.targets)
        self.address = bound_address(listening, config.listen)
        self._listening = listening
        self._metrics = metrics
        self._counts = metrics.listener(config.name, config.role.value)
        self._journal = journal
        self._context = TlsContext(config.tls)
        self._front = self._new_front(config) if config.mode is Mode.HTTP else None
        self._connections: dict[Connection, None] = {}
        self._accepting = False
        self._stale_at = _stale_at(config)
        self._suspension: PeerError | None = None
        self._resuming: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Accept from now on."""
        if not self._accepting:
            self._accepting = True
            self.loop.add_reader(self._listening, self._accept)

    def stop_accepting(self) -> None:
        """Accept no more; what is open goes on, requests in HTTP mode to their end."""
        if self._resuming is not None:
            self._resuming.cancel()
        if self._accepting:
            self._accepting = False
            self.loop.remove_reader(self._listening)
        if self._front is not None:
            self._front.drain()

    def close(self) -> None:
        """Close the listening socket."""
        self.stop_accepting()
        self._listening.close()

    def prepare(self, config: ListenerConfig) -> "Prepared":
        """Make what another configuration needs. Raises ``PqflError`` where it cannot be used."""
        return Prepared(
            config, TlsContext(config.tls), None if config.mode is not Mode.HTTP else self._new_front(config)
        )

    def reconfigure(self, prepared: "Prepared") -> None:
        """Use another configuration from now on; connections that it does not allow any more are closed.

        Those whose peer is not accepted end at once, whatever they are at: an upload is cut in the middle. Those that
        rest on a withdrawn algorithm end at once in TCP mode, in HTTP mode with the request that is under way.
        """
        self._suspension = None
        former_front = self._front
        self.config, self._context, self._front = prepared.config, prepared.context, prepared.front
        self.admission.limits = self.config.limits
        self.targets.replace(self.config.targets)
        if former_front is not None:
            # Its connections end with the requests they are at; clients come back to the new one.
            former_front.drain()
        self._stale_at = _stale_at(self.config)
        self._judge_all()

    def suspend(self, why: str) -> None:
        """Serve nobody until there is a configuration that works: close every connection and refuse new ones."""
        self._suspension = PeerError(why, reason=Close.WITHDRAWN)
        self.close_connections(Close.WITHDRAWN)

    def sweep(self) -> None:
        """Hold all connections to their times."""
        now = self.loop.time()
        if self._stale_at is not None and self.config.tls.clock() > self._stale_at:
            # Nobody knows any more who was revoked, so what is open is judged as a new connection would be.
            self._stale_at = None
            self._judge_all()
        for connection in list(self._connections):
            connection.sweep(now)
        self.admission.forget_idle(now)

    def close_connections(self, reason: str) -> None:
        """End every connection."""
        for connection in list(self._connections):
            connection.close(reason)

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._connections)

    async def backends(self) -> Mapping[str, Any]:
        """Find out how the targets are; a client's are at the other end of the channel and only ever heard of."""
        if self.config.role is Role.SERVER:
            await look(self.targets, clock=self.loop.time)
        return self.targets.states()

    # What a connection asks of its listener.

    def new_engine(self, host: str | None) -> TlsEngine:
        """Begin a TLS connection."""
        return self._context.new_engine(host)

    def require_current(self, engine: TlsEngine) -> None:
        """Raise ``PqflError`` unless a handshake that has just ended is one that the configuration of now accepts.

        It may have been begun under another one.
        """
        if engine.config is not self._context.config:
            self._context.judge_again(engine)
        self._require_member(engine)

    def keep_session(self, engine: TlsEngine, host: str | None) -> None:
        """Let the next connection of a client resume this one's session, where that is switched on."""
        self._context.keep_session(engine, host)

    def dial_at_once(self) -> tuple[socket.socket, Address] | None:
        """Connect to a local target without waiting; ``None`` where that has to be done patiently."""
        config = self.config
        target = self.targets.preferred(self.loop.time())
        if config.proxy is not None or not target.is_local:
            return None
        connection = connect_at_once(target)
        if connection is None:
            return None
        self.targets.succeeded(target, self.loop.time())
        return connection, target

    async def dial_now(self) -> socket.socket:
        """Connect to a target, at once where it is local."""
        found = self.dial_at_once()
        return (await self.dial() if found is None else found)[0]

    async def dial(self) -> tuple[socket.socket, Address]:
        """Connect to the first target that answers. Raises ``TransportError`` naming all that did not."""
        config = self.config
        return await dial_first(
            self.targets, timeout_seconds=config.connect_timeout_seconds, proxy=config.proxy, clock=self.loop.time
        )

    def introduce(self, peer: PeerFacts, accepted: socket.socket, plain: socket.socket) -> None:
        """Tell the target who is there, where it wants to know. Raises ``OSError``."""
        if self.config.proxy_protocol:
            plain.send(proxy_protocol.header_for(accepted, peer))

    def throttle(self, peer: str) -> Callable[[int], float] | None:
        """Return what holds a peer to its rate, ``None`` where there is none."""
        if not self.config.limits.bytes_per_second_per_peer:
            return None
        return lambda count: self.admission.take_bytes(peer, count, self.loop.time())

    async def serve_http(self, engine: TlsEngine, connection: socket.socket, client: str) -> HttpOutcome:
        """Serve requests until the connection has ended."""
        assert self._front is not None  # noqa: S101
        return await self._front.serve(engine, connection, client, self.throttle(engine.peer.name))

    def shaken(self, peer: PeerFacts, seconds: float) -> PeerTotals:
        """Count a good handshake."""
        return self._metrics.handshake(self._counts, peer, seconds)

    def failed(self, connection: Connection, error: BaseException, *, in_handshake: bool) -> None:
        """Count and report a connection that came to nothing."""
        self._leave(connection)
        facts = {"client": connection.client, "peer": connection.peer_name, "listener": self._name}
        if isinstance(error, PeerError | PolicyError | CertificateError):
            (self._counts.failures if in_handshake else self._counts.refusals)[error.reason] += 1
            self._journal.record(EventKind.REFUSAL, **facts, reason=error.reason, detail=str(error))
        elif isinstance(error, PqflError):
            if in_handshake:
                self._counts.failures[error.reason] += 1
            self._journal.say("failure", **facts, reason=error.reason, detail=str(error))
        else:
            self._journal.say("failure", **facts, reason="internal", detail=f"{type(error).__name__}: {error}")

    def ended(self, connection: Connection, engine: TlsEngine | None, reason: str, counts: Mapping[str, int]) -> None:
        """Count and report a connection that relayed, or that was ended before it did."""
        self._leave(connection)
        if engine is None:
            return
        self._counts.closes[reason] += 1
        self._counts.bytes_in += counts.get("bytes_in", 0)
        self._counts.bytes_out += counts.get("bytes_out", 0)
        peer = engine.peer
        facts: dict[str, object] = {
            "client": connection.client, "peer": peer.name, "group": peer.group, "cipher_suite": peer.cipher_suite,
            "own_sigalg": peer.own_sigalg, "peer_sigalg": peer.peer_sigalg, "post_quantum": peer.post_quantum,
            "resumed": peer.resumed, "alpn": peer.alpn, "listener": self._name,
            "target": None if connection.target is None else str(connection.target),
            **counts, "seconds": round(self.loop.time() - connection.since, 6), "reason": reason,
        }  # fmt: skip
        self._journal.record(EventKind.CONNECTION, "connection", **facts)

    def _judge_all(self) -> None:
        """Close every connection that would not be accepted now."""
        for connection in list(self._connections):
            if connection.engine is None:
                continue
            try:
                self._context.judge_again(connection.engine)
                self._require_member(connection.engine)
            except PolicyError:
                connection.retire(Close.WITHDRAWN)
            except PqflError as error:
                self._cut_off(connection, error)

    def _require_member(self, engine: TlsEngine) -> None:
        """Raise ``CertificateError`` where the roster's certificate of a peer, the one it signs with, was revoked.

        Its connection has the other one of its two certificates: whichever is revoked, both are of no use.
        """
        roster, revocations = self.config.http.roster, self.config.tls.revocations
        if roster is not None and revocations is not None:
            party = roster.parties.get(engine.peer.name)
            if party is not None:
                revocations.check_party(party, self.config.tls.clock())

    def _cut_off(self, connection: Connection, error: PqflError) -> None:
        self._journal.record(
            EventKind.REFUSAL, client=connection.client, peer=connection.peer_name, reason=error.reason,
            detail=str(error), listener=self._name,
        )  # fmt: skip
        self._counts.refusals[error.reason] += 1
        connection.close(Close.REVOKED if error.reason == "revoked" else error.reason)

    @property
    def _name(self) -> str | None:
        """The listener's name in the log, which needs none where there is one listener."""
        return None if self.config.name == DEFAULT_NAME else self.config.name

    def _accept(self) -> None:
        for _ in range(_ACCEPTS_AT_ONCE):
            try:
                accepted, where = self._listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionError):
                return
            except OSError as error:
                # Out of descriptors: wait for a connection to end rather than spin.
                self._journal.say("accept_failed", detail=error.strerror, listener=self._name)
                self._accept_again_later()
                return
            self._admit(accepted, _where(where))

    def _accept_again_later(self) -> None:
        if self._accepting:
            self._accepting = False
            self.loop.remove_reader(self._listening)
            self._resuming = self.loop.call_later(_SECONDS_WITHOUT_DESCRIPTORS, self.start)

    def _admit(self, accepted: socket.socket, client: str) -> None:
        accepted.setblocking(False)
        sockets.set_no_delay(accepted)
        try:
            if self._suspension is not None:
                raise self._suspension
            self._make_room()
            self.admission.open_one()
        except PeerError as error:
            accepted.close()
            self._counts.refusals[error.reason] += 1
            self._journal.record(
                EventKind.REFUSAL, client=client, reason=error.reason, detail=str(error), listener=self._name
            )
            return
        connection = Connection(self, accepted, client, self.loop.time())
        self._connections[connection] = None
        self._counts.connections_open += 1
        connection.start()

    def _make_room(self) -> None:
        """Where too many handshakes are unfinished, the oldest that has sent nothing makes room for a new one.

        Raises ``PeerError`` (``too_many_handshakes``) where all of them are under way.
        """
        limit = self.config.limits.max_handshakes
        if not limit or len(self._connections) < limit:
            return
        shaking = [found for connection in self._connections if (found := connection.shaking_hands) is not None]
        if len(shaking) < limit:
            return
        silent = next((handshake for handshake in shaking if not handshake.heard), None)
        refusal = PeerError(f"{limit} handshakes are under way, which is the limit", reason="too_many_handshakes")
        if silent is None:
            raise refusal
        silent.fail(refusal)

    def _leave(self, connection: Connection) -> None:
        if connection not in self._connections:
            return
        del self._connections[connection]
        self._counts.connections_open -= 1
        self.admission.close_one()
        if connection.peer_name is not None:
            self.admission.leave(connection.peer_name, self.loop.time())

    def _new_front(self, config: ListenerConfig) -> HttpFront:
        return HttpFront(
            config, self.scratch, dial=self.dial_now, refused=self._refused_request, counts=self._counts,
            policy=lambda: self.config.tls.policy,
        )  # fmt: skip

    def _refused_request(self, error: PqflError, peer: PeerFacts, client: str) -> None:
        self._counts.refusals[error.reason] += 1
        self._journal.record(
            EventKind.REFUSAL, client=client, peer=peer.name, reason=error.reason, detail=str(error),
            listener=self._name,
        )  # fmt: skip


def _stale_at(config: ListenerConfig) -> datetime | None:
    revocations = config.tls.revocations
    return None if revocations is None else revocations.stale_at()


def _where(address: object) -> str:
    if isinstance(address, tuple):
        return f"[{address[0]}]:{address[1]}" if ":" in address[0] else f"{address[0]}:{address[1]}"
    return "unix"
