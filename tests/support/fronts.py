"""A listener in HTTP mode in this process, and clients of it."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp

from gateway.config import HttpRules, Mode
from gateway.journal import Journal
from gateway.listener import Listener
from gateway.metrics import Metrics
from gateway.tcp import Scratch
from pqfl_transport.net.address import Address
from pqfl_transport.net.listening import listen
from pqfl_transport.net.logs import EventLog
from pqfl_transport.tls import client_context
from tests.support.listeners import ANYWHERE, listener
from tests.support.loglines import Lines
from tests.support.pki import Federation
from tests.support.rounds import ENVELOPE_TYPE, Envelope


@dataclass(slots=True)
class Front:
    """What a test talks to."""

    federation: Federation
    listener: Listener
    lines: Lines

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"https://127.0.0.1:{self.listener.address.port}"

    def context(self, site: str) -> ssl.SSLContext:
        """A site's context."""
        folder = self.federation.site(site)
        files = (folder / "tls.pem", folder / "tls.key", folder / "ca.pem")
        return client_context(*files, verify_uri=self.federation.gateway_uri)

    def client(self, site: str) -> aiohttp.ClientSession:
        """An HTTP client of a site."""
        return aiohttp.ClientSession(self.url, connector=aiohttp.TCPConnector(ssl=self.context(site)))


@asynccontextmanager
async def front(federation: Federation, target: Address, rules: HttpRules, **options: Any) -> AsyncIterator[Front]:
    """Serve in HTTP mode for one block."""
    config = listener(federation, targets=(target,), mode=Mode.HTTP, http=rules, **options)
    lines = Lines()
    journal = Journal(EventLog("json", stream=lines), None)
    made = Listener(config, listen(ANYWHERE, "--listen"), Scratch(), Metrics(), journal)
    made.start()
    try:
        yield Front(federation, made, lines)
    finally:
        made.close_connections("shutdown")
        made.close()
        async with asyncio.timeout(20):
            while made.connections:  # noqa: ASYNC110 -- what ends it is a callback of the loop
                await asyncio.sleep(0)


async def put_update(made: Front, update: Envelope, site: str) -> tuple[int, dict[str, Any]]:
    """Send an update through a listener over a site's connection; return status and answer."""
    path = f"/v1/rounds/{update.round_number}/updates/{update.envelope_id.hex()}"
    fields = {"Content-Type": ENVELOPE_TYPE}
    async with made.client(site) as client, client.put(path, data=update.data, headers=fields) as answer:
        return answer.status, await answer.json(content_type=None)
