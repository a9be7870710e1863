"""Dialling: at once on this machine, patiently elsewhere, through proxies, to the first target that answers."""

import asyncio
import errno
import itertools
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import psutil
import pytest

from gateway import dialing
from gateway.dialing import connect_at_once, dial, dial_first, look, watch
from gateway.proxies import Proxy
from gateway.targets import Targets
from pqfl_transport.errors import ConfigurationError, PlatformError, TransportError
from pqfl_transport.net.address import Address

PATIENCE_SECONDS = 60
HUB = Address("hub.example", 443)


@contextmanager
def serving() -> Iterator[tuple[socket.socket, Address]]:
    """A port where connections are taken."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server, Address(*server.getsockname())


@contextmanager
def silent() -> Iterator[Address]:
    """A port that never answers, because its backlog is full: the kernel drops what comes."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server, socket.create_connection(server.getsockname()):
        yield Address(*server.getsockname())


@pytest.fixture
def closed() -> Iterator[Address]:
    """A port where nobody listens, and where nobody begins to."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield Address(*holder.getsockname())


@pytest.fixture
def full(tmp_path: Path) -> Iterator[tuple[socket.socket, Address]]:
    """A unix socket whose backlog is full."""
    path = str(tmp_path / "full.sock")
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as waiting:
        server.bind(path)
        server.listen(0)
        waiting.connect(path)
        yield server, Address(path=path)


def is_up(connection: socket.socket) -> None:
    """A connection is made, non-blocking, and sends small records at once."""
    assert connection.getblocking() is False
    connection.getpeername()
    if connection.family != socket.AF_UNIX:
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def descriptors() -> int:
    """How many are open in this process."""
    return psutil.Process().num_fds()


def no_resolver(monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(*arguments: object, **_: object) -> None:
        pytest.fail(f"the resolver was asked: {arguments}")

    monkeypatch.setattr(socket, "getaddrinfo", asked)


def resolving_to(monkeypatch: pytest.MonkeyPatch, *addresses: Address) -> None:
    """Make every name mean these addresses."""
    found = [(socket.AF_INET, (address.host, address.port)) for address in addresses]

    async def resolve(*_: object) -> list[tuple[int, tuple[str, int]]]:
        return found

    monkeypatch.setattr(dialing, "_resolve", resolve)


async def dialled(address: Address, proxy: Proxy | None = None) -> socket.socket:
    return await dial(address, timeout_seconds=PATIENCE_SECONDS, proxy=proxy)


def failing(address: Address, proxy: Proxy | None = None, seconds: float = PATIENCE_SECONDS) -> TransportError:
    with pytest.raises(TransportError) as caught:
        asyncio.run(dial(address, timeout_seconds=seconds, proxy=proxy))
    assert str(caught.value).startswith(f"target {address}")
    return caught.value


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_what_is_on_this_machine_is_connected_at_once(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    """No event loop and no resolver."""
    with serving() as (server, address):
        no_resolver(monkeypatch)
        connection = connect_at_once(Address(host, address.port))
        assert connection is not None
        with connection, server.accept()[0] as accepted:
            is_up(connection)
            assert accepted.getpeername() == connection.getsockname()


def test_a_path_is_connected_at_once(tmp_path: Path) -> None:
    """Unix sockets have no delay to switch off."""
    path = str(tmp_path / "a.sock")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()
        connection = connect_at_once(Address(path=path))
        assert connection is not None
        with connection:
            is_up(connection)


def test_what_takes_longer_is_not_connected_at_once(
    closed: Address, full: tuple[socket.socket, Address], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody there, nobody who answers, a full backlog, a name, no such path: nothing waits, no socket stays behind."""
    before = descriptors()
    with silent() as mute:
        no_resolver(monkeypatch)
        for address in (closed, mute, full[1], HUB, Address(path="/nowhere/a.sock"), Address(path="/" + "a" * 200)):
            assert connect_at_once(address) is None
    assert descriptors() == before


def test_without_descriptors_nothing_is_connected_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The patient way reports it, with the right culprit."""

    def out_of_descriptors(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(dialing, "_begin", out_of_descriptors)
    assert connect_at_once(Address("127.0.0.1", 1)) is None
    with pytest.raises(PlatformError, match="Too many open files") as caught:
        asyncio.run(dialled(Address("127.0.0.1", 1)))
    assert caught.value.reason == "resources"


def test_dialling_needs_no_resolver_for_what_is_no_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Literals, localhost and paths."""
    path = str(tmp_path / "a.sock")
    with serving() as (_, address), socket.socket(socket.AF_UNIX) as unix:
        unix.bind(path)
        unix.listen()
        no_resolver(monkeypatch)
        for target in (address, Address("localhost", address.port), Address(path=path)):
            with asyncio.run(dialled(target)) as connection:
                is_up(connection)


def test_dialling_ipv6() -> None:
    """Literals with and without a zone."""
    try:
        server = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError as error:
        pytest.skip(f"no IPv6 here: {error}")
    with server:
        port = server.getsockname()[1]
        for host in ("::1", "::1%1", "localhost"):
            with asyncio.run(dialled(Address(host, port))) as connection:
                is_up(connection)


def test_a_zone_that_is_not_here_is_named() -> None:
    """The target's sentence, and no traceback."""
    assert failing(Address("fe80::1%nosuchzone", 1)).reason == "target_down"


def test_every_address_of_a_name_is_tried(closed: Address, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that refuses and one that accepts make a connection."""
    with serving() as (_, address):
        resolving_to(monkeypatch, closed, address)
        with asyncio.run(dialled(HUB)) as connection:
            assert connection.getpeername() == (address.host, address.port)


def test_an_address_that_does_not_answer_leaves_time_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """No address of a name uses up all the time there is."""
    with silent() as mute, serving() as (_, address):
        resolving_to(monkeypatch, mute, address)
        with asyncio.run(dial(HUB, timeout_seconds=4)) as connection:
            assert connection.getpeername() == (address.host, address.port)


def test_all_addresses_of_a_name_are_named_when_none_works(closed: Address, monkeypatch: pytest.MonkeyPatch) -> None:
    """What happened at each of them, in one sentence."""
    with silent() as mute:
        resolving_to(monkeypatch, mute, closed)
        error = failing(HUB, seconds=2)
    assert error.reason == "target_down"
    assert str(error).endswith("no answer (127.0.0.1), Connection refused (127.0.0.1)")


@pytest.mark.parametrize(
    "address", [Address(path="/nowhere/a.sock"), Address("host.invalid", 1), Address("a..b", 1), Address("a" * 64, 1)]
)
def test_a_target_that_is_not_there_is_named(address: Address) -> None:
    """No such path, no such name, no possible name."""
    assert failing(address).reason == "target_down"


def test_a_port_where_nobody_listens_is_named(closed: Address) -> None:
    """With the reason that the kernel gives."""
    error = failing(closed)
    assert (error.reason, "refused" in str(error)) == ("target_down", True)


def test_a_target_that_does_not_answer_is_named_with_the_time(full: tuple[socket.socket, Address]) -> None:
    """So that the operator knows which timeout it was."""
    with silent() as mute:
        for address in (mute, full[1]):
            error = failing(address, seconds=0.05)
            assert (error.reason, "no answer within 0.05 s" in str(error)) == ("target_down", True)


def test_a_unix_socket_with_a_full_backlog_is_waited_for(full: tuple[socket.socket, Address]) -> None:
    """It counts as connected when it is, and not before."""
    server, address = full

    async def scenario() -> None:
        dialling = asyncio.create_task(dialled(address))
        for _ in range(20):
            await asyncio.sleep(0)
        assert not dialling.done()
        server.accept()[0].close()
        with await dialling as connection:
            is_up(connection)
            with server.accept()[0] as accepted:
                connection.send(b"hello")
                assert accepted.recv(10) == b"hello"

    asyncio.run(scenario())


def test_a_socket_that_met_itself_is_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel may lend the very port that nobody listens on; that is the target being down."""
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        address = Address(*holder.getsockname())

        def begin(_: object) -> tuple[socket.socket, int]:
            connection = socket.socket()
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            connection.bind((address.host, address.port))
            connection.connect((address.host, address.port))
            assert connection.getsockname() == connection.getpeername()
            return connection, 0

        monkeypatch.setattr(dialing, "_begin", begin)
        assert connect_at_once(address) is None
        assert "refused" in str(failing(address))


def test_an_address_to_listen_on_is_not_dialled() -> None:
    """The configuration is at fault, and not the network."""
    with pytest.raises(ConfigurationError, match="systemd:main"):
        connect_at_once(Address(activation="main"))
    with pytest.raises(ConfigurationError, match="systemd:main"):
        asyncio.run(dialled(Address(activation="main")))


def test_no_attempt_leaves_a_socket_behind(closed: Address, full: tuple[socket.socket, Address]) -> None:
    """Refused, out of time, or cancelled; with and without a proxy."""

    async def scenario() -> None:
        with silent() as mute, serving() as (_, deaf):
            before = descriptors()
            proxies = [None, Proxy("http", closed), Proxy("http", mute), Proxy("http", deaf)]
            for address, proxy in itertools.product([closed, mute], proxies):
                with pytest.raises(TransportError):
                    await dial(address, timeout_seconds=0.02, proxy=proxy)
                dialling = asyncio.create_task(dialled(full[1] if proxy is None else address, proxy))
                await asyncio.sleep(0)
                dialling.cancel()
                await asyncio.wait([dialling])
            assert descriptors() == before

    asyncio.run(scenario())


@asynccontextmanager
async def scripted(*exchanges: tuple[bytes, bytes]) -> AsyncIterator[Address]:
    """A proxy that expects and answers as written, and then sends back what it gets, until the end."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for expected, answer in exchanges:
            assert await reader.readexactly(len(expected)) == expected
            writer.write(answer)
        while data := await reader.read(1000):
            writer.write(data)
        writer.close()

    async with await asyncio.start_server(talk, "127.0.0.1", 0) as server:
        yield Address(*server.sockets[0].getsockname())


CONNECT = b"CONNECT hub.example:443 HTTP/1.1\r\nHost: hub.example:443\r\n\r\n"


@pytest.mark.parametrize(
    ("scheme", "user", "exchanges"),
    [
        ("http", "", [(CONNECT, b"HTTP/1.1 200 OK\r\n\r\n")]),
        (
            "socks5",
            "me:secret@",
            [
                (b"\x05\x02\x00\x02", b"\x05\x02"),
                (b"\x01\x02me\x06secret", b"\x01\x00"),
                (b"\x05\x01\x00\x03\x0bhub.example\x01\xbb", b"\x05\x00\x00\x03\x05proxy\x00\x01"),
            ],
        ),
    ],
)
def test_dialling_through_a_proxy(scheme: str, user: str, exchanges: list[tuple[bytes, bytes]]) -> None:
    """The name of the target is the proxy's to resolve; what came right behind its answer is still to be read."""

    async def scenario() -> None:
        *first, (expected, answer) = exchanges
        async with scripted(*first, (expected, answer + b"first bytes of the tunnel")) as address:
            proxy = Proxy.parse(f"{scheme}://{user}{address}", "--proxy")
            with await dialled(HUB, proxy) as connection:
                is_up(connection)
                loop, received = asyncio.get_running_loop(), b""
                await loop.sock_sendall(connection, b", and more")
                while not received.endswith(b"more"):
                    received += await loop.sock_recv(connection, 1000)
                assert received == b"first bytes of the tunnel, and more"

    asyncio.run(scenario())


def test_an_answer_that_comes_byte_by_byte() -> None:
    """A slow proxy is understood too."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(len(CONNECT))
        for byte in b"HTTP/1.1 200 OK\r\nVia: a\r\n\r\nT":
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0)
        writer.close()

    async def scenario() -> None:
        async with await asyncio.start_server(talk, "127.0.0.1", 0) as server:
            proxy = Proxy("http", Address(*server.sockets[0].getsockname()))
            with await dialled(HUB, proxy) as connection:
                assert await asyncio.get_running_loop().sock_recv(connection, 10) == b"T"

    asyncio.run(scenario())


def test_a_proxy_that_refuses_is_named_with_the_target_and_without_its_password() -> None:
    """The reason tells a proxy's refusal from a target that is down."""

    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            refusing = await stack.enter_async_context(scripted((b"CONNECT", b"HTTP/1.1 403 Forbidden\r\n\r\n")))
            proxy = Proxy.parse(f"http://me:secret@{refusing}", "--proxy")
            with pytest.raises(TransportError) as caught:
                await dialled(HUB, proxy)
            assert caught.value.reason == "proxy_refused"
            assert (
                str(caught.value)
                == f"target {HUB} through proxy http://{refusing}: it answered 'HTTP/1.1 403 Forbidden'"
            )

    asyncio.run(scenario())


def test_a_proxy_that_cannot_be_reached_is_named(closed: Address) -> None:
    """Refused and silent ones."""
    with silent() as mute, serving() as (_, deaf):
        for address, seconds, words in (
            (closed, PATIENCE_SECONDS, "refused"),
            (mute, 0.05, "0.05 s"),
            (deaf, 0.05, "0.05 s"),
        ):
            error = failing(HUB, Proxy("socks5", address), seconds)
            assert (error.reason, f"through proxy socks5://{address}" in str(error)) == ("target_down", True)
            assert words in str(error)


def test_a_proxy_that_hangs_up_is_named() -> None:
    """Before it has answered."""

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(len(CONNECT))
        writer.close()

    async def scenario() -> None:
        async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as server:
            proxy = Proxy("http", Address(*server.sockets[0].getsockname()))
            with pytest.raises(TransportError, match="closed the connection") as caught:
                await dialled(HUB, proxy)
            assert caught.value.reason == "proxy_refused"

    asyncio.run(scenario())


def test_a_path_is_not_dialled_through_a_proxy(closed: Address) -> None:
    """Nobody is connected to for it."""
    with pytest.raises(ConfigurationError, match="unix:/a"):
        asyncio.run(dialled(Address(path="/a"), Proxy("http", closed)))


def now() -> float:
    return 100.0


def test_the_first_target_that_answers(closed: Address) -> None:
    """What failed on the way is remembered, and who answered."""
    with serving() as (_, address):
        targets = Targets([closed, address])
        connection, target = asyncio.run(dial_first(targets, timeout_seconds=PATIENCE_SECONDS, clock=now))
        with connection:
            is_up(connection)
    assert target == address
    assert targets.order(now()) == [address, closed]
    assert targets.not_heard_of(now()) == []


def test_when_no_target_answers_all_are_named(closed: Address) -> None:
    """One sentence for the log, with the reason of the last one."""
    nowhere = Address(path="/nowhere/a.sock")
    targets = Targets([closed, nowhere])
    with pytest.raises(TransportError) as caught:
        asyncio.run(dial_first(targets, timeout_seconds=PATIENCE_SECONDS, clock=now))
    assert str(closed) in str(caught.value)
    assert str(nowhere) in str(caught.value)
    assert caught.value.reason == "target_down"
    assert not any(state["up"] for state in targets.states().values())


def test_a_machine_out_of_descriptors_says_nothing_of_its_targets(monkeypatch: pytest.MonkeyPatch) -> None:
    """No target is avoided for what this machine lacks."""

    def out_of_descriptors(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(dialing, "_begin", out_of_descriptors)
    targets = Targets([Address("127.0.0.1", 1)])
    with pytest.raises(PlatformError):
        asyncio.run(dial_first(targets, timeout_seconds=PATIENCE_SECONDS, clock=now))
    asyncio.run(look(targets, clock=now))
    assert targets.not_heard_of(now()) == [Address("127.0.0.1", 1)]


def test_a_look_finds_out_who_is_up(closed: Address) -> None:
    """Only those are connected to of which nothing is known."""
    with serving() as (server, address):
        targets = Targets([closed, address])
        asyncio.run(look(targets, clock=now))
        states = targets.states()
        assert (states[str(closed)]["up"], states[str(address)]["up"]) == (False, True)
        assert "refused" in states[str(closed)]["detail"]
        server.accept()[0].close()
        asyncio.run(look(targets, clock=now))
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()


def test_watching_sees_targets_come_and_go(tmp_path: Path) -> None:
    """Connections go where they work before one of them has failed."""
    path = tmp_path / "a.sock"
    targets = Targets([Address(path=str(path))])
    times = itertools.count(0.0, 100.0)

    async def until(*, up: bool) -> None:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while targets.states()[f"unix:{path}"]["up"] is not up:  # noqa: ASYNC110 -- targets call nobody back
                await asyncio.sleep(0.005)

    async def scenario() -> None:
        watching = asyncio.create_task(watch(targets, interval_seconds=0.001, clock=lambda: next(times)))
        await until(up=False)
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))
            server.listen(1000)
            await until(up=True)
        await until(up=False)
        watching.cancel()
        await asyncio.wait([watching])
        assert watching.cancelled()

    asyncio.run(scenario())
