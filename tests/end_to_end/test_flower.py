"""Flower, unchanged, with every byte between its nodes and its hub over post-quantum TLS."""

import urllib.error
import urllib.request
from pathlib import Path

import pytest

from pqfl.demo.processes import Crew
from tests.support.flower import Flower, flower, require_flower
from tests.support.pki import Federation, make_federation
from tests.support.sidecars import Running, start_client, start_server

HTTP = ("--mode", "http", "--profile", "flower")


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    require_flower()
    return make_federation(tmp_path_factory.mktemp("federation"), sites=("hospital-a", "hospital-b"))


def deploy(crew: Crew, federation: Federation, parts: Flower, *words: str) -> Running:
    """Put a gateway before the SuperLink and a sidecar beside each SuperNode."""
    parts.start_superlink()
    gateway = start_server(crew, federation, parts.target, "--allow-all", *words)
    for number, site in enumerate(federation.sites):
        sidecar = start_client(crew, federation, gateway.target, folder=federation.site(site), name=f"sidecar-{number}")
        parts.start_supernode(number, sidecar.target)
    return gateway


@pytest.mark.parametrize("words", [(), HTTP], ids=["tcp", "http"])
def test_rounds_run_through_the_sidecars(federation: Federation, tmp_path: Path, words: tuple[str, ...]) -> None:
    """SuperLink, two SuperNodes and `flwr run`: the model is learnt, and the gateway shows what carried it."""
    (tmp_path / "logs").mkdir()
    with Crew(tmp_path / "logs") as crew, flower(tmp_path / "flower") as parts:
        gateway = deploy(crew, federation, parts, *words)
        result = parts.run()
        status = gateway.status()
        with urllib.request.urlopen(f"{gateway.status_url}/_metrics") as answer:  # noqa: S310 -- of this test
            metrics = answer.read().decode()
    assert "2: 0.9" in result.accuracy
    assert set(status["peers"]) == {federation.site_uri(site) for site in federation.sites}
    for peer in status["peers"].values():
        assert (peer["group"], peer["own_sigalg"], peer["peer_sigalg"]) == (
            "X25519MLKEM768", "ML-DSA-65", "ML-DSA-65",
        )  # fmt: skip
        assert peer["post_quantum"]
    # Nothing else was negotiated with anybody: one line of this family, and it is the post-quantum one.
    lines = [line for line in metrics.splitlines() if line.startswith("pqfl_tls_handshakes_total")]
    assert len(lines) == 1
    assert 'group="X25519MLKEM768",sigalg="ML-DSA-65",peer_sigalg="ML-DSA-65"' in lines[0]
    assert status["handshake_failures"] == {}
    if words:
        assert status["listeners"]["main"]["requests"]["2xx"] > 10
        assert status["listeners"]["main"]["refusals"] == {}


def test_a_site_does_not_reach_the_control_interface(federation: Federation, tmp_path: Path) -> None:
    """In HTTP mode what starts programs on every site is not there for a site, and fleet calls are."""
    (tmp_path / "logs").mkdir()
    with Crew(tmp_path / "logs") as crew, flower(tmp_path / "flower") as parts:
        parts.start_superlink()
        gateway = start_server(crew, federation, parts.target, "--allow-all", *HTTP)
        sidecar = start_client(crew, federation, gateway.target, folder=federation.site("hospital-a"))
        found = {}
        for path in ("/v1/control/list-runs", "/v1/runtime/x", "/v1/fleet/activate-node"):
            request = urllib.request.Request(f"http://{sidecar.target}{path}", data=b"", method="POST")
            try:
                with urllib.request.urlopen(request) as answer:  # noqa: S310 -- a process of this test
                    found[path] = answer.status
            except urllib.error.HTTPError as error:
                found[path] = error.code
                error.close()
    assert found["/v1/control/list-runs"] == found["/v1/runtime/x"] == 404
    assert found["/v1/fleet/activate-node"] not in {401, 403, 404}
