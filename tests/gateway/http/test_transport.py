"""A TLS connection as an asyncio transport: flow control both ways, an end that is one, a cut that is none."""

import asyncio
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from gateway.http import transport as transport_module
from gateway.http.transport import HIGH_WATER_BYTES, EngineTransport
from gateway.tcp import Scratch
from pqfl_transport.tls.config import Role
from pqfl_transport.tls.engine import TlsContext
from tests.gateway.test_tcp import shake_hands, tcp_pair
from tests.support.listeners import tls
from tests.support.pki import Federation, make_federation

DATA = bytes(range(256)) * 8_000


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return make_federation(tmp_path_factory.mktemp("federation"), sites=("bank-a",))


class Recorder(asyncio.Protocol):
    """Remembers what it is told, and answers what it is asked to."""

    def __init__(self, on_data: Callable[["Recorder", bytes], None] | None = None, *, greeting: bytes = b"") -> None:
        self.greeting = greeting
        self.data = bytearray()
        self.told: list[str] = []
        self._on_data = on_data
        self.lost: BaseException | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport
        self.told.append("made")
        self.transport.write(self.greeting)

    def data_received(self, data: bytes) -> None:
        self.data += data
        if self._on_data is not None:
            self._on_data(self, data)

    def eof_received(self) -> bool:
        self.told.append("eof")
        return False

    def pause_writing(self) -> None:
        self.told.append("pause")

    def resume_writing(self) -> None:
        self.told.append("resume")

    def connection_lost(self, exc: BaseException | None) -> None:
        self.told.append("lost")
        self.lost = exc


def play(
    federation: Federation, outside: Callable[[Any], None], recorder: Recorder, **options: Any
) -> tuple[EngineTransport, str]:
    """Connect a client in a thread to a recorder on a transport; return the transport and how it closed."""
    client, accepted = tcp_pair()
    accepted.setblocking(False)

    def act() -> None:
        from pqfl_transport.tls import client_context  # noqa: PLC0415 -- the thread's own

        site = federation.site("bank-a")
        context = client_context(site / "tls.pem", site / "tls.key", site / "ca.pem", verify_uri=federation.gateway_uri)
        outside(context.wrap_socket(client))

    async def run() -> tuple[EngineTransport, str]:
        engine = TlsContext(tls(federation, Role.SERVER)).new_engine()
        await shake_hands(engine, accepted)
        closed: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        transport = EngineTransport(engine, accepted, Scratch(), closed.set_result, **options)
        transport.start(recorder)
        return transport, await asyncio.wait_for(closed, 30)

    thread = threading.Thread(target=act)
    thread.start()
    try:
        return asyncio.run(run())
    finally:
        thread.join(20)
        assert not thread.is_alive()


def read_all(connection: Any) -> bytes:
    return b"".join(iter(lambda: connection.recv(1 << 16), b""))


def test_bytes_pass_and_an_end_is_an_end(federation: Federation) -> None:
    """What was sent is received, the end is told, and the connection closes in order."""

    def outside(connection: Any) -> None:
        connection.sendall(DATA)
        connection.shutdown(socket.SHUT_WR)
        read_all(connection)
        connection.close()

    recorder = Recorder()
    transport, reason = play(federation, outside, recorder)
    assert (bytes(recorder.data), reason) == (DATA, "complete")
    assert recorder.told == ["made", "eof", "lost"]
    assert recorder.lost is None
    assert transport.received_bytes == len(DATA)
    assert transport.get_extra_info("peername")[0] == "127.0.0.1"


def test_a_slow_reader_makes_the_protocol_wait(federation: Federation) -> None:
    """More than the peer takes is held, the protocol is told to pause, and later to go on; nothing is lost."""
    seen: list[bytes] = []

    def outside(connection: Any) -> None:
        connection.sendall(b"go")
        ready.wait(20)
        seen.append(read_all(connection))
        connection.close()

    def answer(recorder: Recorder, _data: bytes) -> None:
        for _ in range(12):
            recorder.transport.write(DATA)
        assert recorder.transport.get_write_buffer_size() > HIGH_WATER_BYTES
        recorder.transport.close()
        recorder.transport.write(b"too late")
        ready.set()

    ready = threading.Event()
    recorder = Recorder(answer)
    transport, reason = play(federation, outside, recorder)
    assert seen == [DATA * 12]
    assert reason == "complete"
    assert recorder.told == ["made", "pause", "resume", "lost"]
    assert transport.sent_bytes == 12 * len(DATA)


def test_pausing_stops_reading(federation: Federation) -> None:
    """While the protocol does not want more, the peer waits; then all of it comes."""

    def outside(connection: Any) -> None:
        connection.sendall(DATA * 10)
        connection.shutdown(socket.SHUT_WR)
        read_all(connection)
        connection.close()

    def pause(recorder: Recorder, _data: bytes) -> None:
        if not recorder.transport.is_closing() and len(recorder.data) < len(DATA) * 10:
            recorder.transport.pause_reading()
            assert not recorder.transport.is_reading()
            asyncio.get_running_loop().call_soon(recorder.transport.resume_reading)

    recorder = Recorder(pause)
    assert play(federation, outside, recorder)[1] == "complete"
    assert bytes(recorder.data) == DATA * 10


@pytest.mark.parametrize("way", ["cut", "reset"])
def test_a_stream_that_is_cut_is_lost_with_an_error(federation: Federation, way: str) -> None:
    """Without close_notify nobody can know what is missing."""

    def outside(connection: Any) -> None:
        assert connection.recv(2) == b"go"
        connection.sendall(b"half a requ")
        raw = socket.socket(fileno=connection.detach())
        if way == "reset":
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        raw.close()

    recorder = Recorder(greeting=b"go")
    _, reason = play(federation, outside, recorder)
    assert reason in {"truncated", "tls_reset"}
    assert recorder.lost is not None
    assert "eof" not in recorder.told


def test_aborting_is_a_reset_for_the_peer(federation: Federation) -> None:
    """Half an answer does not look like a whole one."""
    errors: list[BaseException] = []

    def outside(connection: Any) -> None:
        connection.sendall(b"go")
        try:
            read_all(connection)
        except OSError as error:
            errors.append(error)
        connection.close()

    def answer(recorder: Recorder, _data: bytes) -> None:
        recorder.transport.write(b"half an ans")
        recorder.transport.abort()

    assert play(federation, outside, Recorder(answer))[1] == "plain_reset"
    assert errors


def test_a_throttled_peer_is_read_later_and_loses_nothing(federation: Federation) -> None:
    """What is beyond its rate waits; all of it is counted."""
    asked: list[int] = []

    def throttle(count: int) -> float:
        asked.append(count)
        return 0.001

    def outside(connection: Any) -> None:
        connection.sendall(DATA)
        connection.shutdown(socket.SHUT_WR)
        read_all(connection)
        connection.close()

    recorder = Recorder()
    assert play(federation, outside, recorder, throttle=throttle)[1] == "complete"
    assert bytes(recorder.data) == DATA
    assert sum(asked) == len(DATA)
    assert len(asked) > 2


def test_used_up_keys_are_told_in_time(federation: Federation, monkeypatch: pytest.MonkeyPatch) -> None:
    """Near the limit the owner is told once; beyond what is left the connection ends with that reason."""
    monkeypatch.setattr(transport_module, "KEY_LIMIT_RECORDS", 5)
    monkeypatch.setattr(transport_module, "_LAST_RECORDS", 20)

    def outside(connection: Any) -> None:
        with suppress(OSError):
            connection.sendall(DATA)
            read_all(connection)
        connection.close()

    told: list[bool] = []

    def listen(recorder: Recorder, _data: bytes) -> None:
        recorder.transport.used_up = recorder.transport.used_up or (lambda: told.append(True) if not told else None)

    recorder = Recorder(listen)
    assert play(federation, outside, recorder)[1] == "key_limit"
    assert told == [True]
