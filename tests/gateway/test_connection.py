"""One connection from its acceptance to its end: every way it can end goes through the same door, once."""

import asyncio
import socket
from typing import Any

import pytest

from gateway.config import ListenerConfig
from gateway.journal import Journal
from gateway.listener import Listener
from gateway.metrics import Metrics
from gateway.tcp import Scratch
from pqfl_transport.net.address import Address
from pqfl_transport.net.listening import listen
from pqfl_transport.net.logs import EventLog
from pqfl_transport.tls import client_context, connect
from pqfl_transport.tls.config import Role
from tests.support.listeners import ANYWHERE, listener
from tests.support.loglines import Lines
from tests.support.pki import Federation, make_federation


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return make_federation(tmp_path_factory.mktemp("federation"), sites=("bank-a",))


def use(config: ListenerConfig, what: Any) -> dict[str, Any]:
    """Let a listener accept, use it, close it; return what it counted."""

    async def scenario() -> dict[str, Any]:
        metrics, lines = Metrics(), Lines()
        made = Listener(
            config, listen(ANYWHERE, "--listen"), Scratch(), metrics, Journal(EventLog("json", stream=lines), None)
        )
        made.start()
        try:
            await what(made, lines)
        finally:
            made.close_connections("shutdown")
            made.close()
        assert made.connections == 0
        found: dict[str, Any] = metrics.snapshot()["listeners"]["main"]
        assert found["connections_open"] == 0
        return found

    return asyncio.run(scenario())


async def as_site(federation: Federation, made: Listener) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    site = federation.site("bank-a")
    files = (site / "tls.pem", site / "tls.key", site / "ca.pem")
    return await connect("127.0.0.1", made.address.port, client_context(*files, verify_uri=federation.gateway_uri))


def test_a_connection_that_relayed_says_how_much(federation: Federation) -> None:
    """Bytes each way, group, signatures, target, seconds and the reason, in one line."""
    with socket.create_server(("127.0.0.1", 0)) as backend:
        target = Address("127.0.0.1", backend.getsockname()[1])

        async def what(made: Listener, lines: Lines) -> None:
            reader, writer = await as_site(federation, made)
            writer.write(b"12345")
            plain, _ = await asyncio.to_thread(backend.accept)
            with plain:
                assert await asyncio.to_thread(plain.recv, 5) == b"12345"
                plain.sendall(b"abc")
                plain.shutdown(socket.SHUT_WR)
                assert await reader.read() == b"abc"
                writer.close()
                line = await lines.wait_for("connection")
            assert (line["bytes_in"], line["bytes_out"], line["reason"]) == (5, 3, "complete")
            assert (line["group"], line["own_sigalg"], line["peer_sigalg"]) == (
                "X25519MLKEM768", "ML-DSA-65", "ML-DSA-65",
            )  # fmt: skip
            assert (line["target"], line["post_quantum"], line["resumed"]) == (str(target), True, False)

        found = use(listener(federation, targets=(target,)), what)
    assert (found["closes"], found["bytes_in"], found["bytes_out"]) == ({"complete": 1}, 5, 3)


def test_the_target_can_be_told_who_is_there(federation: Federation) -> None:
    """With --proxy-protocol the first bytes say it, and what the client sent comes after them."""
    with socket.create_server(("127.0.0.1", 0)) as backend:
        target = Address("127.0.0.1", backend.getsockname()[1])

        async def what(made: Listener, _lines: Lines) -> None:
            _, writer = await as_site(federation, made)
            writer.write(b"payload")
            plain, _ = await asyncio.to_thread(backend.accept)
            with plain:
                data = b""
                while not data.endswith(b"payload"):
                    data += await asyncio.to_thread(plain.recv, 65536)
            assert data.startswith(b"\r\n\r\n\0\r\nQUIT\n")
            assert federation.site_uri("bank-a").encode() in data
            assert b"X25519MLKEM768" in data
            writer.close()

        use(listener(federation, targets=(target,), proxy_protocol=True), what)


def test_a_client_that_finds_no_gateway_ends_the_plain_side(federation: Federation) -> None:
    """The program behind the sidecar sees a reset, and the log says which target."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        target = Address("127.0.0.1", closed.getsockname()[1])

    async def what(made: Listener, lines: Lines) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", made.address.port)
        with pytest.raises(ConnectionResetError):
            await reader.readexactly(1)
        assert str(target) in (await lines.wait_for("failure"))["detail"]
        writer.close()

    use(listener(federation, Role.CLIENT, targets=(target,)), what)


@pytest.mark.parametrize("stage", ["shaking hands", "relaying"])
def test_closing_ends_a_connection_at_any_stage(federation: Federation, stage: str) -> None:
    """Whatever it is doing, both sides are closed and it is counted once."""
    with socket.create_server(("127.0.0.1", 0)) as backend:
        target = Address("127.0.0.1", backend.getsockname()[1])

        async def what(made: Listener, lines: Lines) -> None:
            if stage == "relaying":
                reader, writer = await as_site(federation, made)
                writer.write(b"x")
                await asyncio.to_thread(backend.accept)
            else:
                reader, writer = await asyncio.open_connection("127.0.0.1", made.address.port)
                writer.write(b"\x16\x03\x01")
                while not made.connections:
                    await asyncio.wait_for(asyncio.to_thread(lambda: None), 20)
            made.close_connections("shutdown")
            made.close_connections("again")
            with pytest.raises(OSError, match=r"."):
                await reader.readexactly(1)
            assert len(lines.events("connection")) == (stage == "relaying")
            writer.close()

        use(listener(federation, targets=(target,)), what)


def test_a_failure_inside_is_said_and_ends_only_that_connection(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mistake of ours is a line in the log and not the end of the service."""

    async def broken(_self: Listener) -> Any:
        raise RuntimeError("a mistake")

    monkeypatch.setattr(Listener, "dial", broken)
    monkeypatch.setattr(Listener, "dial_at_once", lambda _self: None)

    async def what(made: Listener, lines: Lines) -> None:
        _, writer = await as_site(federation, made)
        failure = await lines.wait_for("failure")
        assert (failure["reason"], failure["detail"]) == ("internal", "RuntimeError: a mistake")
        writer.close()

    use(listener(federation), what)
