"""A supervisor with workers: one status view, one audit log, and a worker that was killed is replaced."""

import signal
from pathlib import Path

import psutil
import pytest

from pqfl.demo.processes import Crew
from pqfl_transport.audit import verify_audit_log
from pqfl_transport.errors import TransportError
from tests.support.pki import Federation, make_federation
from tests.support.sidecars import echo, plain_server, start_client, start_server


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return make_federation(tmp_path_factory.mktemp("federation"), sites=("bank-a",))


def test_workers_share_the_work_and_one_view(federation: Federation, tmp_path: Path) -> None:
    """Connections go to both, the sums are the gateway's, a reload reaches both, and all of it is audited once."""
    path = tmp_path / "audit.jsonl"
    with Crew(tmp_path) as crew, plain_server(echo) as target:
        gateway = start_server(crew, federation, target, "--allow-all", "--workers", "2", "--audit", str(path))
        sidecar = start_client(crew, federation, gateway.target)
        for _ in range(24):
            with sidecar.connect() as connection:
                connection.sendall(b"x")
                assert connection.recv(1) == b"x"
        process = psutil.Process(gateway.process.pid)
        children = process.children()
        assert len(children) == 2
        for _ in range(24):
            gateway.process.wait_for(lambda line: line.get("event") == "connection", 20)
        status = gateway.status()
        assert status["workers"] == 2
        assert sum(entry["count"] for entry in status["listeners"]["main"]["handshakes"]) == 24
        assert status["listeners"]["main"]["bytes_in"] == 24
        children[0].send_signal(signal.SIGKILL)
        gateway.wait_for("worker_died")
        for _ in range(8):
            with sidecar.connect() as connection:
                connection.sendall(b"y")
                assert connection.recv(1) == b"y"
        process.send_signal(signal.SIGTERM)
        gateway.process.wait(30)
        assert not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children)
    text = path.read_text()
    assert verify_audit_log(path, None).torn_lines == 0
    assert text.count('"kind":"connection"') == 32
    assert text.count('"kind":"start"') == 1
    assert text.count('"kind":"stop"') == 1


def test_workers_that_cannot_start_end_the_service(federation: Federation, tmp_path: Path) -> None:
    """What stops one process stops the supervisor too, with the same sentence and status."""
    with Crew(tmp_path) as crew:
        folder = federation.gateway
        process = crew.start(
            "gateway", "-m", "pqfl", "server", "--listen", "127.0.0.1:0", "--target", "127.0.0.1:1", "--workers", "2",
            "--cert", f"{folder}/tls.pem", "--key", f"{folder}/nothing.key", "--cacert", f"{folder}/ca.pem",
            "--allow-all",
        )  # fmt: skip
        with pytest.raises(TransportError, match=r"(?s)status 2.*nothing\.key: no such file"):
            process.wait(30)
