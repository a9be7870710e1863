"""Interrupted uploads go on where they stopped, through sidecar, gateway and aggregator, all real processes."""

import asyncio
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pqfl.demo.processes import Crew, Process
from pqfl_transport import exchange
from pqfl_transport.client import FederatedClient, RoundInfo
from tests.support.aggregators import start_aggregator, write_config
from tests.support.pki import Federation, make_federation
from tests.support.sidecars import Running, identity, start, start_client

MODEL = {"w": np.zeros((4096, 1024), np.float32), "b": np.arange(3.0)}
UPDATE_BYTES = 16 << 20

# A site whose network stops in the middle of its upload, with a spool; it is killed there.
_SITE = """
import asyncio, json, sys
from pqfl_transport import exchange
from pqfl_transport.client import FederatedClient
url, identity, roster, spool, stop = sys.argv[1:]
slices = exchange._slices

async def most(data):
    sent = 0
    async for piece in slices(data):
        if sent >= len(data) * 3 // 4:
            print(json.dumps({"event": "stopped", "bytes": sent}), flush=True)
            await asyncio.Event().wait()
        sent += len(piece)
        yield piece

if stop == "yes":
    exchange._slices = most

def train(weights, info):
    print(json.dumps({"event": "trained", "round": info.number}), flush=True)
    return {name: array + 1 for name, array in weights.items()}, 10

async def main():
    async with FederatedClient(url, identity_dir=identity, roster_path=roster, spool_dir=spool) as client:
        await client.run(train)
        print(json.dumps({"event": "done", "sent": client.report.bytes_sent}), flush=True)

asyncio.run(main())
"""


@dataclass(frozen=True, slots=True)
class Deployment:
    """An aggregator behind a gateway that checks updates."""

    federation: Federation
    folder: Path
    crew: Crew
    aggregator: Process
    gateway: Running


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return make_federation(tmp_path_factory.mktemp("federation"), sites=("bank-a",))


@pytest.fixture
def deployment(federation: Federation, tmp_path: Path) -> Iterator[Deployment]:
    (tmp_path / "logs").mkdir()
    config = write_config(
        federation, tmp_path, listen=f"unix:{tmp_path}/aggregator.sock", model=MODEL, deadline_seconds=120
    )
    with Crew(tmp_path / "logs") as crew:
        aggregator, address = start_aggregator(crew, config)
        gateway = start(
            crew, "gateway", "server", "--target", address, *identity(federation.gateway),
            "--allow-all", "--mode", "http", "--profile", "aggregator", "--roster", str(federation.roster),
        )  # fmt: skip
        yield Deployment(federation, tmp_path, crew, aggregator, gateway)


def start_site(deployment: Deployment, url: str, name: str, *, stop: bool) -> Process:
    federation, spool = deployment.federation, deployment.folder / "spool"
    files = (federation.site("bank-a"), federation.roster, spool)
    return deployment.crew.start(name, "-c", _SITE, url, *map(str, files), "yes" if stop else "no")


def test_a_site_that_was_killed_in_the_middle_goes_on_after_its_restart(deployment: Deployment) -> None:
    """The next process finds the stored update, sends what is missing of it, and trains nothing again."""
    sidecar = start_client(deployment.crew, deployment.federation, deployment.gateway.target)
    url = f"http://{sidecar.target}"
    killed = start_site(deployment, url, "killed", stop=True)
    killed.wait_for(lambda line: line.get("event") == "stopped", 60)
    os.kill(killed.pid, signal.SIGKILL)
    spooled = list((deployment.folder / "spool").iterdir())
    assert [path.suffix for path in spooled] == [".pqfl"]
    assert spooled[0].stat().st_size > UPDATE_BYTES

    again = start_site(deployment, url, "again", stop=False)
    seen: list[Any] = []
    done = again.wait_for(lambda line: seen.append(line) or line.get("event") == "done", 60)
    assert [line for line in seen if line.get("event") == "trained"] == []
    # What had arrived is not sent again.
    assert 0 < done["sent"] < UPDATE_BYTES
    deployment.aggregator.wait_for(lambda line: line.get("event") == "model" and line.get("version") == 1, 20)
    assert list((deployment.folder / "spool").iterdir()) == []


def test_a_sidecar_that_was_killed_in_the_middle_costs_what_was_under_way(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The site asks its new sidecar how far it is, and brings the rest; the update counts once."""
    federation = deployment.federation
    sidecar = start_client(deployment.crew, federation, deployment.gateway.target)
    replaced: list[Running] = []
    slices = exchange._slices

    async def interrupted(data: memoryview) -> Any:
        sent = 0
        async for piece in slices(data):
            if sent >= len(data) * 3 // 4 and not replaced:
                os.kill(sidecar.process.pid, signal.SIGKILL)
                # On the loop: what waits here would be cancelled as soon as the connection is found to be lost.
                replaced.append(restart())
            sent += len(piece)
            yield piece

    def restart() -> Running:
        # The same address as before: to the FL client it is one sidecar.
        words = ("client", "--target", deployment.gateway.target, *identity(federation.site("bank-a")))
        sidecar.process.end()
        process = deployment.crew.start(
            "sidecar-again", "-m", "pqfl", *words, "--listen", sidecar.target, "--log-format", "json",
            "--verify-uri", federation.gateway_uri,
        )  # fmt: skip
        process.wait_for(lambda line: line.get("event") == "listening", 20)
        return Running(process, sidecar.address, "")

    monkeypatch.setattr(exchange, "_slices", interrupted)

    async def take_part() -> int:
        async with FederatedClient(
            f"http://{sidecar.target}", identity_dir=federation.site("bank-a"), roster_path=federation.roster
        ) as client:
            final = await client.run(train)
            assert isinstance(final, dict)
            assert all(np.allclose(final[name], array + 1) for name, array in MODEL.items())
            return client.report.bytes_sent

    sent = asyncio.run(asyncio.wait_for(take_part(), 120))
    assert replaced
    # Announced are the whole and then the rest, never the whole a second time.
    assert UPDATE_BYTES < sent < 2 * UPDATE_BYTES


def train(weights: Any, _round: RoundInfo) -> Any:
    return {name: array + array.dtype.type(1) for name, array in weights.items()}, 10
