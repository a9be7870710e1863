"""Another issuing authority and another root, while an aggregator and a site go from round to round as they are."""

import asyncio
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

from pqfl.demo.processes import Crew, Process
from pqfl_transport.client import FederatedClient
from pqfl_transport.pki import keystore
from pqfl_transport.pki.chain import is_signed_by
from tests.support.aggregators import start_aggregator, write_config
from tests.support.commands import good, refused
from tests.support.enrolment import serving
from tests.support.pki import Federation, make_federation

ROUNDS = 5


@dataclass(frozen=True, slots=True)
class Scene:
    """A federation whose parties have their files by copying, as on machines of their own."""

    federation: Federation
    aggregator: Process
    url: str

    @property
    def homes(self) -> tuple[Path, ...]:
        """Everybody's folder."""
        return self.federation.aggregator, self.federation.gateway, self.federation.site("bank-a")

    def give(self, *names: str) -> None:
        """Give files of the authority to everybody."""
        ca = self.federation.ca
        for name in names:
            for folder in self.homes:
                keystore.write_public(folder / name, (ca / name).read_bytes())

    def tell(self, *what: str) -> None:
        """Send HUP, and wait until the aggregator has read everything and taken these on."""
        psutil.Process(self.aggregator.pid).send_signal(signal.SIGHUP)
        for name in what:
            self.aggregator.wait_for(
                lambda line, name=name: line.get("event") == "reload" and line.get("what") == name
                and line.get("result") == "ok", 20,
            )  # type: ignore[misc]  # fmt: skip

    def renew(self) -> None:
        """Let everybody renew their certificates."""
        with serving(self.federation) as service:
            for folder in self.homes:
                good("renew", "--identity", folder, "--hub", service.address)


def configure(federation: Federation, folder: Path) -> Path:
    config = write_config(
        federation, folder, listen="127.0.0.1:0", model={"w": np.zeros(3)}, count=ROUNDS, deadline_seconds=120
    )
    home = federation.aggregator
    text = config.read_text().replace(f'"{federation.roster}"', f'"{home / "roster.json"}"')
    lines = f'cacert = "{home / "ca.pem"}"\ncrl = "{home / "crl.pem"}"\n[model]'
    config.write_text(text.replace("[model]", lines))
    return config


async def play(scene: Scene, steps: list[Callable[[], None]]) -> np.ndarray:
    """Take part in a round, then in one after each of the steps, always with the same client."""
    home = scene.federation.site("bank-a")
    async with FederatedClient(
        scene.url, identity_dir=home, roster_path=home / "roster.json", crl_path=home / "crl.pem"
    ) as site:
        for number, step in enumerate([lambda: None, *steps], start=1):
            await asyncio.to_thread(step)
            info = await site.join()
            assert info.number == number
            base = await site.fetch(info)
            assert isinstance(base, dict)
            assert await site.submit(info, {"w": base["w"] + 1}, samples=1)
        last: Awaitable[object] = site.fetch(await site.join())
        model = await last
        assert isinstance(model, dict)
        return np.asarray(model["w"])


def test_rounds_go_on_through_both_rotations(tmp_path: Path) -> None:
    """Files are replaced and HUP is sent, in the order of certs/README.md; processes and client stay the same."""
    federation = make_federation(tmp_path / "fed", sites=("bank-a",))
    ca = federation.ca
    with Crew(tmp_path) as crew:
        good("ca", "crl", "--dir", ca)
        for name in ("ca.pem", "roster.json", "crl.pem"):
            for home in (federation.aggregator, federation.site("bank-a")):
                keystore.write_public(home / name, (ca / name).read_bytes())
        process, address = start_aggregator(crew, configure(federation, tmp_path))
        scene = Scene(federation, process, f"http://{address}")

        def another_issuing_authority() -> None:
            good("ca", "rotate", "issuing", "--dir", ca, "--announce")
            scene.give("ca.pem")
            scene.tell("authorities")
            good("ca", "rotate", "issuing", "--dir", ca)
            good("ca", "crl", "--dir", ca)
            scene.give("ca.pem", "crl.pem")
            scene.tell("revocations")

        def the_former_one_goes() -> None:
            scene.renew()
            # The roster names certificates of the former one, and whoever trusts it no more could not ask about them.
            assert "the roster" in refused("ca", "retire", "--dir", ca)
            good("ca", "roster", "sign", "--dir", ca, "--yes")
            scene.give("roster.json")
            scene.tell("roster")
            good("ca", "retire", "--dir", ca)
            good("ca", "crl", "--dir", ca)
            scene.give("ca.pem", "crl.pem")
            scene.tell("authorities", "revocations")

        def another_root() -> None:
            good("ca", "rotate", "root", "--dir", ca)
            good("ca", "crl", "--dir", ca)
            scene.give("ca.pem", "crl.pem")
            scene.tell("authorities", "revocations")
            good("ca", "roster", "sign", "--dir", ca, "--yes")
            scene.give("roster.json")
            scene.tell("roster")

        def the_former_root_goes() -> None:
            good("ca", "retire", "--dir", ca)
            scene.give("ca.pem")
            scene.tell("authorities")

        steps = [another_issuing_authority, the_former_one_goes, another_root, the_former_root_goes]
        assert len(steps) + 1 == ROUNDS
        np.testing.assert_array_equal(asyncio.run(play(scene, steps)), np.full(3, ROUNDS))
        scene.aggregator.end()
    issuing = keystore.load_certificate(ca / "issuing.pem")
    assert is_signed_by(keystore.load_certificate(federation.site("bank-a") / "signing.pem"), issuing)
