"""The life of a site: it joins, trains, renews under load, is revoked and thrown out, and all processes are real."""

import asyncio
import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pqfl.demo.processes import Crew
from pqfl_transport.client import FederatedClient, RoundInfo
from pqfl_transport.errors import PqflError
from tests.end_to_end.test_enrolment import renewals, start_hub, start_joined, token_for
from tests.support.aggregators import start_aggregator, write_config
from tests.support.commands import good
from tests.support.pki import Federation, make_federation
from tests.support.sidecars import Running, identity, start

MODEL = {"w": np.zeros((2048, 1024), np.float32)}


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    return make_federation(tmp_path / "federation", sites=())


@pytest.fixture
def crew(tmp_path: Path) -> Iterator[Crew]:
    (tmp_path / "logs").mkdir()
    with Crew(tmp_path / "logs") as processes:
        yield processes


def start_gateway(crew: Crew, federation: Federation, target: str, crl_url: str, folder: Path) -> Running:
    return start(
        crew, "gateway", "server", "--target", target, *identity(federation.gateway), "--allow-all", "--mode", "http",
        "--profile", "aggregator", "--roster", str(federation.roster), "--crl", str(folder / "crl.pem"), "--crl-url",
        crl_url, "--crl-poll", "1s", "--bytes-per-second-per-peer", "4M",
    )  # fmt: skip


def train(weights: Any, _round: RoundInfo) -> Any:
    return {name: array + array.dtype.type(1) for name, array in weights.items()}, 10


async def take_part(url: str, folder: Path, roster: Path) -> Any:
    async with FederatedClient(url, identity_dir=folder, roster_path=roster, retry_seconds=20) as client:
        return await client.run(train)


async def send_until_thrown_out(url: str, folder: Path, roster: Path, begun: asyncio.Event) -> PqflError:
    """Begin an upload that takes seconds, and return what ended it."""
    async with FederatedClient(url, identity_dir=folder, roster_path=roster, retry_seconds=3) as client:
        info = await client.join()
        weights = await client.fetch(info)
        begun.set()
        with pytest.raises(PqflError) as caught:
            await client.submit(info, train(weights, info)[0], 10)
        return caught.value


def test_a_site_joins_trains_renews_and_is_thrown_out(federation: Federation, tmp_path: Path, crew: Crew) -> None:
    """One token, one roster, one round; certificates of a minute; and a revocation in the middle of an upload."""
    west = tmp_path / "west"
    good("ca", "crl", "--dir", federation.ca, "--out", tmp_path / "crl.pem")
    hub, address = start_hub(crew, federation, "--validity", "60s", "--gateway", "127.0.0.1:1")
    good("join", "--token", token_for(federation, "west"), "--hub", address, "--out", west)
    good("ca", "roster", "sign", "--yes", "--dir", federation.ca)

    config = write_config(
        federation, tmp_path, listen=f"unix:{tmp_path}/aggregator.sock", model=MODEL, count=2, deadline_seconds=300
    )
    _, target = start_aggregator(crew, config)
    gateway = start_gateway(crew, federation, target, f"https://{address}/v1/crl", tmp_path)
    text = (west / "sidecar.toml").read_text().replace("127.0.0.1:1", gateway.target)
    (west / "sidecar.toml").write_text(text)
    sidecar = start_joined(crew, west)

    async def story() -> None:
        url = f"http://{sidecar.target}"
        async with FederatedClient(url, identity_dir=west, roster_path=federation.roster, retry_seconds=20) as client:
            info = await client.join()
            assert await client.submit(info, train(await client.fetch(info), info)[0], 10)
        until = time.monotonic() + 120
        while await asyncio.to_thread(renewals, sidecar) < 1:
            assert time.monotonic() < until
        begun = asyncio.Event()
        sending = asyncio.create_task(send_until_thrown_out(url, west, federation.roster, begun))
        await begun.wait()
        # Not by a command: on a busy machine its start can take longer than the upload.
        await asyncio.to_thread(federation.authority.revoke, "west", "keyCompromise")
        await asyncio.to_thread(federation.authority.make_crl)
        await asyncio.to_thread(gateway.wait_for, "connection", reason="revoked")
        await sending

    asyncio.run(asyncio.wait_for(story(), 240))
    # And nobody lets it in again.
    with contextlib.suppress(ConnectionResetError), sidecar.connect() as connection:
        connection.sendall(b"GET /v1/status HTTP/1.1\r\nHost: x\r\n\r\n")
        assert connection.recv(1) == b""
    hub.end()
