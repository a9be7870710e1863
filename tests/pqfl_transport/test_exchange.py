"""HTTP of a site: what is retried, what is not, and that no answer can exhaust it."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from pqfl_transport import problems
from pqfl_transport.errors import ConfigurationError, MessageError, PlatformError, PqflError, RoundError, TransportError
from pqfl_transport.exchange import ENVELOPE_TYPE, Exchange
from pqfl_transport.participant import SealedUpdate

UPDATE = SealedUpdate(3, b"e" * 16, memoryview(b"x" * 700_000), b"d" * 32)
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
    """A model beyond its announced size is given up, whether its length is announced or it just goes on."""

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        if announced:
            response.content_length = 10_000
        await response.prepare(request)
        await response.write(b"x" * 10_000)
        return response

    async def scenario() -> None:
        async with server(handler) as url, Exchange(url) as exchange:
            await exchange.model(1, 5000)

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
            await exchange.model(9, 100)

    with pytest.raises(MessageError, match="version 9"):
        asyncio.run(scenario())
