"""`rotate-ca.sh`: issuing authority and root are replaced, step by step, under traffic."""

import shutil
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from pqfl.demo.processes import Crew
from pqfl_transport.errors import MessageError
from pqfl_transport.pki import chain, keystore
from pqfl_transport.pki.extensions import find_extension
from tests.support.commands import good
from tests.support.pki import Federation, make_federation
from tests.support.scripts import run_script
from tests.support.sidecars import START_SECONDS, Running, echo, plain_server, start_client, start_server

SCRIPT = "rotate-ca.sh"


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    return make_federation(tmp_path / "federation", sites=("bank-a", "bank-b"))


@pytest.fixture
def crew(tmp_path: Path) -> Iterator[Crew]:
    (tmp_path / "logs").mkdir()
    with Crew(tmp_path / "logs") as processes:
        yield processes


class Rehearsal:
    """A federation with traffic: what a step of the script gives out reaches everybody, and is taken on."""

    def __init__(self, federation: Federation, out: Path, gateway: Running, sidecar: Running) -> None:
        self.federation = federation
        self.out = out
        self.running = gateway, sidecar

    def step(self, name: str, *more: str) -> None:
        """Do a step, and hand out what it gives."""
        done = run_script(SCRIPT, name, self.federation.ca, self.out, *more, PQFL_YES="1")
        assert done.returncode == 0, done.stderr
        self.hand_out()

    def hand_out(self) -> None:
        """Copy the authorities to all parties; where they changed, both processes take their files on."""
        if (self.out / "ca.pem").read_bytes() == (self.federation.gateway / "ca.pem").read_bytes():
            return
        for folder in parties(self.federation):
            shutil.copy(self.out / "ca.pem", folder / "ca.pem")
        self.reload()

    def reload(self) -> None:
        """Send HUP and wait until both say that they have reloaded."""
        for one in self.running:
            psutil.Process(one.process.pid).send_signal(signal.SIGHUP)
            reloaded = one.process.wait_for(lambda line: line.get("event") == "reload", START_SECONDS)
            assert reloaded["result"] == "ok", reloaded


def parties(federation: Federation) -> list[Path]:
    """The folders of all who have certificates."""
    return [federation.gateway, federation.aggregator, *map(federation.site, federation.sites)]


def said(connection: socket.socket, text: bytes) -> None:
    """Send and get back."""
    connection.sendall(text)
    got = connection.recv(len(text), socket.MSG_WAITALL)
    if not got:
        raise ConnectionResetError
    assert got == text


def issuer(folder: Path) -> str:
    (leaf,) = chain.load_certificates((folder / "tls.pem").read_bytes())
    identifier = find_extension(leaf, chain.x509.AuthorityKeyIdentifier)
    assert identifier is not None
    assert identifier.key_identifier is not None
    return identifier.key_identifier.hex()


def test_issuing_authority_and_root_are_replaced_under_traffic(
    federation: Federation, crew: Crew, tmp_path: Path
) -> None:
    """A connection lives on until its authority is retired, a renewed one beyond; new ones work after every step."""
    service = crew.start(
        "service", "-m", "pqfl", "ca", "serve", "--dir", str(federation.ca), "--listen", "127.0.0.1:0",
        "--gateway", "127.0.0.1:9", "--log-format", "json",
    )  # fmt: skip
    hub = service.wait_for(lambda line: line.get("event") == "listening", START_SECONDS)["address"]
    former_root = keystore.root_keys(keystore.load_anchors(federation.ca / "root.pem"))
    before = {folder: issuer(folder) for folder in parties(federation)}
    with plain_server(echo) as target:
        gateway = start_server(crew, federation, target)
        sidecar = start_client(crew, federation, gateway.target)
        rehearsal = Rehearsal(federation, tmp_path / "out", gateway, sidecar)
        with sidecar.connect() as lasting:
            said(lasting, b"before")
            for name in ("announce", "use", "root", "sign"):
                rehearsal.step(name)
                said(lasting, name.encode())
                with sidecar.connect() as fresh:
                    said(fresh, b"a new connection")
            still_needed = run_script(SCRIPT, "retire", federation.ca, tmp_path / "out")
            assert still_needed.returncode == 2
            assert "bank-a (client)" in still_needed.stderr
            for folder in parties(federation):
                good("renew", "--identity", folder, "--hub", hub)
            rehearsal.reload()
            # The service certifies itself anew once a minute, and at once when it is told.
            psutil.Process(service.pid).send_signal(signal.SIGHUP)
            service.wait_for(lambda line: line.get("event") == "reload", START_SECONDS)
            with sidecar.connect() as renewed:
                said(renewed, b"renewed")
                said(lasting, b"still here")
                behind = run_script(SCRIPT, "retire", federation.ca, tmp_path / "out")
                assert "sign the next one first" in behind.stderr
                rehearsal.step("sign")
                # Nobody has to be forced: whoever has renewed does not hold the former authority.
                rehearsal.step("retire")
                said(renewed, b"after")
                # Let in on the word of an authority that nobody trusts any more.
                with pytest.raises(ConnectionError):
                    said(lasting, b"after")
            with sidecar.connect() as fresh:
                said(fresh, b"after all")
    for folder, identifier in before.items():
        assert issuer(folder) != identifier
    (root,) = keystore.root_keys(keystore.load_anchors(federation.gateway / "ca.pem"))
    assert [root] != former_root
    keystore.load_roster(tmp_path / "out" / "roster.json", [root], federation=federation.name)
    with pytest.raises(MessageError):
        keystore.load_roster(tmp_path / "out" / "roster.json", former_root, federation=federation.name)


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("announce",),
        ("burn", "ca", "out"),
        ("root", "ca", "out", "high"),
        ("retire", "ca"),
        ("retire", "ca", "out", "high"),
    ],
)
def test_usage(words: tuple[str, ...]) -> None:
    """Called wrongly it shows how it is called, and so it does when it is asked."""
    done = run_script(SCRIPT, *words)
    assert done.returncode == 2
    assert done.stderr.startswith("Usage: rotate-ca.sh STEP DIR OUT [LEVEL|force]")
    assert run_script(SCRIPT, "--help").stdout == done.stderr


def test_a_refused_step_gives_nothing_out(tmp_path: Path) -> None:
    """The command's own error and status come through, and OUT is not made."""
    done = run_script(SCRIPT, "announce", tmp_path / "nowhere", tmp_path / "out")
    assert done.returncode == 2
    assert "nowhere" in done.stderr
    assert not (tmp_path / "out").exists()
