"""Advisories with real processes: a running gateway and aggregator take one on, and nobody brings back what fell."""

import json
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from pqfl.demo.processes import Crew
from pqfl_transport.audit import verify_audit_log
from pqfl_transport.client import BlockingFederatedClient
from tests.aggregator.test_service import configure
from tests.aggregator.test_service import start as start_aggregator
from tests.support.advisories import publish
from tests.support.pki import Federation, make_federation
from tests.support.rounds import MODEL
from tests.support.sidecars import Running, echo, plain_server, start_client, start_server

FIRST, SECOND = "X25519MLKEM768", "SecP256r1MLKEM768"
GCM, CHACHA = "pqfl/v1/mlkem768x25519-mldsa65", "pqfl/v1/mlkem768x25519-chacha-mldsa65"


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return make_federation(tmp_path_factory.mktemp("federation"), sites=("bank-a", "bank-b"))


@pytest.fixture
def crew(tmp_path: Path) -> Iterator[Crew]:
    (tmp_path / "logs").mkdir()
    with Crew(tmp_path / "logs") as crew:
        yield crew


@pytest.fixture(scope="module")
def target() -> Iterator[str]:
    with plain_server(echo) as address:
        yield address


def hang_up(running: Running) -> None:
    psutil.Process(running.process.pid).send_signal(signal.SIGHUP)


def ask(sidecar: Running, word: bytes) -> bytes:
    with sidecar.connect() as connection:
        connection.sendall(word)
        return connection.recv(100)


def audit_events(path: Path, kind: str) -> list[dict[str, str]]:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [line["facts"] for line in lines if line["kind"] == kind]


def test_a_gateway_under_traffic_takes_on_an_advisory(
    federation: Federation, crew: Crew, target: str, tmp_path: Path
) -> None:
    """What rests on the fallen is closed and refused from then on; an earlier advisory changes nothing, ever."""
    path, audit = publish(federation, tmp_path / "advisory.json"), tmp_path / "audit.jsonl"
    former = path.read_bytes()
    words = ("--allow-all", "--advisory", str(path), "--audit", str(audit))
    gateway = start_server(crew, federation, target, *words)
    sidecar = start_client(crew, federation, gateway.target)
    over = threading.Event()

    def traffic(connection: socket.socket) -> None:
        # Ends with a reset, as a connection that is cut has to end.
        try:
            while not over.is_set():
                connection.sendall(b"x" * 1000)
                connection.recv(1000)
        except OSError:
            over.set()

    with sidecar.connect() as connection:
        connection.sendall(b"before")
        assert connection.recv(100) == b"before"
        busy = threading.Thread(target=traffic, args=(connection,))
        busy.start()
        publish(federation, path, FIRST, number=2)
        hang_up(gateway)
        change = gateway.wait_for("policy", new="high-2026+advisory-2")
        assert (change["old"], change["withdrawn"]) == ("high-2026", f"groups: {FIRST}")
        assert gateway.wait_for("connection", reason="withdrawn")["group"] == FIRST
        busy.join(20)
        assert over.is_set()
    assert ask(sidecar, b"after") == b"after"
    assert gateway.wait_for("connection", group=SECOND)
    path.write_bytes(former)
    hang_up(gateway)
    assert "number 1 is older than number 2" in gateway.wait_for("reload", result="failed")["detail"]
    status = gateway.status()
    assert status["listeners"]["main"]["policy"] == "high-2026+advisory-2"
    assert status["advisories"][0]["number"] == 2
    with urllib.request.urlopen(f"{gateway.status_url}/_metrics") as answer:  # noqa: S310 -- a process of this test
        page = answer.read().decode()
    assert 'pqfl_policy_changes_total{listener="main"} 1' in page
    assert 'pqfl_connections_closed_total{reason="withdrawn",listener="main"} 1' in page
    # What was seen survives the process: the earlier one does not come in by a restart either.
    gateway.process.end()
    flags = ["--listen", "127.0.0.1:0", "--target", target, "--cert", f"{federation.gateway}/tls.pem"]
    flags += ["--key", f"{federation.gateway}/tls.key", "--cacert", str(federation.ca_pem), *words]
    done = subprocess.run(
        [sys.executable, "-m", "pqfl", "server", *flags, "--config-check"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "older than number 2" in done.stderr
    verify_audit_log(audit, None)
    assert [event["new"] for event in audit_events(audit, "policy")] == ["high-2026", "high-2026+advisory-2"]


def test_workers_take_it_on_too(federation: Federation, crew: Crew, target: str, tmp_path: Path) -> None:
    """All of them, by one signal to the supervisor, sharing the memory of what was seen."""
    path = publish(federation, tmp_path / "advisory.json")
    gateway = start_server(
        crew, federation, target, "--allow-all", "--advisory", str(path), "--workers", "2"
    )  # fmt: skip
    sidecar = start_client(crew, federation, gateway.target)
    assert ask(sidecar, b"one") == b"one"
    publish(federation, path, FIRST, number=2)
    hang_up(gateway)
    for _ in range(2):
        gateway.wait_for("policy", new="high-2026+advisory-2")
    for _ in range(4):
        assert ask(sidecar, b"two") == b"two"
    counted = gateway.status()["listeners"]["main"]
    assert counted["policy_changes"] == 2
    groups = {entry["group"]: entry["count"] for entry in counted["handshakes"]}
    assert groups == {FIRST: 1, SECOND: 4}


def test_an_advisory_that_leaves_a_gateway_nothing_closes_it_until_a_newer_one(
    federation: Federation, crew: Crew, target: str, tmp_path: Path
) -> None:
    """It goes on running, serves nobody, and says why; it does not start like that."""
    path = publish(federation, tmp_path / "advisory.json")
    gateway = start_server(crew, federation, target, "--allow-all", "--advisory", str(path))
    sidecar = start_client(crew, federation, gateway.target)
    assert ask(sidecar, b"one") == b"one"
    publish(federation, path, "ML-DSA-65", number=2)
    hang_up(gateway)
    assert "ML-DSA-65 is broken" in gateway.wait_for("policy", new="none")["why"]
    with pytest.raises(OSError, match="reset"):
        ask(sidecar, b"two")
    with pytest.raises(urllib.error.HTTPError, match="503"):
        urllib.request.urlopen(f"{gateway.status_url}/readyz")  # noqa: S310 -- a process of this test
    publish(federation, path, SECOND, number=3)
    hang_up(gateway)
    gateway.wait_for("reload", result="ok")
    assert ask(sidecar, b"three") == b"three"


def test_an_open_round_is_opened_again_under_the_next_suite(federation: Federation, crew: Crew, tmp_path: Path) -> None:
    """A site that trains meanwhile goes on: its first update is not taken, the second is, and the run ends well."""
    path = publish(federation, tmp_path / "advisory.json")
    config = configure(federation, tmp_path)
    config.write_text(config.read_text().replace("audit = ", f'advisory = "{path}"\naudit = '))
    process, address = start_aggregator(crew, config)
    suites: dict[str, list[str]] = {"bank-a": [], "bank-b": []}

    def withdraw() -> None:
        publish(federation, path, GCM, number=2)
        psutil.Process(process.pid).send_signal(signal.SIGHUP)
        process.wait_for(lambda event: event.get("new") == "high-2026+advisory-2", 20)

    def site(name: str) -> None:
        with BlockingFederatedClient(
            f"http://{address}", identity_dir=federation.site(name), roster_path=federation.roster,
            advisory_path=path, advisory_state_path=tmp_path / f"{name}.seen",
        ) as client:  # fmt: skip

            def train(weights: dict[str, np.ndarray], info: object) -> tuple[dict[str, np.ndarray], int]:
                del info
                if name == "bank-a" and not suites["bank-a"]:
                    suites["bank-a"].append("trained")
                    withdraw()
                return {key: array + 1 for key, array in weights.items()}, 10

            model = client.run(train)
            assert isinstance(model, dict)
            assert all(np.allclose(model[key], array + 1) for key, array in MODEL.items())
            suites[name].append("done")

    sites = [threading.Thread(target=site, args=(name,)) for name in suites]
    for thread in sites:
        thread.start()
    for thread in sites:
        thread.join(60)
    assert suites == {"bank-a": ["trained", "done"], "bank-b": ["done"]}
    psutil.Process(process.pid).send_signal(signal.SIGTERM)
    process.wait(20)
    rounds = audit_events(tmp_path / "audit.jsonl", "round")
    opened = [event for event in rounds if event["move"] == "open"]
    assert [event["suite"] for event in opened] == [GCM, CHACHA]
    assert len({event["receiving_key"] for event in opened}) == 2
    assert "withdrawn" in [event["move"] for event in rounds]
    (start, change) = audit_events(tmp_path / "audit.jsonl", "policy")
    assert (start["new"], change["old"], change["new"]) == ("high-2026", "high-2026", "high-2026+advisory-2")
    assert f"{GCM} is broken: a paper" in change["why"]
    assert json.loads((tmp_path / "state" / "advisory.seen").read_text())["number"] == 2
