"""One handshake over a socket: it completes, says why it does not, and leaves nothing behind."""

import asyncio
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from gateway.handshake import Failure, Handshake
from gateway.tcp import Scratch
from pqfl_transport.errors import PeerError
from pqfl_transport.policy import for_level
from pqfl_transport.tls import client_context
from pqfl_transport.tls.config import AllowedPeers, Role, TlsConfig, TlsIdentity
from pqfl_transport.tls.engine import TlsContext, TlsEngine
from tests.support.pki import Federation, make_federation


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return make_federation(tmp_path_factory.mktemp("federation"), sites=("bank-a",))


def files(folder: Path) -> tuple[Path, Path, Path]:
    return folder / "tls.pem", folder / "tls.key", folder / "ca.pem"


def engine(federation: Federation, **allowed: Any) -> TlsEngine:
    rules = AllowedPeers(**(allowed or {"any_of_federation": True}))
    config = TlsConfig(Role.SERVER, TlsIdentity.load(*files(federation.gateway)), for_level("high"), rules)
    return TlsContext(config).new_engine()


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        one = socket.create_connection(server.getsockname())
        two, _ = server.accept()
    two.setblocking(False)
    return one, two


async def shake_hands(own: TlsEngine, tls: socket.socket, *, fail: Failure | None = None) -> Failure | None:
    """Run a handshake to its end; return the error if there was one."""
    ended: asyncio.Future[Failure | None] = asyncio.get_running_loop().create_future()
    handshake = Handshake(own, tls, Scratch(), ended.set_result)
    handshake.start(speaks_first=False)
    if fail is not None:
        handshake.fail(fail)
    result = await asyncio.wait_for(ended, 20)
    assert handshake.over
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    await asyncio.gather(*tasks)
    return result


def test_a_good_handshake_leaves_the_socket_to_its_caller(federation: Federation) -> None:
    """Afterwards the engine knows the peer and the socket is open."""
    client, tls = tcp_pair()
    context = client_context(*files(federation.site("bank-a")), verify_uri=federation.gateway_uri)
    thread = threading.Thread(target=lambda: context.wrap_socket(client).close())
    thread.start()
    own = engine(federation)
    assert asyncio.run(shake_hands(own, tls)) is None
    thread.join(20)
    assert own.peer.name == federation.site_uri("bank-a")
    assert tls.fileno() >= 0
    tls.close()


def test_a_client_hello_in_single_bytes_is_understood(federation: Federation) -> None:
    """How the network cuts a flight makes no difference."""
    client, tls = tcp_pair()
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    config = TlsConfig(
        Role.CLIENT, TlsIdentity.load(*files(federation.site("bank-a"))), for_level("high"),
        AllowedPeers(uris=(federation.gateway_uri,)),
    )  # fmt: skip

    def outside() -> None:
        other = TlsContext(config).new_engine()
        while not other.do_handshake():
            for byte in other.data_to_send():
                client.send(bytes([byte]))
            other.receive(client.recv(65536))
        client.sendall(other.data_to_send())

    thread = threading.Thread(target=outside)
    thread.start()
    assert asyncio.run(shake_hands(engine(federation), tls)) is None
    thread.join(20)
    client.close()
    tls.close()


def test_a_refused_client_gets_the_alert_before_the_end(federation: Federation) -> None:
    """What it sent on top of the handshake does not turn the reason into a reset."""
    client, tls = tcp_pair()
    told: list[BaseException] = []

    def outside() -> None:
        context = client_context(*files(federation.site("bank-a")), verify_uri=federation.gateway_uri)
        wrapped: Any = context.wrap_socket(client)
        try:
            wrapped.sendall(b"x" * 100_000)
            wrapped.recv(1)
        except OSError as error:
            told.append(error)
        wrapped.close()

    thread = threading.Thread(target=outside)
    thread.start()
    failure = asyncio.run(shake_hands(engine(federation, uris=("spiffe://fed/site/bank-b",)), tls))
    thread.join(20)
    assert failure is not None
    assert failure.reason == "not_allowed"
    assert len(told) == 1
    assert "not_allowed" in str(told[0])
    assert tls.fileno() == -1


def test_giving_up_closes_the_socket(federation: Federation) -> None:
    """Who says nothing for too long sees the end of the connection."""
    client, tls = tcp_pair()
    late = PeerError("too late", reason="timeout")
    thread = threading.Thread(target=lambda: (client.recv(10), client.close()))
    thread.start()
    assert asyncio.run(shake_hands(engine(federation), tls, fail=late)) is late
    thread.join(20)
    assert tls.fileno() == -1


def test_a_connection_that_is_cut_is_a_failure(federation: Federation) -> None:
    """An end before the handshake's is told as what it is."""
    client, tls = tcp_pair()
    client.close()
    failure = asyncio.run(shake_hands(engine(federation), tls))
    assert failure is not None
    assert failure.reason == "truncated"


def test_abandoning_says_nothing_and_closes(federation: Federation) -> None:
    """When the process ends there is no farewell."""
    client, tls = tcp_pair()

    async def run() -> None:
        handshake = Handshake(engine(federation), tls, Scratch(), pytest.fail)
        handshake.start(speaks_first=False)
        handshake.abandon()
        handshake.abandon()

    asyncio.run(run())
    with client, pytest.raises(ConnectionResetError):
        client.recv(1)
