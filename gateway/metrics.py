"""What a sidecar counts: handshakes and failures, bytes, connections, and per peer what was negotiated.

A `Metrics` counts for one process; `snapshot` gives it as JSON values, which add up over processes in
`gateway.exposition`.
"""

import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from pqfl_transport.tls.peers import PeerFacts

HANDSHAKE_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds of the histogram of handshakes."""


@dataclass(slots=True)
class PeerTotals:
    """One peer since the start; group, suite and signatures are those of its last connection."""

    group: str
    cipher_suite: str
    own_sigalg: str
    peer_sigalg: str
    post_quantum: bool = True
    connections: int = 0
    connections_open: int = 0
    classical_open: int = 0
    """Of the open ones, those that a quantum computer could read or forge."""
    classical_at: int = 0
    """When the last of those began, in Unix seconds; 0 where there was none."""
    bytes_in: int = 0
    bytes_out: int = 0
    handshake_seconds: float = 0.0

    def opened(self, *, post_quantum: bool) -> None:
        """A connection goes on from its handshake."""
        self.connections_open += 1
        self.classical_open += not post_quantum

    def closed(self, *, post_quantum: bool) -> None:
        """It is over."""
        self.connections_open -= 1
        self.classical_open -= not post_quantum


@dataclass(slots=True)
class ListenerMetrics:
    """What happened at one listener."""

    role: str
    handshakes: Counter[tuple[str, str, str, bool]] = field(default_factory=Counter)
    """By group, own signature algorithm, the peer's, and whether a session was resumed."""
    failures: Counter[str] = field(default_factory=Counter)
    """Handshakes that did not end in a connection, by reason."""
    refusals: Counter[str] = field(default_factory=Counter)
    """Connections and requests refused after a good handshake, or before one was begun, by reason."""
    closes: Counter[str] = field(default_factory=Counter)
    handshake_buckets: list[int] = field(default_factory=lambda: [0] * (len(HANDSHAKE_SECONDS) + 1))
    handshake_seconds: float = 0.0
    connections_open: int = 0
    connections_classical: int = 0
    bytes_in: int = 0
    """From the TLS side."""
    bytes_out: int = 0
    """To the TLS side."""
    requests: Counter[str] = field(default_factory=Counter)
    """In HTTP mode, by class of status."""
    policy_changes: int = 0


@dataclass(slots=True)
class Metrics:
    """Counters of one process."""

    listeners: dict[str, ListenerMetrics] = field(default_factory=dict)
    peers: dict[str, PeerTotals] = field(default_factory=dict)
    reloads: Counter[str] = field(default_factory=Counter)
    clock: Callable[[], float] = time.time

    def listener(self, name: str, role: str) -> ListenerMetrics:
        """Return the counters of a listener, from zero if it is new."""
        return self.listeners.setdefault(name, ListenerMetrics(role))

    def handshake(self, listener: ListenerMetrics, peer: PeerFacts, seconds: float) -> PeerTotals:
        """A handshake was completed and the peer accepted; return its totals to go on counting with."""
        listener.handshakes[peer.group, peer.own_sigalg, peer.peer_sigalg, peer.resumed] += 1
        listener.handshake_buckets[bisect_left(HANDSHAKE_SECONDS, seconds)] += 1
        listener.handshake_seconds += seconds
        listener.connections_classical += not peer.post_quantum
        totals = self.peers.get(peer.name)
        if totals is None:
            totals = self.peers[peer.name] = PeerTotals(
                peer.group, peer.cipher_suite, peer.own_sigalg, peer.peer_sigalg
            )
        totals.group, totals.cipher_suite = peer.group, peer.cipher_suite
        totals.own_sigalg, totals.peer_sigalg = peer.own_sigalg, peer.peer_sigalg
        totals.post_quantum = peer.post_quantum
        if not peer.post_quantum:
            totals.classical_at = int(self.clock())
        totals.connections += 1
        totals.handshake_seconds += seconds
        return totals

    def snapshot(self) -> dict[str, Any]:
        """Everything as JSON values."""
        return {
            "listeners": {name: _listener(metrics) for name, metrics in self.listeners.items()},
            "peers": {name: asdict(totals) for name, totals in self.peers.items()},
            "reloads": dict(self.reloads),
        }


def _listener(metrics: ListenerMetrics) -> dict[str, Any]:
    return {
        "role": metrics.role,
        "handshakes": [
            {"group": group, "sigalg": own, "peer_sigalg": peer, "resumed": resumed, "count": count}
            for (group, own, peer, resumed), count in metrics.handshakes.items()
        ],
        "handshake_failures": dict(metrics.failures),
        "refusals": dict(metrics.refusals),
        "closes": dict(metrics.closes),
        "handshake_buckets": list(metrics.handshake_buckets),
        "handshake_seconds": metrics.handshake_seconds,
        "connections_open": metrics.connections_open,
        "connections_classical": metrics.connections_classical,
        "bytes_in": metrics.bytes_in,
        "bytes_out": metrics.bytes_out,
        "requests": dict(metrics.requests),
        "policy_changes": metrics.policy_changes,
    }
