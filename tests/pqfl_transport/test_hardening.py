"""What a process does for its keys: it leaves no core dump, and neither do those it starts."""

import subprocess
import sys

import pytest

from pqfl_transport import hardening

SHOW = "import resource; print(*resource.getrlimit(resource.RLIMIT_CORE))"


def printed(script: str) -> str:
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout


def test_core_dumps_are_off_for_good() -> None:
    """The soft and the hard limit, so that nothing in the process raises it again; children inherit both."""
    script = (
        "import subprocess, sys; from pqfl_transport.hardening import forbid_core_dumps; forbid_core_dumps();"
        f" subprocess.run([sys.executable, '-c', {SHOW!r}], check=True)"
    )
    assert printed(script) == "0 0\n"


def test_a_system_that_forbids_it_does_not_end_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a precaution: a key in memory is no reason not to work."""

    def fail(*_arguments: object) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr("resource.setrlimit", fail)
    hardening.forbid_core_dumps()
