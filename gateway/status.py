"""The status listener: what the sidecar did so far, for people, programs and Prometheus."""

import json
import socket
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from gateway.exposition import Snapshot, prometheus
from pqfl_transport.errors import PqflError

_TEXT = "text/plain; version=0.0.4; charset=utf-8"

Ask = Callable[[], Awaitable[Snapshot]]
"""Gives the snapshot of now. Raises ``TransportError`` where a worker does not answer."""


def summarise(snapshot: Snapshot) -> dict[str, Any]:
    """Return a snapshot with the sums over its listeners, which is what one asks for first."""
    listeners = list(snapshot["listeners"].values())
    failures: Counter[str] = Counter()
    for listener in listeners:
        failures.update(listener["handshake_failures"])
    return {
        "ready": is_ready(snapshot),
        "role": listeners[0]["role"],
        "connections_open": sum(listener["connections_open"] for listener in listeners),
        "handshake_failures": dict(failures),
        "classical_peers": _classical_peers(snapshot),
        **snapshot,
    }


def _classical_peers(snapshot: Snapshot) -> dict[str, dict[str, Any]]:
    """Name those who came without post-quantum cryptography since the start, the last one first."""
    found = [(name, peer) for name, peer in snapshot["peers"].items() if peer["classical_at"]]
    return {
        name: {
            "last_handshake": datetime.fromtimestamp(peer["classical_at"], UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "connections_open": peer["classical_open"],
        }
        for name, peer in sorted(found, key=lambda one: -one[1]["classical_at"])
    }


def is_ready(snapshot: Snapshot) -> bool:
    """Whether every listener has a backend that can be reached, and no advisory leaves nothing to work with."""
    return "suspended" not in snapshot and all(
        not listener["backends"] or any(state["up"] for state in listener["backends"].values())
        for listener in snapshot["listeners"].values()
    )


async def serve_status(listener: socket.socket, ask: Ask) -> web.AppRunner:
    """Serve ``/_status``, ``/_metrics``, ``/healthz`` and ``/readyz`` on a socket that listens already."""

    async def answer_status(_request: web.Request) -> web.Response:
        status = summarise(await ask())
        text = json.dumps(status, indent=1) + "\n"
        return web.Response(text=text, content_type="application/json", status=200 if status["ready"] else 503)

    async def answer_metrics(_request: web.Request) -> web.Response:
        return web.Response(text=prometheus(await ask()), headers={"Content-Type": _TEXT})

    async def answer_health(_request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def answer_readiness(_request: web.Request) -> web.Response:
        snapshot = await ask()
        if is_ready(snapshot):
            return web.Response(text="ready\n")
        return web.Response(text=f"{snapshot.get('suspended', 'no backend answers')}\n", status=503)

    app = web.Application(middlewares=[_in_one_sentence])
    app.add_routes(
        [
            web.get("/_status", answer_status),
            web.get("/_metrics", answer_metrics),
            web.get("/healthz", answer_health),
            web.get("/readyz", answer_readiness),
        ]
    )
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.SockSite(runner, listener).start()
    return runner


@web.middleware
async def _in_one_sentence(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except PqflError as error:
        return web.Response(text=f"{error}\n", status=503)
