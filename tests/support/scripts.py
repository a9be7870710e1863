"""The scripts of `certs/scripts`, run with this interpreter's `pqfl`."""

import os
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[2] / "certs" / "scripts"


def run_script(name: str, *arguments: object, answer: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a script with these variables in its environment; ``answer`` is what somebody types."""
    environment = os.environ | {"PQFL": f"{sys.executable} -m pqfl"} | variables
    return subprocess.run(
        [str(FOLDER / name), *map(str, arguments)], capture_output=True, text=True, check=False, env=environment,
        input=answer, timeout=120,
    )  # fmt: skip
