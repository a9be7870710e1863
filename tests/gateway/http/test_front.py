"""The front in this process: a mistake is one failed request, draining lets requests end, clocks end between them."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from gateway.admission import Limits
from gateway.config import HttpRules, Profile
from gateway.http.profiles import Plain
from pqfl_transport.net.address import Address
from tests.support.fronts import Front, front
from tests.support.pki import Federation, make_federation


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return make_federation(tmp_path_factory.mktemp("federation"), sites=("bank-a",))


class Backend:
    """Answers when it is told to."""

    def __init__(self) -> None:
        self.asked, self.answer = asyncio.Event(), asyncio.Event()
        self.paths: list[str] = []

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Wait, unless the path says not to."""
        self.asked.set()
        self.paths.append(request.path)
        if request.path == "/stream":
            return await self._stream(request)
        if request.path == "/v1/fleet/activate-node":
            return web.json_response({"detail": "no such key"}, status=409)
        if request.path != "/now":
            await self.answer.wait()
        return web.Response(text="done")

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"first")
        await self.answer.wait()
        return response


def play(
    federation: Federation,
    use: Callable[[Front, Backend], Awaitable[None]],
    rules: HttpRules = HttpRules(),  # noqa: B008 -- it is frozen
    **options: Any,
) -> None:
    async def scenario() -> None:
        backend = Backend()
        app = web.Application()
        app.add_routes([web.route("*", "/{rest:.*}", backend.handle)])
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        target = Address("127.0.0.1", runner.addresses[0][1])
        async with front(federation, target, rules, **options) as made:
            await use(made, backend)
        await runner.cleanup()

    asyncio.run(scenario())


def test_a_mistake_of_ours_is_one_failed_request(federation: Federation, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said, answered with 503, and the connection goes on."""

    async def use(made: Front, _backend: Backend) -> None:
        async with made.client("bank-a") as client:
            with monkeypatch.context() as patch:
                patch.setattr(Plain, "admit", None)
                async with client.get("/now") as answer:
                    assert (answer.status, (await answer.json(content_type=None))["reason"]) == (503, "internal")
            async with client.get("/now") as answer:
                assert await answer.text() == "done"
        assert "TypeError" in (await made.lines.wait_for("refusal"))["detail"]

    play(federation, use)


def test_draining_lets_requests_end(federation: Federation) -> None:
    """The request that is being answered is answered to its end; then, and where none is, the connection closes."""

    async def use(made: Front, backend: Backend) -> None:
        async with made.client("bank-a") as busy, made.client("bank-a") as idle:
            async with idle.get("/now") as answer:
                assert answer.status == 200
            backend.asked.clear()
            running = asyncio.create_task(_text(busy, "/later"))
            await asyncio.wait_for(backend.asked.wait(), 20)
            made.listener.stop_accepting()
            await made.lines.wait_for("connection")
            backend.answer.set()
            assert await asyncio.wait_for(running, 20) == "done"
            await made.lines.wait_for("connection", 2)

    play(federation, use)


async def _text(client: aiohttp.ClientSession, path: str) -> str:
    async with client.get(path) as answer:
        return await answer.text()


@pytest.mark.parametrize(
    "limits", [Limits(idle_timeout_seconds=0.05), Limits(max_lifetime_seconds=0.05)], ids=["idle", "lifetime"]
)
def test_clocks_end_a_connection_between_requests(federation: Federation, limits: Limits) -> None:
    """However long a request takes, it is answered; after it the connection ends."""

    async def use(made: Front, backend: Backend) -> None:
        async with made.client("bank-a") as client:
            running = asyncio.create_task(_text(client, "/later"))
            await asyncio.wait_for(backend.asked.wait(), 20)
            await asyncio.sleep(0.1)
            backend.answer.set()
            assert await asyncio.wait_for(running, 20) == "done"
            line = await made.lines.wait_for("connection")
            assert (line["requests"], line["reason"]) == (1, "complete")

    play(federation, use, limits=limits)


async def ask(made: Front, request: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, bytes]:
    """Send bytes as they are; return the connection and the first line of the answer."""
    port = made.listener.address.port
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=made.context("bank-a"))
    writer.write(request)
    return reader, writer, await asyncio.wait_for(reader.readline(), 20)


def test_a_body_is_invited_only_when_the_head_is_admitted(federation: Federation) -> None:
    """Who waits with the body is refused before sending it, or told once to go on (RFC 9110 §10.1.1)."""
    head = b"POST %s HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n"

    async def use(made: Front, backend: Backend) -> None:
        _, writer, line = await ask(made, head % b"/other")
        assert line.split()[1] == b"403"
        writer.close()
        assert backend.paths == []
        reader, writer, line = await ask(made, head % b"/now")
        assert line.split()[1] == b"100"
        writer.write(b"body")
        await reader.readline()
        assert (await asyncio.wait_for(reader.readline(), 20)).split()[1] == b"200"
        writer.close()

    play(federation, use, HttpRules(allow=(("POST", "/now"),)))


@pytest.mark.parametrize(
    "request_",
    [
        b"POST /now HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip, chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        b"GET /now\r\n\r\n",
        b"GET /now HTTP/1.1\r\nHost: h\r\nX-Name: caf\xe9\r\n\r\n",
    ],
    ids=["coding", "version", "field"],
)
def test_what_would_arrive_as_something_else_is_refused(federation: Federation, request_: bytes) -> None:
    """A coding nobody would undo, a request without a header, a field that would lose bytes: the backend sees none."""

    async def use(made: Front, backend: Backend) -> None:
        _, writer, line = await ask(made, request_)
        assert line.split()[1] == b"400"
        assert (await made.lines.wait_for("refusal"))["reason"] in {"bad_framing", "bad_field"}
        assert backend.paths == []
        writer.close()

    play(federation, use)


def test_an_answer_that_says_no_arrives_whole(federation: Federation) -> None:
    """What Flower answers to a node that it does not know is no message with a number, and passes as it is."""

    async def use(made: Front, _backend: Backend) -> None:
        async with made.client("bank-a") as client, client.post("/v1/fleet/activate-node", data=b"") as answer:
            assert (answer.status, await answer.json()) == (409, {"detail": "no such key"})

    play(federation, use, HttpRules(Profile.FLOWER))


@pytest.mark.parametrize("complete", [True, False], ids=["refused behind", "incomplete"])
def test_a_web_socket_that_is_refused(federation: Federation, complete: bool) -> None:
    """With the status that the backend gave; one that could never open does not reach the backend."""
    key = b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n" if complete else b""
    head = b"GET /v1/fleet/activate-node HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"

    async def use(made: Front, backend: Backend) -> None:
        _, writer, line = await ask(made, head + key + b"\r\n")
        assert (line.split()[1], len(backend.paths)) == ((b"409", 1) if complete else (b"400", 0))
        writer.close()

    play(federation, use)


@pytest.mark.parametrize("turns", range(0, 12, 2))
def test_a_peer_that_leaves_as_its_answer_ends_is_no_refusal(federation: Federation, turns: int) -> None:
    """Whenever between its last byte and the connection's end the backend is done, nobody was refused anything."""

    async def use(made: Front, backend: Backend) -> None:
        reader, writer, _ = await ask(made, b"GET /stream HTTP/1.1\r\nHost: h\r\n\r\n")
        await asyncio.wait_for(reader.readuntil(b"first"), 20)
        writer.close()
        for _ in range(turns):
            await asyncio.sleep(0)
        backend.answer.set()
        assert (await made.lines.wait_for("connection"))["reason"] != "plain_reset"
        assert made.lines.events("refusal") == []

    play(federation, use)
