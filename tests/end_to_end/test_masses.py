"""Thousands of connections: idle ones cost little and no more each, and those that come and go leave nothing behind."""

import contextlib
import resource
import socket
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import psutil
import pytest

from pqfl.demo.processes import Crew
from pqfl_transport.tls.config import Role
from pqfl_transport.tls.engine import TlsContext, TlsEngine
from tests.support.listeners import tls
from tests.support.pki import Federation, make_federation
from tests.support.sidecars import Running, start_server

pytestmark = pytest.mark.slow

IDLE = 9_500
CHURN = 5_000
MAX_KIB_EACH = 71
"""What HAProxy was measured to take for an idle connection."""


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return make_federation(tmp_path_factory.mktemp("federation"), sites=("bank-a",))


@contextlib.contextmanager
def many_descriptors(count: int) -> Iterator[None]:
    """Raise this process's limit, or skip with the reason; what it starts inherits it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < count:
        pytest.skip(f"needs {count} descriptors, the limit here is {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, count), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def shake_hands(context: TlsContext, gateway: Running) -> tuple[TlsEngine, socket.socket]:
    own, connection = context.new_engine(), gateway.connect()
    while not own.do_handshake():
        connection.sendall(own.data_to_send())
        own.receive(connection.recv(65536))
    connection.sendall(own.data_to_send())
    return own, connection


def test_thousands_of_idle_connections(federation: Federation, tmp_path: Path) -> None:
    """9,500 at a time in one process: memory grows by the same for each, and the last is served like the first."""
    with (
        many_descriptors(20_000),
        Crew(tmp_path) as crew,
        socket.create_server(("127.0.0.1", 0), backlog=4096) as plain,
    ):
        host, port = plain.getsockname()
        gateway = start_server(crew, federation, f"{host}:{port}")
        process = psutil.Process(gateway.process.pid)
        context = TlsContext(tls(federation, Role.CLIENT))
        held, sizes = [], [process.memory_info().rss]
        for part in (IDLE // 2, IDLE):
            while len(held) < part:
                own, connection = shake_hands(context, gateway)
                accepted, _ = plain.accept()
                held.append((connection, accepted))
            sizes.append(process.memory_info().rss)
        accepted.sendall(b"last")
        buffer = memoryview(bytearray(100))
        while not (count := own.read_into(buffer)):
            own.receive(connection.recv(65536))
        assert bytes(buffer[:count]) == b"last"
        each = [(after - before) / 1024 / (IDLE // 2) for before, after in pairwise(sizes)]
        assert max(each) < MAX_KIB_EACH, each
        assert gateway.status()["connections_open"] == IDLE
        for pair in held:
            for one in pair:
                one.close()


def test_connections_that_come_and_go_leave_nothing(federation: Federation, tmp_path: Path) -> None:
    """5,000 one after the other: as many descriptors as before, and no more memory than the first thousand took."""
    with Crew(tmp_path) as crew, socket.create_server(("127.0.0.1", 0), backlog=4096) as plain:
        host, port = plain.getsockname()
        gateway = start_server(crew, federation, f"{host}:{port}", "--allow-all", "--quiet")
        process = psutil.Process(gateway.process.pid)
        context = TlsContext(tls(federation, Role.CLIENT))
        descriptors = process.num_fds()
        sizes = []
        for number in range(CHURN):
            _, connection = shake_hands(context, gateway)
            accepted, _ = plain.accept()
            connection.close()
            accepted.close()
            if number % 1000 == 999:
                sizes.append(process.memory_info().rss)
        while gateway.status()["connections_open"]:
            continue
        assert process.num_fds() <= descriptors + 8
        assert sizes[-1] - sizes[0] < 4 << 20, sizes
