"""How sidecars end: what is under way is finished, a second signal does not wait, nothing is left behind."""

import signal
import socket
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from pqfl.demo.processes import Crew
from pqfl_transport.audit import verify_audit_log
from tests.support.pki import Federation, make_federation
from tests.support.sidecars import echo, identity, plain_server, read_all, start, start_client, start_server


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return make_federation(tmp_path_factory.mktemp("federation"), sites=("bank-a",))


@pytest.fixture
def crew(tmp_path: Path) -> Iterator[Crew]:
    (tmp_path / "logs").mkdir()
    with Crew(tmp_path / "logs") as crew:
        yield crew


@pytest.fixture(scope="module")
def target() -> Iterator[str]:
    with plain_server(echo) as address:
        yield address


def test_term_lets_a_connection_finish(federation: Federation, crew: Crew, target: str) -> None:
    """A connection that was there before TERM completes; new ones are not taken; the status is 0."""
    gateway = start_server(crew, federation, target)
    sidecar = start_client(crew, federation, gateway.target)
    with sidecar.connect() as connection:
        connection.sendall(b"before")
        assert connection.recv(100) == b"before"
        process = psutil.Process(gateway.process.pid)
        process.send_signal(signal.SIGTERM)
        gateway.wait_for("draining")
        with pytest.raises(OSError, match="refused"):
            gateway.connect()
        connection.sendall(b" and after")
        connection.shutdown(socket.SHUT_WR)
        assert read_all(connection) == b" and after"
    gateway.process.wait(20)


def test_a_second_term_does_not_wait(federation: Federation, crew: Crew, target: str) -> None:
    """Whoever is in a hurry sends it twice; the connection is reset and the status still 0."""
    gateway = start_server(crew, federation, target)
    sidecar = start_client(crew, federation, gateway.target)
    with sidecar.connect() as connection:
        connection.sendall(b"x")
        assert connection.recv(1) == b"x"
        process = psutil.Process(gateway.process.pid)
        process.send_signal(signal.SIGTERM)
        gateway.wait_for("draining")
        process.send_signal(signal.SIGTERM)
        gateway.process.wait(20)
        with pytest.raises(ConnectionResetError):
            connection.recv(1)
    sidecar.wait_for("connection")


def test_the_shutdown_timeout_ends_what_does_not_end(federation: Federation, crew: Crew, target: str) -> None:
    """A connection that goes on for ever is cut when the time is up."""
    gateway = start_server(crew, federation, target, "--allow-all", "--shutdown-timeout", "0.2")
    sidecar = start_client(crew, federation, gateway.target)
    with sidecar.connect() as connection:
        connection.sendall(b"x")
        assert connection.recv(1) == b"x"
        psutil.Process(gateway.process.pid).send_signal(signal.SIGTERM)
        gateway.process.wait(20)
        assert gateway.wait_for("connection", reason="shutdown")


def test_without_connections_term_is_immediate(federation: Federation, crew: Crew, target: str) -> None:
    """Nothing to wait for, for TERM and for Ctrl-C."""
    for number in (signal.SIGTERM, signal.SIGINT):
        gateway = start_server(crew, federation, target, name=f"gateway-{number}")
        psutil.Process(gateway.process.pid).send_signal(number)
        gateway.process.wait(20)


def test_what_it_did_is_in_its_audit_log(federation: Federation, crew: Crew, target: str, tmp_path: Path) -> None:
    """Start, connection with its evidence, stop: a chain that holds."""
    path = tmp_path / "audit.jsonl"
    gateway = start_server(crew, federation, target, "--allow-all", "--audit", str(path))
    sidecar = start_client(crew, federation, gateway.target)
    with sidecar.connect() as connection:
        connection.sendall(b"seven b")
        connection.shutdown(socket.SHUT_WR)
        assert read_all(connection) == b"seven b"
    gateway.wait_for("connection", reason="complete")
    psutil.Process(gateway.process.pid).send_signal(signal.SIGTERM)
    gateway.process.wait(20)
    assert verify_audit_log(path, None).lines == 3
    text = path.read_text()
    for fact in (
        '"group":"X25519MLKEM768"',
        '"peer_sigalg":"ML-DSA-65"',
        '"bytes_in":7',
        federation.site_uri("bank-a"),
    ):
        assert fact in text
    assert "seven b" not in text


def test_addresses_can_be_unix_sockets(federation: Federation, crew: Crew, tmp_path: Path) -> None:
    """The plain side without any port, on both sidecars."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "server.sock"))
        listener.listen()
        gateway = start_server(crew, federation, f"unix:{tmp_path}/server.sock")
        process = crew.start(
            "sidecar", "-m", "pqfl", "client", "--listen", f"unix:{tmp_path}/client.sock", "--target", gateway.target,
            *identity(federation.site("bank-a")), "--verify-uri", federation.gateway_uri, "--log-format", "json",
        )  # fmt: skip
        process.wait_for(lambda line: line.get("event") == "listening", 20)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(tmp_path / "client.sock"))
            client.sendall(b"through files")
            accepted, _ = listener.accept()
            with accepted:
                assert accepted.recv(100) == b"through files"


def test_a_host_name_can_be_checked_instead_of_an_id(federation: Federation, crew: Crew, target: str) -> None:
    """Without --verify-… the gateway's certificate has to name the host of --target."""
    gateway = start_server(crew, federation, target)
    own = identity(federation.site("bank-a"))
    named = start(crew, "named", "client", "--target", f"localhost:{gateway.address[1]}", *own)
    with named.connect() as connection:
        connection.sendall(b"x")
        assert connection.recv(1) == b"x"
    other = start(
        crew, "other", "client", "--target", gateway.target, *own, "--override-server-name", "hub.example.org"
    )  # fmt: skip
    with other.connect():
        assert other.wait_for("refusal")["reason"] == "bad_name"


def test_health_and_metrics_are_served(federation: Federation, crew: Crew, target: str) -> None:
    """What a monitor asks for is there, with numbers that fit what happened."""
    gateway = start_server(crew, federation, target)
    sidecar = start_client(crew, federation, gateway.target)
    with sidecar.connect() as connection:
        connection.sendall(b"12345")
        connection.shutdown(socket.SHUT_WR)
        read_all(connection)
    gateway.wait_for("connection", reason="complete")
    for path, expected in (("/healthz", "ok"), ("/_metrics", 'pqfl_bytes_total{direction="in",listener="main"} 5')):
        with urllib.request.urlopen(f"{gateway.status_url}{path}") as answer:  # noqa: S310 -- a process of this test
            assert expected in answer.read().decode()
