"""The classical issuer is replaced by the commands of certs/README.md, while a classical program goes on."""

import shutil
import signal
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from pqfl.demo.processes import Crew
from pqfl_transport.pki import chain
from tests.support.commands import good, refused
from tests.support.enrolment import serving
from tests.support.pki import GATEWAY_NAME, Federation, make_federation
from tests.support.sidecars import START_SECONDS, Running, echo, plain_server, start_server

SITE = "bank-a"
NAMES = ("classical.pem", "classical.key", "classical-ca.pem")


@dataclass(frozen=True, slots=True)
class Scene:
    """A gateway of both kinds, and a site whose program knows nothing but its twin."""

    federation: Federation
    gateway: Running

    @contextmanager
    def connect(self, folder: Path | None = None) -> Iterator[ssl.SSLSocket]:
        """As the program does when it is started with its files of now."""
        site = folder or self.federation.site(SITE)
        context = ssl.create_default_context(cafile=str(site / "classical-ca.pem"))
        context.load_cert_chain(site / "classical.pem", site / "classical.key")
        raw = socket.create_connection(self.gateway.address, timeout=START_SECONDS)
        with raw, context.wrap_socket(raw, server_hostname="localhost") as connection:
            yield connection

    def hand_out(self) -> None:
        """Give classical-ca.pem and the lists to both, and let the gateway read again."""
        ca = self.federation.ca
        good("ca", "crl", "--dir", ca)
        for folder in (self.federation.gateway, self.federation.site(SITE)):
            shutil.copy(ca / "classical-ca.pem", folder / "classical-ca.pem")
        psutil.Process(self.gateway.process.pid).send_signal(signal.SIGHUP)
        assert self.gateway.wait_for("reload")["result"] == "ok"

    def works(self) -> None:
        """A new connection is served."""
        with self.connect() as connection:
            exchange(connection)


def exchange(connection: ssl.SSLSocket) -> None:
    connection.sendall(b"x")
    assert connection.recv(1) == b"x"


def issuer(folder: Path) -> str:
    return chain.load_certificates((folder / "classical.pem").read_bytes())[0].issuer.rfc4514_string()


def start(crew: Crew, federation: Federation, target: str, tmp_path: Path) -> Scene:
    good("ca", "twin", "init", "--dir", federation.ca)
    good("ca", "crl", "--dir", federation.ca)
    for name, folder in ((GATEWAY_NAME, federation.gateway), (SITE, federation.site(SITE))):
        good("ca", "twin", "issue", "--dir", federation.ca, "--name", name, "--out", tmp_path / name)
        for file in NAMES:
            shutil.move(tmp_path / name / file, folder / file)
    own = federation.gateway
    gateway = start_server(
        crew, federation, target, "--allow-all", "--pq", "prefer", "--cert", f"{own}/classical.pem", "--key",
        f"{own}/classical.key", "--classical-cacert", f"{own}/classical-ca.pem", "--crl",
        f"{federation.ca}/crl-dual.pem",
    )  # fmt: skip
    return Scene(federation, gateway)


@pytest.mark.slow
def test_the_classical_issuer_is_replaced_under_traffic(tmp_path: Path) -> None:
    """One connection lives until the former issuer is retired, one that was begun with a new twin beyond."""
    federation = make_federation(tmp_path / "fed", sites=(SITE,))
    ca = federation.ca
    with Crew(tmp_path) as crew, plain_server(echo) as target:
        scene = start(crew, federation, target, tmp_path)
        left_behind = shutil.copytree(federation.site(SITE), tmp_path / "left-behind")
        first = issuer(left_behind)
        with scene.connect() as lasting:
            for words in (("--announce",), ()):
                good("ca", "rotate", "classical", "--dir", ca, *words)
                scene.hand_out()
                exchange(lasting)
                scene.works()
            said = refused("ca", "retire", "--dir", ca, "--classical")
            assert f"spiffe://fed/site/{SITE} (classical-client)" in said
            with serving(federation) as service:
                for folder in (federation.gateway, federation.site(SITE)):
                    good("renew", "--identity", folder, "--hub", service.address)
                    assert issuer(folder) != first
            scene.hand_out()
            exchange(lasting)
            with scene.connect() as renewed:
                exchange(renewed)
                good("ca", "retire", "--dir", ca, "--classical")
                scene.hand_out()
                exchange(renewed)
                with suppress(ConnectionResetError):
                    assert lasting.recv(1) == b""
        scene.works()
        # Whoever was not renewed trusts nobody who is there, and is trusted by nobody.
        shutil.copy(ca / "classical-ca.pem", left_behind / "classical-ca.pem")
        with suppress(OSError), scene.connect(left_behind) as late:
            late.sendall(b"x")
            assert late.recv(1) == b""
        assert scene.gateway.wait_for("refusal", reason="untrusted")
