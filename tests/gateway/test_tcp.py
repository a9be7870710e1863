"""One connection over real sockets, in this process: what is held, what is passed on, how it ends."""

import asyncio
import socket
import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.tcp import Pump, Scratch
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


async def shake_hands(own: TlsEngine, tls: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    while not own.do_handshake():
        while data := own.data_to_send():
            await loop.sock_sendall(tls, data)
        own.receive(await loop.sock_recv(tls, 16384))
    while data := own.data_to_send():
        await loop.sock_sendall(tls, data)


def relay(
    federation: Federation, outside: Callable[[Any], None], inside: Callable[[socket.socket], None], **options: Any
) -> tuple[Pump, str]:
    """Relay one connection between a TLS client and a plain server, each in a thread; return pump and reason."""
    client, tls = tcp_pair()
    plain, server = tcp_pair()
    pumps: list[Pump] = []

    def act_outside() -> None:
        context = client_context(*files(federation.site("bank-a")), verify_uri=federation.gateway_uri)
        outside(context.wrap_socket(client))

    async def run() -> None:
        for connection in (tls, plain):
            connection.setblocking(False)
        scratch = Scratch()
        own = engine(federation)
        await shake_hands(own, tls)
        ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        pump = Pump(own, tls, plain, scratch, ended.set_result, **options)
        pumps.append(pump)
        pump.start()
        reasons.append(await asyncio.wait_for(ended, 30))
        assert scratch.crypto_seconds > 0

    reasons: list[str] = []
    threads = [threading.Thread(target=act_outside), threading.Thread(target=inside, args=(server,))]
    for thread in threads:
        thread.start()
    asyncio.run(run())
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    return pumps[0], reasons[0]


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

    pump, reason = relay(federation, outside, inside)
    assert seen == {"outside": LARGE[::-1], "inside": LARGE}
    assert (pump.relay.inward.relayed_bytes, pump.relay.outward.relayed_bytes) == (len(LARGE), len(LARGE))
    assert reason == "complete"


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

    assert relay(federation, outside, inside)[1] == "complete"


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

    assert relay(federation, outside, inside)[1] == "plain_reset"
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

    assert relay(federation, outside, inside)[1] in {"tls_reset", "truncated"}
    assert len(errors) == 1


def test_closing_it_ends_both_sides(federation: Federation) -> None:
    """When the service ends a connection, both sides see a reset, and the reason is the one that was given."""
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
        await shake_hands(own, tls)
        reasons: list[str] = []
        pump = Pump(own, tls, plain, Scratch(), reasons.append)
        pump.start()
        await asyncio.to_thread(ready.wait, 20)
        pump.close("shutdown")
        pump.close("again")
        assert reasons == ["shutdown"]

    asyncio.run(run())
    thread.join(20)
    with server, pytest.raises(ConnectionResetError):
        server.recv(1)
    assert (tls.fileno(), plain.fileno()) == (-1, -1)


def test_a_connection_that_nears_the_limit_of_its_key_is_ended_with_that_reason(federation: Federation) -> None:
    """Neither side takes what it got for the whole: nothing more goes out under a key that is used up."""
    ends: list[BaseException] = []

    def outside(connection: Any) -> None:
        try:
            connection.sendall(LARGE)
            read_all(connection)
        except OSError as error:
            ends.append(error)
        connection.close()

    def inside(connection: socket.socket) -> None:
        try:
            read_all(connection)
        except ConnectionResetError as error:
            ends.append(error)
        connection.close()

    assert relay(federation, outside, inside, key_limit_records=20)[1] == "key_limit"
    assert ends


def test_a_throttled_connection_waits_and_loses_nothing(federation: Federation) -> None:
    """What is too fast is read later, byte for byte."""
    seen: dict[str, bytes] = {}
    asked: list[int] = []

    def throttle(count: int) -> float:
        asked.append(count)
        return 0.01

    def outside(connection: Any) -> None:
        connection.sendall(LARGE)
        connection.shutdown(socket.SHUT_WR)
        read_all(connection)
        connection.close()

    def inside(connection: socket.socket) -> None:
        seen["inside"] = read_all(connection)
        connection.shutdown(socket.SHUT_WR)
        connection.close()

    assert relay(federation, outside, inside, throttle=throttle)[1] == "complete"
    assert seen["inside"] == LARGE
    assert sum(asked) == len(LARGE)
