"""The sidecar as a service, in this process: what takes too long, what cannot be, and an end in order."""

import asyncio
import io
import json
import os
import signal
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.config import SidecarConfig
from gateway.service import Sidecar, serve
from pqfl_transport.errors import ConfigurationError, PlatformError
from pqfl_transport.net.address import Address
from pqfl_transport.net.logs import EventLog
from pqfl_transport.policy import for_level
from pqfl_transport.tls import client_context, connect
from pqfl_transport.tls.config import AllowedPeers, Role, TlsConfig, TlsIdentity
from tests.support.pki import Federation, make_federation


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return make_federation(tmp_path_factory.mktemp("federation"), sites=("bank-a",))


class Lines(io.StringIO):
    """Log lines that can be waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.written = asyncio.Event()

    def write(self, text: str) -> int:
        self.written.set()
        return super().write(text)

    async def wait_for(self, event: str) -> dict[str, Any]:
        """Return the first line of this event."""
        while True:
            for line in self.getvalue().splitlines():
                facts: dict[str, Any] = json.loads(line)
                if facts["event"] == event:
                    return facts
            self.written.clear()
            await asyncio.wait_for(self.written.wait(), 20)


def configure(federation: Federation, **options: Any) -> SidecarConfig:
    folder = federation.gateway
    identity = TlsIdentity.load(folder / "tls.pem", folder / "tls.key", folder / "ca.pem")
    tls = TlsConfig(Role.SERVER, identity, for_level("high"), AllowedPeers(any_of_federation=True))
    facts: dict[str, Any] = {"listen": Address("127.0.0.1", 0), "target": Address("127.0.0.1", 1), "tls": tls}
    return SidecarConfig(**(facts | options))


def run(config: SidecarConfig, use: Callable[[Lines, int], Awaitable[None]]) -> None:
    """Run a sidecar until ``use`` is done with it, then end it as an operator does."""

    async def scenario() -> None:
        lines = Lines()
        task = asyncio.create_task(Sidecar(config, EventLog("json", stream=lines)).run())
        port = int((await lines.wait_for("listening"))["address"].rsplit(":", 1)[1])
        await use(lines, port)
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(task, 20)
        assert (await lines.wait_for("stop"))["event"] == "stop"

    asyncio.run(scenario())


def test_a_handshake_that_never_comes_is_given_up(federation: Federation) -> None:
    """Who connects and says nothing is refused after the handshake timeout, with that reason."""

    async def use(lines: Lines, port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert (await lines.wait_for("refusal"))["reason"] == "timeout"
        with pytest.raises(ConnectionResetError):
            await reader.readexactly(1)
        writer.close()

    run(configure(federation, handshake_timeout_seconds=0.05), use)


def test_a_target_that_is_down_is_a_failure_of_that_connection(federation: Federation) -> None:
    """The service goes on and says which target."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        target = Address("127.0.0.1", closed.getsockname()[1])

    async def use(lines: Lines, port: int) -> None:
        site = federation.site("bank-a")
        context = client_context(
            site / "tls.pem", site / "tls.key", site / "ca.pem", verify_uri=federation.gateway_uri
        )  # fmt: skip
        _, writer = await connect("127.0.0.1", port, context)
        failure = await lines.wait_for("failure")
        assert (failure["reason"], str(target) in failure["detail"]) == ("target_down", True)
        writer.close()

    run(configure(federation, target=target), use)


def test_what_happened_is_audited(federation: Federation, tmp_path: Path) -> None:
    """Start, refusal and stop are in the chained log."""

    async def use(lines: Lines, port: int) -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"no TLS at all, but enough of it to be sure")
        await lines.wait_for("refusal")
        writer.close()

    run(configure(federation, audit=tmp_path / "audit.jsonl"), use)
    kinds = [json.loads(line)["kind"] for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
    assert kinds == ["start", "refusal", "stop"]


def test_what_cannot_start_says_so(federation: Federation, tmp_path: Path) -> None:
    """A taken port, a status port that is taken, an audit log that cannot be written."""
    log = EventLog("json", stream=io.StringIO())
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = Address("127.0.0.1", other.getsockname()[1])
        with pytest.raises(PlatformError, match="--listen"):
            serve(configure(federation, listen=taken), log)
        with pytest.raises(PlatformError, match="--status"):
            serve(configure(federation, status=taken), log)
    with pytest.raises(ConfigurationError, match="audit"):
        serve(configure(federation, audit=tmp_path / "nowhere" / "audit.jsonl"), log)
