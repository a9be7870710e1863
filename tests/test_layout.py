"""The layout's own promises: tests mirror the code, and the gateway's process never loads what opens envelopes."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("pqfl_transport", "gateway", "aggregator", "certs", "pqfl")


def _modules() -> list[Path]:
    return sorted(
        path.relative_to(ROOT)
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        if path.name not in {"__init__.py", "__main__.py"}
    )


@pytest.mark.parametrize("module", _modules(), ids=str)
def test_every_module_has_a_test_file_at_the_same_place(module: Path) -> None:
    """A module without a test file of its own name at the mirrored path is not finished."""
    assert (ROOT / "tests" / module.parent / f"test_{module.name}").is_file()


def test_every_unit_test_file_mirrors_a_module() -> None:
    """A test file under a package's folder names a module that exists, so no test outlives its code."""
    orphans = [
        test.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for test in (ROOT / "tests" / package).rglob("test_*.py")
        if not (ROOT / test.relative_to(ROOT / "tests").parent / test.name.removeprefix("test_")).is_file()
    ]
    assert orphans == []


def test_a_running_gateway_has_no_code_that_opens_envelopes() -> None:
    """Importing all of the gateway and its command loads neither opening nor private receiving keys."""
    script = (
        "import sys, pkgutil, importlib, gateway\n"
        "for module in pkgutil.walk_packages(gateway.__path__, 'gateway.'): importlib.import_module(module.name)\n"
        "import pqfl.commands.sidecar\n"
        "forbidden = ('pqfl_transport.content.opening', 'pqfl_transport.content.recipients', 'pqfl_transport.client',"
        " 'aggregator', 'certs')\n"
        "print(' '.join(name for name in sys.modules if name.startswith(forbidden)))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == ""
