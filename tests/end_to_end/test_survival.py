"""What a gateway lives through: hostile handshakes, backends that fail, reloads and ends in the middle of work."""

import hashlib
import os
import shutil
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from pqfl.demo.processes import Crew
from pqfl_transport.tls import client_context
from pqfl_transport.tls.config import Role
from pqfl_transport.tls.engine import TlsContext, TlsEngine
from tests.support.listeners import tls
from tests.support.pki import Federation, make_federation
from tests.support.sidecars import Running, echo, identity, plain_server, read_all, start, start_server

LARGE_BYTES = 1 << 30
PIECE = hashlib.sha256(b"a piece").digest() * (1 << 15)


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return make_federation(tmp_path_factory.mktemp("federation"), sites=("bank-a",))


@pytest.fixture
def crew(tmp_path: Path) -> Iterator[Crew]:
    (tmp_path / "logs").mkdir()
    with Crew(tmp_path / "logs") as made:
        yield made


def dial(federation: Federation, gateway: Running) -> Any:
    """Connect to the gateway as the site, with the library's own context."""
    site = federation.site("bank-a")
    context = client_context(site / "tls.pem", site / "tls.key", site / "ca.pem", verify_uri=federation.gateway_uri)
    return context.wrap_socket(gateway.connect())


def round_trip(federation: Federation, gateway: Running, word: bytes = b"word") -> bytes:
    """Send a word and return what comes back."""
    with dial(federation, gateway) as connection:
        connection.sendall(word)
        data: bytes = connection.recv(len(word))
    return data


def engine(federation: Federation) -> TlsEngine:
    return TlsContext(tls(federation, Role.CLIENT)).new_engine()


def test_hostile_handshakes_keep_nobody_waiting(federation: Federation, crew: Crew) -> None:
    """40 that say nothing, 20 that say nonsense: a good client is served at once, and the others are counted."""
    with plain_server(echo) as target:
        gateway = start_server(crew, federation, target, "--allow-all", "--handshake-timeout", "60")
        silent = [gateway.connect() for _ in range(40)]
        for _ in range(20):
            with gateway.connect() as connection:
                connection.sendall(os.urandom(2000))
                with suppress(ConnectionError):
                    connection.recv(100)
        assert round_trip(federation, gateway) == b"word"
        for _ in range(20):
            gateway.process.wait_for(lambda line: line.get("event") == "refusal", 20)
        assert gateway.status()["handshake_failures"].get("timeout") is None
        for connection in silent:
            connection.close()


def test_a_client_hello_in_single_bytes(federation: Federation, crew: Crew) -> None:
    """However the network cuts it, a handshake is a handshake."""
    with plain_server(echo) as target:
        gateway = start_server(crew, federation, target)
        own = engine(federation)
        with gateway.connect() as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while not own.do_handshake():
                for byte in own.data_to_send():
                    connection.send(bytes([byte]))
                own.receive(connection.recv(65536))
            connection.sendall(own.data_to_send())
            assert exchange(own, connection, b"slowly") == b"slowly"


def exchange(own: TlsEngine, connection: socket.socket, word: bytes) -> bytes:
    own.write(word)
    connection.sendall(own.data_to_send())
    buffer, count = memoryview(bytearray(65536)), 0
    while count < len(word):
        own.receive(connection.recv(65536))
        count += own.read_into(buffer[count:])
    return bytes(buffer[:count])


def test_first_bytes_in_the_segment_of_finished(federation: Federation, crew: Crew) -> None:
    """What comes with the end of the handshake is answered without another packet to wake anybody."""
    with plain_server(echo) as target:
        gateway = start_server(crew, federation, target)
        own = engine(federation)
        with gateway.connect() as connection:
            while not own.do_handshake():
                connection.sendall(own.data_to_send())
                own.receive(connection.recv(65536))
            finished = own.data_to_send()
            own.write(b"together")
            connection.sendall(finished + own.data_to_send())
            buffer = memoryview(bytearray(100))
            while not (count := own.read_into(buffer)):
                own.receive(connection.recv(65536))
            assert bytes(buffer[:count]) == b"together"


def test_a_backend_that_comes_and_goes(federation: Federation, crew: Crew) -> None:
    """Down it is a failure of each connection and a 503 of the status page; up again it serves, without a restart."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        host, port = found.getsockname()
    gateway = start_server(crew, federation, f"{host}:{port}")
    for _ in range(3):
        with dial(federation, gateway) as connection, pytest.raises(OSError, match=r"."):
            connection.recv(1)
        gateway.wait_for("failure", reason="target_down")
        assert gateway.status()["ready"] is False
        listener = socket.create_server((host, port))

        def answer(listener: socket.socket = listener) -> None:
            with suppress(OSError):
                while True:
                    accepted, _ = listener.accept()
                    with accepted:
                        echo(accepted)

        threading.Thread(target=answer, daemon=True).start()
        assert round_trip(federation, gateway) == b"word"
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def test_a_backend_that_never_reads(federation: Federation, crew: Crew) -> None:
    """Its writer is stopped, the gateway's memory stays as it is, and others are served."""
    stuck = threading.Event()

    def serve(connection: socket.socket) -> None:
        if connection.recv(1) == b"!":
            stuck.wait(60)
        else:
            connection.sendall(b"x")
            echo(connection)

    with plain_server(serve) as target:
        gateway = start_server(crew, federation, target)
        before = psutil.Process(gateway.process.pid).memory_info().rss
        with dial(federation, gateway) as connection:
            connection.settimeout(2)
            connection.sendall(b"!")
            with pytest.raises(TimeoutError):
                connection.sendall(PIECE * 200)
            with dial(federation, gateway) as other:
                other.sendall(b"?")
                assert other.recv(1) == b"x"
            assert psutil.Process(gateway.process.pid).memory_info().rss - before < 32 << 20
        stuck.set()


def test_reloads_in_the_middle_of_a_large_transfer(federation: Federation, crew: Crew, tmp_path: Path) -> None:
    """A GiB passes byte for byte while certificates are exchanged ten times; new connections see the new ones."""
    found: dict[str, str] = {}

    def serve(connection: socket.socket) -> None:
        digest, count = hashlib.sha256(), 0
        while data := connection.recv(1 << 20):
            digest.update(data)
            count += len(data)
        if count > 4:
            found["digest"] = digest.hexdigest()
        connection.sendall(b"seen")

    own = tmp_path / "gateway"
    shutil.copytree(federation.gateway, own)
    twin = tmp_path / "twin"
    renewed = make_federation(twin, sites=("bank-a",)).gateway
    originals = {name: (own / name).read_bytes() for name in ("tls.pem", "tls.key", "ca.pem")}
    both = originals["ca.pem"] + (renewed / "ca.pem").read_bytes()
    with plain_server(serve) as target:
        gateway = start_with(crew, own, target)
        process = psutil.Process(gateway.process.pid)
        whole = hashlib.sha256()
        with dial(federation, gateway) as connection:
            for number in range(LARGE_BYTES // len(PIECE)):
                whole.update(PIECE)
                connection.sendall(PIECE)
                if number % 100 == 50:
                    # Another set of authorities each time, so that each reload has something to do.
                    (own / "ca.pem").write_bytes(both if number % 200 == 50 else originals["ca.pem"])
                    process.send_signal(signal.SIGHUP)
                    gateway.process.wait_for(lambda line: line.get("event") == "reload", 20)
            connection.shutdown(socket.SHUT_WR)
            assert read_all(connection) == b"seen"
        assert found["digest"] == whole.hexdigest()
        assert gateway.status()["reloads"] == {"ok": 10}


def start_with(crew: Crew, folder: Path, target: str) -> Running:
    """Start a gateway with the identity of a folder that a test may change."""
    return start(crew, "gateway", "server", "--target", target, *identity(folder), "--allow-all")


def test_a_broken_reload_changes_nothing(federation: Federation, crew: Crew, tmp_path: Path) -> None:
    """A truncated certificate, a foreign key, an empty trust store: said, counted, and the old ones go on."""
    own = tmp_path / "gateway"
    shutil.copytree(federation.gateway, own)
    with plain_server(echo) as target:
        gateway = start_with(crew, own, target)
        process = psutil.Process(gateway.process.pid)
        for name, broken in (("tls.pem", b"-----BEGIN CERT"), ("tls.key", b"nothing"), ("ca.pem", b"")):
            good = (own / name).read_bytes()
            (own / name).write_bytes(broken)
            process.send_signal(signal.SIGUSR1)
            line = gateway.process.wait_for(lambda line: line.get("event") == "reload", 20)
            assert (line["result"], name in line["detail"]) == ("failed", True)
            assert round_trip(federation, gateway) == b"word"
            (own / name).write_bytes(good)
        assert gateway.status()["reloads"] == {"failed": 3}


def test_draining_under_load_loses_nothing(federation: Federation, crew: Crew) -> None:
    """After TERM nobody new is let in, and what was begun is carried to its end, byte for byte."""
    with plain_server(echo) as target:
        gateway = start_server(crew, federation, target)
        connections = [dial(federation, gateway) for _ in range(8)]
        for connection in connections:
            connection.sendall(b"begin")
            assert connection.recv(5) == b"begin"
        psutil.Process(gateway.process.pid).send_signal(signal.SIGTERM)
        gateway.wait_for("draining", connections=8)
        with pytest.raises(OSError, match=r"."):
            round_trip(federation, gateway)
        results: list[bool] = []

        def work(connection: Any) -> None:
            sender = threading.Thread(
                target=lambda: ([connection.sendall(PIECE) for _ in range(8)], connection.shutdown(socket.SHUT_WR))
            )
            sender.start()
            results.append(read_all(connection) == PIECE * 8)
            sender.join(30)
            connection.close()

        threads = [threading.Thread(target=work, args=(connection,)) for connection in connections]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert results == [True] * 8
        gateway.process.wait(30)


def test_a_killed_worker_takes_only_its_own_connections(federation: Federation, crew: Crew) -> None:
    """The other's go on, what waits is served by its successor, and the sums go on from what is left."""
    with plain_server(echo) as target:
        gateway = start_server(crew, federation, target, "--allow-all", "--workers", "2")
        connections = [dial(federation, gateway) for _ in range(16)]
        for connection in connections:
            connection.settimeout(20)
            connection.sendall(b"x")
            assert connection.recv(1) == b"x"
        psutil.Process(gateway.process.pid).children()[0].send_signal(signal.SIGKILL)
        gateway.wait_for("worker_died")
        alive = 0
        for connection in connections:
            try:
                connection.sendall(b"y")
                alive += connection.recv(1) == b"y"
            except OSError:
                continue
        assert 0 < alive < 16
        for _ in range(8):
            assert round_trip(federation, gateway) == b"word"
        for connection in connections:
            connection.close()
