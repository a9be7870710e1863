"""The command line's frame: one line an error, the right exit status, quick help."""

import os
import subprocess
import sys

import click
import pytest

from pqfl import cli as frame
from pqfl_transport import errors


def _run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pqfl", *arguments], capture_output=True, text=True, check=False,
        env=os.environ | environment, timeout=60,
    )  # fmt: skip


def test_help_lists_every_command_and_its_purpose() -> None:
    """A new user finds every command from `pqfl --help`."""
    done = _run("--help")
    assert done.returncode == 0
    for command in frame._COMMANDS:
        assert f"\n  {command} " in done.stdout


def test_help_does_not_wait_for_heavy_libraries() -> None:
    """Importing the command line loads neither NumPy nor aiohttp nor OpenSSL."""
    script = "import sys, pqfl.cli; print([m for m in ('numpy', 'aiohttp', 'OpenSSL') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("arguments", [("nonsense",), ("--nonsense",), ("demo", "--sites", "none")])
def test_wrong_usage_ends_with_two_and_says_what_was_wrong(arguments: tuple[str, ...]) -> None:
    """A word that is no command or a value that is no number is named, without a traceback."""
    done = _run(*arguments)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert arguments[-1] in done.stderr


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.ConfigurationError("--cert x.pem: no such file"), 2),
        (errors.PolicyError("ML-DSA-44 is not allowed"), 3),
        (errors.TransportError("the target is down"), 1),
        (PermissionError(13, "Permission denied", "/etc/secret"), 1),
    ],
)
def test_an_error_is_one_line_with_its_exit_status(
    error: Exception, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Errors raised on purpose, and the operating system's, never show a traceback."""

    @click.command()
    def failing() -> None:
        raise error

    monkeypatch.setattr(frame, "clean_environment", lambda _conf: ())
    monkeypatch.setattr(frame._LazyGroup, "get_command", lambda *_arguments: failing)
    with pytest.raises(SystemExit) as caught:
        frame.main(["anything"])
    assert caught.value.code == status
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("pqfl: ")


def test_variables_that_make_openssl_load_code_are_cleared_before_it_starts() -> None:
    """OPENSSL_CONF of the caller's environment does not reach the OpenSSL of any command."""
    done = _run("doctor", OPENSSL_CONF="/nonexistent/evil.cnf", OPENSSL_MODULES="/nonexistent")
    assert done.returncode == 0, done.stderr


def test_no_command_leaves_a_core_dump() -> None:
    """Any of them may have a private key in memory."""
    script = (
        "import resource; from pqfl.cli import main\n"
        "try: main(['--version'])\n"
        "except SystemExit: print(*resource.getrlimit(resource.RLIMIT_CORE))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 0"
