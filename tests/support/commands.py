"""The command line as a user types it: a process of its own, perhaps with somebody at a terminal."""

import fcntl
import os
import pty
import select
import subprocess
import sys
import termios
import time
from collections.abc import Mapping
from dataclasses import dataclass

TIMEOUT_SECONDS = 60
VARIABLE = "PQFL_PASSPHRASE"


def pqfl(*words: object, environment: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command without a terminal, and without a passphrase in its environment unless one is given."""
    done = subprocess.run(
        [sys.executable, "-m", "pqfl", *map(str, words)], capture_output=True, text=True, check=False,
        timeout=TIMEOUT_SECONDS, stdin=subprocess.DEVNULL, env=_environment(environment),
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    return done


def good(*words: object, environment: Mapping[str, str] | None = None) -> str:
    """Run a command that has to end well; return what it printed."""
    done = pqfl(*words, environment=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def refused(*words: object, status: int = 2, environment: Mapping[str, str] | None = None) -> str:
    """Run a command that has to end with this status and one line; return the line."""
    done = pqfl(*words, environment=environment)
    assert done.returncode == status, (done.returncode, done.stdout, done.stderr)
    assert len(done.stderr.splitlines()) == 1, done.stderr
    return done.stderr


@dataclass(frozen=True, slots=True)
class AtTerminal:
    """What happened at a terminal: all that was shown on it, and how the command ended."""

    screen: str
    status: int
    printed: str
    """What went to standard output, which was a pipe."""


def at_terminal(*words: object, typed: tuple[str, ...]) -> AtTerminal:
    """Run a command at a pseudo-terminal and type a line at each question that ends with a colon."""
    terminal, their_terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "pqfl", *map(str, words)], stdin=their_terminal, stderr=their_terminal,
        stdout=subprocess.PIPE, env=_environment(None), start_new_session=True,
        preexec_fn=_take_terminal,  # noqa: PLW1509 -- one call into the kernel, and no other thread in these tests
    )  # fmt: skip
    os.close(their_terminal)
    screen, answers = "", list(typed)
    questions = 0
    deadline = time.monotonic() + TIMEOUT_SECONDS
    try:
        while time.monotonic() < deadline:
            if not select.select([terminal], [], [], 1)[0]:
                continue
            try:
                piece = os.read(terminal, 4096).decode()
            except OSError:
                break
            if not piece:
                break
            screen += piece
            if screen.count(": ") > questions and screen.endswith(": "):
                questions = screen.count(": ")
                os.write(terminal, (answers.pop(0) + "\n").encode() if answers else b"\x03")
        assert process.stdout is not None
        printed = process.stdout.read().decode()
        return AtTerminal(screen, process.wait(TIMEOUT_SECONDS), printed)
    finally:
        process.kill()
        process.wait()
        os.close(terminal)


def _take_terminal() -> None:
    # In the child, between fork and exec: its standard input becomes its terminal, which passphrases are typed at.
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def _environment(more: Mapping[str, str] | None) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name != VARIABLE}
    return kept | dict(more or {})
