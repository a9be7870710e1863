"""The backend's side of a connection: one socket, made by what dials, used again and closed with its peer's."""

import asyncio
import socket

from aiohttp import web

from gateway.http.upstream import Upstream


def test_requests_share_one_connection_that_was_dialled() -> None:
    """Nothing else is connected to, whatever the URL says, and redirects and compression are the peer's business."""

    async def scenario() -> None:
        sources = []

        async def answer(request: web.Request) -> web.Response:
            assert request.transport is not None
            sources.append(request.transport.get_extra_info("peername"))
            return web.Response(status=302, headers={"Location": "/elsewhere", "Content-Encoding": "gzip"}, body=b"raw")

        app = web.Application()
        app.add_routes([web.get("/{rest:.*}", answer)])
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        listener = socket.create_server(("127.0.0.1", 0))
        await web.SockSite(runner, listener).start()
        dialled = []

        async def dial() -> socket.socket:
            connection = socket.create_connection(listener.getsockname())
            connection.setblocking(False)
            dialled.append(connection)
            return connection

        upstream = Upstream(dial)
        for _ in range(3):
            async with upstream.session.get("http://backend/x", allow_redirects=False) as response:
                assert (response.status, await response.read()) == (302, b"raw")
                assert "User-Agent" not in response.request_info.headers
        assert len(dialled) == 1
        assert len(set(sources)) == 1
        await upstream.close()
        await runner.cleanup()

    asyncio.run(scenario())
