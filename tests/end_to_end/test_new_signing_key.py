"""A site and the aggregator get new signing keys, and rounds go on before, during and after the overlap."""

import asyncio
import json
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from pqfl.demo.processes import Crew, Process
from pqfl_transport.client import FederatedClient, RoundInfo
from pqfl_transport.content.recipients import ReceivingKey
from pqfl_transport.crypto.pyca import SigningKey
from pqfl_transport.participant import Participant
from pqfl_transport.pki.keystore import load_signing_identity
from pqfl_transport.pki.membership import load_membership
from pqfl_transport.pki.spiffe import Role
from tests.end_to_end.test_enrolment import start_hub
from tests.support.aggregators import start_aggregator, write_config
from tests.support.commands import good
from tests.support.pki import Federation, make_federation
from tests.support.rekeying import name_next
from tests.support.rounds import current_round, make_update, put
from tests.support.sidecars import START_SECONDS, Running, identity, start, start_client

MODEL = {"w": np.zeros(6, np.float32), "b": np.zeros(3, np.float32)}
ROUNDS = 6
ROOT = Path(__file__).resolve().parents[2]
# Dies right after the link to the files was turned to the new ones: the swap is done, and nothing is tidied up.
KILLED = """
import os, signal
from pqfl.cli import clean_environment, main
clean_environment(None)
from pqfl_transport.pki import swapping
turn = swapping._point
def turn_and_die(link, target):
    turn(link, target)
    if link.name == "current" and target != "0001":
        os.kill(os.getpid(), signal.SIGKILL)
swapping._point = turn_and_die
main()
"""


@dataclass(frozen=True, slots=True)
class Scene:
    """A federation at work; everybody has a roster file of their own."""

    federation: Federation
    rosters: Path
    hub: str
    aggregator: Process
    url: str
    """Of the aggregator itself, where south goes."""
    gateway: Running
    sidecar: Running

    def give(self, *names: str) -> None:
        """Give the present roster to these, and let the services read it."""
        for name in names:
            shutil.copyfile(self.federation.roster, self.rosters / f"{name}.json")
        for name, process in (("aggregator", self.aggregator), ("gateway", self.gateway.process)):
            if name in names:
                psutil.Process(process.pid).send_signal(signal.SIGHUP)
                # The aggregator says what it has read again, one line each; the gateway says that it has.
                done = process.wait_for(
                    lambda line: line.get("event") == "reload" and line.get("what") in {None, "roster"}
                    and line["result"] != "unchanged", START_SECONDS,
                )  # fmt: skip
                assert done["result"] == "ok", done

    def renew(self, name: str) -> dict[str, Any]:
        """Type `pqfl renew` for a party's folder."""
        facts: dict[str, Any] = json.loads(good(*self.renewal(name), "--json"))
        return facts

    def renewal(self, name: str) -> tuple[str, ...]:
        """The words of that command."""
        return "renew", "--identity", str(self.folder(name)), "--hub", self.hub

    def folder(self, name: str) -> Path:
        """A party's identity."""
        return self.federation.aggregator if name == "aggregator" else self.federation.site(name)

    def signer(self) -> str:
        """Which key the present round document is signed with."""
        with urllib.request.urlopen(f"{self.url}/v1/rounds/current?nonce={'a' * 32}") as answer:  # noqa: S310
            document: dict[str, str] = json.load(answer)
        return document["signer"]

    def client(self, name: str) -> FederatedClient:
        """A site's own program."""
        url = self.url if name == "south" else f"http://{self.sidecar.target}"
        roster = self.rosters / f"{name}.json"
        return FederatedClient(url, identity_dir=self.folder(name), roster_path=roster, retry_seconds=20)


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    federation, rosters = make_federation(tmp_path / "fed", sites=("north", "south")), tmp_path / "rosters"
    rosters.mkdir()
    for name in ("aggregator", "gateway", "north", "south"):
        shutil.copyfile(federation.roster, rosters / f"{name}.json")
    config = write_config(
        federation, tmp_path, listen="127.0.0.1:0", model=MODEL, count=ROUNDS, quorum=2, deadline_seconds=60
    )
    config.write_text(config.read_text().replace(str(federation.roster), str(rosters / "aggregator.json")))
    with Crew(tmp_path) as crew:
        _, hub = start_hub(crew, federation)
        aggregator, address = start_aggregator(crew, config)
        gateway = start(
            crew, "gateway", "server", "--target", address, *identity(federation.gateway), "--allow-all", "--mode",
            "http", "--profile", "aggregator", "--roster", str(rosters / "gateway.json"),
        )  # fmt: skip
        sidecar = start_client(crew, federation, gateway.target)
        yield Scene(federation, rosters, hub, aggregator, f"http://{address}", gateway, sidecar)


def key_of(folder: Path, name: str = "signing") -> SigningKey:
    return load_signing_identity(folder, name=name).key


def fingerprint(key: SigningKey) -> str:
    return key.verifying_key.fingerprint.hex()


async def play(*clients: FederatedClient) -> list[RoundInfo]:
    """Let these sites take part in the next round."""

    async def one(client: FederatedClient) -> RoundInfo:
        info = await client.join()
        weights: Any = await client.fetch(info)
        assert await client.submit(info, {name: array + 1 for name, array in weights.items()}, 10)
        return info

    return await asyncio.gather(*(one(client) for client in clients))


async def refused_update(scene: Scene, key: SigningKey) -> tuple[str, str]:
    """Send a good update under this key: to the gateway and to the aggregator; return the reasons."""
    folder = scene.folder("north")
    member = load_membership(folder, scene.federation.ca_pem, scene.federation.roster, role=Role.SITE)
    site = Participant(member, ReceivingKey.from_pem((folder / "receiving.key").read_bytes()))
    update = make_update(await current_round(scene.url, site), site, delta=dict(MODEL), key=key)
    answers = [await put(url, update) for url in (f"http://{scene.sidecar.target}", scene.url)]
    assert [status for status, _ in answers] == [403, 403]
    return answers[0][1]["reason"], answers[1][1]["reason"]


def test_rounds_go_on_while_signing_keys_are_replaced(scene: Scene) -> None:
    """Nobody waits for anybody's roster as long as the former keys count; afterwards they are refused."""
    parties = ("north", "aggregator")
    former = {name: key_of(scene.folder(name)) for name in parties}
    with ThreadPoolExecutor() as threads:
        renewed = list(threads.map(scene.renew, parties))
    assert [one["took_over"] for one in renewed] == [False, False]
    following = {name: key_of(scene.folder(name), "signing-next") for name in parties}

    async def story() -> None:
        async with scene.client("north") as north, scene.client("south") as south:
            await play(north, south)
            name_next(scene.federation, former_until=int(time.time()) + 3600)
            await asyncio.to_thread(scene.give, "aggregator")
            # The second round was open; the third has the new roster, of which both sites and the gateway know nothing.
            (first, _), (second, _) = await play(north, south), await play(north, south)
            assert second.document.roster_number == first.document.roster_number + 1
            await asyncio.to_thread(scene.give, "north")
            # Now south and the gateway know nothing of it.
            await play(north, south)
            assert await asyncio.to_thread(scene.signer) == fingerprint(former["aggregator"])
            name_next(scene.federation, former_until=0)
            await asyncio.to_thread(scene.give, "aggregator", "gateway", "north", "south")
            assert await asyncio.to_thread(scene.signer) == fingerprint(following["aggregator"])
            # This round was open too, and ends under the new keys.
            await play(north, south)
            reasons = await refused_update(scene, former["north"])
            assert reasons == ("wrong_sender_key", "wrong_sender_key")
            await asyncio.to_thread(require_taken_over_though_killed, scene, following["north"])
            async with scene.client("north") as again:
                await play(again, south)
                last = await again.join()
                assert last.is_finished
                model: Any = await again.fetch(last)
                assert np.allclose(model["w"], MODEL["w"] + ROUNDS)

    asyncio.run(asyncio.wait_for(story(), 120))


def require_taken_over_though_killed(scene: Scene, key: SigningKey) -> None:
    """Kill `pqfl renew` in the middle of the step; what is left works, and renewing it works."""
    command = [sys.executable, "-c", KILLED, *scene.renewal("north")]
    killed = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, timeout=START_SECONDS)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    folder = scene.folder("north")
    assert fingerprint(key_of(folder)) == fingerprint(key)
    load_membership(folder, scene.federation.ca_pem, scene.federation.roster, role=Role.SITE)
    assert scene.renew("north")["signing"]["signing_fingerprint"] == fingerprint(key)
    assert fingerprint(key_of(folder)) == fingerprint(key)
