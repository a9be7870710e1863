"""NVFlare, unchanged, with every byte between its clients and its server over post-quantum TLS."""

from pathlib import Path

import pytest

from pqfl.demo.processes import Crew
from tests.support.nvflare import nvflare, require_nvflare
from tests.support.pki import make_federation
from tests.support.sidecars import start_client, start_server

pytestmark = pytest.mark.slow


def test_a_job_runs_through_the_sidecars(tmp_path: Path) -> None:
    """Server, two clients and a job: it completes, and the gateway shows what carried it."""
    require_nvflare()
    federation = make_federation(tmp_path / "federation", sites=("hospital-a", "hospital-b"))
    (tmp_path / "logs").mkdir()
    with Crew(tmp_path / "logs") as crew, nvflare(tmp_path / "nvflare") as parts:
        gateway = start_server(crew, federation, f"127.0.0.1:{parts.port}")
        sidecars = [
            start_client(crew, federation, gateway.target, folder=federation.site(site), name=f"sidecar-{site}")
            for site in federation.sites
        ]
        parts.provision([sidecar.address[1] for sidecar in sidecars])
        parts.start_server()
        for number in range(1, len(sidecars) + 1):
            parts.start_client(number)
        line = parts.run()
        status = gateway.status()
        assert "FINISHED" in line.upper() or "COMPLETED" in line.upper(), f"{line}\n{parts.logs()}"
    assert {federation.site_uri(site) for site in federation.sites} <= set(status["peers"])
    for peer in status["peers"].values():
        assert (peer["group"], peer["own_sigalg"], peer["peer_sigalg"]) == (
            "X25519MLKEM768", "ML-DSA-65", "ML-DSA-65",
        )  # fmt: skip
    assert {entry["group"] for entry in status["listeners"]["main"]["handshakes"]} == {"X25519MLKEM768"}
