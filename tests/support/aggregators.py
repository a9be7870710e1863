"""Aggregators for tests as real processes: their folder, their configuration, and where they listen."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pqfl.demo.processes import Crew, Process
from tests.support.pki import Federation


def write_config(
    federation: Federation, folder: Path, *, listen: str, model: Mapping[str, Any], more: str = "", **rounds: float
) -> Path:
    """Write an aggregator's configuration and initial model into ``folder``; return the configuration's path."""
    np.savez(folder / "model.npz", **model)
    config = folder / "aggregator.toml"
    lines = "\n".join(f"{name} = {value}" for name, value in ({"count": 1, "quorum": 1} | rounds).items())
    config.write_text(f"""
[aggregator]
listen = "{listen}"
identity = "{federation.aggregator}"
roster = "{federation.roster}"
state = "state"
audit = "audit.jsonl"
[model]
initial = "model.npz"
[rounds]
{lines}
{more}""")
    return config


def start_aggregator(crew: Crew, config: Path) -> tuple[Process, str]:
    """Start an aggregator and wait until it listens; return it and its address as a flag takes it."""
    process = crew.start("aggregator", "-m", "pqfl", "aggregator", "--config", str(config), "--log-format", "json")
    address: str = process.wait_for(lambda line: line.get("event") == "listening", 20)["address"]
    return process, address
