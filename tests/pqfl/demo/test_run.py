"""The demonstration's frame: when a part of it fails, everything ends and the failure is shown."""

from pathlib import Path

import psutil
import pytest
from rich.console import Console

from pqfl.demo import run as demo_run
from pqfl.demo.federation import Folder
from pqfl.demo.progress import Progress
from pqfl.demo.run import DemoOptions, run
from pqfl_transport.errors import TransportError


def options(folder: Path) -> DemoOptions:
    return DemoOptions(sites=2, rounds=1, out=folder / "out", level="high", seed=1)


def children() -> set[int]:
    return {child.pid for child in psutil.Process().children(recursive=True)}


def test_a_part_that_does_not_start_ends_all_and_shows_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A broken configuration of the aggregator ends the demonstration with the aggregator's own words."""
    before = children()
    set_up = demo_run.set_up

    def broken(*arguments: object, **facts: object) -> Folder:
        folder = set_up(*arguments, **facts)  # type: ignore[arg-type]
        folder.aggregator_config.write_text("[aggregator]\n")
        return folder

    monkeypatch.setattr(demo_run, "set_up", broken)
    with pytest.raises(TransportError, match=r"aggregator .*\n.*section \[model\] is missing"):
        run(options(tmp_path), Progress(Console(quiet=True), 1))
    assert children() == before


def test_a_hospital_that_fails_ends_all_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A site without its patients stops the run, names itself, and nobody is left running."""
    before = children()
    set_up = demo_run.set_up

    def without_patients(*arguments: object, **facts: object) -> Folder:
        folder = set_up(*arguments, **facts)  # type: ignore[arg-type]
        (folder.hospitals[0].client / "receiving.key").unlink()
        return folder

    monkeypatch.setattr(demo_run, "set_up", without_patients)
    with pytest.raises(TransportError, match=r"site-hospital-north ended with status 2(.|\n)*receiving\.key"):
        run(options(tmp_path), Progress(Console(quiet=True), 1))
    assert children() == before
