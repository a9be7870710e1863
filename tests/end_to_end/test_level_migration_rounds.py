"""A federation with rounds moves from ML-DSA-44 to ML-DSA-65: sidecars move by themselves, and no round is lost."""

import asyncio
import shutil
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
import pytest

from certs.service import OwnIdentity
from pqfl.demo.processes import Crew, Process
from pqfl_transport.client import FederatedClient
from pqfl_transport.pki import chain, keystore
from pqfl_transport.pki.ruling import load_policy
from tests.end_to_end.test_level_migration import BOTH, HIGH, MOVING, Party, start_hub
from tests.support.aggregators import start_aggregator, write_config
from tests.support.commands import good
from tests.support.enrolment import serving
from tests.support.pki import Federation, make_federation
from tests.support.sidecars import START_SECONDS
from tests.support.waiting import wait_until

SITES = ("bank-a", "bank-b")
ROUNDS = 2
"""Of the run before the move, and of the one after it."""
MINUTES = 180.0
"""A certificate of one minute is renewed within it, and what a busy machine takes."""


@dataclass(slots=True)
class Scene:
    """Sidecars with keys of their own, an aggregator behind the gateway, and FL clients that sign."""

    crew: Crew
    federation: Federation
    folder: Path
    hub: str
    sidecars: list[Party] = field(default_factory=list)
    aggregator: Process | None = None
    address: str = "127.0.0.1:0"
    model: np.ndarray = field(default_factory=lambda: np.zeros(3))
    """What the last round made."""

    def start_aggregator(self, policy: str) -> None:
        """Begin a run under this line, with the model of the run before, where it was before if it was."""
        run = self.folder / f"run-{policy.split(maxsplit=1)[0]}"
        run.mkdir()
        config = write_config(
            self.federation, run, listen=self.address, model={"w": self.model}, count=ROUNDS, quorum=2,
            deadline_seconds=300,
        )  # fmt: skip
        config.write_text(f"{config.read_text()}\n{policy}\n")
        self.aggregator, self.address = start_aggregator(self.crew, config)

    def start_sidecars(self) -> None:
        """A folder with the TLS key alone for each, certified for a minute, and nobody looks after them."""
        for name, identity in (("gateway", self.federation.gateway), *((n, self.federation.site(n)) for n in SITES)):
            own = self.folder / f"sidecar-{name}"
            own.mkdir()
            for file in ("tls.pem", "tls.key", "ca.pem"):
                shutil.copy2(identity / file, own / file)
            good("renew", "--identity", own, "--hub", self.hub, "--policy", MOVING)
            words, kind = f'renew = "{self.hub}"\n', "client"
            if name == "gateway":
                kind, words = "server", f'{words}target = "{self.address}"\nallow-all = true'
            else:
                words += f'target = "{self.sidecars[0].running.target}"\nverify-uri = ["{self.federation.gateway_uri}"]'
            party = Party(own, kind, words)
            party.configure(BOTH)
            party.start(self.crew)
            self.sidecars.append(party)

    def give_authorities(self) -> None:
        """Give ca.pem to everybody; sidecars and aggregator take it on."""
        homes = [self.federation.aggregator, *map(self.federation.site, SITES), *(one.folder for one in self.sidecars)]
        for home in homes:
            keystore.write_public(home / "ca.pem", self.federation.ca_pem.read_bytes())
        for party in self.sidecars:
            psutil.Process(party.running.process.pid).send_signal(signal.SIGHUP)
        assert self.aggregator is not None
        psutil.Process(self.aggregator.pid).send_signal(signal.SIGHUP)

    def have(self, algorithm: str) -> bool:
        """Whether every sidecar's certificate is of this kind."""
        return all(
            chain.key_algorithm_name(keystore.read_certificate_file(party.folder / "tls.pem")) == algorithm
            for party in self.sidecars
        )

    def play(self, numbers: Sequence[int], policy: str | None) -> None:
        """Let both sites take part in these rounds, through their sidecars."""
        asyncio.run(self._play(numbers, policy))

    async def _play(self, numbers: Sequence[int], policy: str | None) -> None:
        clients = [
            FederatedClient(
                f"http://{party.running.target}", identity_dir=self.federation.site(name),
                roster_path=self.federation.roster, policy=policy, retry_seconds=60.0,
            )
            for name, party in zip(SITES, self.sidecars[1:], strict=True)
        ]  # fmt: skip
        async with clients[0], clients[1]:
            for number in numbers:
                for site in clients:
                    info = await site.join()
                    assert info.number == number
                    base = await site.fetch(info)
                    assert isinstance(base, dict)
                    assert await site.submit(info, {"w": base["w"] + 1}, samples=1)
            model = await clients[0].fetch(await clients[0].join())
            assert isinstance(model, dict)
            self.model = np.asarray(model["w"])


def hang_up(process: Process) -> None:
    psutil.Process(process.pid).send_signal(signal.SIGHUP)
    assert process.wait_for(lambda line: line.get("event") == "reload", START_SECONDS)["result"] == "ok"


def renew_signing_keys(federation: Federation) -> None:
    """At a service whose certificates last: a signing certificate of a minute would end in the middle of a round."""
    policy = load_policy(str(MOVING))
    with serving(federation, policy=policy, tls=OwnIdentity(federation.authority, policy=policy).load()) as service:
        for folder in (federation.aggregator, *map(federation.site, SITES)):
            good("renew", "--identity", folder, "--hub", service.address, "--policy", MOVING)


@pytest.mark.slow
def test_rounds_before_and_after_with_sidecars_that_move_by_themselves(tmp_path: Path) -> None:
    """Only signing keys need a command and the root; rounds wait from the first of these to the new roster."""
    federation = make_federation(tmp_path / "fed", level="standard", sites=SITES)
    ca = federation.ca
    with Crew(tmp_path) as crew:
        hub, address = start_hub(crew, ca, "--policy", str(MOVING), "--validity", "60s")
        scene = Scene(crew, federation, tmp_path, address)
        scene.start_aggregator(f'policy = "{MOVING}"')
        scene.start_sidecars()
        scene.play([1], str(MOVING))
        good("ca", "rotate", "issuing", "--dir", ca, "--level", "high", "--announce")
        scene.give_authorities()
        good("ca", "rotate", "issuing", "--dir", ca)
        hang_up(hub)
        wait_until(lambda: scene.have("ML-DSA-65"), "every sidecar to have renewed by itself", seconds=MINUTES)
        # Everybody's TLS has moved, and content goes on as it was.
        scene.play([2], str(MOVING))
        begun = time.monotonic()
        renew_signing_keys(federation)
        good("ca", "roster", "sign", "--dir", ca, "--yes")
        good("ca", "roster", "sign", "--dir", ca, "--level", "high", "--yes")
        assert scene.aggregator is not None
        scene.aggregator.end()
        scene.start_aggregator('level = "high"')
        paused_seconds = time.monotonic() - begun
        for party in scene.sidecars:
            party.configure(HIGH)
        scene.play([1], None)
        good("ca", "retire", "--dir", ca)
        scene.give_authorities()
        scene.play([2], None)
        # Three renewals, two signatures of the root and a start: the commands, and nothing that anybody waits for.
        assert paused_seconds < MINUTES
    # No update of the four rounds is missing.
    np.testing.assert_array_equal(scene.model, np.full(3, 2.0 * ROUNDS))
