"""Taking connections in, at a door that is open to everybody: how many at once, and for how long.

A handshake costs this service milliseconds and a third of a megabyte before it is known who is there. So every origin
(`limiting.origin_of`) has so many connections and no more, all of them together have a limit as well, and each has to
finish its handshake, and then all that it came for, within a time. Where one is too many, the oldest handshake that is
not finished makes room for it: an honest one takes a fraction of a second, and a flood of silent ones only displaces
itself. A connection that is beyond its handshake is never ended for another.
"""

import asyncio
import gc
import socket
import ssl
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from certs.limiting import origin_of

_ACCEPTS_AT_ONCE = 16
_SECONDS_WITHOUT_DESCRIPTORS = 0.1
_TELL_SECONDS = 60.0
_COLLECT_EVERY = 128
"""Connections. One that has ended is a cycle with a quarter of a megabyte of asyncio's buffers in it, and the collector
goes by the number of objects and not by their size."""

Report = Callable[[str, Mapping[str, object]], None]


@dataclass(frozen=True, slots=True)
class AcceptLimits:
    """How many connections, finished handshakes or not, and how long."""

    connections: int = 512
    connections_per_origin: int = 64
    handshake_seconds: float = 10.0
    connection_seconds: float = 120.0
    """From the end of the handshake on, whatever it is doing."""


@dataclass(slots=True, eq=False)
class _Arrival:
    origin: str
    connection: socket.socket
    handshake: asyncio.Task[None] | None = None
    ending: asyncio.TimerHandle | None = None
    """Set once the handshake is finished."""

    @property
    def is_shaking_hands(self) -> bool:
        return self.handshake is not None and self.ending is None and not self.handshake.cancelling()

    @property
    def is_over(self) -> bool:
        # Its transport closes the socket, which then has no descriptor any more.
        return self.connection.fileno() < 0


class Acceptor:
    """Accepts on one listening socket. Made inside a running event loop."""

    def __init__(
        self,
        listening: socket.socket,
        context: ssl.SSLContext,
        serve: Callable[[], asyncio.BaseProtocol],
        report: Report,
        limits: AcceptLimits = AcceptLimits(),
    ) -> None:
        """``serve`` makes the protocol of a connection; ``report`` is told, once a minute, of those that are ended."""
        self._listening, self._context, self._serve = listening, context, serve
        self._report, self._limits = report, limits
        self._loop = asyncio.get_running_loop()
        self._arrivals: dict[_Arrival, None] = {}
        self._resuming: asyncio.TimerHandle | None = None
        self._accepted = 0
        self._ended: Counter[str] = Counter()
        self._telling: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Accept from now on."""
        self._loop.add_reader(self._listening, self._accept)

    async def close(self) -> None:
        """Accept no more, and end handshakes; what is beyond them goes on. The listening socket is closed."""
        self._loop.remove_reader(self._listening)
        for timer in (self._resuming, self._telling):
            if timer is not None:
                timer.cancel()
        self._listening.close()
        handshakes = [one.handshake for one in self._arrivals if one.handshake is not None and one.ending is None]
        for one in self._arrivals:
            if one.ending is not None:
                one.ending.cancel()
        for task in handshakes:
            task.cancel()
        await asyncio.gather(*handshakes, return_exceptions=True)

    @property
    def connections(self) -> int:
        """How many are open."""
        self._forget_those_that_are_over()
        return len(self._arrivals)

    def _accept(self) -> None:
        for _ in range(_ACCEPTS_AT_ONCE):
            try:
                connection, where = self._listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionError):
                return
            except OSError:
                # Out of descriptors: wait for a connection to end rather than spin.
                self._loop.remove_reader(self._listening)
                self._resuming = self._loop.call_later(_SECONDS_WITHOUT_DESCRIPTORS, self.start)
                return
            self._admit(connection, origin_of(where[0] if isinstance(where, tuple) else ""))

    def _admit(self, connection: socket.socket, origin: str) -> None:
        self._forget_those_that_are_over()
        self._accepted += 1
        if self._accepted % _COLLECT_EVERY == 0:
            gc.collect()
        of_origin = [one for one in self._arrivals if one.origin == origin]
        if len(of_origin) >= self._limits.connections_per_origin:
            crowd = of_origin
        elif len(self._arrivals) >= self._limits.connections:
            crowd = list(self._arrivals)
        else:
            crowd = []
        if crowd:
            # They are in the order of their arrival.
            oldest = next((one for one in crowd if one.is_shaking_hands), None)
            self._tell(origin if oldest is None else oldest.origin)
            if oldest is None or oldest.handshake is None:
                connection.close()
                return
            oldest.handshake.cancel()
        connection.setblocking(False)
        arrival = _Arrival(origin, connection)
        self._arrivals[arrival] = None
        arrival.handshake = self._loop.create_task(self._shake_hands(arrival))
        # Also where it is cancelled before it has begun.
        arrival.handshake.add_done_callback(lambda _: None if arrival.ending else connection.close())

    async def _shake_hands(self, arrival: _Arrival) -> None:
        try:
            transport, _ = await self._loop.connect_accepted_socket(
                self._serve, arrival.connection, ssl=self._context,
                ssl_handshake_timeout=self._limits.handshake_seconds,
            )  # fmt: skip
        except OSError:
            # Whatever was wrong with it: the peer was told by an alert, and nobody here is interested.
            return
        arrival.ending = self._loop.call_later(self._limits.connection_seconds, transport.abort)

    def _forget_those_that_are_over(self) -> None:
        for arrival in [one for one in self._arrivals if one.is_over]:
            del self._arrivals[arrival]
            if arrival.ending is not None:
                arrival.ending.cancel()

    def _tell(self, origin: str) -> None:
        """Count one that was ended; a flood of connections must not become a flood of lines."""
        self._ended[origin] += 1
        if self._telling is None:
            self._telling = self._loop.call_later(_TELL_SECONDS, self._tell_rest)
            self._report("connections_ended", {"origin": origin, "reason": "too_many_connections"})
            self._ended.clear()

    def _tell_rest(self) -> None:
        self._telling = None
        if self._ended:
            (origin, _), *_ = self._ended.most_common(1)
            self._report(
                "connections_ended",
                {"origin": origin, "reason": "too_many_connections", "count": self._ended.total()},
            )
            self._ended.clear()
