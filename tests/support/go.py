"""Programs in Go that stand for somebody else's implementation: built once, where there is a Go that is new enough."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

LEAST_GO = (1, 26)
"""The first whose standard library has HPKE with post-quantum KEMs."""


def build_go(source: Path, out: Path) -> Path:
    """Return the program that the module ``source`` makes, in ``out``; skip, and say why, where it cannot be made."""
    go = _go_or_skip()
    # No other toolchain is fetched in place of the one that is here.
    environment = os.environ | {"GOTOOLCHAIN": "local"}
    fetched = subprocess.run(
        [go, "mod", "download"], cwd=source, env=environment, capture_output=True, text=True, check=False
    )
    if fetched.returncode:
        pytest.skip(f"the modules of {source.name} cannot be fetched: {fetched.stderr.strip()[-300:]}")
    program = out / source.name
    built = subprocess.run(
        [go, "build", "-o", str(program), "."], cwd=source, env=environment, capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stderr
    return program


def _go_or_skip() -> str:
    found = shutil.which("go")
    if found is None:
        pytest.skip("it is in Go, and no `go` is on the path")
    said = subprocess.run([found, "env", "GOVERSION"], capture_output=True, text=True, check=False).stdout
    version = re.match(r"go(\d+)\.(\d+)", said)
    if version is None or (int(version[1]), int(version[2])) < LEAST_GO:
        pytest.skip(f"it needs Go 1.26 or later, this is {said.strip() or 'unknown'}")
    return found
