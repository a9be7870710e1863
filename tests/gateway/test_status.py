"""The status listener answers what it is asked and nothing else."""

import asyncio
import json
from typing import Any

import aiohttp

from gateway.exposition import merge, prometheus
from gateway.metrics import Metrics
from gateway.status import is_ready, serve_status, summarise
from pqfl_transport.errors import TransportError
from pqfl_transport.net.address import Address
from pqfl_transport.net.listening import listen
from tests.gateway.test_exposition import snapshot
from tests.support.peers import certified, peer

Answers = dict[str, tuple[int, str]]


def answers(found: dict[str, Any] | TransportError) -> Answers:
    """What every path answers."""

    async def ask() -> dict[str, Any]:
        if isinstance(found, TransportError):
            raise found
        return found

    async def scenario() -> Answers:
        listener = listen(Address("127.0.0.1", 0), "--status")
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        runner = await serve_status(listener, ask)
        results = {}
        try:
            async with aiohttp.ClientSession() as session:
                for path in ("/_status", "/_metrics", "/healthz", "/readyz", "/anything"):
                    async with session.get(f"{url}{path}") as answer:
                        results[path] = answer.status, await answer.text()
        finally:
            await runner.cleanup()
        return results

    return asyncio.run(scenario())


def test_a_service_whose_backend_answers_is_ready() -> None:
    """JSON with the sums first, Prometheus, and two plain words; other paths are not there."""
    found = answers(snapshot())
    assert [status for status, _ in found.values()] == [200, 200, 200, 200, 404]
    status = json.loads(found["/_status"][1])
    assert (status["ready"], status["role"], status["handshake_failures"]) == (True, "server", {"untrusted": 2})
    assert "pqfl_connections_open" in found["/_metrics"][1]
    assert (found["/healthz"][1], found["/readyz"][1]) == ("ok\n", "ready\n")


def test_a_service_without_backend_is_alive_and_not_ready() -> None:
    """A balancer sends nothing more, a watchdog restarts nothing, and the page says everything all the same."""
    found = answers(snapshot(up=False))
    assert [found[path][0] for path in ("/_status", "/_metrics", "/healthz", "/readyz")] == [503, 200, 200, 503]
    assert json.loads(found["/_status"][1])["listeners"]["main"]["backends"]["127.0.0.1:2"]["up"] is False


def test_workers_that_do_not_answer_are_told_in_one_sentence() -> None:
    """The page is a sentence and not a traceback."""
    found = answers(TransportError("no worker answers", reason="no_worker"))
    assert found["/_status"] == (503, "no worker answers\n")
    assert found["/healthz"][0] == 200


def test_one_backend_of_several_is_enough() -> None:
    """Fail-over is not an outage."""
    several = snapshot(up=False)
    several["listeners"]["main"]["backends"]["127.0.0.1:3"] = {"up": True, "detail": ""}
    assert is_ready(several)
    assert summarise(several)["ready"] is True


def test_a_suspended_service_is_not_ready_and_says_why() -> None:
    """An advisory left nothing to work with: monitors see it, and the reason."""
    found = answers(snapshot() | {"suspended": "advisory 7 withdraws ML-DSA-65"})
    assert found["/readyz"] == (503, "advisory 7 withdraws ML-DSA-65\n")
    assert found["/_status"][0] == 503
    assert found["/healthz"][0] == 200


def test_who_is_classical_still_is_named() -> None:
    """The last one first; who never was is not there, and of two workers the later time counts."""
    found = []
    for moment in (60, 120):
        metrics = Metrics(clock=lambda moment=moment: moment)
        listener = metrics.listener("main", "server")
        metrics.handshake(listener, peer("spiffe://fed/site/new"), 0.5)
        old = peer(certified=certified(None, name="old.example"), post_quantum=False)
        metrics.handshake(listener, old, 0.5).opened(post_quantum=False)
        found.append(snapshot() | {"peers": metrics.snapshot()["peers"]})
    found[0]["peers"]["gone.example"] = found[0]["peers"]["old.example"] | {"classical_open": 0}
    merged = merge(found)
    assert summarise(merged)["classical_peers"] == {
        "old.example": {"last_handshake": "1970-01-01T00:02:00Z", "connections_open": 2},
        "gone.example": {"last_handshake": "1970-01-01T00:01:00Z", "connections_open": 0},
    }
    page = prometheus(merged)
    assert 'pqfl_peer_classical_handshake_timestamp_seconds{peer="old.example"} 120' in page
    assert 'pqfl_peer_classical_handshake_timestamp_seconds{peer="spiffe://fed/site/new"}' not in page
