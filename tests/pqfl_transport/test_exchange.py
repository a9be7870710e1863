"""HTTP of a site: what is retried, what is not, and that no answer can exhaust it."""

import asyncio
import json
import ssl
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from pqfl_transport import problems
from pqfl_transport.aggregation.round_document import MAX_DOCUMENT_BYTES
from pqfl_transport.errors import ConfigurationError, MessageError, PlatformError, PqflError, RoundError, TransportError
from pqfl_transport.exchange import ENVELOPE_TYPE, Exchange
from pqfl_transport.net.resumable import PARTIAL_TYPE, UploadAddress
from pqfl_transport.participant import SealedUpdate

ADDRESS = UploadAddress(3, "bank-a", b"d" * 32)
UPDATE = SealedUpdate(ADDRESS, b"e" * 16, b"c" * 32, memoryview(b"x" * 700_000))
LARGE = SealedUpdate(ADDRESS, b"e" * 16, b"c" * 32, memoryview(bytes(range(256)) * 8192))
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def server(handler: Handler) -> AsyncIterator[str]:
    """A real HTTP server on a loopback port that gives every request to one handler."""
    app = web.Application(client_max_size=1 << 22)
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


class Taken:
    """A receiver that keeps what it got."""

    def __init__(self) -> None:
        self.restarts = -1
        self.threads: list[str] = []
        self.restart()

    @property
    def may_wait(self) -> bool:
        """Until the first bytes have come."""
        return not self.received_bytes

    def restart(self) -> None:
        self.restarts += 1
        self.received_bytes = 0
        self.data = b""

    def feed(self, data: bytes) -> None:
        self.threads.append(threading.current_thread().name)
        self.received_bytes += len(data)
        self.data += data


class Uploads:
    """The other side of resumable uploads, which cuts each request off after so many bytes."""

    def __init__(self, cut_after: int) -> None:
        self.cut_after = cut_after
        self.requests: list[str] = []
        self.data: bytes | None = None

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request.method)
        if request.method == "HEAD":
            if self.data is None:
                return web.Response(status=404)
            return web.Response(status=204, headers={"Upload-Offset": str(len(self.data)), "Upload-Complete": "?0"})
        assert request.headers["Upload-Draft-Interop-Version"] == "8"
        assert request.headers["Upload-Complete"] == "?1"
        if request.method == "PATCH":
            assert request.path == str(ADDRESS)
            assert request.content_type == PARTIAL_TYPE
            assert self.data is not None
            assert int(request.headers["Upload-Offset"]) == len(self.data)
        else:
            self.data = b""
        end = len(self.data) + self.cut_after
        async for piece in request.content.iter_any():
            self.data += piece[: end - len(self.data)]
            if len(self.data) == end:
                assert request.transport is not None
                request.transport.abort()
                break
        return web.json_response({}, status=201)


def problem(error: PqflError) -> web.Response:
    return web.Response(
        status=problems.status_of(error),
        body=json.dumps(problems.to_problem(error)),
        content_type=problems.CONTENT_TYPE,
    )


def test_an_update_arrives_as_it_was_sealed() -> None:
    """Address, media type and every byte are those of the sealed update."""
    seen = []

    async def handler(request: web.Request) -> web.Response:
        seen.append((request.method, request.path, request.content_type, request.content_length, await request.read()))
        return web.json_response({}, status=201)

    async def scenario() -> None:
        async with server(handler) as url, Exchange(url) as exchange:
            await exchange.send_update(UPDATE)
            assert exchange.bytes_sent == len(UPDATE.envelope)

    asyncio.run(scenario())
    path = "/v1/rounds/3/updates/" + (b"e" * 16).hex()
    assert seen == [("PUT", path, ENVELOPE_TYPE, 700_000, bytes(UPDATE.envelope))]


def test_what_passes_by_itself_is_tried_again_with_the_same_bytes() -> None:
    """A service that is not ready or has no key now, a proxy without target, a cut: the same envelope goes again."""
    answers: list[Callable[[web.Request], web.StreamResponse]] = [
        lambda _: problem(PlatformError("not yet", reason="not_ready")),
        lambda _: problem(TransportError("no key now", reason="key_manager_down")),
        lambda _: web.Response(status=502, text="bad gateway"),
        lambda request: request.transport.abort() or web.Response(),  # type: ignore[union-attr,func-returns-value]
        lambda _: web.json_response({}, status=201),
    ]
    bodies = []

    async def handler(request: web.Request) -> web.StreamResponse:
        bodies.append(await request.read())
        return answers[len(bodies) - 1](request)

    async def scenario() -> None:
        async with server(handler) as url, Exchange(url, retry_seconds=20) as exchange:
            await exchange.send_update(UPDATE)

    asyncio.run(scenario())
    assert bodies == [bytes(UPDATE.envelope)] * 5


def test_a_large_update_goes_on_where_it_was_cut_off() -> None:
    """Every byte is taken once, whatever is cut; each request begins where the other side says that it is."""
    uploads = Uploads(cut_after=600_000)

    async def scenario() -> None:
        async with server(uploads.handle) as url, Exchange(url) as exchange:
            await exchange.send_update(LARGE)

    asyncio.run(scenario())
    assert uploads.data == bytes(LARGE.envelope)
    assert uploads.requests == ["PUT", "HEAD", "PATCH", "HEAD", "PATCH", "HEAD", "PATCH"]


def test_an_upload_that_is_unknown_begins_again() -> None:
    """A service that was restarted has nothing: the whole stored envelope is sent once more."""
    uploads = Uploads(cut_after=600_000)

    async def handler(request: web.Request) -> web.StreamResponse:
        if request.method == "HEAD" and uploads.requests == ["PUT"]:
            uploads.data = None
            uploads.cut_after = 1 << 30
        return await uploads.handle(request)

    async def scenario() -> None:
        async with server(handler) as url, Exchange(url) as exchange:
            await exchange.send_update(LARGE)

    asyncio.run(scenario())
    assert uploads.requests == ["PUT", "HEAD", "PUT"]
    assert uploads.data == bytes(LARGE.envelope)


def test_patience_begins_anew_with_every_byte_that_arrives() -> None:
    """A line that breaks all the time is no reason to give up as long as it carries something in between."""
    uploads = Uploads(cut_after=200_000)

    async def scenario() -> None:
        async with server(uploads.handle) as url, Exchange(url, retry_seconds=0.5) as exchange:
            await exchange.send_update(LARGE)

    asyncio.run(scenario())
    assert uploads.requests.count("PATCH") > 8
    assert uploads.data == bytes(LARGE.envelope)


def test_a_line_that_carries_nothing_is_given_up() -> None:
    """Where no byte arrives any more the error says so, and names where it went."""
    uploads = Uploads(cut_after=0)

    async def handler(request: web.Request) -> web.StreamResponse:
        if request.method in {"PUT", "PATCH"}:
            uploads.data = b""
            assert request.transport is not None
            request.transport.abort()
        return await uploads.handle(request)

    async def scenario() -> None:
        async with server(handler) as url, Exchange(url, retry_seconds=0.3) as exchange:
            await exchange.send_update(LARGE)

    with pytest.raises(TransportError, match="/v1/rounds/3/updates/") as caught:
        asyncio.run(scenario())
    assert caught.value.reason == "unreachable"


def test_a_resumed_upload_that_arrives_damaged_is_sent_whole_once() -> None:
    """Whoever else wrote to the upload cannot keep the update out: it goes once more, and not resumably."""
    uploads = Uploads(cut_after=600_000)
    plain = []

    async def handler(request: web.Request) -> web.StreamResponse:
        if request.method == "PATCH":
            uploads.requests.append("PATCH")
            await request.read()
            return problem(MessageError("the body is damaged", reason="bad_body"))
        if "Upload-Complete" not in request.headers and request.method == "PUT":
            plain.append(await request.read())
            return web.json_response({}, status=201)
        return await uploads.handle(request)

    async def scenario() -> None:
        async with server(handler) as url, Exchange(url) as exchange:
            await exchange.send_update(LARGE)

    asyncio.run(scenario())
    assert uploads.requests == ["PUT", "HEAD", "PATCH"]
    assert plain == [bytes(LARGE.envelope)]


def test_a_refusal_after_resuming_is_final() -> None:
    """What the aggregator says of the update itself is not tried again."""
    uploads = Uploads(cut_after=600_000)

    async def handler(request: web.Request) -> web.StreamResponse:
        if request.method == "PATCH":
            uploads.requests.append("PATCH")
            await request.read()
            return problem(RoundError("the update holds NaN", reason="not_finite"))
        return await uploads.handle(request)

    async def scenario() -> None:
        async with server(handler) as url, Exchange(url) as exchange:
            await exchange.send_update(LARGE)

    with pytest.raises(RoundError) as caught:
        asyncio.run(scenario())
    assert caught.value.reason == "not_finite"
    assert uploads.requests == ["PUT", "HEAD", "PATCH"]


@pytest.mark.parametrize("ranges", [True, False])
def test_a_model_goes_on_where_it_was_cut_off(ranges: bool) -> None:
    """The rest is asked for as a range; a service that knows none gives the whole, which begins again."""
    model, asked = bytes(range(256)) * 4096, []

    async def handler(request: web.Request) -> web.StreamResponse:
        asked.append(request.headers.get("Range"))
        begin = (request.http_range.start or 0) if ranges else 0
        response = web.StreamResponse(status=206 if begin else 200, headers={"ETag": '"one"'})
        if begin:
            response.headers["Content-Range"] = f"bytes {begin}-{len(model) - 1}/{len(model)}"
        response.content_length = len(model) - begin
        await response.prepare(request)
        if len(asked) == 1:
            await response.write(model[:500_000])
            assert request.transport is not None
            request.transport.close()
            return response
        await response.write(model[begin:])
        return response

    async def scenario() -> Taken:
        receiver = Taken()
        async with server(handler) as url, Exchange(url) as exchange:
            await exchange.model(1, receiver)
        return receiver

    receiver = asyncio.run(scenario())
    assert receiver.data == model
    assert receiver.restarts == (1 if ranges else 2)
    # What may wait, at the beginning, does so in a thread and not on the event loop.
    assert receiver.threads[0] != threading.current_thread().name == receiver.threads[-1]
    assert asked[0] is None
    assert asked[1] is not None
    assert asked[1].startswith("bytes=")


def test_a_model_that_was_sealed_again_begins_again() -> None:
    """The rest of another envelope is of no use: the service is asked for the same one, and what came is forgotten."""
    models = {'"one"': b"1" * 400_000, '"two"': b"2" * 400_000}
    asked = []

    async def handler(request: web.Request) -> web.StreamResponse:
        tag = '"two"' if asked else '"one"'
        asked.append(request.headers.get("If-Match"))
        if asked[-1] not in {None, tag}:
            return web.Response(status=412)
        response = web.StreamResponse(headers={"ETag": tag})
        response.content_length = len(models[tag])
        await response.prepare(request)
        await response.write(models[tag][: 100_000 if tag == '"one"' else None])
        if tag == '"one"':
            assert request.transport is not None
            request.transport.close()
        return response

    async def scenario() -> Taken:
        receiver = Taken()
        async with server(handler) as url, Exchange(url) as exchange:
            await exchange.model(1, receiver)
        return receiver

    assert asyncio.run(scenario()).data == models['"two"']
    assert asked == [None, '"one"', None]


def test_a_refusal_is_raised_as_the_error_that_it_is_and_not_repeated() -> None:
    """The aggregator's reason reaches the caller after one request."""
    requests = []

    async def handler(request: web.Request) -> web.Response:
        requests.append(await request.read())
        return problem(RoundError("tensor 'w' holds NaN or infinity", reason="not_finite"))

    async def scenario() -> None:
        async with server(handler) as url, Exchange(url) as exchange:
            await exchange.send_update(UPDATE)

    with pytest.raises(RoundError, match="tensor 'w' holds NaN") as caught:
        asyncio.run(scenario())
    assert caught.value.reason == "not_finite"
    assert len(requests) == 1


def test_nobody_there_is_one_error_with_the_address() -> None:
    """When nobody answers for as long as was allowed, the error says where and what."""

    async def handler(_request: web.Request) -> web.Response:
        return web.Response()

    async def scenario() -> None:
        async with server(handler) as url:
            pass
        async with Exchange(url, retry_seconds=0) as exchange:
            await exchange.round_document("0" * 32)

    with pytest.raises(TransportError, match=r"http://127\.0\.0\.1:\d+/v1/rounds/current") as caught:
        asyncio.run(scenario())
    assert caught.value.reason == "unreachable"


@pytest.mark.parametrize("announced", [True, False])
def test_an_answer_larger_than_expected_is_refused(announced: bool) -> None:
    """A document beyond its largest size is given up, whether its length is announced or it just goes on."""

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        if announced:
            response.content_length = MAX_DOCUMENT_BYTES + 1
        await response.prepare(request)
        await response.write(b"x" * (MAX_DOCUMENT_BYTES + 1))
        return response

    async def scenario() -> None:
        async with server(handler) as url, Exchange(url) as exchange:
            await exchange.round_document("0" * 32)

    with pytest.raises(TransportError) as caught:
        asyncio.run(scenario())
    assert caught.value.reason == "too_large"


def test_redirects_are_not_followed() -> None:
    """An answer that points elsewhere is an error: a site talks to its sidecar and to nobody else."""

    async def handler(_request: web.Request) -> web.Response:
        return web.Response(status=307, headers={"Location": "http://127.0.0.1:1/"})

    async def scenario() -> None:
        async with server(handler) as url, Exchange(url) as exchange:
            await exchange.round_document("0" * 32)

    with pytest.raises(TransportError) as caught:
        asyncio.run(scenario())
    assert caught.value.reason == "http_307"


def test_news_come_when_the_state_changes() -> None:
    """States that are known already are passed over; the first other one ends the wait."""

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for state in ("collecting", "collecting", "aggregating"):
            await response.write(b": waiting\n\nevent: round\ndata: " + json.dumps({"state": state}).encode() + b"\n\n")
        # The stream stays open: only what was said can end the wait.
        await heard.wait()
        return response

    heard = asyncio.Event()

    async def scenario() -> None:
        async with server(handler) as url, Exchange(url) as exchange:
            await asyncio.wait_for(exchange.news(3, "collecting"), 10)
            heard.set()

    asyncio.run(scenario())


@pytest.mark.parametrize("body", [b"", b"data: {]\n\n", b"data: " + b"x" * 100_000 + b"\n\n"])
def test_a_stream_of_nonsense_only_ends_the_wait(body: bytes) -> None:
    """News are hints: a stream that ends, lies or floods makes the site ask again, no more."""

    async def handler(_request: web.Request) -> web.Response:
        return web.Response(body=body)

    async def scenario() -> None:
        async with server(handler) as url, Exchange(url) as exchange:
            await asyncio.wait_for(exchange.news(3, "collecting"), 10)

    asyncio.run(scenario())


@pytest.mark.parametrize("status", [404, 503])
def test_a_refusal_only_ends_the_wait(status: int) -> None:
    """An aggregator that is being restarted has no such round yet, or the gateway cannot reach it."""

    async def handler(_request: web.Request) -> web.Response:
        problem = problems.to_problem(MessageError("there is no round 3 yet", reason="unknown_round"))
        return web.Response(status=status, body=json.dumps(problem).encode(), content_type=problems.CONTENT_TYPE)

    async def scenario() -> None:
        async with server(handler) as url, Exchange(url) as exchange:
            await asyncio.wait_for(exchange.news(3, "collecting"), 10)

    asyncio.run(scenario())


def test_a_unix_socket_is_an_address_too(tmp_path: Path) -> None:
    """``unix:PATH`` reaches an aggregator without any port."""

    async def handler(_request: web.Request) -> web.Response:
        return web.Response(body=b"document")

    async def scenario() -> bytes:
        app = web.Application()
        app.router.add_get("/v1/rounds/current", handler)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.UnixSite(runner, str(tmp_path / "a.sock")).start()
        try:
            async with Exchange(f"unix:{tmp_path}/a.sock") as exchange:
                return await exchange.round_document("0" * 32)
        finally:
            await runner.cleanup()

    assert asyncio.run(scenario()) == b"document"


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("ftp://127.0.0.1/", "bad_url"),
        ("127.0.0.1:8080", "bad_url"),
        ("http://", "bad_url"),
        ("http://127.0.0.1/?a=b", "bad_url"),
        ("unix:", "bad_address"),
        ("http://hub.example.org:8080", "not_local"),
        ("https://hub.example.org", "no_context"),
    ],
)
def test_urls_that_are_refused(url: str, reason: str) -> None:
    """Plain HTTP stays on this machine, and https needs a context that is post-quantum."""
    with pytest.raises(ConfigurationError) as caught:
        Exchange(url)
    assert caught.value.reason == reason


def test_leaving_the_machine_can_be_asked_for() -> None:
    """An explicit flag, or a TLS context, lets the URL be another machine's."""
    Exchange("http://sidecar:8080", unsafe_url=True)
    Exchange("https://hub.example.org", ssl=ssl.create_default_context())


def test_a_client_that_was_not_entered_says_so() -> None:
    """Forgetting ``async with`` is a sentence and not an AttributeError."""
    with pytest.raises(ConfigurationError, match="async with"):
        asyncio.run(Exchange("http://127.0.0.1:1").round_document("0" * 32))


def test_a_missing_model_is_the_aggregators_own_error() -> None:
    """404 with a problem document is a ``MessageError`` with the aggregator's reason."""

    async def handler(_request: web.Request) -> web.Response:
        return problem(MessageError("there is no model version 9", reason="unknown_model"))

    async def scenario() -> None:
        async with server(handler) as url, Exchange(url) as exchange:
            await exchange.model(9, Taken())

    with pytest.raises(MessageError, match="version 9"):
        asyncio.run(scenario())
