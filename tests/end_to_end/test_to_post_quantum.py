"""A classical deployment becomes post-quantum by the commands of certs/README.md, and nobody loses a connection."""

import signal
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import psutil
import pytest

from pqfl.demo.processes import Crew
from tests.support.classical import Signer, make_leaf, make_root, pem, write_classical
from tests.support.commands import good
from tests.support.sidecars import START_SECONDS, Running, echo, plain_server, start
from tests.support.waiting import wait_until

SITES = ("bank-a", "bank-b")
PIECE = b"x" * 1000

Opener = Callable[[], socket.socket]


@dataclass(slots=True)
class Site:
    """An FL client's traffic: one connection that lasts, and many short ones, by the way that it has now."""

    opener: Opener
    exchanged: int = 0
    lost: list[str] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """Exchange until it is over; a new way is taken as a program does that is started again with it."""
        try:
            while not self.over.is_set():
                opener = self.opener
                with opener() as lasting:
                    while opener is self.opener and not self.over.is_set():
                        exchange(lasting)
                        with opener() as short:
                            exchange(short)
                        self.exchanged += 1
                        self.over.wait(0.02)
        except (OSError, AssertionError) as error:
            self.lost.append(repr(error))

    def goes_on(self) -> None:
        """Wait until it has exchanged some more."""
        wanted = self.exchanged + 3
        wait_until(lambda: self.exchanged >= wanted or self.lost, "traffic")
        assert self.lost == []


def exchange(connection: socket.socket) -> None:
    connection.sendall(PIECE)
    got = b""
    while len(got) < len(PIECE):
        piece = connection.recv(len(PIECE))
        assert piece, "the connection ended"
        got += piece
    assert got == PIECE


@dataclass(slots=True)
class Scene:
    """An FL server behind a classical TLS terminator, and its clients: what was there before."""

    crew: Crew
    folder: Path
    authority: Signer
    fl_server: str
    place: str
    """What the name of the FL server leads to at the moment."""
    sites: dict[str, Site] = field(default_factory=dict)

    def classical(self, name: str, identity: tuple[str, str], trust: Path) -> Opener:
        """How a program connects that knows certificate, key and a trust store."""
        context = ssl.create_default_context(cafile=str(trust))
        context.load_cert_chain(*(self.folder / name / file for file in identity))

        def connect() -> ssl.SSLSocket:
            host, port = self.place.rsplit(":", 1)
            raw = socket.create_connection((host, int(port)), timeout=START_SECONDS)
            return context.wrap_socket(raw, server_hostname="localhost")

        return connect

    def all_go_on(self) -> None:
        """Wait until every site has exchanged some more, and nothing was lost."""
        for site in self.sites.values():
            site.goes_on()


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    authority = make_root("own classical authority")
    server = write_classical(tmp_path / "old", authority, *make_leaf(authority))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(server / "ca.pem"))
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(server / "tls.pem", server / "tls.key")

    def terminate(connection: socket.socket) -> None:
        host, port = target.rsplit(":", 1)
        with (
            context.wrap_socket(connection, server_side=True) as tls,
            socket.create_connection((host, int(port))) as to,
        ):
            while data := tls.recv(1 << 16):
                to.sendall(data)
                tls.sendall(to.recv(len(data), socket.MSG_WAITALL))

    (tmp_path / "logs").mkdir()
    with Crew(tmp_path / "logs") as crew, plain_server(echo) as target, plain_server(terminate) as terminator:
        found = Scene(crew, tmp_path, authority, target, terminator)
        for name in SITES:
            write_classical(tmp_path / f"old-{name}", authority, *make_leaf(authority, dns=(f"{name}.example",)))
            found.sites[name] = Site(found.classical(f"old-{name}", ("tls.pem", "tls.key"), server / "ca.pem"))
        with traffic(found):
            yield found


@contextmanager
def traffic(scene: Scene) -> Iterator[None]:
    threads = [threading.Thread(target=site.run) for site in scene.sites.values()]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        for site in scene.sites.values():
            site.over.set()
        for thread in threads:
            thread.join(START_SECONDS)


HUB = """
target = "{target}"
cert = [{certs}]
key = [{keys}]
cacert = "gateway/ca.pem"
allow-uri = ["spiffe://ring/site/*"]
{classical}
"""
CLASSICAL = """
pq = "prefer"
classical-cacert = "{store}"
allow-dns = ["*.example"]
"""


def configure(scene: Scene, second: str = "", store: str = "") -> Path:
    """Write hub.toml with one pair of certificate and key or, with ``second``, a classical one beside it."""
    certs, keys = ["gateway/tls.pem"], ["gateway/tls.key"]
    if second:
        certs.append(f"{second}.pem")
        keys.append(f"{second}.key")
    text = HUB.format(
        target=scene.fl_server, certs=", ".join(f'"{name}"' for name in certs),
        keys=", ".join(f'"{name}"' for name in keys), classical=CLASSICAL.format(store=store) if second else "",
    )  # fmt: skip
    for name in ("gateway/", "old/", "both.pem"):
        text = text.replace(f'"{name}', f'"{scene.folder / name}/' if name.endswith("/") else f'"{scene.folder / name}')
    path = scene.folder / "hub.toml"
    path.write_text(text)
    return path


def reload(gateway: Running) -> None:
    psutil.Process(gateway.process.pid).send_signal(signal.SIGHUP)
    done = gateway.wait_for("reload")
    assert done["result"] == "ok", done


def begin(scene: Scene) -> Running:
    """The federation, and the gateway in the terminator's place: its clients notice nothing."""
    ca, folder = scene.folder / "ca", scene.folder
    scene.all_go_on()
    good("ca", "init", "--dir", ca, "--federation", "ring")
    good("ca", "issue", "--dir", ca, "--profile", "gateway", "--name", "hub", "--dns", "localhost",
         "--out", folder / "gateway")  # fmt: skip
    config = configure(scene, "old/tls", "old/ca.pem")
    gateway = start(scene.crew, "gateway", "server", "--config", str(config))
    for site in scene.sites.values():
        # Each program connects anew, by the same name, when it is started again or its connection has ended.
        site.opener = partial(site.opener)
    scene.place = gateway.target
    scene.all_go_on()
    assert set(gateway.status()["classical_peers"]) == {"bank-a.example", "bank-b.example"}
    return gateway


def finish(scene: Scene, gateway: Running, former: Opener) -> None:
    """Nobody is classical any more: only now ``require``."""
    wait_until(
        lambda: not any(one["connections_open"] for one in gateway.status()["classical_peers"].values()),
        "the last classical connection to end",
    )
    counted = gateway.status()["listeners"]["main"]["connections_classical"]
    scene.all_go_on()
    assert gateway.status()["listeners"]["main"]["connections_classical"] == counted
    configure(scene)
    reload(gateway)
    scene.all_go_on()
    require_refused(former)
    assert gateway.wait_for("refusal")["reason"] in {"no_pq_group", "protocol", "bad_sigalg"}
    for name in SITES:
        line = gateway.wait_for("connection", peer=f"spiffe://ring/site/{name}", post_quantum=True)
        assert (line["group"], line["peer_sigalg"]) == ("X25519MLKEM768", "ML-DSA-65")


def test_an_own_classical_authority_is_kept_until_nobody_needs_it(scene: Scene) -> None:
    """Site by site a token, a sidecar, and one name less among the classical peers."""
    gateway, ca = begin(scene), scene.folder / "ca"
    hub = scene.crew.start(
        "hub", "-m", "pqfl", "ca", "serve", "--dir", str(ca), "--listen", "127.0.0.1:0", "--gateway", gateway.target,
        "--log-format", "json",
    )  # fmt: skip
    address = hub.wait_for(lambda line: line.get("event") == "listening", START_SECONDS)["address"]
    former = scene.sites["bank-a"].opener
    for moved, name in enumerate(SITES, start=1):
        out = scene.folder / name
        token = good("ca", "token", "--dir", ca, "--site", name, "--expires", "24h").strip()
        good("join", "--hub", address, "--out", out, environment={"PQFL_TOKEN": token})
        sidecar = start(scene.crew, name, "client", "--config", str(out / "sidecar.toml"))
        scene.sites[name].opener = sidecar.connect
        scene.all_go_on()
        left = len(SITES) - moved
        wait_until(lambda left=left: classical_now(gateway) == left, "one classical site less")
    finish(scene, gateway, former)


def require_refused(opener: Opener) -> None:
    # With TLS 1.3 a client learns it when it reads, and a reset is a refusal too.
    with suppress(OSError), opener() as connection:
        connection.sendall(PIECE)
        assert connection.recv(1) == b""


def classical_now(gateway: Running) -> int:
    """How many peers have a classical connection open."""
    return sum(bool(one["connections_open"]) for one in gateway.status()["classical_peers"].values())


@pytest.mark.slow
def test_twins_of_ours_take_the_place_of_an_own_authority(scene: Scene) -> None:
    """Trust first, then the gateway's certificate, then theirs; the own authority goes before classical sites do."""
    gateway, ca, folder = begin(scene), scene.folder / "ca", scene.folder
    good("ca", "twin", "init", "--dir", ca)
    good("ca", "twin", "issue", "--dir", ca, "--name", "gateway/hub", "--out", folder / "hub-twin")
    for file in ("classical.pem", "classical.key", "classical-ca.pem"):
        (folder / "hub-twin" / file).rename(folder / "gateway" / file)
    both = folder / "both.pem"
    both.write_bytes(pem(scene.authority.certificate) + (folder / "gateway" / "classical-ca.pem").read_bytes())
    for name, site in scene.sites.items():
        good("ca", "issue", "--dir", ca, "--profile", "site", "--name", name, "--out", folder / name, "--twin")
        site.opener = scene.classical(f"old-{name}", ("tls.pem", "tls.key"), both)
        site.goes_on()
    former = scene.sites["bank-a"].opener
    configure(scene, "gateway/classical", "both.pem")
    reload(gateway)
    scene.all_go_on()
    for name, site in scene.sites.items():
        site.opener = scene.classical(name, ("classical.pem", "classical.key"), folder / name / "classical-ca.pem")
        site.goes_on()
    wait_until(lambda: classical_now(gateway) == len(SITES), "the last connection with an old certificate to end")
    configure(scene, "gateway/classical", "gateway/classical-ca.pem")
    reload(gateway)
    scene.all_go_on()
    assert {"spiffe://ring/site/bank-a", "spiffe://ring/site/bank-b"} <= set(gateway.status()["classical_peers"])
    require_refused(former)
    assert gateway.wait_for("refusal")["reason"] == "untrusted"
    former = scene.sites["bank-a"].opener
    for name in SITES:
        own = [f"--{option}={folder / name / file}" for option, file in (
            ("cert", "tls.pem"), ("key", "tls.key"), ("cacert", "ca.pem"),
        )]  # fmt: skip
        sidecar = start(
            scene.crew, name, "client", "--target", gateway.target, *own, "--verify-uri", "spiffe://ring/gateway/hub"
        )
        scene.sites[name].opener = sidecar.connect
        scene.all_go_on()
    finish(scene, gateway, former)
