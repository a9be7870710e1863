"""CPU of a relay, TLS in and plain out: `pqfl server` beside nginx, HAProxy and stunnel, in one run.

    python benchmarks/relay.py [--peers-root DIR] [--runs N] [--gib N] [--quick] [--json FILE]

Same certificates (ML-DSA-65, mutual), same group (X25519MLKEM768), one process each. The relays take turns, so that
whatever else the machine does meets all of them; what counts is the median of the runs and the ratio within the run.
"""

import argparse
import contextlib
import json
import shutil
import socket
import statistics
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

from support.load import Client, plain_server
from support.machine import describe, markdown
from support.relays import Relay, start_ours, start_peers

from certs.authority import Authority

GIB = 1 << 30
WARM_UP_BYTES = 8 << 20
Loads = dict[str, tuple[str, Callable[[Relay], None], float]]
"""Name → (unit, what to do, by how much to divide the CPU seconds)."""


def main() -> None:
    """Parse, measure, print."""
    options = parse()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pqfl-bench-")))
        authority = Authority.create(folder / "ca", federation="bench")
        authority.issue(profile="gateway", name="hub", out=folder / "gateway", hosts=["localhost"])
        authority.issue(profile="site", name="site", out=folder / "site")
        target = stack.enter_context(plain_server())
        ports = dict(zip(("ours", "nginx", "HAProxy", "stunnel"), free_ports(4), strict=True))
        relays = [start_ours(folder / "gateway", ports["ours"], target)]
        stack.callback(relays[0].end)
        peers, missing = start_peers(options.peers_root, folder / "gateway", ports, target)
        for peer in peers:
            stack.callback(peer.end)
        if options.peers_root is not None:
            for left in (options.peers_root / "tmp").glob("pqfl-bench-*"):
                stack.callback(shutil.rmtree, left, ignore_errors=True)
        client = Client(folder / "site", "spiffe://bench/gateway/hub")
        relays += peers
        groups = {relay.name: client.group(relay.port) for relay in relays}
        results = measure(relays, loads(client, options), options.runs)
        report(results, groups, missing, options)


def parse() -> argparse.Namespace:
    """Read the options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--peers-root", type=Path, help="root of a system with OpenSSL 3.5 in which the peers are")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--gib", type=float, default=1.0, help="GiB in each direction and run")
    parser.add_argument("--handshakes", type=int, default=200)
    parser.add_argument("--quick", action="store_true", help="one short run, to see that it works")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.quick:
        options.runs, options.gib, options.handshakes = 1, 0.125, 20
    return options


def loads(client: Client, options: argparse.Namespace) -> Loads:
    """Return what is measured."""
    total = int(options.gib * GIB)

    def in_parallel(action: Callable[[int, int], None], connections: int) -> Callable[[Relay], None]:
        def run(relay: Relay) -> None:
            threads = [
                threading.Thread(target=action, args=(relay.port, total // connections)) for _ in range(connections)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

        return run

    def shake_hands(relay: Relay) -> None:
        for _ in range(options.handshakes):
            client.ping(relay.port)

    return {
        "upload, 1 connection": ("CPU s/GiB", in_parallel(client.upload, 1), total / GIB),
        "upload, 8 connections": ("CPU s/GiB", in_parallel(client.upload, 8), total / GIB),
        "download, 1 connection": ("CPU s/GiB", in_parallel(client.download, 1), total / GIB),
        "download, 8 connections": ("CPU s/GiB", in_parallel(client.download, 8), total / GIB),
        "handshake and connection": ("CPU ms", shake_hands, options.handshakes / 1000),
    }


def measure(relays: list[Relay], what: Loads, runs: int) -> dict[str, dict[str, list[float]]]:
    """Return for every load and relay the CPU of each run, the relays taking turns."""
    results: dict[str, dict[str, list[float]]] = {name: {relay.name: [] for relay in relays} for name in what}
    for number in range(runs):
        for name, (_, load, divisor) in what.items():
            # Who comes first changes from run to run.
            for relay in relays[number % len(relays) :] + relays[: number % len(relays)]:
                before = relay.cpu_seconds()
                load(relay)
                results[name][relay.name].append((relay.cpu_seconds() - before) / divisor)
    return results


def report(
    results: dict[str, dict[str, list[float]]], groups: dict[str, str], missing: list[str], options: argparse.Namespace
) -> None:
    """Print the table, and write the numbers of every run if asked to."""
    machine = describe()
    names = list(groups)
    rows = []
    for load, by_relay in results.items():
        medians = {name: statistics.median(values) for name, values in by_relay.items()}
        best = min((medians[name] for name in names[1:]), default=None)
        ratio = "-" if best is None else f"{medians[names[0]] / best:.2f}"
        rows.append([load, *(f"{medians[name]:.3f}" for name in names), ratio])
    print("\n".join(f"{name}: {value}" for name, value in machine.items()))
    print(f"groups: {groups}; {options.runs} runs, {options.gib:g} GiB each, {options.handshakes} handshakes")
    for line in missing:
        print(f"not measured: {line}")
    print("CPU seconds per GiB; handshakes: CPU milliseconds each; medians\n")
    print(markdown(["load", *names, "ours / best peer"], rows))
    if options.json:
        options.json.write_text(json.dumps({"machine": machine, "groups": groups, "cpu": results}, indent=1))


def free_ports(count: int) -> list[int]:
    """Return ports that were free a moment ago; peers take no port of 0."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [server.getsockname()[1] for server in sockets]
    for server in sockets:
        server.close()
    return ports


if __name__ == "__main__":
    main()
