"""A federation moves from ML-DSA-44 to ML-DSA-65 by the commands of certs/README.md, and nobody hangs up for it."""

import json
import shutil
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from pqfl.demo.processes import Crew, Process
from pqfl_transport.pki import keystore
from tests.support.commands import good, refused
from tests.support.pki import Federation, make_federation
from tests.support.sidecars import START_SECONDS, Running, echo, plain_server, start

MOVING = Path(__file__).resolve().parents[2] / "certs" / "moving.toml"
STANDARD, BOTH, HIGH = 'level = "standard"', f'policy = "{MOVING}"', 'level = "high"'
PIECE = b"x" * 1000


@dataclass(slots=True)
class Party:
    """A sidecar that reads everything from files, and what HUP makes of them."""

    folder: Path
    kind: str
    words: str
    process: Running | None = None

    def configure(self, policy: str) -> None:
        """Write its configuration."""
        identity = "".join(f'{option} = "{self.folder / name}"\n' for option, name in (
            ("cert", "tls.pem"), ("key", "tls.key"), ("cacert", "ca.pem"),
        ))  # fmt: skip
        (self.folder / "sidecar.toml").write_text(f"{self.words}\n{policy}\n{identity}")

    def start(self, crew: Crew) -> Running:
        """Start it."""
        self.process = start(crew, self.folder.name, self.kind, "--config", str(self.folder / "sidecar.toml"))
        return self.process

    @property
    def running(self) -> Running:
        """The process, once it was started."""
        assert self.process is not None
        return self.process

    def reload(self) -> None:
        """Send HUP, and wait until it is done."""
        psutil.Process(self.running.process.pid).send_signal(signal.SIGHUP)
        done = self.running.wait_for("reload")
        assert done["result"] == "ok", done

    def connections(self) -> list[dict[str, str]]:
        """Every connection that it has logged, in the order of their ends."""
        lines = self.running.process.log.read_text().splitlines()
        found = [json.loads(line) for line in lines if line.startswith("{")]
        return [line for line in found if line["event"] == "connection"]


@dataclass(frozen=True, slots=True)
class Scene:
    """A federation whose gateway and sidecars run."""

    federation: Federation
    parties: list[Party]

    @property
    def folders(self) -> list[Path]:
        """Every identity there is, the aggregator's as well."""
        return [self.federation.aggregator, *(party.folder for party in self.parties)]

    def everywhere(self, policy: str) -> None:
        """Give ca.pem to everybody, write this line into every configuration, and reload."""
        for folder in self.folders:
            shutil.copyfile(self.federation.ca_pem, folder / "ca.pem")
        for party in self.parties:
            party.configure(policy)
            party.reload()


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


def start_all(crew: Crew, federation: Federation, target: str) -> Scene:
    gateway = Party(federation.gateway, "server", f'target = "{target}"\nallow-all = true')
    gateway.configure(STANDARD)
    address = gateway.start(crew).target
    words = f'target = "{address}"\nverify-uri = ["{federation.gateway_uri}"]'
    sites = [Party(federation.site(name), "client", words) for name in federation.sites]
    for site in sites:
        site.configure(STANDARD)
        site.start(crew)
    return Scene(federation, [gateway, *sites])


def start_hub(crew: Crew, ca: Path, *words: str) -> tuple[Process, str]:
    """Start the enrolment service; return it and its address."""
    hub = crew.start(
        "hub", "-m", "pqfl", "ca", "serve", "--dir", str(ca), "--listen", "127.0.0.1:0", "--log-format", "json", *words
    )
    return hub, hub.wait_for(lambda line: line.get("event") == "listening", START_SECONDS)["address"]


def move(crew: Crew, scene: Scene) -> None:
    """Type what certs/README.md says, up to the roster of the new level."""
    ca = scene.federation.ca
    good("policy", "show", MOVING)
    scene.everywhere(BOTH)
    hub, address = start_hub(crew, ca, "--policy", str(MOVING))
    good("ca", "rotate", "issuing", "--dir", ca, "--level", "high", "--announce")
    scene.everywhere(BOTH)
    good("ca", "rotate", "issuing", "--dir", ca)
    psutil.Process(hub.pid).send_signal(signal.SIGHUP)
    reload = hub.wait_for(lambda line: line.get("event") == "reload", START_SECONDS)
    assert reload["result"] == "ok", reload
    said = refused("ca", "roster", "sign", "--dir", ca, "--level", "high", "--yes", status=1)
    assert "does not fit the level high" in said
    said = refused("ca", "retire", "--dir", ca)
    assert "bank-a (client), " in said
    for folder in scene.folders:
        good("renew", "--identity", folder, "--hub", address, "--policy", MOVING)
    for party in scene.parties:
        party.reload()
    good("ca", "roster", "sign", "--dir", ca, "--yes")
    assert set(algorithms(scene.federation).values()) == {"ML-DSA-65"}
    good("ca", "roster", "sign", "--dir", ca, "--level", "high", "--yes")
    hub.end()


def algorithms(federation: Federation) -> dict[str, str]:
    """The parties of `pqfl ca list`, and what their certificates have."""
    rows = json.loads(good("ca", "list", "--dir", federation.ca, "--json"))["parties"]
    return {row["name"]: row["algorithm"] for row in rows if "://" in row["name"]}


def test_a_federation_moves_to_a_higher_level(tmp_path: Path) -> None:
    """Not one connection is lost until everybody is there; then ML-DSA-44 is refused, and what began with it ends."""
    federation = make_federation(tmp_path / "fed", level="standard", sites=("bank-a", "bank-b"))
    left_behind = shutil.copytree(federation.site("bank-b"), tmp_path / "left-behind")
    with Crew(tmp_path) as crew, plain_server(echo) as target:
        scene = start_all(crew, federation, target)
        gateway, first, second = scene.parties
        with traffic(first.running, second.running) as seen:
            move(crew, scene)
            wanted = seen.short + 3
            while seen.short < wanted and not seen.lost:
                seen.over.wait(0.05)
            assert seen.lost == []
            with first.running.connect() as renewed:
                exchange(renewed)
                scene.everywhere(HIGH)
                # What was begun with ML-DSA-44 ends here, and not before; what was begun since goes on.
                (closed,) = [line for line in gateway.connections() if line["reason"] == "withdrawn"]
                assert closed["peer_sigalg"] == "ML-DSA-44"
                require_refused(crew, scene, left_behind)
                good("ca", "retire", "--dir", federation.ca)
                scene.everywhere(HIGH)
                exchange(renewed)
            # The ordinary state: no policy of the migration anywhere, and renewals go on.
            _, address = start_hub(crew, federation.ca)
            for folder in (first.folder, federation.aggregator):
                good("renew", "--identity", folder, "--hub", address)
            wanted = seen.short + 3
            while seen.short < wanted and len(seen.lost) == 1:
                seen.over.wait(0.05)
        (lost,) = seen.lost
        assert lost.startswith("the lasting connection")
        last = gateway.connections()[-1]
        assert (last["own_sigalg"], last["peer_sigalg"]) == ("ML-DSA-65", "ML-DSA-65")
    roster = keystore.load_roster(federation.roster, keystore.root_keys(keystore.load_anchors(federation.ca_pem)))
    assert roster.level.value == "high"
    for folder, uri in (
        (first.folder, federation.site_uri("bank-a")),
        (federation.aggregator, federation.aggregator_uri),
    ):
        assert keystore.load_signing_key(folder / "signing.key").verifying_key == roster.parties[uri].signing_key


def require_refused(crew: Crew, scene: Scene, left_behind: Path) -> None:
    """Whoever still has ML-DSA-44, with the new authorities and both kinds of keys in its own policy."""
    gateway, _, second = scene.parties
    shutil.copyfile(scene.federation.ca_pem, left_behind / "ca.pem")
    late = Party(left_behind, "client", second.words)
    late.configure(BOTH)
    # A reset is a refusal too.
    with late.start(crew).connect() as connection, suppress(ConnectionResetError):
        connection.sendall(PIECE)
        assert connection.recv(1) == b""
    # The gateway asks for ML-DSA-65, and TLS lets a client that has none show nothing.
    refusal = gateway.running.wait_for("refusal")
    assert refusal["reason"] == "no_client_cert"
