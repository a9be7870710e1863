"""Twins at work: one gateway, the same sites over classical and post-quantum TLS, and out of both when revoked."""

import signal
import socket
import ssl
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from pqfl.demo.processes import Crew
from pqfl_transport.tls import client_context
from tests.support.commands import good
from tests.support.pki import GATEWAY_NAME, Federation, make_federation
from tests.support.sidecars import Running, echo, plain_server, start_server

BAD, GOOD = "bank-a", "bank-b"
CUT_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Scene:
    """A gateway of both kinds that lets two sites in by name, and the twins of all three."""

    federation: Federation
    gateway: Running
    twins: Path

    @contextmanager
    def classical(self, site: str, twin: str | None = None) -> Iterator[ssl.SSLSocket]:
        """Connect as another program does that knows the standard library's TLS and a twin's files."""
        folder = self.twins / (twin or site)
        context = ssl.create_default_context(cafile=str(folder / "classical-ca.pem"))
        context.load_cert_chain(folder / "classical.pem", folder / "classical.key")
        raw = socket.create_connection(self.gateway.address, timeout=20)
        with raw, context.wrap_socket(raw, server_hostname="localhost") as connection:
            yield connection

    @contextmanager
    def post_quantum(self, site: str) -> Iterator[ssl.SSLSocket]:
        """Connect as a site does."""
        folder = self.federation.site(site)
        context = client_context(
            folder / "tls.pem", folder / "tls.key", folder / "ca.pem", verify_uri=self.federation.gateway_uri
        )
        with self.gateway.connect() as raw, context.wrap_socket(raw) as connection:
            yield connection


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    federation = make_federation(tmp_path / "federation", sites=(BAD, GOOD))
    ca, twins = federation.ca, tmp_path / "twins"
    good("ca", "twin", "init", "--dir", ca)
    for name in (GATEWAY_NAME, BAD, GOOD):
        good("ca", "twin", "issue", "--dir", ca, "--name", name, "--out", twins / name)
    good("ca", "crl", "--dir", ca)
    (tmp_path / "logs").mkdir()
    allowed = [word for site in (BAD, GOOD) for word in ("--allow-uri", federation.site_uri(site))]
    twin = twins / GATEWAY_NAME
    with Crew(tmp_path / "logs") as crew, plain_server(echo) as target:
        gateway = start_server(
            crew, federation, target, *allowed, "--pq", "prefer", "--crl", f"{ca}/crl-dual.pem",
            "--cert", f"{twin}/classical.pem", "--key", f"{twin}/classical.key",
            "--classical-cacert", f"{twin}/classical-ca.pem",
        )  # fmt: skip
        yield Scene(federation, gateway, twins)


def is_served(connection: ssl.SSLSocket) -> bool:
    """Whether a byte comes back."""
    connection.sendall(b"x")
    return connection.recv(1) == b"x"


def is_cut(connection: ssl.SSLSocket) -> bool:
    """Whether the other end ends the connection, in the time that is promised."""
    connection.settimeout(CUT_SECONDS)
    try:
        return connection.recv(1) == b""
    except TimeoutError:
        return False
    except OSError:
        return True


def refused(connecting: AbstractContextManager[ssl.SSLSocket]) -> bool:
    """Whether a new connection ends without a byte of service; with TLS 1.3 a client learns it when it reads."""
    try:
        with connecting as connection:
            return not is_served(connection)
    except OSError:
        return True


def test_one_name_over_both_kinds_of_tls(scene: Scene) -> None:
    """A twin is let in by the SPIFFE ID of its site, and the log says which of the two it was."""
    uri = scene.federation.site_uri(BAD)
    with scene.classical(BAD) as connection:
        assert is_served(connection)
    line = scene.gateway.wait_for("connection", peer=uri, post_quantum=False)
    assert (line["peer_sigalg"], line["own_sigalg"]) == ("ECDSA-P256", "ECDSA-P256")
    with scene.post_quantum(BAD) as connection:
        assert is_served(connection)
    line = scene.gateway.wait_for("connection", peer=uri, post_quantum=True)
    assert (line["peer_sigalg"], line["own_sigalg"], line["group"]) == ("ML-DSA-65", "ML-DSA-65", "X25519MLKEM768")


def test_a_gateways_twin_is_no_clients(scene: Scene) -> None:
    """Every twin has the one use of its party."""
    assert refused(scene.classical(BAD, twin=GATEWAY_NAME))
    assert scene.gateway.wait_for("refusal")["reason"] == "bad_usage"


def test_who_is_revoked_is_out_of_both_halves(scene: Scene) -> None:
    """One command; the open classical connection is cut, new ones of both kinds are refused, the others stay."""
    ca = scene.federation.ca
    with scene.classical(BAD) as bad, scene.classical(GOOD) as other:
        assert is_served(bad)
        assert is_served(other)
        said = good("ca", "revoke", "--dir", ca, "--name", BAD, "--reason", "keyCompromise")
        assert "crl-dual.pem" in said
        psutil.Process(scene.gateway.process.pid).send_signal(signal.SIGHUP)
        assert is_cut(bad)
        assert is_served(other)
    assert scene.gateway.wait_for("refusal")["reason"] == "revoked"
    for connecting in (scene.classical(BAD), scene.post_quantum(BAD)):
        assert refused(connecting)
        assert scene.gateway.wait_for("refusal")["reason"] == "revoked"
    for again in (scene.classical(GOOD), scene.post_quantum(GOOD)):
        with again as connection:
            assert is_served(connection)
