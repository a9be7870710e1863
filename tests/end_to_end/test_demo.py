"""`pqfl demo` as a user runs it: real processes, a report that adds up, nothing left running."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest


def command(out: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "pqfl", "demo", "--out", str(out), *more]


def left_behind(out: Path) -> list[str]:
    """Command lines of processes that work in a folder."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if any(str(out) in word for word in words) and process.pid != os.getpid():
            found.append(" ".join(words))
    return found


@pytest.mark.parametrize(("sites", "level", "group"), [(3, "high", "X25519MLKEM768"), (2, "cnsa2", "MLKEM1024")])
def test_the_demonstration_ends_well_and_its_report_adds_up(tmp_path: Path, sites: int, level: str, group: str) -> None:
    """Accuracy rises, every site's channel was post-quantum, the picture is there, and all processes have ended."""
    out = tmp_path / "out"
    done = subprocess.run(
        command(out, "--sites", str(sites), "--rounds", "3", "--level", level),
        capture_output=True, text=True, timeout=120, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((out / "report.json").read_text())
    assert len(report["accuracy"]) == 4
    assert report["accuracy"][-1] > report["accuracy"][0]
    assert report["processes"] == 2 + 2 * sites
    assert 0 < report["crypto_share"] < 1
    assert [site["group"] for site in report["sites"]] == [group] * sites
    for site in report["sites"]:
        assert site["site_signature"] == site["gateway_signature"]
        assert site["site_signature"].startswith("ML-DSA-")
        assert site["cipher_suite"].startswith("TLS_")
        assert site["bytes_up"] > 0
        assert site["bytes_down"] > 0
    assert (out / "learning-curves.png").read_bytes().startswith(b"\x89PNG")
    assert group in done.stdout
    assert "\x1b" not in done.stdout
    assert left_behind(out) == []
    # Every refusal, update and round is in the aggregator's audit log, and none of it in clear on the wire.
    assert (out / "logs" / "aggregator-audit.jsonl").stat().st_size > 0


@pytest.mark.slow
def test_eight_hospitals_at_the_highest_level(tmp_path: Path) -> None:
    """Eighteen processes and twelve rounds: more of everything gives the same kind of report."""
    out = tmp_path / "out"
    done = subprocess.run(
        command(out, "--sites", "8", "--rounds", "12", "--level", "maximum"),
        capture_output=True, text=True, timeout=300, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((out / "report.json").read_text())
    assert report["processes"] == 18
    assert {site["group"] for site in report["sites"]} == {"SecP384r1MLKEM1024"}
    assert report["accuracy"][-1] > max(site["accuracy_alone"][0] for site in report["sites"])
    assert left_behind(out) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_interrupting_it_ends_every_process(tmp_path: Path, number: signal.Signals) -> None:
    """Ctrl-C, TERM or KILL in the middle of the rounds: nothing it started survives it."""
    out = tmp_path / "out"
    with subprocess.Popen(command(out, "--rounds", "500"), stdout=subprocess.PIPE, text=True) as demo:
        assert demo.stdout is not None
        for line in demo.stdout:
            if "round  1/" in line:
                break
        running = [process for process in psutil.Process(demo.pid).children(recursive=True) if process.is_running()]
        assert len(running) >= 8
        demo.send_signal(number)
        demo.stdout.read()
        status = demo.wait(30)
    assert status != 0
    _, alive = psutil.wait_procs(running, timeout=15)
    assert alive == []
    assert left_behind(out) == []
