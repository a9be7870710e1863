"""Plain streams over post-quantum TLS: any bytes, the evidence at hand, and no cut taken for an end."""

import asyncio
import socket
import ssl
from typing import Any

import aiohttp
import pytest

from pqfl_transport.errors import ConfigurationError, PeerError
from pqfl_transport.tls import connect
from tests.support.contexts import LARGE, client, echo, server
from tests.support.pki import Federation, make_federation


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return make_federation(tmp_path_factory.mktemp("federation"), sites=("bank-a", "bank-b"))


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


def test_connect_takes_only_our_context() -> None:
    """Handing it Python's own context, which knows no ML-KEM here, is a mistake that is named."""
    with pytest.raises(ConfigurationError, match="client_context"):
        asyncio.run(connect("127.0.0.1", 1, ssl.create_default_context()))


async def cut_in_the_middle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send half of a message and end TCP without ending TLS."""
    await reader.readexactly(4)
    writer.write(b"half of a mess")
    await writer.drain()
    ssl_object: Any = writer.get_extra_info("ssl_object")
    assert not ssl_object.peer_closed
    writer.get_extra_info("socket").shutdown(socket.SHUT_WR)
    await reader.read()
    writer.close()


def test_a_stream_of_connect_that_is_cut_raises(federation: Federation) -> None:
    """Left to itself, asyncio would take the cut for the end of the stream."""

    async def scenario() -> None:
        listener = await asyncio.start_server(cut_in_the_middle, "127.0.0.1", 0, ssl=server(federation))
        port = listener.sockets[0].getsockname()[1]
        reader, writer = await connect("127.0.0.1", port, client(federation))
        writer.write(b"ping")
        with pytest.raises(ssl.SSLEOFError, match=r"\[truncated\]") as caught:
            await reader.read()
        assert isinstance(caught.value.__cause__, PeerError)
        writer.close()
        # Python's own context leaves no more than this behind: an end of stream, and whether the peer meant it.
        plain_reader, plain_writer = await asyncio.open_connection("127.0.0.1", port, ssl=client(federation))
        plain_writer.write(b"ping")
        assert await plain_reader.read() == b"half of a mess"
        assert not plain_writer.get_extra_info("ssl_object").peer_closed
        plain_writer.close()
        listener.close()

    asyncio.run(asyncio.wait_for(scenario(), 30))


def test_a_stream_that_ends_well_says_so(federation: Federation) -> None:
    """The reader gets everything and then nothing, and both ends know that the other one meant it."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write((await reader.readexactly(4)).upper())
        writer.close()

    async def scenario() -> None:
        listener = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=server(federation))
        reader, writer = await connect("127.0.0.1", listener.sockets[0].getsockname()[1], client(federation))
        writer.write(b"ping")
        assert await reader.read() == b"PING"
        assert writer.get_extra_info("ssl_object").peer_closed
        writer.close()
        await writer.wait_closed()
        listener.close()

    asyncio.run(asyncio.wait_for(scenario(), 30))
