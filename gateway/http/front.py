"""HTTP mode: aiohttp serves the peers, each request is admitted by the profile, and bodies pass as streams.

Theory of operation. A connection whose handshake is complete becomes an `EngineTransport` with aiohttp's own server
protocol on top. A request is judged by its head (path, method, profile), and where the profile wants to by the
beginning of its body; only then the backend is asked. Pieces of bodies go on as they come, in both directions, so
memory does not depend on their size; each side waits for the other. What is refused is answered with a problem document
(RFC 9457). A backend that fails before its answer began is a 502 or 503; after that the connection is reset, because
half an answer must not look like a whole one.
"""

import asyncio
import json
import logging
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import aiohttp
from aiohttp import web
from yarl import URL

from gateway.config import ListenerConfig, Profile
from gateway.http import websockets
from gateway.http.aggregator import AggregatorGuard
from gateway.http.flower import FlowerGuard
from gateway.http.headers import to_backend, to_peer
from gateway.http.profiles import Admitted, Guard, Plain, Session, Watch, invite_body
from gateway.http.rules import path_of, require_framing
from gateway.http.transport import EngineTransport
from gateway.http.upstream import Dial, Upstream
from gateway.metrics import ListenerMetrics
from gateway.tcp import Scratch
from pqfl_transport import problems
from pqfl_transport.errors import PlatformError, PqflError, TransportError
from pqfl_transport.policy import Policy
from pqfl_transport.tls.engine import TlsEngine
from pqfl_transport.tls.peers import PeerFacts

_MAX_LINE_BYTES = 8 * 1024
_READ_BYTES = 256 * 1024
_NEVER_SECONDS = 10.0 * 365 * 24 * 3600
_RETRY_AFTER_SECONDS = 2
# What a peer sends that is no HTTP is answered by the server's protocol, which would also write a traceback for it.
_silent = logging.getLogger("pqfl.http")
_silent.disabled = True

Refused = Callable[[PqflError, PeerFacts, str], None]
"""Told of a request that was refused: why, whose, from where."""


Throttle = Callable[[int], float]
"""Takes a number of bytes, gives for how many seconds nothing more is read."""


@dataclass(frozen=True, slots=True)
class HttpOutcome:
    """What became of a connection."""

    reason: str
    bytes_in: int
    bytes_out: int
    requests: int


class HttpFront:
    """Serves all connections of a listener in HTTP mode."""

    def __init__(
        self,
        config: ListenerConfig,
        scratch: Scratch,
        *,
        dial: Dial,
        refused: Refused,
        counts: ListenerMetrics,
        policy: Callable[[], Policy] | None = None,
    ) -> None:
        """``policy`` gives the one of the moment, which may be tightened while requests are under way."""
        self._config, self._scratch = config, scratch
        self._dial, self._refused, self._counts = dial, refused, counts
        self._guard = _guard(config, policy or (lambda: config.tls.policy))
        self._own = config.tls.own.name
        self._server = web.Server(
            self._handle, access_log=None, logger=_silent,
            keepalive_timeout=config.limits.idle_timeout_seconds or _NEVER_SECONDS,
            tcp_keepalive=False, auto_decompress=False, read_bufsize=_READ_BYTES, max_line_size=_MAX_LINE_BYTES,
            max_field_size=_MAX_LINE_BYTES, handler_cancellation=True,
        )  # fmt: skip

    async def serve(
        self, engine: TlsEngine, connection: socket.socket, source: str, throttle: Throttle | None = None
    ) -> HttpOutcome:
        """Serve one connection until it has ended; being cancelled ends it."""
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[str] = loop.create_future()
        session = Session(engine.peer, source, Upstream(self._dial))
        transport = EngineTransport(engine, connection, self._scratch, ended.set_result, session, throttle)
        transport.used_up = lambda: self._retire(transport)
        lifetime = self._config.limits.max_lifetime_seconds
        over = loop.call_later(lifetime, self._retire, transport) if lifetime else None
        try:
            transport.start(self._server())
            reason = await asyncio.shield(ended)
        except asyncio.CancelledError:
            transport.fail("shutdown")
            await ended
            raise
        finally:
            if over is not None:
                over.cancel()
            await session.upstream.close()
        return HttpOutcome(reason, transport.received_bytes, transport.sent_bytes, session.requests)

    def drain(self) -> None:
        """Finish requests that are being answered, then close their connections; idle ones close at once."""
        for protocol in self._server.connections:
            if isinstance(protocol.transport, EngineTransport):
                self._retire(protocol.transport)

    def _retire(self, transport: EngineTransport) -> None:
        protocol, session = transport.get_protocol(), transport.session
        if isinstance(protocol, web.RequestHandler) and isinstance(session, Session):
            session.retiring = True
            # A protocol that was closed takes no more of a body that is still coming, so only an idle one is.
            if protocol._current_request is None:  # noqa: SLF001 -- no public word
                protocol.close()
                transport.close()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        transport = request.transport
        assert isinstance(transport, EngineTransport)  # noqa: S101
        session = transport.session
        assert isinstance(session, Session)  # noqa: S101
        session.requests += 1
        try:
            require_framing(request.version, request.headers.getall("Transfer-Encoding", ()))
            path = path_of(request.raw_path)
            admitted = await self._guard.admit(request, path, session)
            if not admitted.prefix:
                invite_body(request)
            response = await self._forward(request, transport, session, admitted)
        except PqflError as error:
            self._refused(error, session.peer, session.source)
            response = self._problem(error)
        except aiohttp.ClientConnectionResetError:
            # The peer left while it was answered, which is no refusal and no mistake: nobody is there to be told.
            raise
        except Exception as error:  # noqa: BLE001 -- a mistake of ours is one failed request, and is said
            failure = PlatformError(f"{type(error).__name__}: {error}", reason="internal")
            self._refused(failure, session.peer, session.source)
            response = self._problem(failure)
        self._counts.requests[f"{response.status // 100}xx"] += 1
        if session.retiring:
            response.force_close()
        return response

    async def _forward(
        self, request: web.BaseRequest, transport: EngineTransport, session: Session, admitted: Admitted
    ) -> web.StreamResponse:
        headers = to_backend(request.headers, session.peer, session.source, self._own)
        if websockets.wanted(request):
            return await websockets.relay(request, session, headers)
        body = _Body(request, admitted)
        try:
            answer = await session.upstream.session.request(
                request.method, _url(request), headers=headers, data=body.pieces() if request.body_exists else None,
                allow_redirects=False,
            )  # fmt: skip
        except (aiohttp.ClientError, OSError) as error:
            raise body.failure or TransportError(
                f"the backend does not answer: {type(error).__name__}", reason="target_down"
            ) from error
        async with answer:
            # What says that it failed is no message of the kind that is watched for.
            watch = admitted.watch_answer if answer.ok else None
            return await _pass_on(request, answer, transport, watch)

    def _problem(self, error: PqflError) -> web.Response:
        status = self._guard.status_of(error)
        document = problems.to_problem(error) | {"status": status}
        retry = {"Retry-After": str(_RETRY_AFTER_SECONDS)} if status == 503 else None  # noqa: PLR2004
        return web.Response(
            status=status, body=json.dumps(document).encode(), content_type=problems.CONTENT_TYPE, headers=retry
        )


class _Body:
    """The body of a request on its way to the backend; remembers why it stopped."""

    def __init__(self, request: web.BaseRequest, admitted: Admitted) -> None:
        self._request, self._admitted = request, admitted
        self.failure: PqflError | None = None

    async def pieces(self) -> AsyncIterator[bytes]:
        """Give what was read already, then the rest as it comes."""
        try:
            if self._admitted.prefix:
                yield self._admitted.prefix
            async for piece in self._request.content.iter_any():
                if self._admitted.watch is not None:
                    self._admitted.watch(piece)
                yield piece
        except PqflError as error:
            self.failure = error
            # The backend must not take what it got for the whole: the client below closes its connection.
            raise aiohttp.ClientPayloadError("stopped on its way") from error


async def _pass_on(
    request: web.BaseRequest, answer: aiohttp.ClientResponse, transport: EngineTransport, watch: Watch | None
) -> web.StreamResponse:
    response = web.StreamResponse(status=answer.status, reason=answer.reason, headers=to_peer(answer.headers))
    if "Content-Length" not in answer.headers and request.method != "HEAD" and answer.status not in {204, 304}:
        response.enable_chunked_encoding() if request.version >= aiohttp.HttpVersion11 else response.force_close()
    await response.prepare(request)
    try:
        async for piece in answer.content.iter_any():
            if watch is not None:
                watch(piece)
            await response.write(piece)
        await response.write_eof()
    except (aiohttp.ClientError, OSError, PqflError):
        # The head is gone already, so the only way to say that this is not the whole answer is to cut it off. A peer
        # that left before its end is nobody to say it to.
        if not transport.is_closing():
            transport.abort()
    except Exception:
        # A second head must not become a part of this body.
        transport.abort()
        raise
    return response


def _url(request: web.BaseRequest) -> URL:
    # Where it goes is the connector's business; the target passes byte for byte.
    return URL(f"http://backend{request.raw_path}", encoded=True)


def _guard(config: ListenerConfig, policy: Callable[[], Policy]) -> Guard:
    rules = config.http
    if rules.profile is Profile.FLOWER:
        return FlowerGuard(rules.allow)
    if rules.profile is Profile.AGGREGATOR:
        assert rules.roster is not None  # noqa: S101 -- the configuration saw to it
        return AggregatorGuard(rules.roster, policy, rules.allow, revocations=config.tls.revocations)
    return Plain(rules.allow)
