"""Revoked while connected: thrown out at once, whatever is under way; and what lists may and may not do."""

import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from pqfl.demo.processes import Crew
from pqfl_transport.audit import verify_audit_log
from pqfl_transport.errors import TransportError
from pqfl_transport.tls import client_context
from tests.support.pki import Federation, make_federation
from tests.support.revoking import SIGNING, crl, crl_source, publish_crl
from tests.support.sidecars import Running, echo, identity, plain_server, start, start_client, start_server

THROWN_OUT_SECONDS = 5.0
"""What docs/gateway.md promises, from the moment the gateway has the list."""
BAD, GOOD = "bank-a", "bank-b"


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    return make_federation(tmp_path / "federation", sites=(BAD, GOOD))


@pytest.fixture
def crew(tmp_path: Path) -> Iterator[Crew]:
    (tmp_path / "logs").mkdir()
    with Crew(tmp_path / "logs") as crew:
        yield crew


def hang_up(running: Running) -> None:
    """Send HUP."""
    psutil.Process(running.process.pid).send_signal(signal.SIGHUP)


@contextmanager
def tls(federation: Federation, gateway: Running, site: str) -> Iterator[ssl.SSLSocket]:
    """Connect as a site, over TLS."""
    folder = federation.site(site)
    files = (folder / "tls.pem", folder / "tls.key", folder / "ca.pem")
    context = client_context(*files, verify_uri=federation.gateway_uri)
    with gateway.connect() as connection, context.wrap_socket(connection) as wrapped:
        yield wrapped


def is_served(connection: ssl.SSLSocket) -> bool:
    """Whether a byte comes back."""
    connection.sendall(b"x")
    return connection.recv(1) == b"x"


def ended_after(connection: socket.socket) -> float:
    """Wait for the other end to cut the connection; return how long that took."""
    begun = time.monotonic()
    try:
        while connection.recv(1 << 16):
            continue
    except OSError:
        pass
    return time.monotonic() - begun


def test_a_revoked_site_is_thrown_out_of_what_it_is_doing(federation: Federation, crew: Crew, tmp_path: Path) -> None:
    """Its relayed connection ends within the stated time, others go on; log, audit log and metrics say why."""
    path, audit = publish_crl(federation, tmp_path / "crl.pem"), tmp_path / "audit.jsonl"
    with plain_server(echo) as target:
        words = ("--allow-all", "--crl", str(path), "--audit", str(audit))
        gateway = start_server(crew, federation, target, *words)
        with tls(federation, gateway, BAD) as bad, tls(federation, gateway, GOOD) as good:
            assert is_served(bad)
            assert is_served(good)
            publish_crl(federation, path, [federation.site(BAD)], number=2)
            hang_up(gateway)
            assert ended_after(bad) < THROWN_OUT_SECONDS
            assert is_served(good)
            said = gateway.wait_for("refusal")
            assert (said["reason"], said["peer"]) == ("revoked", federation.site_uri(BAD))
            assert gateway.wait_for("connection")["reason"] == "revoked"
            facts = gateway.status()
            assert facts["listeners"]["main"]["closes"] == {"revoked": 1}
            assert facts["crls"][0]["number"] == 2
            with urllib.request.urlopen(f"{gateway.status_url}/_metrics") as answer:  # noqa: S310 -- of this test
                metrics = answer.read().decode()
            assert 'pqfl_connections_closed_total{reason="revoked",listener="main"} 1' in metrics
            assert "pqfl_crl_next_update_timestamp_seconds" in metrics
        with pytest.raises((OSError, ssl.SSLError)), tls(federation, gateway, BAD) as again:
            is_served(again)
        gateway.process.end()
    verify_audit_log(audit, None)
    assert '"revoked"' in audit.read_text()


@pytest.mark.parametrize("workers", [1, 2])
def test_an_upload_is_cut_in_the_middle(federation: Federation, crew: Crew, tmp_path: Path, workers: int) -> None:
    """In HTTP mode too, when a fetched list says so: the backend does not get the whole, the site no answer."""
    under_way = threading.Event()

    def swallow(connection: socket.socket) -> None:
        got_bytes = 0
        while data := connection.recv(1 << 16):
            got_bytes += len(data)
            if got_bytes >= 1 << 16:
                under_way.set()

    with crl_source(crl(federation)) as source, plain_server(swallow) as target:
        words = ("--allow-all", "--mode", "http", "--crl", str(tmp_path / "crl.pem"), "--crl-url", source.url,
                 "--crl-poll", "1", "--workers", str(workers))  # fmt: skip
        gateway = start_server(crew, federation, target, *words)
        with tls(federation, gateway, BAD) as bad:
            bad.sendall(b"PUT /model HTTP/1.1\r\nHost: hub\r\nContent-Length: 1000000000\r\n\r\n" + bytes(1 << 16))
            assert under_way.wait(20)
            source.body = crl(federation, [federation.site(BAD)], number=2)
            # The source is asked every second here.
            assert ended_after(bad) < 1.1 + THROWN_OUT_SECONDS
        assert gateway.wait_for("refusal")["reason"] == "revoked"
        assert gateway.status()["crl_fetches"]["ok"] >= 1


def test_a_revoked_signing_certificate_ends_the_connection_too(
    federation: Federation, crew: Crew, tmp_path: Path
) -> None:
    """The roster connects a party's two certificates, so either of them is enough."""
    path = publish_crl(federation, tmp_path / "crl.pem")
    words = ("--allow-all", "--crl", str(path), "--mode", "http", "--profile", "aggregator", "--roster",
             str(federation.roster))  # fmt: skip
    with plain_server(echo) as target:
        gateway = start_server(crew, federation, target, *words)
        with tls(federation, gateway, BAD) as bad, tls(federation, gateway, GOOD) as good:
            bad.sendall(b"PUT /v1")
            good.sendall(b"GET /v1")
            publish_crl(federation, path, [federation.site(BAD)], number=2, certificates=[SIGNING])
            hang_up(gateway)
            assert ended_after(bad) < THROWN_OUT_SECONDS
            assert gateway.wait_for("refusal")["peer"] == federation.site_uri(BAD)
        with tls(federation, gateway, BAD) as again:
            assert ended_after(again) < THROWN_OUT_SECONDS
        assert gateway.wait_for("refusal")["reason"] == "revoked"


def test_a_stale_list_refuses_or_not_as_the_operator_says(federation: Federation, crew: Crew, tmp_path: Path) -> None:
    """Past its next update and what clocks may differ by nobody gets in, unless `--crl-stale allow`."""
    path = publish_crl(federation, tmp_path / "crl.pem", age_seconds=86400, seconds_left=-600)
    with plain_server(echo) as target:
        strict = start_server(crew, federation, target, "--allow-all", "--crl", str(path))
        with pytest.raises((OSError, ssl.SSLError)), tls(federation, strict, GOOD) as refused:
            is_served(refused)
        assert strict.wait_for("refusal")["reason"] == "stale_crl"
        lax = start_server(
            crew, federation, target, "--allow-all", "--crl", str(path), "--crl-stale", "allow", name="lax"
        )
        with tls(federation, lax, GOOD) as served:
            assert is_served(served)


def test_connections_do_not_outlive_the_list(federation: Federation, crew: Crew, tmp_path: Path) -> None:
    """Whoever keeps lists from arriving does not keep a connection by it: it ends when the list has become stale."""
    path = publish_crl(federation, tmp_path / "crl.pem", age_seconds=600, seconds_left=-300 + 4)
    with plain_server(echo) as target:
        gateway = start_server(crew, federation, target, "--allow-all", "--crl", str(path))
        with tls(federation, gateway, GOOD) as connection:
            assert is_served(connection)
            assert ended_after(connection) < 4 + THROWN_OUT_SECONDS
        assert gateway.wait_for("connection")["reason"] == "stale_crl"


def test_a_lower_number_is_refused_after_a_restart_too(federation: Federation, crew: Crew, tmp_path: Path) -> None:
    """Nobody comes back by an earlier list: not at a reload, not at the next start."""
    path = publish_crl(federation, tmp_path / "crl.pem", [federation.site(BAD)], number=7)
    with plain_server(echo) as target:
        gateway = start_server(crew, federation, target, "--allow-all", "--crl", str(path))
        publish_crl(federation, path, number=6)
        hang_up(gateway)
        assert "number 6" in gateway.wait_for("reload", result="failed")["detail"]
        with pytest.raises((OSError, ssl.SSLError)), tls(federation, gateway, BAD) as refused:
            is_served(refused)
        gateway.process.end()
        with pytest.raises(TransportError, match="has number 6, and 7 was read before"):
            start_server(crew, federation, target, "--allow-all", "--crl", str(path), name="again")


def test_lists_do_not_wait_for_what_else_is_broken(federation: Federation, crew: Crew, tmp_path: Path) -> None:
    """A reload that fails for a certificate that was half written still throws out who was revoked."""
    path, own = publish_crl(federation, tmp_path / "crl.pem"), tmp_path / "own"
    own.mkdir()
    for file in federation.gateway.iterdir():
        (own / file.name).write_bytes(file.read_bytes())
        (own / file.name).chmod(0o600)
    with plain_server(echo) as target:
        words = ("server", "--target", target, "--allow-all", "--crl", str(path))
        gateway = start(crew, "gateway", *words, *identity(own))
        with tls(federation, gateway, BAD) as bad:
            assert is_served(bad)
            (own / "tls.pem").write_text("half")
            publish_crl(federation, path, [federation.site(BAD)], number=2)
            hang_up(gateway)
            assert ended_after(bad) < THROWN_OUT_SECONDS
        assert gateway.wait_for("reload")["result"] == "failed"


def test_a_source_that_fails_leaves_the_last_good_list(federation: Federation, crew: Crew, tmp_path: Path) -> None:
    """Down, garbage: the gateway goes on with what it has, says so once, and starts again with it."""
    path = tmp_path / "crl.pem"
    words = ("--allow-all", "--crl", str(path), "--crl-poll", "1", "--crl-url")
    with plain_server(echo) as target:
        with crl_source(crl(federation, [federation.site(BAD)], number=3)) as source:
            gateway = start_server(crew, federation, target, *words, source.url)
            source.body = b"garbage"
            assert gateway.wait_for("crl_fetch_failed")["reason"] == "malformed"
        assert gateway.wait_for("crl_fetch_failed")["reason"] == "crl_unavailable"
        gateway.process.end()
        again = start_server(crew, federation, target, *words, source.url, name="again")
        with pytest.raises((OSError, ssl.SSLError)), tls(federation, again, BAD) as refused:
            is_served(refused)
        with tls(federation, again, GOOD) as served:
            assert is_served(served)
        path.unlink()
        with pytest.raises(TransportError, match="none could be fetched"):
            start_server(crew, federation, target, *words, source.url, name="first")


def test_a_site_does_not_talk_to_a_revoked_gateway(federation: Federation, crew: Crew, tmp_path: Path) -> None:
    """`pqfl client` asks the same questions about the other end."""
    path = publish_crl(federation, tmp_path / "crl.pem")
    with plain_server(echo) as target:
        gateway = start_server(crew, federation, target)
        sidecar = start_client(
            crew, federation, gateway.target, "--verify-uri", federation.gateway_uri, "--crl", str(path)
        )
        with sidecar.connect() as connection:
            connection.sendall(b"x")
            assert connection.recv(1) == b"x"
            publish_crl(federation, path, [federation.gateway], number=2)
            hang_up(sidecar)
            assert ended_after(connection) < THROWN_OUT_SECONDS
        assert sidecar.wait_for("connection")["reason"] == "revoked"


def test_the_authority_s_service_is_a_source(federation: Federation, crew: Crew, tmp_path: Path) -> None:
    """`pqfl ca revoke`, and a gateway that asks `pqfl ca serve` throws the site out in mid-transfer."""
    federation.authority.make_crl()
    service = crew.start(
        "authority", "-m", "pqfl", "ca", "serve", "--dir", str(federation.ca), "--listen", "127.0.0.1:0",
        "--log-format", "json",
    )  # fmt: skip
    address = service.wait_for(lambda line: line.get("event") == "listening", 20)["address"]
    with plain_server(echo) as target:
        words = ("--crl", str(tmp_path / "crl.pem"), "--crl-url", f"https://{address}/v1/crl", "--crl-poll", "1")
        gateway = start_server(crew, federation, target, "--allow-all", *words)
        with tls(federation, gateway, BAD) as bad:
            assert is_served(bad)
            revoke = [sys.executable, "-m", "pqfl", "ca", "revoke", "--dir", str(federation.ca), "--name", BAD]
            subprocess.run([*revoke, "--reason", "keyCompromise"], check=True, capture_output=True)
            assert ended_after(bad) < 1.1 + THROWN_OUT_SECONDS
        assert gateway.wait_for("refusal")["reason"] == "revoked"
