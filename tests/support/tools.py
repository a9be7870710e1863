"""Programs of others at the far end of a test: started, read line by line, and ended whatever happens."""

import os
import re
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

DEADLINE_SECONDS = 30


class Tool:
    """A running program. One that hangs is killed, so that reading from it always ends."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self.child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, bufsize=1,
            env=os.environ | environment,
        )  # fmt: skip
        self.said = ""
        self._watchdog = threading.Timer(DEADLINE_SECONDS, self.child.kill)
        self._watchdog.start()

    def send(self, line: str) -> None:
        """Write a line to its standard input."""
        assert self.child.stdin is not None
        self.child.stdin.write(line + "\n")
        self.child.stdin.flush()

    def read_until(self, pattern: str) -> re.Match[str]:
        """Read lines until one matches."""
        assert self.child.stdout is not None
        for line in self.child.stdout:
            self.said += line
            if found := re.search(pattern, line):
                return found
        raise AssertionError(f"{pattern!r} does not come; it said:\n{self.said}")

    def finish(self) -> int:
        """Give it no more input and return its exit status; all it said is in `said`."""
        rest, _ = self.child.communicate(timeout=DEADLINE_SECONDS)
        self.said += rest
        return self.child.returncode

    def close(self) -> None:
        """End it now."""
        self._watchdog.cancel()
        self.child.kill()
        self.child.communicate()


@contextmanager
def running(*command: object, environment: Mapping[str, str] | None = None) -> Iterator[Tool]:
    """Run a program, with these variables beside the ones of the test, until the block ends."""
    tool = Tool([str(part) for part in command], environment or {})
    try:
        yield tool
    finally:
        tool.close()
