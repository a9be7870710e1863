"""One connection over real sockets, in this process: what is held, what is passed on, how it ends."""

import asyncio
import socket
import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.relay import Direction
from gateway.tcp import Pump, SharedBuffers, shake_hands
from pqfl_transport.errors import PeerError
from pqfl_transport.policy import for_level
from pqfl_transport.tls import client_context
from pqfl_transport.tls.config import AllowedPeers, Role, TlsConfig, TlsIdentity
from pqfl_transport.tls.engine import TlsContext, TlsEngine
from tests.support.pki import Federation, make_federation

LARGE = bytes(range(256)) * 16_000


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return make_federation(tmp_path_factory.mktemp("federation"), sites=("bank-a",))


def engine(federation: Federation, **allowed: Any) -> TlsEngine:
    folder = federation.gateway
    identity = TlsIdentity.load(folder / "tls.pem", folder / "tls.key", folder / "ca.pem")
    rules = AllowedPeers(**(allowed or {"any_of_federation": True}))
    return TlsContext(TlsConfig(Role.SERVER, identity, for_level("high"), rules)).new_engine()


def files(folder: Path) -> tuple[Path, Path, Path]:
    return folder / "tls.pem", folder / "tls.key", folder / "ca.pem"


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """Two connected TCP sockets: unlike a socket pair they know resets."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        one = socket.create_connection(server.getsockname())
        two, _ = server.accept()
    return one, two


def relay(federation: Federation, outside: Callable[[Any], None], inside: Callable[[socket.socket], None]) -> Pump:
    """Relay one connection between a TLS client and a plain server, each in a thread; return the pump, finished."""
    client, tls = tcp_pair()
    plain, server = tcp_pair()
    pumps: list[Pump] = []

    def act_outside() -> None:
        context = client_context(*files(federation.site("bank-a")), verify_uri=federation.gateway_uri)
        outside(context.wrap_socket(client))

    async def run() -> None:
        for connection in (tls, plain):
            connection.setblocking(False)
        buffers = SharedBuffers()
        own = engine(federation)
        await shake_hands(own, tls, buffers)
        pump = Pump(own, tls, plain, buffers)
        pumps.append(pump)
        reasons.append(await asyncio.wait_for(pump.run(), 30))
        assert buffers.crypto_seconds > 0

    reasons: list[str] = []
    threads = [threading.Thread(target=act_outside), threading.Thread(target=inside, args=(server,))]
    for thread in threads:
        thread.start()
    asyncio.run(run())
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    pumps[0].reason = reasons[0]  # type: ignore[attr-defined]
    return pumps[0]


def read_all(connection: Any) -> bytes:
    return b"".join(iter(lambda: connection.recv(1 << 16), b""))


def test_everything_passes_both_ways_and_both_ends(federation: Federation) -> None:
    """Megabytes each way at once, then each side's end, and the reason is ``complete``."""
    seen: dict[str, bytes] = {}

    def outside(connection: Any) -> None:
        writer = threading.Thread(target=lambda: (connection.sendall(LARGE), connection.shutdown(socket.SHUT_WR)))
        writer.start()
        seen["outside"] = read_all(connection)
        writer.join(20)
        connection.close()

    def inside(connection: socket.socket) -> None:
        writer = threading.Thread(target=lambda: (connection.sendall(LARGE[::-1]), connection.shutdown(socket.SHUT_WR)))
        writer.start()
        seen["inside"] = read_all(connection)
        writer.join(20)
        connection.close()

    pump = relay(federation, outside, inside)
    assert seen == {"outside": LARGE[::-1], "inside": LARGE}
    assert pump.relay.relayed_bytes == {Direction.INWARD: len(LARGE), Direction.OUTWARD: len(LARGE)}
    assert pump.reason == "complete"  # type: ignore[attr-defined]


def test_bytes_that_come_with_the_end_of_the_handshake_are_not_lost(federation: Federation) -> None:
    """A client that speaks first, in the same packets, is heard."""

    def outside(connection: Any) -> None:
        connection.sendall(b"first")
        assert connection.recv(10) == b"second"
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(10) == b""
        connection.close()

    def inside(connection: socket.socket) -> None:
        assert connection.recv(10) == b"first"
        connection.sendall(b"second")
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(10) == b""
        connection.close()

    assert relay(federation, outside, inside).reason == "complete"  # type: ignore[attr-defined]


def test_a_plain_reset_is_told_to_the_tls_side_as_a_cut(federation: Federation) -> None:
    """The client must not take half an answer for a whole one."""
    errors: list[BaseException] = []

    def outside(connection: Any) -> None:
        connection.sendall(b"question")
        try:
            read_all(connection)
        except OSError as error:
            errors.append(error)
        connection.close()

    def inside(connection: socket.socket) -> None:
        connection.recv(10)
        connection.sendall(b"half an ans")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        connection.close()

    assert relay(federation, outside, inside).reason == "plain_reset"  # type: ignore[attr-defined]
    assert len(errors) == 1
    assert isinstance(errors[0], (ssl.SSLEOFError, ConnectionResetError))


def test_a_tls_reset_is_a_reset_for_the_plain_side(federation: Federation) -> None:
    """The server must not take half a question for a whole one."""
    errors: list[BaseException] = []

    def outside(connection: Any) -> None:
        assert connection.recv(2) == b"go"
        connection.sendall(b"half a quest")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        socket.socket(fileno=connection.detach()).close()

    def inside(connection: socket.socket) -> None:
        connection.sendall(b"go")
        try:
            read_all(connection)
        except ConnectionResetError as error:
            errors.append(error)
        connection.close()

    assert relay(federation, outside, inside).reason in {"tls_reset", "truncated"}  # type: ignore[attr-defined]
    assert len(errors) == 1


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
    tls.setblocking(False)
    with pytest.raises(PeerError) as caught:
        asyncio.run(shake_hands(engine(federation, uris=("spiffe://fed/site/bank-b",)), tls, SharedBuffers()))
    tls.close()
    thread.join(20)
    assert caught.value.reason == "not_allowed"
    assert len(told) == 1
    assert "not_allowed" in str(told[0])


def test_cancelling_ends_both_sides(federation: Federation) -> None:
    """When the service stops waiting, both sides see a reset and no socket stays open."""
    client, tls = tcp_pair()
    plain, server = tcp_pair()

    def outside() -> None:
        context = client_context(*files(federation.site("bank-a")), verify_uri=federation.gateway_uri)
        wrapped: Any = context.wrap_socket(client)
        ready.set()
        with pytest.raises(OSError, match=r"."):
            wrapped.recv(1)
        wrapped.close()

    ready = threading.Event()
    thread = threading.Thread(target=outside)
    thread.start()

    async def run() -> None:
        for connection in (tls, plain):
            connection.setblocking(False)
        own = engine(federation)
        buffers = SharedBuffers()
        await shake_hands(own, tls, buffers)
        task = asyncio.create_task(Pump(own, tls, plain, buffers).run())
        await asyncio.to_thread(ready.wait, 20)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())
    thread.join(20)
    with server, pytest.raises(ConnectionResetError):
        server.recv(1)
    assert (tls.fileno(), plain.fileno()) == (-1, -1)
