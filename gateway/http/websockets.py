"""WebSockets through the gateway: messages pass both ways, with their sub-protocol and the code they close with."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import aiohttp
from aiohttp import web
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from gateway.http.headers import Headers, to_peer
from gateway.http.profiles import Session
from pqfl_transport.errors import MessageError, TransportError

MAX_MESSAGE_BYTES = 16 * 1024 * 1024
_CLOSE_SECONDS = 5.0
_FIRST_REFUSAL = 400
_HANDSHAKE = frozenset(
    {"sec-websocket-key", "sec-websocket-version", "sec-websocket-extensions", "sec-websocket-protocol"}
)


def wanted(request: web.BaseRequest) -> bool:
    """Whether a request asks for a WebSocket (RFC 6455 §4.1)."""
    return request.method == "GET" and request.headers.get("Upgrade", "").casefold() == "websocket"


async def relay(request: web.BaseRequest, session: Session, headers: Headers) -> web.StreamResponse:
    """Open a WebSocket to the backend, then to the peer, and pass messages until one of them closes.

    A backend that refuses is heard: its status and fields are the answer. Raises ``MessageError`` (``bad_upgrade``)
    for a request that no WebSocket can come of, ``TransportError`` (``target_down``) where the backend does not answer.
    """
    passed = CIMultiDict((name, value) for name, value in headers.items() if name.casefold() not in _HANDSHAKE)
    protocols = [word.strip() for word in request.headers.get("Sec-WebSocket-Protocol", "").split(",") if word.strip()]
    # Told of its sub-protocols, or it would say aloud that it has none of those.
    if not web.WebSocketResponse(protocols=protocols).can_prepare(request):
        raise MessageError(
            "the request asks for a WebSocket without what one needs (RFC 6455 §4.1)", reason="bad_upgrade"
        )
    try:
        backend = await session.upstream.session.ws_connect(
            URL(f"http://backend{request.raw_path}", encoded=True), protocols=protocols, headers=passed,
            max_msg_size=MAX_MESSAGE_BYTES, autoping=False,
        )  # fmt: skip
    except (aiohttp.ClientError, OSError) as error:
        if isinstance(error, aiohttp.WSServerHandshakeError) and error.status >= _FIRST_REFUSAL:
            return _refusal(error)
        sentence = f"the backend opens no WebSocket: {type(error).__name__}"
        raise TransportError(sentence, reason="target_down") from error
    chosen = (backend.protocol,) if backend.protocol else ()
    peer = web.WebSocketResponse(protocols=chosen, max_msg_size=MAX_MESSAGE_BYTES, autoping=False)
    async with backend:
        await peer.prepare(request)
        ways = [asyncio.create_task(_pass(peer, backend)), asyncio.create_task(_pass(backend, peer))]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            # The one that ended has closed the other's source, with the code; what is on its way may arrive.
            await asyncio.wait(ways, timeout=_CLOSE_SECONDS)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
        with suppress(ConnectionError):
            await peer.close(code=backend.close_code or aiohttp.WSCloseCode.GOING_AWAY)
    return peer


def _refusal(error: aiohttp.WSServerHandshakeError) -> web.Response:
    # The body went with the connection; its fields would describe what is not there.
    found = CIMultiDict(error.headers or {})
    fields = to_peer(CIMultiDictProxy(found))
    kept = CIMultiDict((name, value) for name, value in fields.items() if not name.casefold().startswith("content-"))
    return web.Response(status=error.status, headers=kept)


async def _pass(source: Any, target: Any) -> None:
    send: dict[aiohttp.WSMsgType, Callable[[Any], Awaitable[None]]] = {
        aiohttp.WSMsgType.TEXT: target.send_str,
        aiohttp.WSMsgType.BINARY: target.send_bytes,
        aiohttp.WSMsgType.PING: target.ping,
        aiohttp.WSMsgType.PONG: target.pong,
    }
    async for message in source:
        if message.type in send:
            await send[message.type](message.data)
    code = source.close_code
    with suppress(ConnectionError):
        await target.close(code=code or aiohttp.WSCloseCode.GOING_AWAY)
