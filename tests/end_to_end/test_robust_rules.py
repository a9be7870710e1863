"""One site of five sends its changes times a thousand, through real processes: the mean is ruined, other rules hold."""

import asyncio
import json
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pqfl.demo.processes import Crew
from pqfl_transport.audit import verify_audit_log
from pqfl_transport.client import FederatedClient, RoundInfo
from tests.support.aggregators import start_aggregator, write_config
from tests.support.pki import Federation, make_federation
from tests.support.sidecars import start_client, start_server

SITES = ("bank-a", "bank-b", "bank-c", "bank-d", "bank-e")
POISONER = "bank-c"
GOAL = np.linspace(-1, 1, 50, dtype=np.float32)
START = {"w": np.zeros_like(GOAL)}
ROUNDS = 3


@dataclass(frozen=True, slots=True)
class Way:
    """A gateway in front of where the aggregator will listen, and a sidecar for each site."""

    federation: Federation
    listen: str
    urls: dict[str, str]


@pytest.fixture(scope="module")
def way(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Way]:
    folder = tmp_path_factory.mktemp("way")
    federation, listen = make_federation(folder, sites=SITES), f"unix:{folder}/hub.sock"
    (folder / "logs").mkdir()
    with Crew(folder / "logs") as crew:
        gateway = start_server(crew, federation, listen)
        sidecars = {
            name: start_client(crew, federation, gateway.target, folder=federation.site(name), name=name)
            for name in SITES
        }
        urls = {name: f"http://{sidecar.target}" for name, sidecar in sidecars.items()}
        yield Way(federation, listen, urls)


async def take_part(way: Way, name: str) -> Any:
    """Learn half of the way to the goal in every round; the poisoner claims a thousand times that."""

    def train(weights: Any, _round: RoundInfo) -> Any:
        step = (GOAL - weights["w"]) / 2
        return {"w": weights["w"] + (1000 * step if name == POISONER else step)}, 10

    async with FederatedClient(
        way.urls[name], identity_dir=way.federation.site(name), roster_path=way.federation.roster, retry_seconds=20
    ) as client:
        return await client.run(train)


async def run_all(way: Way) -> list[Any]:
    return list(await asyncio.wait_for(asyncio.gather(*(take_part(way, name) for name in SITES)), 60))


def run(way: Way, folder: Path, rule: str) -> tuple[float, Any, list[dict[str, Any]]]:
    """Run all rounds; return the last model's error, what the status says of the rule, and what the audit log does."""
    config = write_config(
        way.federation, folder, listen=way.listen, model=START, count=ROUNDS, quorum=5, deadline_seconds=120, more=rule
    )
    (folder / "logs").mkdir()
    with Crew(folder / "logs") as crew:
        aggregator, _ = start_aggregator(crew, config)
        models = asyncio.run(run_all(way))
        with urllib.request.urlopen(f"{way.urls[POISONER]}/v1/status") as answer:  # noqa: S310 -- a process of this test
            status = json.load(answer)["rule"]
        aggregator.end()
    assert all(np.array_equal(model["w"], models[0]["w"]) for model in models)
    verify_audit_log(folder / "audit.jsonl", None)
    lines = [json.loads(line) for line in (folder / "audit.jsonl").read_text().splitlines()]
    combined = [line["facts"] for line in lines if line["kind"] == "round" and line["facts"]["move"] == "combined"]
    return float(np.abs(models[0]["w"] - GOAL).max()), status, combined


def test_the_mean_is_ruined(way: Way, tmp_path: Path) -> None:
    """One site of five has the model where it wants it."""
    error, status, combined = run(way, tmp_path, "")
    assert error > 1000
    assert (status, combined) == ({"name": "fedavg"}, [])


def test_the_trimmed_mean_holds(way: Way, tmp_path: Path) -> None:
    """Each round halves what is left, as if everybody were honest."""
    error, status, combined = run(way, tmp_path, 'rule = "trimmed-mean"\ntrim = 0.2')
    assert error == pytest.approx(0.5**ROUNDS, rel=1e-5)
    assert status == {"name": "trimmed-mean", "round": ROUNDS, "updates": 5, "cut": 1}
    assert [facts["cut"] for facts in combined] == [1] * ROUNDS


def test_multi_krum_holds_and_names_the_poisoner_to_the_aggregator_alone(way: Way, tmp_path: Path) -> None:
    """Every round's audit line has it among those that were left out; sites see how many they were."""
    error, status, combined = run(way, tmp_path, 'rule = "multi-krum"\nbyzantine = 1')
    assert error == pytest.approx(0.5**ROUNDS, rel=1e-5)
    assert status == {"name": "multi-krum", "round": ROUNDS, "updates": 5, "left_out": 3}
    assert len(combined) == ROUNDS
    assert all(way.federation.site_uri(POISONER) in facts["left_out"] for facts in combined)
