"""Seconds and peak memory of each robust rule beside the plain mean, and beside Flower's functions, in one run.

    python benchmarks/robust.py [--sites N] [--parameters N] [--runs N] [--quick]

Every measurement is a process of its own, because memory that one rule gave back is still there for the next. The
processes take turns; what counts is the median and the ratio. Flower's functions run in `.venv-flower` (`make test`
puts it there) and are left out, by name, where it is not. They average models, ours add an averaged change to a model;
the tensors are the same: float32, a million parameters each. Ratios are of CPU seconds, because others may use the
machine; the peak is what comes on top of the updates and the base model.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

from support.machine import describe, markdown

ROOT = Path(__file__).parents[1]
FLOWER = ROOT / ".venv-flower" / "bin" / "python"
OURS = ("fedavg", "median", "trimmed-mean", "norm-clipping", "krum", "multi-krum", "geometric-median")
THEIRS = ("fedavg", "median", "trimmed-mean", "krum", "multi-krum")
Figures = dict[str, float]


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--sites", type=int, default=10)
    parser.add_argument("--parameters", type=int, default=10_000_000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="one short run, to see that it works")
    options = parser.parse_args()
    if options.quick:
        options.runs, options.parameters = 1, 100_000
    subjects = [("pqfl", name) for name in OURS]
    if FLOWER.exists():
        subjects += [("flower", name) for name in THEIRS]
    else:
        print(f"no {FLOWER}: measured without Flower")
    samples: dict[tuple[str, str], list[Figures]] = {subject: [] for subject in subjects}
    for _ in range(options.runs):
        for subject in subjects:
            samples[subject].append(sample(*subject, options.sites, options.parameters))
    print("\n".join(f"{name}: {value}" for name, value in describe().items()))
    if FLOWER.exists():
        print(f"flower: {flower_version()}")
    print(f"{options.sites} sites, {options.parameters} parameters; medians of {options.runs} runs\n")
    print(table(samples))


def sample(whose: str, name: str, sites: int, parameters: int) -> Figures:
    """Measure once, in a process of its own."""
    python = str(FLOWER) if whose == "flower" else sys.executable
    script = ROOT / "benchmarks" / "support" / f"combining_{whose}.py"
    done = subprocess.run(
        [python, str(script), name, str(sites), str(parameters)], capture_output=True, text=True, check=True, cwd=ROOT
    )
    figures: Figures = json.loads(done.stdout.splitlines()[-1])
    return figures


def flower_version() -> str:
    """Return the version of Flower that is measured."""
    program = "from importlib.metadata import version; print(version('flwr'), 'with numpy', version('numpy'))"
    return subprocess.run([FLOWER, "-c", program], capture_output=True, text=True, check=True).stdout.strip()


def table(samples: dict[tuple[str, str], list[Figures]]) -> str:
    """Return the medians as Markdown: ours, each beside our mean and beside Flower's function for the same rule."""

    def median(subject: tuple[str, str], figure: str) -> float:
        return statistics.median(one[figure] for one in samples[subject])

    mean = median(("pqfl", "fedavg"), "cpu_seconds")
    rows = []
    for subject in samples:
        whose, name = subject
        cpu, theirs = median(subject, "cpu_seconds"), ("flower", name)
        ratio = f"{cpu / median(theirs, 'cpu_seconds'):.2f}" if whose == "pqfl" and theirs in samples else ""
        rows.append([
            f"{name}, {'ours' if whose == 'pqfl' else 'Flower'}", f"{median(subject, 'seconds'):.2f}",
            f"{cpu:.2f}", f"{cpu / mean:.2f}", ratio, f"{median(subject, 'peak_bytes') / 1e6:.0f}",
        ])  # fmt: skip
    return markdown(["rule", "seconds", "CPU s", "CPU / our fedavg", "CPU / Flower's", "peak MB"], rows)


if __name__ == "__main__":
    main()
