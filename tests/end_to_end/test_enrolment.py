"""A site joins with one token, and its sidecar renews under traffic: real processes, real sockets."""

import json
import signal
import socket
import time
from pathlib import Path

import pytest

from pqfl.demo.processes import Crew, Process
from pqfl_transport.pki.keystore import load_signing_identity
from pqfl_transport.pki.tokens import JoinToken
from tests.support.commands import good, refused
from tests.support.pki import Federation, make_federation
from tests.support.sidecars import START_SECONDS, Running, echo, plain_server, start, start_server

PIECE = b"x" * 1024


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    return make_federation(tmp_path / "fed", sites=("north",))


def start_hub(crew: Crew, federation: Federation, *words: str, name: str = "hub") -> tuple[Process, str]:
    """Start the enrolment service; return it and its address."""
    process = crew.start(
        name, "-m", "pqfl", "ca", "serve", "--dir", str(federation.ca), "--listen", "127.0.0.1:0", "--log-format",
        "json", *words,
    )  # fmt: skip
    listening = process.wait_for(lambda line: line.get("event") == "listening", START_SECONDS)
    return process, listening["address"]


def token_for(federation: Federation, name: str, *words: str) -> str:
    return good("ca", "token", "--dir", federation.ca, "--site", name, *words).strip()


def renewals(sidecar: Running) -> int:
    count: int = sidecar.status()["renewals"].get("ok", 0)
    return count


def start_joined(crew: Crew, out: Path) -> Running:
    """Start the sidecar as its own configuration says, but for the address."""
    return start(crew, out.name, "client", "--config", str(out / "sidecar.toml"))


def test_a_site_joins_and_renews_under_traffic(federation: Federation, tmp_path: Path) -> None:
    """With certificates of one minute the sidecar renews by itself, and one connection goes on through all of it."""
    out = tmp_path / "west"
    with Crew(tmp_path) as crew, plain_server(echo) as target:
        gateway = start_server(crew, federation, target)
        hub, address = start_hub(crew, federation, "--validity", "60s", "--gateway", gateway.target)
        good("join", "--token", token_for(federation, "west"), "--hub", address, "--out", out)
        sidecar = start_joined(crew, out)
        first = (out / "tls.pem").read_bytes()
        with sidecar.connect() as connection:
            until = time.monotonic() + 150
            while renewals(sidecar) < 2:
                assert time.monotonic() < until
                connection.sendall(PIECE)
                assert connection.recv(len(PIECE), socket.MSG_WAITALL) == PIECE
            # The certificate that this connection was begun with is over by now; a new one has the new certificate.
            with sidecar.connect() as another:
                another.sendall(PIECE)
                assert another.recv(len(PIECE), socket.MSG_WAITALL) == PIECE
            connection.sendall(PIECE)
            assert connection.recv(len(PIECE), socket.MSG_WAITALL) == PIECE
        assert (out / "tls.pem").read_bytes() != first
        sidecar.process.end()
        hub.end()
    log = (tmp_path / "west.log").read_text()
    assert log.count('"event":"renewal"') + log.count('"event": "renewal"') >= 2


def test_tokens_are_good_once_in_time_and_for_their_site(federation: Federation, tmp_path: Path) -> None:
    """Replayed, replaced, expired and foreign tokens are refused in one line, and nobody is let in by them."""
    other = make_federation(tmp_path / "other", sites=())
    with Crew(tmp_path) as crew:
        _, address = start_hub(crew, federation)
        token = token_for(federation, "west")
        good("join", "--token", token, "--hub", address, "--out", tmp_path / "west")
        join = ("join", "--hub", address, "--out", tmp_path / "thief", "--token")
        assert "used already" in refused(*join, token, status=1)
        short = token_for(federation, "east", "--expires", "1s")
        ends_at = JoinToken.parse(short).expires_at
        while time.time() <= ends_at + 1:
            time.sleep(0.1)
        assert "expired" in refused(*join, short, status=1)
        replaced, _ = token_for(federation, "south"), token_for(federation, "south")
        assert "no such token" in refused(*join, replaced, status=1)
        # The same federation's name, another root: refused by the site, before it has said anything.
        foreign = token_for(other, "west")
        assert "somebody else" in refused(*join, foreign, status=1)
    refusals = [json.loads(line) for line in (tmp_path / "hub.log").read_text().splitlines() if line.startswith("{")]
    assert [line["reason"] for line in refusals if line["event"] == "request_refused"] == [
        "token_used",
        "unknown_token",
    ]


def test_a_gateway_posing_as_the_enrolment_service_hears_nothing(federation: Federation, tmp_path: Path) -> None:
    """A member's certificate does not make a hub: the site ends the handshake, and no key was made."""
    with Crew(tmp_path) as crew, plain_server(echo) as target:
        gateway = start_server(crew, federation, target)
        words = ("join", "--token", token_for(federation, "west"), "--out", tmp_path / "west", "--hub", gateway.target)
        said = refused(*words, status=1)
        assert "pqfl:" in said
    assert not list(tmp_path.glob(".west*"))


def test_a_hub_killed_meanwhile_loses_nothing(federation: Federation, tmp_path: Path) -> None:
    """The hub is killed after it let somebody in; with another one the same commands go on."""
    with Crew(tmp_path) as crew:
        hub, address = start_hub(crew, federation, "--approve")
        token = token_for(federation, "west")
        words = ("join", "--token", token, "--out", tmp_path / "west", "--hub")
        assert "waits for approval" in refused(*words, address, status=1)
        _kill(hub)
        good("ca", "approve", "--dir", federation.ca, "--site", "west")
        refused(*words, address, status=1)
        _, address = start_hub(crew, federation, name="again")
        good(*words, address)
        # The root has not decided yet. When it has, the roster names the key that was made at the site.
        assert federation.site_uri("west") not in federation.authority.roster().parties
        good("ca", "roster", "sign", "--yes", "--dir", federation.ca)
        party = federation.authority.roster().party(federation.site_uri("west"))
        assert party.signing_key == load_signing_identity(tmp_path / "west").key.verifying_key
        good("renew", "--identity", tmp_path / "west", "--hub", address)
        assert party.signing_key == load_signing_identity(tmp_path / "west").key.verifying_key
    # Two of its joining, two of its renewal, and that of the next signing key: nothing was issued twice.
    assert len(federation.authority.ledger.entries(party=federation.site_uri("west"))) == 5


def _kill(process: Process) -> None:
    process._child.send_signal(signal.SIGKILL)
    process._child.wait(START_SECONDS)
