"""What connections cost beside their bytes: resumption, bytes of a handshake, idle memory, latency, workers.

    python benchmarks/connections.py [--peers-root DIR] [--idle N] [--handshakes N] [--quick]

Beside nginx, HAProxy and stunnel where they are found, with the same certificates and group as `relay.py`; and aiohttp
over the library's own context beside aiohttp without TLS, in this process.
"""

import argparse
import asyncio
import contextlib
import resource
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import aiohttp
import psutil
from aiohttp import web
from relay import free_ports
from support.load import Client, plain_server
from support.machine import describe, markdown
from support.relays import Relay, start_ours, start_peers

from certs.authority import Authority
from pqfl_transport.tls import client_context, server_context

URI = "spiffe://bench/gateway/hub"
KIB, MIB = 1 << 10, 1 << 20
BODY = bytes(MIB)


def main() -> None:
    """Measure one thing after the other, print a table of each."""
    options = parse()
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    print("\n".join(f"{name}: {value}" for name, value in describe().items()), "\n")
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pqfl-bench-")))
        authority = Authority.create(folder / "ca", federation="bench")
        authority.issue(profile="gateway", name="hub", out=folder / "gateway", hosts=["localhost"])
        authority.issue(profile="site", name="site", out=folder / "site")
        target = stack.enter_context(plain_server())
        ports = dict(zip(("ours", "resuming", "two", "nginx", "HAProxy", "stunnel"), free_ports(6), strict=True))
        gateway = folder / "gateway"
        ours = start_ours(gateway, ports["ours"], target)
        resuming = start_ours(gateway, ports["resuming"], target, "--resume", "300", name="pqfl server, resuming")
        two = start_ours(gateway, ports["two"], target, "--workers", "2", name="pqfl server, 2 workers")
        peers, missing = start_peers(options.peers_root, gateway, ports, target)
        for relay in (ours, resuming, two, *peers):
            stack.callback(relay.end)
        if options.peers_root is not None:
            for left in (options.peers_root / "tmp").glob("pqfl-bench-*"):
                stack.callback(shutil.rmtree, left, ignore_errors=True)
        for line in missing:
            print(f"not measured: {line}")
        client = Client(folder / "site", URI)
        handshakes(client, Client(folder / "site", URI, resume_seconds=300), [ours, *peers], resuming, two, options)
        latency(client, [ours, *peers], options)
        idle(client, [ours, *peers], options)
        asyncio.run(context(folder, options))


def parse() -> argparse.Namespace:
    """Read the options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--peers-root", type=Path, help="root of a system with OpenSSL 3.5 in which the peers are")
    parser.add_argument("--idle", type=int, default=2000, help="idle connections")
    parser.add_argument("--handshakes", type=int, default=200)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="one short run, to see that it works")
    options = parser.parse_args()
    if options.quick:
        options.idle, options.handshakes, options.runs = 100, 20, 1
    return options


def handshakes(
    client: Client, resumer: Client, relays: list[Relay], resuming: Relay, two: Relay, options: argparse.Namespace
) -> None:
    """Full and resumed handshakes, with one worker and two, and the bytes of a full one."""
    loads: list[tuple[str, Relay, Client]] = [(relay.name, relay, client) for relay in relays]
    loads += [(resuming.name, resuming, resumer), (two.name, two, client)]
    found: dict[str, list[float]] = {name: [] for name, _, _ in loads}
    resumer.ping(resuming.port)
    for _ in range(options.runs):
        for name, relay, by in loads:
            found[name].append(cpu_ms(relay, lambda by=by, relay=relay: by.ping(relay.port), options.handshakes))
    medians = {name: statistics.median(values) for name, values in found.items()}
    reference = medians.get("nginx", medians[relays[0].name])
    rows = [[name, f"{ms:.2f}", f"{ms / reference:.2f}"] for name, ms in medians.items()]
    print(markdown(["handshake and connection", "CPU ms", "/ nginx, full"], rows))
    shares = [process.cpu_times().user for process in psutil.Process(two.process.pid).children()]
    print(f"\nshare of the busier of two workers: {max(shares) / sum(shares):.2f}")
    print(f"bytes of a full handshake, both ways: {client.handshake_bytes(relays[0].port):,}\n")


def cpu_ms(relay: Relay, action: Callable[[], None], count: int) -> float:
    """Return the relay's CPU milliseconds for each of so many actions."""
    before = relay.cpu_seconds()
    for _ in range(count):
        action()
    return (relay.cpu_seconds() - before) / count * 1000


def latency(client: Client, relays: list[Relay], options: argparse.Namespace) -> None:
    """1 KiB there and back on an open connection."""
    seconds: dict[str, list[float]] = {relay.name: [] for relay in relays}
    for _ in range(options.runs):
        for relay in relays:
            seconds[relay.name] += client.echo(relay.port, 20 * options.handshakes, KIB)
    rows = []
    for name, values in seconds.items():
        cuts = statistics.quantiles(values, n=100)
        rows.append([name, f"{cuts[49] * 1e6:.0f}", f"{cuts[98] * 1e6:.0f}"])
    print(markdown(["1 KiB and back, open connection", "p50 µs", "p99 µs"], rows), "\n")


def idle(client: Client, relays: list[Relay], options: argparse.Namespace) -> None:
    """Memory of connections that carried a byte and then nothing."""
    rows = []
    for relay in relays:
        client.ping(relay.port)
        figures, held = [relay.memory_bytes()], []
        for part in (options.idle // 2, options.idle):
            while len(held) < part:
                held.append(client.hold(relay.port))
            # What is given back is given back a moment later.
            time.sleep(4)
            figures.append(relay.memory_bytes())
        half, whole = (figure - figures[0] for figure in figures[1:])
        rows.append([relay.name, f"{half / KIB / (len(held) // 2):.0f}", f"{whole / KIB / len(held):.0f}"])
        for _, connection in held:
            connection.close()
    print(markdown([f"KiB an idle connection, of {options.idle:,}", "at half", "at all"], rows), "\n")


async def context(folder: Path, options: argparse.Namespace) -> None:
    """Move bytes from an aiohttp server to an aiohttp client in this process, with our context and without TLS."""
    count = 256 if not options.quick else 16

    async def send(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(count):
            await response.write(BODY)
        return response

    app = web.Application()
    app.add_routes([web.get("/", send)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    ours = [folder / "gateway" / name for name in ("tls.pem", "tls.key", "ca.pem")]
    theirs = [folder / "site" / name for name in ("tls.pem", "tls.key", "ca.pem")]
    server = server_context(ours[0], ours[1], ours[2], allow_all=True)
    client = client_context(theirs[0], theirs[1], theirs[2], verify_uri=URI)
    plain, sealed = free_ports(2)
    await web.TCPSite(runner, "127.0.0.1", plain).start()
    await web.TCPSite(runner, "127.0.0.1", sealed, ssl_context=server).start()
    speeds: dict[str, list[float]] = {"plain HTTP": [], "our context": []}
    for _ in range(options.runs):
        for name, url in (
            ("plain HTTP", f"http://127.0.0.1:{plain}/"),
            ("our context", f"https://127.0.0.1:{sealed}/"),
        ):
            async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=client)) as session:
                begin = time.perf_counter()
                async with session.get(url) as answer:
                    async for _piece in answer.content.iter_any():
                        pass
                speeds[name].append(count / (time.perf_counter() - begin))
    await runner.cleanup()
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    rows = [[name, f"{speed:.0f}", f"{speed / medians['plain HTTP']:.2f}"] for name, speed in medians.items()]
    print(markdown(["aiohttp to aiohttp, one process", "MiB/s", "/ plain"], rows))


if __name__ == "__main__":
    main()
