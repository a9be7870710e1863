"""Who may be connected at once: floods of half-open connections, real sockets and real TLS."""

import select
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from http.client import HTTPSConnection
from pathlib import Path

import pytest

from certs.accepting import AcceptLimits
from pqfl_transport.errors import PeerError, TransportError
from pqfl_transport.hub import Hub
from pqfl_transport.pki.tokens import service_id
from tests.support.enrolment import Service, root_sha256, serving
from tests.support.pki import Federation, make_federation

SECONDS = 20.0
FEW = AcceptLimits(connections=24, connections_per_origin=8)


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return make_federation(tmp_path_factory.mktemp("federation"), sites=("north",), level="standard")


@contextmanager
def silent(service: Service, sources: list[str]) -> Iterator[list[socket.socket]]:
    """Connections from these addresses that never say anything."""
    with ExitStack() as stack:
        where = (service.address.host, service.address.port)
        made = [socket.create_connection(where, SECONDS, source_address=(source, 0)) for source in sources]
        for connection in made:
            stack.callback(connection.close)
        yield made


def open_ones(connections: list[socket.socket], expected: int) -> list[socket.socket]:
    """Wait until no more than this many are open; return them."""
    left, until = list(connections), time.monotonic() + SECONDS
    while len(left) > expected:
        assert time.monotonic() < until, f"{len(left)} are open"
        # Whatever can be read of a connection on which nothing is sent is its end.
        ended, _, _ = select.select(left, [], [], 1.0)
        left = [one for one in left if one not in ended]
    return left


def member(service: Service) -> Hub:
    return Hub.pinned(
        service.address, root_sha256(service.federation), service_id("fed"), service.federation.authority.policy
    )


@contextmanager
def shaken(hub: Hub) -> Iterator[HTTPSConnection]:
    """A connection whose handshake is done."""
    with closing(HTTPSConnection(hub.address.host, hub.address.port, context=hub.context, timeout=SECONDS)) as made:
        made.connect()
        yield made


@pytest.mark.parametrize(
    ("sources", "kept"),
    [(["127.0.0.2"] * 100, 8), (["127.0.0.1"] * 100, 8), ([f"127.0.1.{number}" for number in range(1, 101)], 24)],
    ids=["another address", "the same address", "many addresses"],
)
def test_a_flood_of_half_open_connections_stops_nobody(
    federation: Federation, sources: list[str], kept: int, tmp_path: Path
) -> None:
    """Only so many are kept, the latest ones; a site joins meanwhile, and the log has a line and not a hundred."""
    name = f"west-{kept}-{sources[0].replace('.', '-')}"
    with serving(federation, limits=FEW) as service, silent(service, sources) as flood:
        assert set(open_ones(flood, kept)) == set(flood[-kept:])
        service.joiner(service.token(name), tmp_path / name).join()
        assert [event for event in service.reports.events if event[0] == "connections_ended"] == [
            ("connections_ended", {"origin": sources[0], "reason": "too_many_connections"})
        ]


def test_a_handshake_has_its_time(federation: Federation) -> None:
    """Who says nothing is let go, and so is whoever says only the beginning."""
    limits = AcceptLimits(handshake_seconds=0.2)
    with serving(federation, limits=limits) as service, silent(service, ["127.0.0.1"] * 2) as connections:
        connections[0].sendall(b"\x16\x03\x01\x02\x00\x01")
        assert open_ones(connections, 0) == []


def test_a_connection_has_its_time(federation: Federation) -> None:
    """Who has shaken hands and asks for nothing does not stay for ever."""
    with (
        serving(federation, limits=AcceptLimits(connection_seconds=0.2)) as service,
        shaken(member(service)) as made,
        pytest.raises(OSError, match=r"closed the connection|reset"),
    ):
        made.sock.recv(1)


def test_nobody_is_cut_off_for_another(federation: Federation) -> None:
    """Where all connections of an origin have shaken hands, one more is refused, and those go on."""
    limits = AcceptLimits(connections_per_origin=2)
    with serving(federation, limits=limits) as service:
        hub = member(service)
        with shaken(hub) as first, shaken(hub) as second:
            for connection in (first, second):
                # The end of its handshake is known to the other side when there is an answer.
                connection.request("GET", "/v1/roster")
                assert connection.getresponse().read()
            with pytest.raises((PeerError, TransportError)):
                hub.get("/v1/ca")
            for connection in (first, second):
                connection.request("GET", "/v1/ca", headers={"Connection": "close"})
                assert connection.getresponse().read() == federation.ca_pem.read_bytes()
        # Their places are free again.
        until = time.monotonic() + SECONDS
        while not answers(hub):
            assert time.monotonic() < until


def answers(hub: Hub) -> bool:
    try:
        return bool(hub.get("/v1/ca"))
    except (PeerError, TransportError):
        return False
