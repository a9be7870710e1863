"""What a sidecar counts: handshakes and failures, bytes, connections, and per peer what was negotiated."""

import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

from pqfl_transport.tls.config import Role
from pqfl_transport.tls.peers import PeerFacts


@dataclass(slots=True)
class PeerTotals:
    """One peer since the start; group, suite and signatures are those of its last connection."""

    group: str
    cipher_suite: str
    own_sigalg: str
    peer_sigalg: str
    connections: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    handshake_seconds: float = 0.0


@dataclass(slots=True)
class Metrics:
    """Counters of one process. ``bytes_in`` came from the TLS side, ``bytes_out`` went to it."""

    role: Role
    openssl: str
    handshakes: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    handshake_seconds: float = 0.0
    connections_open: int = 0
    peers: dict[str, PeerTotals] = field(default_factory=dict)

    def handshake(self, peer: PeerFacts, seconds: float) -> PeerTotals:
        """A handshake was completed and the peer accepted; return its totals to go on counting with."""
        self.handshakes[peer.group, peer.own_sigalg, peer.peer_sigalg] += 1
        self.handshake_seconds += seconds
        totals = self.peers.setdefault(
            str(peer.id), PeerTotals(peer.group, peer.cipher_suite, peer.own_sigalg, peer.peer_sigalg)
        )
        totals.group, totals.cipher_suite = peer.group, peer.cipher_suite
        totals.own_sigalg, totals.peer_sigalg = peer.own_sigalg, peer.peer_sigalg
        totals.connections += 1
        totals.handshake_seconds += seconds
        return totals

    def status(self, crypto_seconds: float) -> dict[str, Any]:
        """Everything as JSON values, for `/_status`."""
        return {
            "role": self.role.value,
            "openssl": self.openssl,
            "connections_open": self.connections_open,
            "handshake_failures": dict(self.failures),
            "crypto_seconds": crypto_seconds,
            "cpu_seconds": time.process_time(),
            "peers": {uri: asdict(totals) for uri, totals in self.peers.items()},
        }

    def prometheus(self) -> str:
        """Everything in the text format of Prometheus."""
        lines = ["# TYPE pqfl_tls_handshakes_total counter"]
        for (group, own, peer), count in self.handshakes.items():
            labels = f'role="{self.role.value}",group="{group}",sigalg="{own}",peer_sigalg="{peer}",resumed="false"'
            lines.append(f"pqfl_tls_handshakes_total{{{labels}}} {count}")
        lines.append("# TYPE pqfl_tls_handshake_failures_total counter")
        for reason, count in self.failures.items():
            lines.append(f'pqfl_tls_handshake_failures_total{{reason="{reason}"}} {count}')
        lines += [
            "# TYPE pqfl_tls_handshake_seconds summary",
            f"pqfl_tls_handshake_seconds_sum {self.handshake_seconds:.6f}",
            f"pqfl_tls_handshake_seconds_count {self.handshakes.total()}",
            "# TYPE pqfl_connections_open gauge",
            f"pqfl_connections_open {self.connections_open}",
            "# TYPE pqfl_bytes_total counter",
            f'pqfl_bytes_total{{direction="in"}} {sum(peer.bytes_in for peer in self.peers.values())}',
            f'pqfl_bytes_total{{direction="out"}} {sum(peer.bytes_out for peer in self.peers.values())}',
            "# TYPE pqfl_build_info gauge",
            f'pqfl_build_info{{openssl="{self.openssl}"}} 1',
        ]
        return "\n".join(lines) + "\n"
