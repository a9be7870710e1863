"""CPU nanoseconds a parameter and extra memory of quantising, masking and opening a sum, beside Flower's functions.

    python benchmarks/secagg.py [--parameters N …] [--runs N] [--quick] [--json FILE]

One thread, float32, ten tensors; the measured things take turns. Flower's SecAgg+ needs `.venv-flower` (`make test`
puts it there) and takes its turns in a process of that environment, at one million parameters; without it the rest is
measured. A mask of ours is a keystream of AES-256-CTR and its addition, one of Flower's `pseudo_rand_gen`, addition and
reduction. Memory is by how much the peak of the process grows, with delta and vector there before.
"""

import argparse
import json
import resource
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from support.machine import describe, markdown

from pqfl_transport.aggregation.round_document import TensorSchema
from pqfl_transport.aggregation.secagg.masking import add_vector, mask, unmask
from pqfl_transport.aggregation.secagg.plan import Plan
from pqfl_transport.aggregation.secagg.quantizing import quantize
from pqfl_transport.aggregation.secagg.summing import mean_delta
from pqfl_transport.crypto.pyca import Keystream

ROOT = Path(__file__).parents[1]
FLOWER_PYTHON = ROOT / ".venv-flower" / "bin" / "python"
FLOWER_PARAMETERS = 1_000_000
TENSORS = 10
SITES = 10
MIB = 1 << 20
ROUND_ID = bytes(32)
PAIRS = {site: bytes([site]) * 32 for site in range(1, SITES)}
OWN = bytes([99]) * 32
EXPAND, QUANTIZE = "AES-256-CTR into a small buffer", "quantize"
ONE_SITE = f"quantize and {SITES} masks: a site of {SITES}"
ONE_MASK = f"one mask of {SITES}"

Subjects = dict[str, Callable[[], object]]


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--parameters", type=int, nargs="+", default=[1_000_000, 100_000_000])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="one short run, to see that it works")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.quick:
        options.runs, options.parameters = 1, [FLOWER_PARAMETERS]
    found: dict[int, dict[str, Any]] = {}
    for parameters in sorted(options.parameters):
        beside = parameters == FLOWER_PARAMETERS and FLOWER_PYTHON.exists()
        found[parameters] = measure(parameters, options.runs, beside=beside)
    machine = describe()
    print("\n".join(f"{name}: {value}" for name, value in machine.items()))
    print(f"{options.runs} runs; CPU time, medians; one thread\n")
    for parameters, results in found.items():
        print(table(parameters, results), end="\n\n")
    if not FLOWER_PYTHON.exists():
        print("without Flower: .venv-flower is not there")
    if options.json:
        options.json.write_text(json.dumps({"machine": machine, "results": found}, indent=1))


def measure(parameters: int, runs: int, *, beside: bool) -> dict[str, Any]:
    """Return median seconds by subject, extra bytes by subject, and what Flower's process says."""
    what = subjects(parameters)
    # The first turn warms up and shows how much each adds to the peak, smaller ones first.
    extra = {name: _extra_bytes(subject) for name, subject in what.items()}
    seconds: dict[str, list[float]] = {name: [] for name in what}
    flower: list[dict[str, Any]] = []
    for _ in range(runs):
        for name, subject in what.items():
            began = time.process_time()
            subject()
            seconds[name].append(time.process_time() - began)
        if beside:
            flower.append(_flower(parameters))
    return {
        "seconds": {name: statistics.median(each) for name, each in seconds.items()},
        "extra_bytes": extra,
        "flower": flower,
    }


def subjects(parameters: int) -> Subjects:
    """Return what is measured for a model of so many parameters."""
    size = parameters // TENSORS
    random = np.random.default_rng(1)
    delta = [random.standard_normal(size, np.float32) for _ in range(TENSORS)]
    schema = [TensorSchema(str(number), "F32", (size,)) for number in range(TENSORS)]
    plan = Plan.of(schema, clip=8.0, sites=SITES, bits=20, weight_cap=100)
    # Written to, so that their pages are there before anything is measured.
    vector, total = np.ones(plan.layout.length, "<u4"), np.ones(plan.layout.length, "<u4")
    words = np.ones(1 << 16, "<u4")
    # A sum that passes its checks: so many vectors that add up to ones, with weight 1.
    good = np.ones(plan.layout.length, "<u4")
    good[plan.layout.coordinates :] = (SITES, SITES, 0, 0, 0, 0, 0)

    def expand() -> None:
        stream = Keystream(OWN)
        for _ in range(0, parameters, words.size):
            stream.fill(words.view(np.uint8).data)

    def quantize_delta() -> None:
        quantize(delta, 3, plan, rounding_key=OWN, round_id=ROUND_ID, out=vector)

    def mask_vector() -> None:
        mask(vector, 0, OWN, PAIRS, ROUND_ID)

    def site() -> None:
        quantize_delta()
        mask_vector()

    return {
        EXPAND: expand,
        QUANTIZE: quantize_delta,
        f"{SITES} masks": mask_vector,
        ONE_SITE: site,
        "add a vector to the sum": lambda: add_vector(total, vector),
        f"unmask a sum of {SITES}": lambda: unmask(total, {0: OWN, **PAIRS}, {}, ROUND_ID),
        "check the sum, mean delta": lambda: mean_delta(good, plan, SITES, delta),
    }


def _extra_bytes(subject: Callable[[], object]) -> int:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    subject()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024


def _flower(parameters: int) -> dict[str, Any]:
    script = ROOT / "benchmarks" / "support" / "flower_secagg.py"
    done = subprocess.run(
        [FLOWER_PYTHON, script, str(parameters), str(TENSORS)], capture_output=True, text=True, check=True
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def table(parameters: int, results: dict[str, Any]) -> str:
    """Return the results of one size as Markdown."""
    seconds, extra = dict(results["seconds"]), dict(results["extra_bytes"])
    seconds[ONE_MASK] = seconds[f"{SITES} masks"] / SITES
    rivals: dict[str, float] = {}
    if results["flower"]:
        versions = results["flower"][0]["versions"]
        for ours, theirs in ((EXPAND, "pseudo_rand_gen"), (QUANTIZE, "quantize"), (ONE_MASK, "mask")):
            name = f"Flower: {theirs} ({versions})"
            rivals[ours] = seconds[name] = statistics.median(each[theirs] for each in results["flower"])
            extra[name] = max(each["extra_bytes"] for each in results["flower"])
    rows = [
        [
            name,
            f"{value / parameters * 1e9:.2f}",
            f"{value * 1e3:.1f}",
            f"{extra[name] / MIB:.1f}" if name in extra else "",
            f"{value / rivals[name]:.3f}" if name in rivals else "",
        ]
        for name, value in seconds.items()
    ]
    return markdown([f"{parameters:,} parameters", "ns each", "ms", "extra MiB", "time / Flower"], rows)


if __name__ == "__main__":
    main()
