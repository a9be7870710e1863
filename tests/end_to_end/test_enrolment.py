"""A site joins with one token, and its sidecar renews under traffic: real processes, real sockets."""

import json
import signal
import socket
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pqfl.demo.processes import Crew, Process
from pqfl_transport.content.recipients import ReceivingKey
from pqfl_transport.crypto.pyca import SigningKey
from pqfl_transport.errors import MessageError
from pqfl_transport.hub import Hub
from pqfl_transport.joining import Joiner
from pqfl_transport.net.address import Address
from pqfl_transport.pki.enrolment import JOIN_PATH, Grant, State, join_payload, join_request, open_join_answer
from pqfl_transport.pki.keystore import load_signing_identity
from pqfl_transport.pki.spiffe import Role, SpiffeId
from pqfl_transport.pki.tokens import JoinToken
from pqfl_transport.policy import leaf_algorithm
from tests.support.commands import good, refused
from tests.support.enrolment import make_token
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
        # One that ended a minute ago: the site does not even try it; one whose clock is behind does.
        over = make_token(federation, "east", seconds=60, now=int(time.time()) - 120)
        assert "expired" in refused(*join, over.to_text(), status=1)
        assert reasons_of_refusals(tmp_path / "hub.log") == ["token_used"]
        behind = Joiner(over, Address.parse(address, "hub"), tmp_path / "thief", clock=an_earlier_clock)
        with pytest.raises(MessageError, match="expired") as caught:
            behind.join()
        assert caught.value.reason == "token_expired"
        replaced, _ = token_for(federation, "south"), token_for(federation, "south")
        assert "no such token" in refused(*join, replaced, status=1)
        # The same federation's name, another root: refused by the site, before it has said anything.
        foreign = token_for(other, "west")
        assert "somebody else" in refused(*join, foreign, status=1)
    assert reasons_of_refusals(tmp_path / "hub.log") == ["token_used", "token_expired", "unknown_token"]
    assert not (tmp_path / "thief").exists()


def an_earlier_clock() -> datetime:
    return datetime.now(UTC) - timedelta(seconds=100)


def reasons_of_refusals(log: Path) -> list[str]:
    """What a hub has refused, in the order of its log."""
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    return [line["reason"] for line in lines if line["event"] == "request_refused"]


def test_a_token_is_for_one_name_and_a_request_for_one_connection(federation: Federation, tmp_path: Path) -> None:
    """A changed client that holds west's token gets nothing for east, and a request that was recorded gets nothing."""
    with Crew(tmp_path) as crew:
        _, address = start_hub(crew, federation)
        token = JoinToken.parse(token_for(federation, "west"))
        policy = federation.authority.policy
        hub = Hub.pinned(Address.parse(address, "hub"), token.root_sha256, token.service, policy)
        keys = [SigningKey.generate(leaf_algorithm(policy)) for _ in range(2)]
        receiving = ReceivingKey.generate(policy.content_suite.kem).public.to_bytes()
        west, east = (
            join_payload(SpiffeId(federation.name, Role.SITE, name), *keys, receiving, made=int(time.time()))
            for name in ("west", "east")
        )
        recorded: list[bytes] = []

        def ask(payload: bytes) -> tuple[State, Grant | None]:
            def request(binding: bytes) -> bytes:
                recorded.append(join_request(token, payload, binding))
                return recorded[-1]

            answer, binding = hub.post(JOIN_PATH, request)
            return open_join_answer(answer, token.keys, payload, binding)

        assert reason_of(lambda: ask(east)) == "wrong_name"
        # The token is as good as before; what was recorded of a good request is not.
        assert ask(west)[0] is State.ISSUED
        assert reason_of(lambda: hub.post(JOIN_PATH, lambda _: recorded[-1])) == "bad_mac"
        assert reason_of(lambda: hub.post(JOIN_PATH, lambda _: recorded[0])) == "bad_mac"
    assert reasons_of_refusals(tmp_path / "hub.log") == ["wrong_name", "bad_mac", "bad_mac"]
    assert federation.authority.ledger.entries(party=federation.site_uri("east")) == ()


def reason_of(action: Callable[[], object]) -> str:
    with pytest.raises(MessageError) as caught:
        action()
    return caught.value.reason


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
