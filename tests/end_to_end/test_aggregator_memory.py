"""What an aggregator holds in memory: the model and the update at hand, and not the updates of all sites."""

import asyncio
import json
import re
import secrets
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pqfl.demo.processes import Crew
from pqfl_transport.participant import RoundInfo
from tests.support.aggregators import start_aggregator, write_config
from tests.support.pki import Federation, make_federation
from tests.support.rounds import current_round, make_update, participant, put

SITES = tuple(f"site-{number:02}" for number in range(20))
UPDATE_BYTES = 50_000_000
WEIGHTS = {"w": np.zeros(UPDATE_BYTES // 4, np.float32)}
MEBIBYTE = 1 << 20


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return make_federation(tmp_path_factory.mktemp("federation"), sites=SITES)


@pytest.fixture
def crew(tmp_path: Path) -> Iterator[Crew]:
    (tmp_path / "logs").mkdir()
    with Crew(tmp_path / "logs") as made:
        yield made


def peak_bytes(pid: int) -> int:
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


@pytest.mark.slow
def test_twenty_updates_of_50_mb_are_not_in_memory(federation: Federation, tmp_path: Path, crew: Crew) -> None:
    """A gigabyte of updates is accepted and averaged within what the model and one update take."""
    config = write_config(
        federation, tmp_path, listen="127.0.0.1:0", model=WEIGHTS, quorum=20, deadline_seconds=600
    )  # fmt: skip
    process, address = start_aggregator(crew, config)
    url = f"http://{address}"

    async def submit_all() -> RoundInfo:
        for number, name in enumerate(SITES):
            site = participant(federation, name)
            info = await current_round(url, site)
            delta = {"w": np.full_like(WEIGHTS["w"], number)}
            assert (await put(url, make_update(info, site, delta=delta)))[0] == 201
        return await current_round(url, site)

    info = asyncio.run(asyncio.wait_for(submit_all(), 300))
    assert info.is_finished
    with urllib.request.urlopen(f"{url}/v1/models/1") as answer:  # noqa: S310 -- the address of a process of this test
        model = participant(federation, SITES[0])
        nonce = secrets.token_hex(16)
        with urllib.request.urlopen(f"{url}/v1/rounds/current?nonce={nonce}") as document:  # noqa: S310
            judged = model.judge(document.read(), nonce, time.time())
        weights = model.open_model(answer.read(), judged)
    assert isinstance(weights, dict)
    assert (weights["w"] == 9.5).all()
    peak = peak_bytes(process.pid)
    print(json.dumps({"peak_mib": peak // MEBIBYTE}))  # noqa: T201 -- what was measured is worth seeing
    assert peak < 10 * UPDATE_BYTES
