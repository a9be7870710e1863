"""One way of making a model of updates, measured in a process of its own: seconds, and memory beside the updates.

NumPy only, so that it runs in the environment of a peer too. The script that imports it has the ways.
"""

import argparse
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

TENSOR_NUMBERS = 1_000_000
Tensors = list[np.ndarray[Any, np.dtype[np.float32]]]
Way = Callable[[Tensors, list[Tensors]], object]
"""Takes the base model and the updates."""


def measure(ways: Mapping[str, Way]) -> None:
    """Do what the command line names, once, and print the figures as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("way", choices=list(ways))
    parser.add_argument("sites", type=int)
    parser.add_argument("parameters", type=int)
    options = parser.parse_args()
    rng = np.random.default_rng(1)
    counts = [TENSOR_NUMBERS] * (options.parameters // TENSOR_NUMBERS) or [options.parameters]
    base, *updates = ([rng.standard_normal(count, np.float32) for count in counts] for _ in range(options.sites + 1))
    # A small round first: what is loaded and compiled on first use is no part of the figures.
    ways[options.way]([base[0][:100]], [[update[0][:100]] for update in updates])
    # From here on the peak is counted anew.
    Path("/proc/self/clear_refs").write_text("5")
    before = _memory_bytes("VmRSS")
    began, cpu = time.perf_counter(), time.process_time()
    ways[options.way](base, updates)
    figures = {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - cpu}
    print(json.dumps(figures | {"peak_bytes": _memory_bytes("VmHWM") - before}))


def _memory_bytes(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise LookupError(name)
