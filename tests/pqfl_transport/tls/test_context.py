"""The context that other libraries take: asyncio, aiohttp and plain sockets speak post-quantum TLS unawares."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from pqfl_transport.errors import ConfigurationError, PeerError
from pqfl_transport.tls import client_context, connect, server_context
from pqfl_transport.tls.context import PostQuantumObject
from tests.support.pki import Federation, make_federation

LARGE = bytes(range(256)) * (16 << 12)


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return make_federation(tmp_path_factory.mktemp("federation"), sites=("bank-a", "bank-b"))


def files(folder: Path) -> tuple[Path, Path, Path]:
    return folder / "tls.pem", folder / "tls.key", folder / "ca.pem"


def server(federation: Federation, **options: Any) -> ssl.SSLContext:
    return server_context(*files(federation.gateway), **({"allow_all": True} | options))


def client(federation: Federation, **options: Any) -> ssl.SSLContext:
    return client_context(
        *files(federation.site("bank-a")), **({"verify_uri": federation.gateway_uri} | options)
    )  # fmt: skip


@asynccontextmanager
async def echo(context: ssl.SSLContext) -> AsyncIterator[int]:
    """An asyncio server that sends back what it gets until the client ends its direction."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, ssl.SSLError):
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
            writer.close()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        yield listener.sockets[0].getsockname()[1]
    finally:
        listener.close()


def peer_of(writer: asyncio.StreamWriter) -> Any:
    return writer.get_extra_info("ssl_object").peer


def test_asyncio_streams(federation: Federation) -> None:
    """`connect` gives a stream that carries any bytes, with the evidence at hand."""

    async def scenario() -> None:
        async with echo(server(federation, alpn=["h2"])) as port:
            reader, writer = await connect("127.0.0.1", port, client(federation, alpn=["h2"]))
            peer = peer_of(writer)
            assert (peer.group, peer.own_sigalg, peer.peer_sigalg) == ("X25519MLKEM768", "ML-DSA-65", "ML-DSA-65")
            assert str(peer.id) == federation.gateway_uri
            sending = asyncio.create_task(writer_writes(writer))
            received = await reader.readexactly(len(LARGE))
            await sending
            assert received == LARGE
            ssl_object = writer.get_extra_info("ssl_object")
            assert ssl_object.version() == "TLSv1.3"
            assert ssl_object.selected_alpn_protocol() == "h2"
            assert ssl_object.cipher() == ("TLS_AES_256_GCM_SHA384", "TLSv1.3", 256)
            assert ("URI", federation.gateway_uri) in writer.get_extra_info("peercert")["subjectAltName"]
            assert ssl_object.getpeercert(True).startswith(b"\x30")
            assert len(ssl_object.get_channel_binding("tls-exporter")) == 32
            assert ssl_object.session is None
            assert ssl_object.session_reused is False
            writer.close()
            await writer.wait_closed()

    asyncio.run(asyncio.wait_for(scenario(), 30))


async def writer_writes(writer: asyncio.StreamWriter) -> None:
    writer.write(LARGE)
    await writer.drain()


def test_aiohttp_server_and_client(federation: Federation) -> None:
    """A request of 16 MiB and its answer of as much pass between aiohttp's own server and client."""
    seen = []

    async def handler(request: web.Request) -> web.Response:
        transport = request.transport
        assert transport is not None
        seen.append(str(transport.get_extra_info("ssl_object").peer.id))
        return web.Response(body=await request.read())

    async def scenario() -> None:
        app = web.Application(client_max_size=1 << 26)
        app.router.add_post("/", handler)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=server(federation)).start()
        url = f"https://127.0.0.1:{runner.addresses[0][1]}/"
        try:
            async with aiohttp.ClientSession() as session:
                for _ in range(2):
                    async with session.post(url, data=LARGE, ssl=client(federation)) as answer:
                        assert answer.status == 200
                        assert await answer.read() == LARGE
        finally:
            await runner.cleanup()

    asyncio.run(asyncio.wait_for(scenario(), 60))
    assert seen == [federation.site_uri("bank-a")] * 2


@pytest.mark.parametrize(
    ("server_options", "client_options", "reason"),
    [
        ({"allow_all": False, "allow_uris": ["spiffe://fed/site/bank-b"]}, {}, "not_allowed"),
        ({}, {"verify_uri": "spiffe://fed/gateway/other"}, "not_allowed"),
        ({}, {"verify_uri": (), "verify_dns": "hub.example.org"}, "not_allowed"),
        ({"alpn": ["h2"]}, {"alpn": ["http/1.1"]}, "protocol"),
    ],
)
def test_refusals_carry_their_reason(
    federation: Federation, server_options: dict[str, Any], client_options: dict[str, Any], reason: str
) -> None:
    """Either side's refusal is a PeerError for `connect` and an aiohttp error whose text has the reason."""

    async def use(port: int, context: ssl.SSLContext) -> None:
        reader, _ = await connect("127.0.0.1", port, context)
        # A client is done before the server has judged it, so it learns of its refusal by reading.
        await reader.readexactly(1)

    async def fetch(port: int, context: ssl.SSLContext) -> None:
        async with aiohttp.ClientSession() as session:
            await session.get(f"https://127.0.0.1:{port}/", ssl=context)

    async def scenario() -> None:
        context = client(federation, **client_options)
        async with echo(server(federation, **server_options)) as port:
            with pytest.raises((PeerError, ssl.SSLError)) as caught:
                await use(port, context)
            error = caught.value if isinstance(caught.value, PeerError) else caught.value.__cause__
            assert isinstance(error, PeerError)
            assert error.reason == reason
            with pytest.raises(aiohttp.ClientError, match=rf"\[{reason}\]"):
                await fetch(port, context)

    asyncio.run(asyncio.wait_for(scenario(), 30))


def test_host_names_are_checked_where_nobody_is_named(federation: Federation) -> None:
    """Without a SPIFFE ID to expect, the certificate has to name the host that was asked for."""

    async def scenario() -> None:
        async with echo(server(federation)) as port:
            context = client(federation, verify_uri=())
            _, writer = await connect("127.0.0.1", port, context)
            writer.close()
            _, writer = await connect("127.0.0.1", port, context, server_name="localhost")
            writer.close()
            with pytest.raises(PeerError, match=r"hub\.example\.org") as caught:
                await connect("127.0.0.1", port, context, server_name="hub.example.org")
            assert caught.value.reason == "bad_name"

    asyncio.run(asyncio.wait_for(scenario(), 30))


@pytest.mark.parametrize(
    "weaken",
    [
        lambda context: setattr(context, "verify_mode", ssl.CERT_NONE),
        lambda context: setattr(context, "minimum_version", ssl.TLSVersion.TLSv1_2),
        lambda context: setattr(context, "options", ssl.OP_NO_TLSv1_3),
        lambda context: setattr(context, "check_hostname", False),
        lambda context: context.set_ciphers("ALL"),
        lambda context: context.load_verify_locations("/etc/ssl/certs/ca-certificates.crt"),
        lambda context: context.load_default_certs(),
        lambda context: context.set_default_verify_paths(),
        lambda context: context.load_cert_chain("/tmp/none.pem"),  # noqa: S108 -- never opened
        lambda context: context.set_ecdh_curve("prime256v1"),
        lambda context: context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_side=True),
        lambda context: context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), session="session"),
        lambda context: context.get_ca_certs(),
    ],
)
def test_what_would_weaken_it_raises(federation: Federation, weaken: Callable[[ssl.SSLContext], object]) -> None:
    """No call that other contexts obey is ignored here in silence."""
    with pytest.raises(ConfigurationError):
        weaken(client(federation))


def test_libraries_may_read_it_and_set_what_is_so_already(federation: Federation) -> None:
    """It is an SSLContext with verification on, and ALPN can be given later as usual."""
    context = client(federation)
    assert isinstance(context, ssl.SSLContext)
    assert context.verify_mode is ssl.CERT_REQUIRED
    context.verify_mode = ssl.CERT_REQUIRED
    context.set_alpn_protocols(["http/1.1"])
    assert len(context.get_ca_certs(binary_form=True)) == 2

    async def scenario() -> None:
        async with echo(server(federation, alpn=["http/1.1"])) as port:
            _, writer = await connect("127.0.0.1", port, context)
            assert peer_of(writer).alpn == "http/1.1"
            writer.close()

    asyncio.run(asyncio.wait_for(scenario(), 30))


def test_connect_takes_only_our_context() -> None:
    """Handing it Python's own context, which knows no ML-KEM here, is a mistake that is named."""
    with pytest.raises(ConfigurationError, match="client_context"):
        asyncio.run(connect("127.0.0.1", 1, ssl.create_default_context()))


def test_a_server_without_anybody_to_let_in_is_refused(federation: Federation) -> None:
    """Forgetting whom to allow never means everybody."""
    with pytest.raises(ConfigurationError, match="whom it allows"):
        server(federation, allow_all=False)


def test_objects_that_shake_hands_say_what_they_wait_for(federation: Federation) -> None:
    """Over memory BIOs, in order: want-read, done, data, end, as the standard library's objects do."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    one: Any = client(federation).wrap_bio(to_client, to_server)
    two: Any = server(federation).wrap_bio(to_server, to_client, server_side=True)
    assert isinstance(one, PostQuantumObject)
    assert one.version() is one.cipher() is one.getpeercert() is None
    with pytest.raises(ssl.SSLWantReadError):
        one.do_handshake()
    with pytest.raises(ssl.SSLWantReadError):
        two.do_handshake()
    one.do_handshake()
    two.do_handshake()
    with pytest.raises(ssl.SSLWantReadError):
        two.read(10)
    assert one.write(b"ping") == 4
    buffer = bytearray(10)
    assert two.read(2, buffer) == 2
    assert two.pending() == 2
    assert two.read(10) == b"ng"
    with pytest.raises(ssl.SSLWantReadError):
        one.unwrap()
    assert two.read(10) == b""
    two.unwrap()
    one.unwrap()
    with pytest.raises(ValueError, match="tls-unique"):
        one.get_channel_binding()
    with pytest.raises(ConfigurationError):
        one.context = ssl.create_default_context()
