"""The joining port is open to everybody: a flood of half-open connections, and a site that joins all the same."""

import socket
import time
from contextlib import ExitStack
from pathlib import Path

import psutil

from pqfl.demo.processes import Crew
from tests.end_to_end.test_enrolment import start_hub, token_for
from tests.support.commands import good
from tests.support.pki import make_federation
from tests.support.sidecars import START_SECONDS

FLOOD = 1000
MIB = 1 << 20


def test_a_flood_neither_stops_a_site_nor_fills_the_memory(tmp_path: Path) -> None:
    """A thousand connections that never finish a handshake, half of them from the site's own address."""
    federation = make_federation(tmp_path / "fed", sites=())
    with Crew(tmp_path) as crew, ExitStack() as stack:
        hub, address = start_hub(crew, federation)
        token = token_for(federation, "west")
        process = psutil.Process(hub.pid)
        before, descriptors = process.memory_info().rss, process.num_fds()
        host, port = address.rsplit(":", 1)
        for number in range(FLOOD):
            source = "127.0.0.1" if number % 2 else "127.0.0.2"
            connection = socket.create_connection((host, int(port)), START_SECONDS, source_address=(source, 0))
            stack.callback(connection.close)
            # The beginning of a ClientHello: enough for a server to wait for the rest of it.
            connection.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
        begun = time.monotonic()
        good("join", "--token", token, "--hub", address, "--out", tmp_path / "west")
        assert time.monotonic() - begun < START_SECONDS
        assert process.num_fds() - descriptors < 150
        assert process.memory_info().rss - before < 150 * MIB
        line = hub.wait_for(lambda line: line.get("event") == "connections_ended", START_SECONDS)
        assert line["reason"] == "too_many_connections"
