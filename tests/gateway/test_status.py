"""The status listener answers what it is asked and nothing else."""

import asyncio
import json

import aiohttp

from gateway.status import serve_status
from pqfl_transport.net.address import Address
from pqfl_transport.net.listening import listen


def test_status_metrics_and_health() -> None:
    """JSON, Prometheus and a plain ok; other paths are not there."""

    async def scenario() -> None:
        listener = listen(Address("127.0.0.1", 0), "--status")
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        runner = await serve_status(listener, lambda: {"role": "server"}, lambda: "pqfl_x 1\n")
        try:
            async with aiohttp.ClientSession() as session:
                async with session.get(f"{url}/_status") as answer:
                    assert json.loads(await answer.read()) == {"role": "server"}
                async with session.get(f"{url}/_metrics") as answer:
                    assert answer.content_type == "text/plain"
                    assert await answer.text() == "pqfl_x 1\n"
                async with session.get(f"{url}/healthz") as answer:
                    assert await answer.text() == "ok\n"
                async with session.get(f"{url}/anything") as answer:
                    assert answer.status == 404
        finally:
            await runner.cleanup()

    asyncio.run(scenario())
