"""`pqfl server --mode http`: bodies of any size pass, identity is the gateway's word, refusals are problems."""

import asyncio
import hashlib
import json
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest
from aiohttp import web

from pqfl.demo.processes import Crew
from pqfl_transport.tls import client_context
from tests.support.pki import Federation, make_federation
from tests.support.sidecars import Running, start_server

PIECE = bytes(range(256)) * 1024
LARGE_BYTES = 192 << 20
# What the gateway may grow by while a body many times as large passes.
MAX_GROWTH_BYTES = 48 << 20
READ = web.AppKey("read", asyncio.Event)


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return make_federation(tmp_path_factory.mktemp("federation"), sites=("bank-a", "bank-b"))


class Scene:
    """A backend in this process, a gateway before it, and clients."""

    def __init__(self, federation: Federation, gateway: Running) -> None:
        self.federation, self.gateway = federation, gateway
        self.url = f"https://127.0.0.1:{gateway.address[1]}"

    def context(self, site: str = "bank-a") -> ssl.SSLContext:
        """A site's context."""
        folder = self.federation.site(site)
        files = (folder / "tls.pem", folder / "tls.key", folder / "ca.pem")
        return client_context(*files, verify_uri=self.federation.gateway_uri)

    def client(self, site: str = "bank-a") -> aiohttp.ClientSession:
        """An HTTP client of a site."""
        return aiohttp.ClientSession(self.url, connector=aiohttp.TCPConnector(ssl=self.context(site)))


async def show(request: web.Request) -> web.Response:
    """Answer with what arrived."""
    body = await request.read()
    facts = {"method": request.method, "path": request.raw_path, "headers": list(request.headers.items())}
    return web.json_response(facts | {"body": hashlib.sha256(body).hexdigest(), "bytes": len(body)})


async def digest(request: web.Request) -> web.Response:
    """Answer with the digest of a body that is read as it comes."""
    found, count = hashlib.sha256(), 0
    async for piece in request.content.iter_any():
        found.update(piece)
        count += len(piece)
    return web.json_response({"body": found.hexdigest(), "bytes": count})


async def large(request: web.Request) -> web.StreamResponse:
    """Answer with a large body."""
    response = web.StreamResponse()
    await response.prepare(request)
    for _ in range(LARGE_BYTES // len(PIECE)):
        await response.write(PIECE)
    return response


async def half(request: web.Request) -> web.StreamResponse:
    """Begin an answer and break it off."""
    response = web.StreamResponse(headers={"Content-Length": "1000"})
    await response.prepare(request)
    await response.write(b"half")
    assert request.transport is not None
    request.transport.abort()
    return response


async def events(request: web.Request) -> web.StreamResponse:
    """Server-sent events, the second only when the first was read."""
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    await response.write(b"data: one\n\n")
    await request.app[READ].wait()
    await response.write(b"data: two\n\n")
    return response


async def talk(request: web.Request) -> web.WebSocketResponse:
    """A WebSocket that echoes."""
    connection = web.WebSocketResponse(protocols=("fl.v2", "fl.v1"))
    await connection.prepare(request)
    async for message in connection:
        if message.type is aiohttp.WSMsgType.TEXT:
            await connection.send_str(message.data.upper())
        else:
            await connection.send_bytes(message.data[::-1])
        if message.data == "end":
            await connection.close(code=4001)
    return connection


def play(
    federation: Federation, tmp_path: Path, use: Callable[[Scene], Awaitable[None]], *words: str, target: str = ""
) -> list[dict[str, Any]]:
    """Run backend and gateway while ``use`` uses them; return the gateway's refusals."""

    async def scenario() -> None:
        app = web.Application(client_max_size=1 << 30)
        app[READ] = asyncio.Event()
        app.add_routes([web.get("/large", large), web.get("/half", half), web.get("/events", events)])
        app.add_routes([web.put("/digest", digest), web.get("/talk", talk), web.route("*", "/{rest:.*}", show)])
        runner = web.AppRunner(app, access_log=None, auto_decompress=False)
        await runner.setup()
        listener = socket.create_server(("127.0.0.1", 0))
        await web.SockSite(runner, listener).start()
        where = target or f"127.0.0.1:{listener.getsockname()[1]}"
        with Crew(tmp_path) as crew:
            gateway = await asyncio.to_thread(
                start_server, crew, federation, where, "--mode", "http", "--allow-all", *words
            )
            scene = Scene(federation, gateway)
            scene.app = app  # type: ignore[attr-defined]
            await use(scene)
        await runner.cleanup()

    asyncio.run(scenario())
    log = (tmp_path / "gateway.log").read_text().splitlines()
    return [line for line in map(json.loads, log) if line["event"] == "refusal"]


def test_a_request_arrives_with_the_identity_of_its_sender(federation: Federation, tmp_path: Path) -> None:
    """Method, target, fields and body as they were; what a peer says of itself is replaced by what TLS says."""

    async def use(scene: Scene) -> None:
        headers = {"X-Forwarded-Client-Cert": "URI=spiffe://fed/site/bank-b", "X-Own": "kept", "Host": "hub.example"}
        async with scene.client() as client:
            async with client.post("/a%20b?c=%26&d", data=b"body", headers=headers) as answer:
                assert answer.status == 200
                seen = await answer.json()
            async with client.request("OPTIONS", "/again") as answer:
                assert (await answer.json())["method"] == "OPTIONS"
        fields = dict(seen["headers"])
        assert (seen["method"], seen["path"], seen["bytes"]) == ("POST", "/a%20b?c=%26&d", 4)
        assert seen["body"] == hashlib.sha256(b"body").hexdigest()
        assert (fields["Host"], fields["X-Own"]) == ("hub.example", "kept")
        assert f"URI={federation.site_uri('bank-a')}" in fields["X-Forwarded-Client-Cert"]
        assert "bank-b" not in fields["X-Forwarded-Client-Cert"]
        assert 'proto=https;host="hub.example"' in fields["Forwarded"]
        status = await asyncio.to_thread(scene.gateway.status)
        assert status["peers"][federation.site_uri("bank-a")]["group"] == "X25519MLKEM768"
        assert status["listeners"]["main"]["requests"] == {"2xx": 2}

    assert play(federation, tmp_path, use) == []


def test_bodies_pass_as_streams(federation: Federation, tmp_path: Path) -> None:
    """Hundreds of megabytes each way, chunked and with a length, in little memory, byte for byte."""

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(LARGE_BYTES // len(PIECE)):
            yield PIECE

    async def use(scene: Scene) -> None:
        whole = hashlib.sha256()
        for _ in range(LARGE_BYTES // len(PIECE)):
            whole.update(PIECE)
        process = psutil.Process(scene.gateway.process.pid)
        async with scene.client() as client:
            async with client.put("/digest", data=b"warm") as answer:
                await answer.read()
            before = process.memory_info().rss
            for headers in ({}, {"Content-Length": str(LARGE_BYTES)}):
                async with client.put("/digest", data=pieces(), headers=headers) as answer:
                    assert await answer.json() == {"body": whole.hexdigest(), "bytes": LARGE_BYTES}
            found = hashlib.sha256()
            async with client.get("/large") as answer:
                async for piece in answer.content.iter_any():
                    found.update(piece)
            assert found.digest() == whole.digest()
            assert process.memory_info().rss - before < MAX_GROWTH_BYTES

    assert play(federation, tmp_path, use) == []


def test_requests_share_a_connection_and_need_no_body(federation: Federation, tmp_path: Path) -> None:
    """HEAD, an expectation, and a body that is refused to nobody: all over one connection of the site."""

    async def use(scene: Scene) -> None:
        async with scene.client() as client:
            async with client.head("/head") as answer:
                assert (answer.status, await answer.read()) == (200, b"")
                assert int(answer.headers["Content-Length"]) > 0
            async with client.put("/digest", data=b"x" * 100_000, expect100=True) as answer:
                assert (await answer.json())["bytes"] == 100_000
        status = await asyncio.to_thread(scene.gateway.status)
        assert status["peers"][federation.site_uri("bank-a")]["connections"] == 1

    assert play(federation, tmp_path, use) == []


def test_only_listed_requests_pass(federation: Federation, tmp_path: Path) -> None:
    """Others get a problem document, also in spellings that a backend might read as allowed ones."""

    async def use(scene: Scene) -> None:
        async with scene.client() as client:
            async with client.get("/v1/good") as answer:
                assert answer.status == 200
            for method, path, status in (("POST", "/v1/good", 403), ("GET", "/v2", 403), ("GET", "/v1/a/b", 403)):
                async with client.request(method, path) as answer:
                    assert (answer.status, answer.content_type) == (status, "application/problem+json")
                    assert (await answer.json(content_type=None))["reason"] == "path_not_allowed"

    refusals = play(federation, tmp_path, use, "--allow-path", "GET /v1/*")
    assert [line["reason"] for line in refusals] == ["path_not_allowed"] * 3
    assert all(line["peer"] == federation.site_uri("bank-a") for line in refusals)


def test_requests_that_could_be_two_are_refused(federation: Federation, tmp_path: Path) -> None:
    """Two lengths, a length beside chunks, a target with dots: nothing of it reaches the backend."""
    odd = (
        b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        b"GET /a/../b HTTP/1.1\r\nHost: h\r\n\r\n",
        b"GET /a%2fb HTTP/1.1\r\nHost: h\r\n\r\n",
    )

    async def use(scene: Scene) -> None:
        for request in odd:
            reader, writer = await asyncio.open_connection("127.0.0.1", scene.gateway.address[1], ssl=scene.context())
            writer.write(request)
            assert (await asyncio.wait_for(reader.readline(), 20)).split(b" ")[1] == b"400"
            writer.close()

    play(federation, tmp_path, use)


def test_a_backend_that_fails_never_gives_half_an_answer(federation: Federation, tmp_path: Path) -> None:
    """Broken off, the peer sees a reset; not there, a problem that says to try again."""

    async def use(scene: Scene) -> None:
        async with scene.client() as client:
            with pytest.raises(aiohttp.ClientError):
                async with client.get("/half") as answer:
                    await answer.read()
            async with client.get("/after") as answer:
                assert answer.status == 200

    play(federation, tmp_path, use)
    with socket.create_server(("127.0.0.1", 0)) as closed:
        nowhere = f"127.0.0.1:{closed.getsockname()[1]}"

    async def without(scene: Scene) -> None:
        async with scene.client() as client, client.get("/") as answer:
            assert (answer.status, "Retry-After" in answer.headers) == (503, True)

    (tmp_path / "second").mkdir()
    play(federation, tmp_path / "second", without, target=nowhere)


def test_events_pass_as_they_come(federation: Federation, tmp_path: Path) -> None:
    """The first is read before the backend sends the second."""

    async def use(scene: Scene) -> None:
        async with scene.client() as client, client.get("/events") as answer:
            assert await answer.content.readuntil(b"\n\n") == b"data: one\n\n"
            scene.app[READ].set()  # type: ignore[attr-defined]
            assert await answer.content.readuntil(b"\n\n") == b"data: two\n\n"

    assert play(federation, tmp_path, use) == []


def test_web_sockets_pass(federation: Federation, tmp_path: Path) -> None:
    """Text and bytes, the sub-protocol that the backend chose, and its closing code."""

    async def use(scene: Scene) -> None:
        async with scene.client() as client, client.ws_connect("/talk", protocols=("fl.v1",)) as connection:
            assert connection.protocol == "fl.v1"
            await connection.send_str("abc")
            assert await connection.receive_str() == "ABC"
            await connection.send_bytes(b"\x00\x01" * 100_000)
            assert await connection.receive_bytes() == b"\x01\x00" * 100_000
            await connection.send_str("end")
            assert await connection.receive_str() == "END"
            close = await connection.receive()
            assert (close.type, close.data) == (aiohttp.WSMsgType.CLOSE, 4001)

    assert play(federation, tmp_path, use) == []
