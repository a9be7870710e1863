"""Sidecars for tests: real processes with a plain server behind them, and what they say about themselves."""

import json
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pqfl.demo.processes import Crew, Event, Process
from tests.support.pki import Federation

START_SECONDS = 20.0
READ_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Running:
    """A sidecar that listens."""

    process: Process
    address: tuple[str, int]
    status_url: str

    @property
    def target(self) -> str:
        """The address as a flag takes it."""
        return f"{self.address[0]}:{self.address[1]}"

    def status(self) -> dict[str, Any]:
        """What ``/_status`` says now."""
        request = f"{self.status_url}/_status"
        try:
            with urllib.request.urlopen(request) as answer:  # noqa: S310 -- a process of this test
                facts: dict[str, Any] = json.load(answer)
        except urllib.error.HTTPError as answer:
            # Status 503 says that the target is down, and everything else all the same.
            facts = json.load(answer)
        return facts

    def wait_for(self, event: str, **facts: object) -> Event:
        """Return the first log line of this event with these facts."""
        return self.process.wait_for(
            lambda line: line.get("event") == event and all(line.get(k) == v for k, v in facts.items()), START_SECONDS
        )

    def connect(self) -> socket.socket:
        """Connect to where it listens."""
        return socket.create_connection(self.address, timeout=START_SECONDS)


def identity(folder: Path, ca: Path | None = None) -> list[str]:
    """The flags of an identity folder."""
    return ["--cert", f"{folder}/tls.pem", "--key", f"{folder}/tls.key", "--cacert", str(ca or folder / "ca.pem")]


def start(crew: Crew, name: str, *words: str) -> Running:
    """Start `pqfl server` or `pqfl client` with these words and wait until it listens."""
    process = crew.start(
        name, "-m", "pqfl", *words, "--listen", "127.0.0.1:0", "--status", "127.0.0.1:0", "--log-format", "json"
    )
    listening = process.wait_for(lambda line: line.get("event") == "listening", START_SECONDS)
    host, port = listening["address"].rsplit(":", 1)
    return Running(process, (host, int(port)), f"http://{listening['status']}")


def start_server(crew: Crew, federation: Federation, target: str, *words: str, name: str = "gateway") -> Running:
    """Start a gateway; without further words it lets everybody of the federation in."""
    return start(
        crew, name, "server", "--target", target, *identity(federation.gateway), *(words or ["--allow-all"])
    )  # fmt: skip


def start_client(
    crew: Crew, federation: Federation, target: str, *words: str, folder: Path | None = None, name: str = "sidecar"
) -> Running:
    """Start a site's sidecar; without further words it expects the federation's gateway."""
    own = folder or federation.site(federation.sites[0])
    expected = words or ["--verify-uri", federation.gateway_uri]
    return start(crew, name, "client", "--target", target, *identity(own), *expected)


@contextmanager
def plain_server(serve: Callable[[socket.socket], None]) -> Iterator[str]:
    """Serve every connection in a thread of its own; give the address as a flag takes it."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=256)

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=answer, args=(connection,), daemon=True).start()

    def answer(connection: socket.socket) -> None:
        # A peer that resets is part of some tests; what matters is asserted at the other end.
        with connection, suppress(OSError):
            serve(connection)

    threading.Thread(target=accept, daemon=True).start()
    with closing(listener):
        host, port = listener.getsockname()
        yield f"{host}:{port}"
        listener.shutdown(socket.SHUT_RDWR)


def echo(connection: socket.socket) -> None:
    """Send everything back, and end when the other side has ended."""
    while data := connection.recv(READ_BYTES):
        connection.sendall(data)
    connection.shutdown(socket.SHUT_WR)


def read_all(connection: socket.socket) -> bytes:
    """Read to the end."""
    return b"".join(iter(lambda: connection.recv(READ_BYTES), b""))
