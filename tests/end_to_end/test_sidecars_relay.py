"""Bytes through two sidecars: all of them, both ways, whatever the ends do, in bounded memory."""

import hashlib
import os
import socket
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import psutil
import pytest

from pqfl.demo.processes import Crew
from pqfl_transport.tls import client_context
from tests.support.pki import Federation, make_federation
from tests.support.sidecars import Running, echo, plain_server, read_all, start_client, start_server

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Pair:
    """A gateway and a site's sidecar in front of an echo."""

    federation: Federation
    gateway: Running
    sidecar: Running


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp("sidecars")
    federation = make_federation(folder, sites=("bank-a",))
    (folder / "logs").mkdir()
    with plain_server(echo) as target, Crew(folder / "logs") as crew:
        gateway = start_server(crew, federation, target)
        yield Pair(federation, gateway, start_client(crew, federation, gateway.target))


def exchange(sidecar: Running, data: bytes) -> bytes:
    """Send everything while reading everything; end when it was sent."""
    with sidecar.connect() as connection:

        def send() -> None:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=send)
        sender.start()
        received = read_all(connection)
        sender.join(30)
    return received


@pytest.mark.parametrize("size", [0, 1, 16_384, 100_001, 32 * MIB])
def test_all_bytes_come_back_the_same(pair: Pair, size: int) -> None:
    """Nothing, a byte, a record, an odd number, many megabytes: the same bytes and then the end."""
    data = os.urandom(size)
    received = exchange(pair.sidecar, data)
    assert len(received) == size
    assert hashlib.sha256(received).digest() == hashlib.sha256(data).digest()


@pytest.mark.slow
def test_a_gigabyte_passes_in_constant_memory(pair: Pair) -> None:
    """What a large model weighs goes through both sidecars, and neither of them grows with it."""
    processes = [psutil.Process(each.process.pid) for each in (pair.gateway, pair.sidecar)]
    before = [process.memory_info().rss for process in processes]
    chunk, sent, received = os.urandom(MIB), hashlib.sha256(), hashlib.sha256()
    with pair.sidecar.connect() as connection:

        def send() -> None:
            for _ in range(1024):
                connection.sendall(chunk)
                sent.update(chunk)
            connection.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=send)
        sender.start()
        while data := connection.recv(MIB):
            received.update(data)
        sender.join(60)
    assert received.digest() == sent.digest()
    grown = [process.memory_info().rss - rss for process, rss in zip(processes, before, strict=True)]
    assert max(grown) < 32 * MIB


def test_small_messages_pass_at_once(pair: Pair) -> None:
    """A conversation of single lines never waits for a buffer to fill."""
    with pair.sidecar.connect() as connection:
        for number in range(300):
            line = b"line %d\n" % number
            connection.sendall(line)
            assert connection.recv(100) == line


def test_many_connections_at_once(pair: Pair) -> None:
    """Fifty conversations in parallel get their own bytes each, and all of them are counted."""
    before = pair.gateway.status()["peers"].get(pair.federation.site_uri("bank-a"), {}).get("connections", 0)
    results: dict[int, bool] = {}

    def talk(number: int) -> None:
        data = bytes([number]) * 200_000
        results[number] = exchange(pair.sidecar, data) == data

    threads = [threading.Thread(target=talk, args=(number,)) for number in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert results == dict.fromkeys(range(50), True)
    peer = pair.gateway.status()["peers"][pair.federation.site_uri("bank-a")]
    assert peer["connections"] == before + 50
    assert (peer["group"], peer["own_sigalg"], peer["peer_sigalg"]) == ("X25519MLKEM768", "ML-DSA-65", "ML-DSA-65")


def test_the_server_may_end_first(tmp_path_factory: pytest.TempPathFactory) -> None:
    """After the server's end the client still sends, and the server still reads it."""
    folder = tmp_path_factory.mktemp("ends")
    federation = make_federation(folder, sites=("bank-a",))
    (folder / "logs").mkdir()
    heard: list[bytes] = []
    done = threading.Event()

    def says_first(connection: socket.socket) -> None:
        connection.sendall(b"I am done")
        connection.shutdown(socket.SHUT_WR)
        heard.append(read_all(connection))
        done.set()

    with plain_server(says_first) as target, Crew(folder / "logs") as crew:
        gateway = start_server(crew, federation, target)
        with start_client(crew, federation, gateway.target).connect() as connection:
            assert read_all(connection) == b"I am done"
            connection.sendall(b"but I am not")
            connection.shutdown(socket.SHUT_WR)
            assert done.wait(20)
        gateway.wait_for("connection", reason="complete")
    assert heard == [b"but I am not"]


def test_a_reader_that_does_not_read_holds_up_the_writer_and_not_the_memory(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """With hundreds of megabytes waiting at the source, neither sidecar grows."""
    folder = tmp_path_factory.mktemp("pressure")
    federation = make_federation(folder, sites=("bank-a",))
    (folder / "logs").mkdir()
    release = threading.Event()

    def reads_late(connection: socket.socket) -> None:
        connection.recv(1)
        release.wait(60)
        total = 1
        while data := connection.recv(MIB):
            total += len(data)
        connection.sendall(b"%d" % total)

    with plain_server(reads_late) as target, Crew(folder / "logs") as crew:
        gateway = start_server(crew, federation, target)
        sidecar = start_client(crew, federation, gateway.target)
        processes = [psutil.Process(each.process.pid) for each in (gateway, sidecar)]
        exchange_small = sidecar.connect()
        with exchange_small as connection:
            connection.sendall(b"x")
            before = [process.memory_info().rss for process in processes]
            connection.settimeout(1.0)
            sent = 1
            chunk = bytes(MIB)
            # Sending stops by itself once every buffer on the way is full, long before 256 MiB.
            try:
                while sent < 256 * MIB:
                    sent += connection.send(chunk)
            except TimeoutError:
                pass
            assert sent < 64 * MIB
            grown = [process.memory_info().rss - rss for process, rss in zip(processes, before, strict=True)]
            assert max(grown) < 16 * MIB
            release.set()
            connection.settimeout(60)
            connection.shutdown(socket.SHUT_WR)
            assert int(read_all(connection)) == sent


def test_a_cut_connection_is_a_reset_and_never_a_clean_end(tmp_path_factory: pytest.TempPathFactory) -> None:
    """TLS ending without close_notify may be an attacker's cut: the server behind the gateway sees a reset."""
    folder = tmp_path_factory.mktemp("cut")
    federation = make_federation(folder, sites=("bank-a",))
    (folder / "logs").mkdir()
    ends: list[BaseException | bytes] = []
    done = threading.Event()

    def listens(connection: socket.socket) -> None:
        try:
            connection.recv(100)
            ends.append(connection.recv(100))
        except OSError as error:
            ends.append(error)
        done.set()

    site = federation.site("bank-a")
    with plain_server(listens) as target, Crew(folder / "logs") as crew:
        gateway = start_server(crew, federation, target)
        context = client_context(
            site / "tls.pem", site / "tls.key", site / "ca.pem", verify_uri=federation.gateway_uri
        )  # fmt: skip
        raw = gateway.connect()
        keep = raw.dup()
        wrapped = context.wrap_socket(raw)
        wrapped.sendall(b"half of a mess")
        # The TCP connection ends in order; it is TLS that was not told.
        keep.shutdown(socket.SHUT_WR)
        assert done.wait(20)
        gateway.wait_for("connection", reason="truncated")
        keep.close()
    assert len(ends) == 1
    assert isinstance(ends[0], ConnectionResetError)


def test_a_reset_of_the_plain_side_is_passed_on(pair: Pair) -> None:
    """A client that resets leaves no connection behind on either sidecar."""
    connection = pair.sidecar.connect()
    connection.sendall(b"x" * 1000)
    assert connection.recv(1000)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
    pair.sidecar.wait_for("connection", reason="plain_reset")
    pair.gateway.wait_for("connection", reason="tls_reset")
    assert pair.gateway.status()["connections_open"] == 0
