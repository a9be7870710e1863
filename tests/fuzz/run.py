"""Fuzz the targets with atheris, one process each: ``python -m tests.fuzz.run [--seconds N] [TARGET …]``.

The time is for all of them together. What a run learns stays in ``.fuzz/TARGET`` for the next one; an input that ends
in anything but an error of ours, takes ten seconds or too much memory is kept in ``.fuzz/crashes`` and ends the run
with status 1.
"""

import argparse
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / ".fuzz"
CRASHES = WORK / "crashes"
LEAST_SECONDS = 1
MOST_MEMORY_MIB = 1024
MOST_ADDRESSES = 4 << 30
"""Of the process: numpy and libraries map much that they never touch, and a wrong size asks for more than this."""
TIMEOUT_SECONDS = 10
PACKAGES = ["pqfl", "pqfl_transport", "gateway", "aggregator", "certs", "tests.fuzz"]


def fuzz_one(name: str, seconds: int) -> None:
    """Fuzz one target in this process; atheris ends it."""
    import atheris  # noqa: PLC0415 -- only the process that fuzzes needs it

    with atheris.instrument_imports(include=PACKAGES):
        from tests.fuzz import content_targets, document_targets, network_targets  # noqa: F401, PLC0415
        from tests.fuzz.registry import TARGETS  # noqa: PLC0415
    chosen = TARGETS[name]
    learned, seeds = WORK / name, WORK / "seeds" / name
    for folder in (learned, seeds, CRASHES):
        folder.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(chosen.seeds()):
        (seeds / str(number)).write_bytes(seed)
    resource.setrlimit(resource.RLIMIT_AS, (MOST_ADDRESSES, MOST_ADDRESSES))
    options = {
        "max_total_time": seconds, "max_len": chosen.max_bytes, "timeout": TIMEOUT_SECONDS,
        "rss_limit_mb": MOST_MEMORY_MIB, "artifact_prefix": f"{CRASHES}/{name}-", "print_final_stats": 1,
    }  # fmt: skip
    words = [f"-{key}={value}" for key, value in options.items()]
    atheris.Setup([sys.argv[0], *words, str(learned), str(seeds)], chosen.run)
    atheris.Fuzz()


def names() -> list[str]:
    """Return every target's name."""
    from tests.fuzz import content_targets, document_targets, network_targets  # noqa: F401, PLC0415
    from tests.fuzz.registry import TARGETS  # noqa: PLC0415

    return list(TARGETS)


def fuzz_all(chosen: list[str], seconds: int) -> int:
    """Fuzz targets one after the other; print one line each, and what was found. Return how many failed."""
    each = max(seconds // len(chosen), LEAST_SECONDS)
    failed = 0
    for name in chosen:
        done = subprocess.run(
            [sys.executable, "-m", "tests.fuzz.run", "--one", name, "--seconds", str(each)],
            cwd=ROOT, capture_output=True, text=True, errors="replace", check=False,
            env=os.environ | {"PYTHONHASHSEED": "0"},
        )  # fmt: skip
        runs = re.search(r"number_of_executed_units: (\d+)", done.stderr)
        covered = re.findall(r"cov: (\d+)", done.stderr)
        line = f"{name:20} {each:5} s {runs[1] if runs else '?':>9} runs {covered[-1] if covered else '?':>6} edges"
        print(line + ("" if done.returncode == 0 else "  FOUND SOMETHING"), flush=True)  # noqa: T201
        if done.returncode:
            failed += 1
            print(_said(done.stdout + done.stderr), flush=True)  # noqa: T201
    return failed


def _said(output: str) -> str:
    """Return what tells of the failure: the exception and the file that was kept, without the fuzzer's progress."""
    told = output.partition("Uncaught Python exception")[2] or output
    return "\n".join(line for line in told.splitlines() if not line.startswith(("#", "INFO", "MS:")))[-3000:]


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=int, default=60, help="for all targets together (60)")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("targets", nargs="*", metavar="TARGET")
    told = parser.parse_args()
    if told.one:
        fuzz_one(told.targets[0], told.seconds)
        return
    known = names()
    unknown = sorted(set(told.targets) - set(known))
    if unknown:
        parser.error(f"no target {unknown[0]!r}; known are {', '.join(known)}")
    sys.exit(1 if fuzz_all(told.targets or known, told.seconds) else 0)


if __name__ == "__main__":
    main()
