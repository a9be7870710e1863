"""A Flower round with a large model: directly, through a plain forwarder, and through the sidecars.

    python benchmarks/flower.py [--megabytes N] [--rounds N] [--runs N]

Needs Flower in `.venv-flower` (`make test` puts it there). The ways take turns; what counts is the median of the
seconds
that the app measures from its first round to its last, which is mostly Flower's own work: polling, serialising,
starting processes.
"""

import argparse
import contextlib
import socket
import statistics
import sys
import tempfile
import threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.machine import describe, markdown

from pqfl.demo.processes import Crew
from tests.support.flower import Flower, flower
from tests.support.pki import Federation, make_federation
from tests.support.sidecars import start_client, start_server

PIECE_BYTES = 256 * 1024
SITES = ("hospital-a", "hospital-b")


def main() -> None:
    """Run each way so many times, print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--megabytes", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    ways = {"direct": direct, "plain forwarder": forwarded, "sidecars, TCP": relayed, "sidecars, HTTP": understood}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    with tempfile.TemporaryDirectory(prefix="pqfl-bench-") as folder:
        federation = make_federation(Path(folder) / "federation", sites=SITES)
        for number in range(options.runs):
            for name, way in ways.items():
                place = Path(folder) / f"{name.replace(' ', '-')}-{number}"
                (place / "logs").mkdir(parents=True)
                with Crew(place / "logs") as crew, flower(place / "flower") as parts, contextlib.ExitStack() as stack:
                    parts.start_superlink()
                    for node, superlink in enumerate(way(parts, crew, federation, stack)):
                        parts.start_supernode(node, superlink)
                    result = parts.run(num_server_rounds=options.rounds, ballast_parameters=options.megabytes * 250_000)
                    seconds[name].append(result.seconds)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    rows = [
        [name, f"{found:.1f}", f"{found / medians['plain forwarder']:.2f}", f"{found / medians['direct']:.2f}"]
        for name, found in medians.items()
    ]
    print("\n".join(f"{name}: {value}" for name, value in describe().items()))
    print(f"{options.rounds} rounds, {options.megabytes} MB of parameters, 2 nodes; medians of {options.runs} runs\n")
    print(markdown(["way", "seconds", "/ forwarder", "/ direct"], rows))


def direct(parts: Flower, _crew: Crew, _federation: Federation, _stack: contextlib.ExitStack) -> list[str]:
    """SuperNodes dial the SuperLink."""
    return [parts.target] * len(SITES)


def forwarded(parts: Flower, _crew: Crew, _federation: Federation, stack: contextlib.ExitStack) -> list[str]:
    """Each SuperNode has a forwarder in this process, which only copies bytes."""
    found = []
    for _ in SITES:
        listener = socket.create_server(("127.0.0.1", 0))
        stack.callback(listener.close)
        threading.Thread(target=_forward, args=(listener, parts.port), daemon=True).start()
        found.append(f"127.0.0.1:{listener.getsockname()[1]}")
    return found


def relayed(parts: Flower, crew: Crew, federation: Federation, _stack: contextlib.ExitStack) -> list[str]:
    """Each SuperNode has a sidecar, the SuperLink a gateway."""
    return _sidecars(parts, crew, federation)


def understood(parts: Flower, crew: Crew, federation: Federation, _stack: contextlib.ExitStack) -> list[str]:
    """The same, and the gateway looks at every request."""
    return _sidecars(parts, crew, federation, "--mode", "http", "--profile", "flower")


def _sidecars(parts: Flower, crew: Crew, federation: Federation, *words: str) -> list[str]:
    gateway = start_server(crew, federation, parts.target, "--allow-all", *words)
    return [
        start_client(crew, federation, gateway.target, folder=federation.site(site), name=f"sidecar-{site}").target
        for site in SITES
    ]


def _forward(listener: socket.socket, port: int) -> None:
    with contextlib.suppress(OSError):
        while True:
            one, _ = listener.accept()
            two = socket.create_connection(("127.0.0.1", port))
            for source, target in ((one, two), (two, one)):
                source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(target=_copy, args=(source, target), daemon=True).start()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(PIECE_BYTES):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


if __name__ == "__main__":
    main()
