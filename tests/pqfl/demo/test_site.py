"""The FL client of one hospital: what it prints, and that its failures have a reason and a status."""

import argparse
import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from pqfl.demo import hospitals, model, site
from tests.support.pki import Federation, make_federation
from tests.support.rounds import aggregator

SEED = 3


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return make_federation(tmp_path_factory.mktemp("federation"), sites=("hospital-north", "hospital-south"))


def arguments(federation: Federation, name: str, folder: Path, url: str) -> dict[str, Any]:
    shares, held_out = hospitals.deal(2, SEED)
    shares[federation.sites.index(name)].save(folder / f"{name}.npz")
    held_out.save(folder / "held-out.npz")
    return {
        "url": url, "rounds": 2, "identity": federation.site(name), "roster": federation.roster,
        "ca": federation.ca_pem, "patients": folder / f"{name}.npz", "held_out": folder / "held-out.npz",
    }  # fmt: skip


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_two_hospitals_report_every_model_and_what_it_cost(
    federation: Federation, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each prints the accuracy of versions 0, 1 and 2, what it trained, and its seconds at the end."""

    async def scenario() -> None:
        start = model.initial(30, SEED)
        async with aggregator(federation, tmp_path / "hub", model=start, count=2, quorum=2) as hub:
            await asyncio.gather(
                *(
                    site.take_part(argparse.Namespace(**arguments(federation, name, tmp_path, hub.url)))
                    for name in federation.sites
                )
            )

    asyncio.run(asyncio.wait_for(scenario(), 60))
    printed = lines(capsys)
    assert sorted(line["version"] for line in printed if line["event"] == "model") == [0, 0, 1, 1, 2, 2]
    assert sorted(line["round"] for line in printed if line["event"] == "trained") == [1, 1, 2, 2]
    done = [line for line in printed if line["event"] == "done"]
    assert len(done) == 2
    assert all(line["seconds"] > line["crypto_seconds"] > 0 for line in done)


def test_a_failure_is_one_line_with_its_reason(
    federation: Federation, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong roster ends the process with its status and a line that the demonstration can show."""
    facts = arguments(federation, "hospital-north", tmp_path, "http://127.0.0.1:1") | {"roster": tmp_path / "none"}
    words = [word for name, value in facts.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    monkeypatch.setattr("sys.argv", ["site", *words])
    assert site.main() == 2
    (line,) = lines(capsys)
    assert (line["event"], line["reason"]) == ("failed", "missing")
    assert "none" in line["detail"]
