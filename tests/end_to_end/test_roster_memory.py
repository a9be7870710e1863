"""Rosters with real processes: an earlier one brings nobody back when gateway and aggregator are started again."""

import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from pqfl.demo.processes import Crew, Process
from pqfl_transport.errors import TransportError
from tests.aggregator.test_service import configure
from tests.aggregator.test_service import start as start_aggregator
from tests.support.pki import Federation, make_federation, publish_roster
from tests.support.sidecars import identity, start_server

STALE = "number 7 is older than number 8, which was seen before"


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return make_federation(tmp_path_factory.mktemp("federation"), sites=("bank-a", "bank-b"))


@pytest.fixture
def crew(tmp_path: Path) -> Iterator[Crew]:
    (tmp_path / "logs").mkdir()
    with Crew(tmp_path / "logs") as crew:
        yield crew


def hang_up(process: Process) -> None:
    psutil.Process(process.pid).send_signal(signal.SIGHUP)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_gateway_that_is_started_again(federation: Federation, tmp_path: Path, crew: Crew, workers: str) -> None:
    """Every worker takes the later roster on; none takes the earlier one, not at a reload and not after a restart."""
    path = publish_roster(federation, tmp_path / "roster.json", number=7)
    early = path.read_bytes()
    words = ("--allow-all", "--mode", "http", "--profile", "aggregator", "--roster", str(path), "--workers", workers)
    gateway = start_server(crew, federation, "127.0.0.1:1", *words)
    publish_roster(federation, path, number=8)
    hang_up(gateway.process)
    for _ in range(int(workers)):
        gateway.wait_for("reload", result="ok")
    path.write_bytes(early)
    hang_up(gateway.process)
    for _ in range(int(workers)):
        assert STALE in gateway.wait_for("reload", result="failed")["detail"]
    gateway.process.end()
    again = crew.start(
        "again", "-m", "pqfl", "server", "--listen", "127.0.0.1:0", "--target", "127.0.0.1:1",
        *identity(federation.gateway), *words,
    )  # fmt: skip
    with pytest.raises(TransportError, match=STALE):
        again.wait(20)
    publish_roster(federation, path, number=8)
    start_server(crew, federation, "127.0.0.1:1", *words, name="third").process.end()


def test_an_aggregator_that_is_started_again(federation: Federation, tmp_path: Path, crew: Crew) -> None:
    """A new run has a new state folder; what was seen of the roster is beside the roster, or where it is told."""
    path = publish_roster(federation, tmp_path / "roster.json", number=7)
    early = path.read_bytes()
    config = configure(federation, tmp_path, roster=path)
    process, _ = start_aggregator(crew, config)
    publish_roster(federation, path, number=8)
    hang_up(process)
    process.wait_for(
        lambda line: (line.get("event"), line.get("what"), line.get("result")) == ("reload", "roster", "ok"), 20
    )
    process.end()
    path.write_bytes(early)
    config.write_text(config.read_text().replace('"state"', '"state-2"'))
    again = crew.start("again", "-m", "pqfl", "aggregator", "--config", str(config))
    with pytest.raises(TransportError, match=STALE):
        again.wait(20)
    config.write_text(config.read_text().replace("[model]", 'roster_state = "no/such/folder"\n[model]'))
    nowhere = crew.start("nowhere", "-m", "pqfl", "aggregator", "--config", str(config))
    with pytest.raises(TransportError, match="cannot remember which roster was seen"):
        nowhere.wait(20)
    config.write_text(config.read_text().replace("no/such/folder", "elsewhere"))
    third, _ = start_aggregator(crew, config)
    third.end()
    assert (tmp_path / "elsewhere").exists()
