"""The HTTP interface, version 1: `docs/aggregator.md` describes it for whoever writes another client.

Nothing here decides: handlers turn requests into calls of the engine, and errors into problem documents (RFC 9457).
"""

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import suppress

from aiohttp import web

from aggregator.answers import ENVELOPE_TYPE, path_number, problem
from aggregator.engine import Engine
from aggregator.uploads import Uploads
from pqfl_transport.aggregation.round_document import RoundState, require_nonce
from pqfl_transport.errors import MessageError, PqflError

_KEEP_ALIVE_SECONDS = 15.0
_READ_BYTES = 1 << 20
# After these nothing more can happen to a round.
_OVER = frozenset({"closed", RoundState.FINISHED.value, RoundState.FAILED.value})

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def make_app(engine: Engine, *, upload_idle_seconds: float) -> web.Application:
    """Return the application; ``upload_idle_seconds`` cuts off an upload that sends nothing for so long."""
    api = _Api(engine)
    # The limit of aiohttp is for bodies that it collects itself; an envelope is read as a stream, capped by its rules.
    app = web.Application(middlewares=[_problems])
    app.add_routes(
        [
            web.get("/v1/rounds/current", api.current_round),
            web.get("/v1/models/{version}", api.model),
            web.get("/v1/rounds/{round}/events", api.events),
            web.get("/v1/status", api.status),
            *Uploads(engine.reception, upload_idle_seconds).routes(),
        ]
    )
    return app


def make_runner(app: web.Application) -> web.AppRunner:
    """Return a runner that reads uploads in large pieces."""
    return web.AppRunner(app, access_log=None, read_bufsize=_READ_BYTES, shutdown_timeout=5.0)


@web.middleware
async def _problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except PqflError as error:
        return problem(error)
    except web.HTTPNotFound:
        return problem(MessageError(f"there is nothing at {request.path!r}", reason="not_found"))
    except web.HTTPMethodNotAllowed as error:
        response = problem(MessageError(f"{request.path!r} takes no {request.method}", reason="method_not_allowed"))
        response.headers["Allow"] = error.headers["Allow"]
        return response


class _Api:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def current_round(self, request: web.Request) -> web.StreamResponse:
        nonce = request.query.get("nonce", "")
        require_nonce(nonce)
        document = await self._engine.signed_document(nonce)
        return web.Response(body=document, content_type="application/json", headers={"Cache-Control": "no-store"})

    async def model(self, request: web.Request) -> web.StreamResponse:
        path = self._engine.model_path(path_number(request, "version", "unknown_model"))
        return web.FileResponse(path, chunk_size=_READ_BYTES, headers={"Content-Type": ENVELOPE_TYPE})

    async def events(self, request: web.Request) -> web.StreamResponse:
        number = path_number(request, "round", "unknown_round")
        self._engine.watch(number)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
        await response.prepare(request)
        # A watcher that goes away is no error.
        with suppress(ConnectionError):
            await self._tell(response, number)
        return response

    async def status(self, _request: web.Request) -> web.StreamResponse:
        return web.json_response(self._engine.status())

    async def _tell(self, response: web.StreamResponse, number: int) -> None:
        while True:
            progress = self._engine.progress()
            facts = progress if progress["round"] == number else {"round": number, "state": "closed"}
            await response.write(f"event: round\ndata: {json.dumps(facts)}\n\n".encode())
            if facts["state"] in _OVER:
                return
            await self._wait_for_news(response)

    async def _wait_for_news(self, response: web.StreamResponse) -> None:
        while True:
            try:
                async with asyncio.timeout(_KEEP_ALIVE_SECONDS):
                    return await self._engine.changed()
            except TimeoutError:
                # A comment line keeps proxies from closing the stream, and shows us a watcher that went away.
                await response.write(b": waiting\n\n")
