"""A federation moves from ML-DSA-44 to ML-DSA-65 by the commands of certs/README.md, and nobody hangs up for it."""

import json
import shutil
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from pqfl.demo.processes import Crew
from pqfl_transport.pki import chain, keystore
from tests.support.commands import good, refused
from tests.support.pki import Federation, make_federation
from tests.support.sidecars import START_SECONDS, Running, echo, plain_server, start

MOVING = Path(__file__).resolve().parents[2] / "certs" / "moving.toml"
PIECE = b"x" * 1000


@dataclass(slots=True)
class Party:
    """A sidecar that reads everything from files, and what HUP makes of them."""

    folder: Path
    words: str
    running: Running | None = None

    def configure(self, policy: str) -> None:
        """Write its configuration."""
        identity = "".join(f'{option} = "{self.folder / name}"\n' for option, name in (
            ("cert", "tls.pem"), ("key", "tls.key"), ("cacert", "ca.pem"),
        ))  # fmt: skip
        (self.folder / "sidecar.toml").write_text(f"{self.words}\n{policy}\n{identity}")

    def start(self, crew: Crew, kind: str) -> Running:
        """Start it."""
        self.running = start(crew, self.folder.name, kind, "--config", str(self.folder / "sidecar.toml"))
        return self.running

    def reload(self) -> None:
        """Send HUP, and wait until it is done."""
        assert self.running is not None
        psutil.Process(self.running.process.pid).send_signal(signal.SIGHUP)
        done = self.running.wait_for("reload")
        assert done["result"] == "ok", done


@dataclass(slots=True)
class Traffic:
    """One connection that lives through everything, and many short ones."""

    exchanged: int = 0
    short: int = 0
    lost: list[str] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)


def exchange(connection: socket.socket) -> None:
    connection.sendall(PIECE)
    assert connection.recv(len(PIECE), socket.MSG_WAITALL) == PIECE


@contextmanager
def traffic(lasting: Running, many: Running) -> Iterator[Traffic]:
    found = Traffic()

    def lives() -> None:
        try:
            with lasting.connect() as connection:
                while not found.over.is_set():
                    exchange(connection)
                    found.exchanged += 1
                    found.over.wait(0.01)
        except (OSError, AssertionError) as error:
            found.lost.append(f"the lasting connection: {error!r}")

    def comes_and_goes() -> None:
        while not found.over.is_set():
            try:
                with many.connect() as connection:
                    exchange(connection)
                found.short += 1
            except (OSError, AssertionError) as error:
                found.lost.append(f"a short connection: {error!r}")
            found.over.wait(0.05)

    threads = [threading.Thread(target=one) for one in (lives, comes_and_goes)]
    for one in threads:
        one.start()
    try:
        yield found
    finally:
        found.over.set()
        for one in threads:
            one.join(START_SECONDS)


def algorithms(federation: Federation) -> dict[str, str]:
    """The parties of `pqfl ca list`, and what their certificates have."""
    rows = json.loads(good("ca", "list", "--dir", federation.ca, "--json"))["parties"]
    return {row["name"]: row["algorithm"] for row in rows if "://" in row["name"]}


def test_a_federation_moves_to_a_higher_level(tmp_path: Path) -> None:
    """Not one connection is lost until everybody is there; then ML-DSA-44 is refused."""
    federation = make_federation(tmp_path / "fed", level="standard", sites=("bank-a", "bank-b"))
    ca = federation.ca
    with Crew(tmp_path) as crew, plain_server(echo) as target:
        gateway = Party(federation.gateway, f'target = "{target}"\nallow-all = true')
        gateway.configure('level = "standard"')
        address = gateway.start(crew, "server").target
        sites = [
            Party(federation.site(name), f'target = "{address}"\nverify-uri = ["{federation.gateway_uri}"]')
            for name in federation.sites
        ]
        for site in sites:
            site.configure('level = "standard"')
            site.start(crew, "client")
        parties = [gateway, *sites]
        left_behind = shutil.copytree(federation.site("bank-b"), tmp_path / "left-behind")

        def everywhere(policy: str) -> None:
            for party in parties:
                shutil.copyfile(federation.ca_pem, party.folder / "ca.pem")
                party.configure(policy)
                party.reload()

        assert sites[0].running is not None
        assert sites[1].running is not None
        with traffic(sites[0].running, sites[1].running) as seen:
            everywhere(f'policy = "{MOVING}"')
            hub = crew.start(
                "hub", "-m", "pqfl", "ca", "serve", "--dir", str(ca), "--listen", "127.0.0.1:0", "--log-format", "json",
                "--policy", str(MOVING),
            )  # fmt: skip
            hub_address = hub.wait_for(lambda line: line.get("event") == "listening", START_SECONDS)["address"]
            good("ca", "rotate", "issuing", "--dir", ca, "--level", "high", "--announce")
            everywhere(f'policy = "{MOVING}"')
            good("ca", "rotate", "issuing", "--dir", ca)
            psutil.Process(hub.pid).send_signal(signal.SIGHUP)
            reload = hub.wait_for(lambda line: line.get("event") == "reload", START_SECONDS)
            assert reload["result"] == "ok", reload
            refused("ca", "roster", "sign", "--dir", ca, "--level", "high", "--yes", status=1)
            for folder in (federation.gateway, federation.aggregator, *map(federation.site, federation.sites)):
                good("renew", "--identity", folder, "--hub", hub_address, "--policy", MOVING)
            for party in parties:
                party.reload()
            good("ca", "roster", "sign", "--dir", ca, "--yes")
            assert "ML-DSA-44" not in algorithms(federation).values()
            good("ca", "roster", "sign", "--dir", ca, "--level", "high", "--yes")
            short = seen.short
            while seen.short < short + 3 and not seen.lost:
                seen.over.wait(0.05)
        assert seen.lost == []
        assert seen.exchanged
        everywhere('level = "high"')
        with sites[0].running.connect() as connection:
            exchange(connection)
        assert gateway.running is not None
        assert gateway.running.wait_for("connection", peer_sigalg="ML-DSA-65")["own_sigalg"] == "ML-DSA-65"
        shutil.copyfile(federation.ca_pem, left_behind / "ca.pem")
        late = Party(left_behind, sites[1].words)
        late.configure(f'policy = "{MOVING}"')
        with late.start(crew, "client").connect() as connection:
            connection.sendall(PIECE)
            assert connection.recv(1) == b""
        assert "ML-DSA-44" in gateway.running.wait_for("refusal", reason="bad_sigalg")["detail"]
        good("ca", "retire", "--dir", ca, "--force")
        everywhere('level = "high"')
        with sites[1].running.connect() as connection:
            exchange(connection)
    roster = keystore.load_roster(federation.roster, keystore.root_keys(keystore.load_anchors(federation.ca_pem)))
    assert roster.level.value == "high"
    for name in federation.sites:
        own = keystore.load_signing_identity(federation.site(name))
        assert chain.verifying_key(own.certificate) == roster.parties[federation.site_uri(name)].signing_key
