"""The enrolment service over HTTP: routes, limits, and errors as problem documents (docs/enrolment.md).

Two kinds of routes. What is signed (authorities, roster, revocation list) is for everybody, who asks for it again and
again, with many others behind one address; it costs nothing but reading a file, and has a budget of its own. Joining
and renewing is bound to the connection; whether a client certificate is needed, and whose, `certs.enrolling` decides by
the message.
"""

import asyncio
import json
import ssl
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web

from certs.enrolling import Desk
from certs.limiting import RateLimit, origin_of
from certs.waiting import Waiting, preferred_wait_seconds, tag_of
from pqfl_transport import problems
from pqfl_transport.errors import ConfigurationError, MessageError, PlatformError, PqflError
from pqfl_transport.pki.enrolment import (
    CA_PATH,
    CRL_PATH,
    JOIN_PATH,
    MAX_MESSAGE_BYTES,
    RENEW_PATH,
    ROSTER_PATH,
    STATUS_PATH,
)
from pqfl_transport.pki.twin_renewal import RENEW_TWIN_PATH

_READ_SECONDS = 30.0
_DUAL_CRL_PATH = "/v1/crl-dual"
_DOCUMENTS = frozenset({CA_PATH, ROSTER_PATH, CRL_PATH, _DUAL_CRL_PATH})
_DOCUMENTS_FOR_A_REQUEST = 100
"""How many times as many documents as other requests an origin may ask for."""
# What is wrong with our own files is for our log; what is wrong with a request is for whoever sent it.
_THEIR_FAULT = frozenset(
    {"already_issued", "bad_keys", "bad_key", "bad_host", "bad_name", "key_in_use", "key_revoked",
     "no_classical_issuer", "no_twin", "was_revoked"}
)  # fmt: skip

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def make_app(desk: Desk, *, requests_per_minute: int, clock: Callable[[], float] = time.monotonic) -> web.Application:
    """Return the application; each origin may send so many requests a minute, and ask for 100 times as many documents.

    `limiting.origin_of` says what an origin is.
    """
    limits = RateLimit(requests_per_minute), RateLimit(requests_per_minute * _DOCUMENTS_FOR_A_REQUEST)
    app = web.Application(middlewares=[_guard(desk, *limits, clock)], client_max_size=0)
    waiting = Waiting()

    async def end(_app: web.Application) -> None:
        await waiting.end()

    app.on_shutdown.append(end)
    api = _Api(desk, asyncio.Lock(), waiting)
    app.add_routes(
        [
            web.post(JOIN_PATH, api.join),
            web.get(STATUS_PATH, api.status),
            web.post(RENEW_PATH, api.signed(desk.renew)),
            web.post(RENEW_TWIN_PATH, api.signed(desk.renew_twin)),
            web.get(CA_PATH, api.file("ca.pem", "application/x-pem-file")),
            web.get(CRL_PATH, api.file("crl.pem", "application/x-pem-file")),
            web.get(_DUAL_CRL_PATH, api.file("crl-dual.pem", "application/x-pem-file")),
            web.get(ROSTER_PATH, api.file("roster.json", "application/json")),
        ]
    )
    return app


def _guard(
    desk: Desk, requests: RateLimit, documents: RateLimit, clock: Callable[[], float]
) -> Callable[..., Awaitable[web.StreamResponse]]:
    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            limit = documents if request.path in _DOCUMENTS else requests
            limit.take(origin_of(request.remote or ""), clock())
            return await handler(request)
        except PqflError as error:
            # That there is no list yet is an answer, and no refusal of whoever asked.
            if error.reason != "not_found":
                desk.report("request_refused", {"path": request.path, "remote": request.remote, "reason": error.reason,
                                                "detail": str(error)})  # fmt: skip
            return _problem(error)
        except web.HTTPNotFound:
            return _problem(MessageError("there is nothing at this path", reason="not_found"))
        except web.HTTPMethodNotAllowed:
            return _problem(MessageError("this path does not take this method", reason="method_not_allowed"))

    return guard


@dataclass(frozen=True, slots=True)
class _Api:
    desk: Desk
    turn: asyncio.Lock
    waiting: Waiting

    async def join(self, request: web.Request) -> web.StreamResponse:
        data, binding = await _read(request), _object(request).get_channel_binding("tls-exporter") or b""
        async with self.turn:
            return _json(await asyncio.to_thread(self.desk.join, data, binding))

    def signed(self, answer: Callable[[bytes, bytes, bytes], bytes]) -> Handler:
        async def renew(request: web.Request) -> web.StreamResponse:
            connection = _object(request)
            data, binding = await _read(request), connection.get_channel_binding("tls-exporter") or b""
            shown = connection.getpeercert(True) or b""
            async with self.turn:
                return _json(await asyncio.to_thread(answer, data, binding, shown))

        return renew

    async def status(self, request: web.Request) -> web.StreamResponse:
        found = await asyncio.to_thread(self.desk.enrolments.find, request.match_info["token"])
        return _json(json.dumps({"state": found.state.value}).encode())

    def file(self, name: str, content_type: str) -> Handler:
        async def send(request: web.Request) -> web.StreamResponse:
            path: Path = self.desk.authority.folder / name
            headers = {"Content-Type": content_type, "Cache-Control": "no-cache"}
            headers |= await self._wait(request, path)
            if not await asyncio.to_thread(path.exists):
                raise MessageError(f"this authority has no {name} yet", reason="not_found")
            return web.FileResponse(path, headers=headers)

        return send

    async def _wait(self, request: web.Request, path: Path) -> dict[str, str]:
        """Wait where a request would rather, for another file than the one that it has seen; say so in the answer."""
        seconds = preferred_wait_seconds(request.headers.get("Prefer", ""))
        seen = [one.value for one in request.if_none_match or ()]
        origin = origin_of(request.remote or "")
        if not seconds or not seen or not self.waiting.has_room(origin):
            return {}
        tag = await asyncio.to_thread(tag_of, path)
        if tag in seen:
            await self.waiting.until_changed(path, tag, origin, seconds)
        return {"Preference-Applied": f"wait={seconds}"}


def _object(request: web.Request) -> ssl.SSLObject:
    found: ssl.SSLObject | None = None if request.transport is None else request.transport.get_extra_info("ssl_object")
    if found is None:
        raise PlatformError("the connection is gone", reason="not_ready")
    return found


async def _read(request: web.Request) -> bytes:
    if (request.content_length or 0) > MAX_MESSAGE_BYTES:
        raise _too_large()
    data = bytearray()
    try:
        async with asyncio.timeout(_READ_SECONDS):
            async for piece in request.content.iter_chunked(64 * 1024):
                data += piece
                if len(data) > MAX_MESSAGE_BYTES:
                    raise _too_large()
    except TimeoutError:
        raise MessageError(f"the request did not arrive within {_READ_SECONDS:g} s", reason="idle") from None
    return bytes(data)


def _too_large() -> MessageError:
    return MessageError(f"a request has at most {MAX_MESSAGE_BYTES} bytes", reason="too_large")


def _json(data: bytes) -> web.Response:
    return web.Response(body=data, content_type="application/json", headers={"Cache-Control": "no-store"})


def _problem(error: PqflError) -> web.Response:
    ours = isinstance(error, ConfigurationError | PlatformError) and error.reason not in _THEIR_FAULT
    said = PlatformError("the service cannot do this now; its log says why", reason="not_ready") if ours else error
    return web.Response(
        status=problems.status_of(said), body=json.dumps(problems.to_problem(said)).encode(),
        content_type=problems.CONTENT_TYPE,
    )  # fmt: skip
