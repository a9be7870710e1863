"""What the protocol of secure aggregation costs a site beside its masked vector: bytes and CPU, whole rounds in memory.

    python benchmarks/secagg_protocol.py [--runs N] [--suite ID] [--quick]

Bytes are counted, so they are exact: every message has one length. They are those of the messages
alone, without HTTP and TLS. The floor beside the CPU seconds is what the primitives of one site's round cost by
themselves in the same run: its wraps and unwraps, signatures and verifications.
"""

import argparse
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from support.machine import describe, markdown

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pqfl_transport.aggregation.secagg.messages import Kind, parse_message
from pqfl_transport.crypto.contexts import Context
from pqfl_transport.crypto.kems import generate
from tests.support.secagg import SUITE, Network, signing_key, site_name

SITES = (5, 10, 32)
MESSAGES_OF_A_SITE = 4
UP, DOWN = (
    (Kind.ADVERTISE, Kind.SHARE, Kind.CONSISTENCY, Kind.UNMASK),
    (Kind.ADVERTISED, Kind.SHARED, Kind.UPLOADED, Kind.AGREED),
)


class Timed(Network):
    """A network that counts the CPU seconds of each site's machine, and of the server's."""

    def __post_init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.server_seconds = 0.0
        super().__post_init__()

    def deliver(self, name: str, data: bytes) -> None:
        """Time a site, without what the server does with the answer."""
        before, server = time.process_time(), self.server_seconds
        super().deliver(name, data)
        self.seconds[name] += time.process_time() - before - (self.server_seconds - server)

    def to_server(self, name: str, kind: Kind, data: bytes) -> None:
        """Time the server."""
        before = time.process_time()
        super().to_server(name, kind, data)
        self.server_seconds += time.process_time() - before


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--suite", default=SUITE)
    parser.add_argument("--quick", action="store_true", help="one run with five sites, to see that it works")
    options = parser.parse_args()
    sizes, runs = ((5,), 1) if options.quick else (SITES, options.runs)
    print("\n".join(f"{name}: {value}" for name, value in describe().items()), end="\n\n")
    networks = {count: [run(count, options.suite) for _ in range(runs)] for count in sizes}
    print(bytes_of({count: found[0] for count, found in networks.items()}), end="\n\n")
    print(cpu_of(networks))


def run(count: int, suite: str) -> Timed:
    """Return a whole round, nobody dropping out."""
    net = Timed(count, suite=suite)
    net.run()
    if len(net.sums) != 1:
        raise SystemExit(f"the round of {count} sites failed: {net.outcome}")
    return net


def bytes_of(networks: dict[int, Timed]) -> str:
    """Bytes of one site and round, by message."""
    header = (
        "sites",
        *(f"{kind.word} (B)" for kind in UP),
        "up (kB)",
        *(f"{kind.word} (B)" for kind in DOWN),
        "down (kB)",
    )
    rows = []
    for count, net in networks.items():
        name = site_name(1)
        sent = {parse_message(data).kind: len(data) for data in net.seen if parse_message(data).sender == name}
        came = {parse_message(data).kind: len(data) for site, data in net.sent if site == name}
        rows.append(
            (
                str(count), *(str(sent[kind]) for kind in UP), f"{sum(sent.values()) / 1000:.1f}",
                *(str(came[kind]) for kind in DOWN), f"{sum(came.values()) / 1000:.1f}",
            )
        )  # fmt: skip
    return markdown(header, rows)


def cpu_of(networks: dict[int, list[Timed]]) -> str:
    """CPU of one site and of the server, beside what the site's primitives take by themselves."""
    rows = []
    for count, found in networks.items():
        site = statistics.median(sum(net.seconds.values()) / count for net in found)
        server = statistics.median(net.server_seconds for net in found)
        floor = floor_of(found[0], count)
        rows.append(
            (str(count), *(f"{one * 1000:.1f}" for one in (site, floor)), f"{site / floor:.2f}", f"{server * 1000:.0f}")
        )
    return markdown(("sites", "a site (ms)", "its primitives (ms)", "ratio", "the server, all sites (ms)"), rows)


def floor_of(net: Network, count: int) -> float:
    """Return the CPU seconds of one site's wraps, unwraps, signatures and verifications."""
    key, message = signing_key("bench", net.parameters.suite.signature), bytes(3000)
    signature = key.sign(message, Context.ROUND)
    pair = generate(net.parameters.suite.kem)
    wrapped = pair.public.wrap(bytes(32), b"")
    neighbours, threshold = count - 1, net.parameters.threshold_for(count)
    # Everybody's Advertise and Share, t signatures of U2, and the server's four publications.
    verified = 2 * count + threshold + MESSAGES_OF_A_SITE
    return (
        2 * neighbours * each(lambda: pair.public.wrap(bytes(32), b""))
        + 2 * neighbours * each(lambda: pair.unwrap(wrapped, b""))
        + (MESSAGES_OF_A_SITE - 1) * each(lambda: key.sign(message, Context.ROUND))
        + verified * each(lambda: key.verifying_key.verify(signature, message, Context.ROUND))
    )


def each(call: Callable[[], object], repeat: int = 300) -> float:
    """Return the CPU seconds of one call."""
    before = time.process_time()
    for _ in range(repeat):
        call()
    return (time.process_time() - before) / repeat


if __name__ == "__main__":
    main()
