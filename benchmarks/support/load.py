"""Load for relays: a TLS client driven by our engine on one side, a plain server on the other.

One byte says what a connection is for: ``U`` and a length, then so many bytes come and one byte answers; ``D`` and a
length, then so many bytes are sent; ``P``, then one byte answers; ``E``, then everything comes back. None of it
counts as the relay's time.
"""

import contextlib
import multiprocessing
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from pqfl_transport.policy import for_level
from pqfl_transport.tls.config import AllowedPeers, Role, TlsConfig, TlsIdentity
from pqfl_transport.tls.engine import TlsContext, TlsEngine

SLICE_BYTES = 1 << 20
_LENGTH_BYTES = 8
_TIMEOUT_SECONDS = 120


@contextlib.contextmanager
def plain_server() -> Iterator[int]:
    """Serve loads behind a relay, in a process of its own; give its port."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=512)
    process = multiprocessing.get_context("fork").Process(target=_serve, args=(listener,), daemon=True)
    process.start()
    port: int = listener.getsockname()[1]
    listener.close()
    try:
        yield port
    finally:
        process.kill()
        process.join()


def _serve(listener: socket.socket) -> None:
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=_answer, args=(connection,), daemon=True).start()


def _answer(connection: socket.socket) -> None:
    # A connection that breaks off is the relay's or the client's to complain about.
    with connection, contextlib.suppress(OSError):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        kind = connection.recv(1)
        if kind == b"P":
            connection.sendall(b"p")
        elif kind == b"E":
            while data := connection.recv(SLICE_BYTES):
                connection.sendall(data)
        elif kind:
            left = int.from_bytes(connection.recv(_LENGTH_BYTES, socket.MSG_WAITALL), "big")
            buffer = memoryview(bytearray(SLICE_BYTES))
            while left:
                piece = buffer[: min(left, SLICE_BYTES)]
                left -= connection.recv_into(piece) if kind == b"U" else connection.send(piece)
            if kind == b"U":
                connection.sendall(b"u")
        connection.recv(1)


class Client:
    """The TLS side: mutual ML-DSA certificates, X25519MLKEM768, the policy of the default level."""

    def __init__(self, identity: Path, gateway_uri: str, *, resume_seconds: int = 0) -> None:
        files = TlsIdentity.load(identity / "tls.pem", identity / "tls.key", identity / "ca.pem")
        config = TlsConfig(
            Role.CLIENT, files, for_level("high"), AllowedPeers(uris=(gateway_uri,)), resume_seconds=resume_seconds
        )
        self._context = TlsContext(config)

    def upload(self, port: int, count_bytes: int) -> None:
        """Send so many bytes and wait until they have arrived."""
        with self._connected(port) as (engine, connection):
            _send(engine, connection, b"U" + count_bytes.to_bytes(_LENGTH_BYTES, "big"))
            data = memoryview(bytearray(SLICE_BYTES))
            for start in range(0, count_bytes, SLICE_BYTES):
                _send(engine, connection, data[: min(SLICE_BYTES, count_bytes - start)])
            _receive(engine, connection, 1)

    def download(self, port: int, count_bytes: int) -> None:
        """Receive so many bytes."""
        with self._connected(port) as (engine, connection):
            _send(engine, connection, b"D" + count_bytes.to_bytes(_LENGTH_BYTES, "big"))
            _receive(engine, connection, count_bytes)

    def ping(self, port: int) -> None:
        """Connect anew, exchange a byte, close."""
        with self._connected(port) as (engine, connection):
            _send(engine, connection, b"P")
            _receive(engine, connection, 1)

    def echo(self, port: int, count: int, size_bytes: int) -> list[float]:
        """Send and receive so many messages on one connection; return the seconds that each took."""
        message, seconds = bytes(size_bytes), []
        with self._connected(port) as (engine, connection):
            _send(engine, connection, b"E")
            for _ in range(count):
                begin = time.perf_counter()
                _send(engine, connection, message)
                _receive(engine, connection, size_bytes)
                seconds.append(time.perf_counter() - begin)
        return seconds

    def handshake_bytes(self, port: int) -> int:
        """Shake hands; return how many bytes went both ways until both ends were done."""
        with socket.create_connection(("127.0.0.1", port), timeout=_TIMEOUT_SECONDS) as connection:
            engine, count = self._context.new_engine("localhost"), 0
            while True:
                done = engine.do_handshake()
                data = engine.data_to_send()
                connection.sendall(data)
                count += len(data)
                if done:
                    return count
                data = connection.recv(65536)
                count += len(data)
                engine.receive(data)

    def hold(self, port: int) -> tuple[TlsEngine, socket.socket]:
        """Connect, exchange a byte, and keep the connection."""
        connection = socket.create_connection(("127.0.0.1", port), timeout=_TIMEOUT_SECONDS)
        engine = self._context.new_engine("localhost")
        self._shake_hands(engine, connection)
        _send(engine, connection, b"P")
        _receive(engine, connection, 1)
        return engine, connection

    def group(self, port: int) -> str:
        """Connect and return the negotiated group, to show that the same was measured everywhere."""
        with self._connected(port) as (engine, _):
            return engine.peer.group

    @contextlib.contextmanager
    def _connected(self, port: int) -> Iterator[tuple[TlsEngine, socket.socket]]:
        with socket.create_connection(("127.0.0.1", port), timeout=_TIMEOUT_SECONDS) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            engine = self._context.new_engine("localhost")
            self._shake_hands(engine, connection)
            yield engine, connection
            engine.send_close_notify()
            connection.sendall(engine.data_to_send())
            self._context.keep_session(engine, "localhost")

    @staticmethod
    def _shake_hands(engine: TlsEngine, connection: socket.socket) -> None:
        while not engine.do_handshake():
            connection.sendall(engine.data_to_send())
            engine.receive(connection.recv(65536))
        connection.sendall(engine.data_to_send())


def _send(engine: TlsEngine, connection: socket.socket, data: bytes | memoryview) -> None:
    engine.write(data)
    while piece := engine.data_to_send(2 * SLICE_BYTES):
        connection.sendall(piece)


def _receive(engine: TlsEngine, connection: socket.socket, count_bytes: int) -> None:
    encrypted, plain = memoryview(bytearray(SLICE_BYTES)), memoryview(bytearray(2 * SLICE_BYTES))
    while True:
        while count := engine.read_into(plain):
            count_bytes -= count
        if count_bytes <= 0:
            return
        received = connection.recv_into(encrypted)
        if not received:
            raise ConnectionError("the relay closed the connection early")
        engine.receive(encrypted[:received])
