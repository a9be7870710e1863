"""The status listener: what the sidecar did so far, for people, programs and Prometheus."""

import socket
from collections.abc import Callable
from typing import Any

from aiohttp import web


async def serve_status(
    listener: socket.socket, status: Callable[[], dict[str, Any]], prometheus: Callable[[], str]
) -> web.AppRunner:
    """Serve ``/_status`` (JSON), ``/_metrics`` (Prometheus) and ``/healthz`` on a socket that listens already."""

    async def answer_status(_request: web.Request) -> web.Response:
        return web.json_response(status())

    async def answer_metrics(_request: web.Request) -> web.Response:
        return web.Response(text=prometheus(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    async def answer_health(_request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    app = web.Application()
    app.add_routes(
        [
            web.get("/_status", answer_status),
            web.get("/_metrics", answer_metrics),
            web.get("/healthz", answer_health),
        ]
    )
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.SockSite(runner, listener).start()
    return runner
