"""The front in this process: a mistake is one failed request, draining lets requests end, clocks end between them."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from gateway.admission import Limits
from gateway.config import HttpRules
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

    async def handle(self, request: web.Request) -> web.Response:
        """Wait, unless the path says not to."""
        self.asked.set()
        if request.path != "/now":
            await self.answer.wait()
        return web.Response(text="done")


def play(federation: Federation, use: Callable[[Front, Backend], Awaitable[None]], **options: Any) -> None:
    async def scenario() -> None:
        backend = Backend()
        app = web.Application()
        app.add_routes([web.route("*", "/{rest:.*}", backend.handle)])
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        target = Address("127.0.0.1", runner.addresses[0][1])
        async with front(federation, target, HttpRules(), **options) as made:
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
