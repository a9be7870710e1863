"""Commands that die at any one of their steps, as whole processes: `pqfl` with SIGKILL before its Nth change of a disk.

A step is whatever the process does to the files below given folders, and what it says to the network: making, writing,
renaming, linking, removing, syncing, every statement of SQLite that changes something, every connect and send. Nobody
lists them: they are seen as they happen, by Python's audit events and by wrapping what has none.

Processes are forked from one that has imported everything, which is what makes hundreds of them affordable.
"""

import json
import multiprocessing
import os
import signal
import socket
import sqlite3
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any, NoReturn
from unittest import mock

from pqfl.cli import main
from pqfl_transport.tls.environment import DANGEROUS

TIMEOUT_SECONDS = 60.0
_MAKING = os.O_CREAT | os.O_TRUNC
_DESCRIPTORS = "/proc/self/fd/"
_CHANGING = ("INSERT", "UPDATE", "DELETE", "CREATE", "BEGIN", "COMMIT", "ROLLBACK")
_MODULES = (
    "pqfl.commands.ca", "pqfl.commands.enrolment", "pqfl.commands.joining", "pqfl.commands.ca_records",
    "tests.support.killing",
)  # fmt: skip

# The command line takes these away itself, but only before it has loaded OpenSSL.
_NOT_INHERITED = frozenset({*DANGEROUS, "PQFL_OPENSSL_CONF", "PQFL_PASSPHRASE", "PQFL_TOKEN"})


@dataclass(frozen=True, slots=True)
class Plan:
    """Which steps count, where they are written down, and before which of them the process dies."""

    below: tuple[Path, ...]
    record: Path
    die_before: int = 0
    """1 is the first step; 0 lets it live."""
    begins_with: str = ""
    """Count from the first step with this label on; from the very first unless given."""


class _Counter:
    """Counts the steps of this process, and ends it."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._below = tuple(f"{path.resolve()}{os.sep}" for path in plan.below)
        self._record = os.open(plan.record, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
        self._begun = not plan.begins_with
        self._count = 0
        self._lock = threading.Lock()
        self._write = os.write

    def install(self) -> None:
        sys.addaudithook(self._audited)
        for name in ("fsync", "write", "pwrite"):
            self._wrap(os, name, lambda descriptor, *_, what=name: (f"{_DESCRIPTORS}{descriptor}", what))
        for name in ("accept", "connect", "send", "sendall"):
            self._wrap(socket.socket, name, lambda *_, what=name: ("", what))
        counter = self

        class Counted(sqlite3.Connection):
            def execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
                if statement.lstrip().upper().startswith(_CHANGING):
                    (_, _, path), *_ = super().execute("PRAGMA database_list").fetchall()
                    counter.step(path, statement.split(maxsplit=1)[0].lower())
                return super().execute(statement, *values)

        connect = sqlite3.connect
        sqlite3.connect = lambda *words, **options: connect(*words, factory=Counted, **options)  # type: ignore[assignment]

    def step(self, path: str, what: str) -> None:
        """Count a step where it is one, or die before it."""
        if path:
            # What is done to a link is done to the link, but a descriptor is one of a file.
            named = Path(path)
            named = named.resolve() if path.startswith(_DESCRIPTORS) else named.parent.resolve() / named.name
            path = str(named)
            if not path.startswith(self._below):
                return
        label = f"{what} {path}".strip()
        with self._lock:
            self._begun = self._begun or label == self._plan.begins_with
            if not self._begun:
                return
            self._count += 1
            if self._count == self._plan.die_before:
                os.kill(os.getpid(), signal.SIGKILL)
            self._write(self._record, f"{label}\n".encode())

    def _wrap(self, owner: Any, name: str, described: Callable[..., tuple[str, str]]) -> None:
        function = getattr(owner, name)

        def wrapped(*words: Any, **options: Any) -> Any:
            self.step(*described(*words))
            return function(*words, **options)

        setattr(owner, name, wrapped)

    def _audited(self, event: str, words: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = words
            if isinstance(path, str | bytes) and isinstance(flags, int) and flags & _MAKING:
                self.step(os.fsdecode(path), "open")
        elif event in {"os.rename", "os.link"}:
            self.step(_located(words[1], words[3]), event.removeprefix("os."))
        elif event in {"os.remove", "os.rmdir"}:
            self.step(_located(words[0], words[1]), event.removeprefix("os."))
        elif event == "os.mkdir":
            self.step(_located(words[0], words[2]), "mkdir")
        elif event == "os.symlink":
            self.step(_located(words[1], words[2]), "symlink")


def _located(path: str | bytes | os.PathLike[str], folder: int) -> str:
    """Return a path that may be relative to an open folder."""
    found = Path(os.fsdecode(path))
    return str(found if folder < 0 else Path(f"{_DESCRIPTORS}{folder}").readlink() / found)


def _run(words: tuple[str, ...], output: Connection, plan: Plan | None) -> NoReturn:
    for descriptor in (1, 2):
        os.dup2(output.fileno(), descriptor)
    output.close()
    if plan is not None:
        _Counter(plan).install()
    main(list(words))


def _nursery() -> ForkServerContext:
    """Start the process that others are forked from, if it does not run, with the environment of a clean machine."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(_MODULES))
    cleaned = {name: value for name, value in os.environ.items() if name not in _NOT_INHERITED}
    with mock.patch.dict(os.environ, cleaned, clear=True):
        forkserver.ensure_running()
    return context


class Command:
    """One process; what it printed is in ``said``."""

    def __init__(self, words: tuple[object, ...], plan: Plan | None) -> None:
        self.plan = plan
        context = _nursery()
        mine, theirs = context.Pipe(duplex=False)
        self._process = context.Process(target=_run, args=(tuple(map(str, words)), theirs, plan), daemon=True)
        self._process.start()
        theirs.close()
        self._output = os.fdopen(os.dup(mine.fileno()), "rb")
        mine.close()
        self.said = ""
        self.status: int | None = None
        """How it ended, once that is known."""

    @property
    def pid(self) -> int:
        """The process id."""
        pid = self._process.pid
        assert pid is not None
        return pid

    def wait_until_listening(self) -> str | None:
        """Return the address that it listens on; ``None`` where it died before."""
        found = self.wait_for(lambda event: event["event"] == "listening")
        return None if found is None else str(found["address"])

    def wait_for(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any] | None:
        """Return its next event that is wanted; ``None`` where it ended before."""
        for line in self._lines():
            if line.startswith("{") and wanted(found := json.loads(line)):
                return dict(found)
        return None

    def wait(self) -> int:
        """Return the exit status; -9 is that of SIGKILL."""
        for _ in self._lines():
            pass
        self._process.join(TIMEOUT_SECONDS)
        assert self._process.exitcode is not None, self.said
        assert "Traceback" not in self.said, self.said
        self.status = self._process.exitcode
        return self.status

    def has_ended(self, timeout_seconds: float = 0.0) -> bool:
        """Whether it has ended, or does so within this time: of one that was killed others know before its parent."""
        self._process.join(timeout_seconds)
        return not self._process.is_alive()

    def kill(self) -> None:
        """End it with SIGKILL, if it has not ended."""
        self._process.kill()
        self.wait()

    def end(self) -> None:
        """Ask it to end."""
        self._process.terminate()
        assert self.wait() == 0, self.said

    def close(self) -> None:
        """Leave nothing of it."""
        self._process.kill()
        self._process.join(TIMEOUT_SECONDS)
        self._process.close()
        self._output.close()

    def steps(self) -> list[str]:
        """The steps that it did, in their order: a word, and the file that it was done to."""
        return [] if self.plan is None else self.plan.record.read_text().splitlines()

    def _lines(self) -> Iterator[str]:
        watchdog = threading.Timer(TIMEOUT_SECONDS, self._process.kill)
        watchdog.start()
        try:
            for raw in self._output:
                self.said += raw.decode()
                yield raw.decode()
        finally:
            watchdog.cancel()


@contextmanager
def running(*words: object, plan: Plan | None = None) -> Iterator[Command]:
    """Run `pqfl` with these words until the block ends."""
    command = Command(words, plan)
    try:
        yield command
    finally:
        command.close()


def run(*words: object, plan: Plan | None = None) -> Command:
    """Run `pqfl` with these words to its end, whichever that is."""
    with running(*words, plan=plan) as command:
        command.wait()
    return command
