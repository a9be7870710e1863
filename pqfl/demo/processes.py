"""Processes of the demonstration: started, listened to, and ended whatever happens."""

import contextlib
import ctypes
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pqfl_transport.errors import PlatformError, TransportError

_PR_SET_PDEATHSIG = 1
# Looked up before any fork: between fork and exec a child may only call what is already loaded.
_PRCTL = ctypes.CDLL(None).prctl if sys.platform == "linux" else None
_END_SECONDS = 5.0
_LAST_LINES = 6


Event = dict[str, Any]
Inbox = queue.SimpleQueue[tuple["Process", Event | None]]
"""Where the lines of processes arrive; ``None`` says that a process closed its output."""


class Process:
    """One child process that writes JSON lines; all of them also go to its log file."""

    def __init__(self, name: str, arguments: list[str], log: Path, inbox: Inbox) -> None:
        self.name = name
        self.log = log
        self._inbox = inbox
        try:
            # The command is this interpreter with our own modules; nothing in it comes from outside.
            self._child = subprocess.Popen(  # noqa: S603
                [sys.executable, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=os.environ | {"PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
                # A session of its own: Ctrl-C reaches the demonstration alone, which then ends its children in order.
                start_new_session=True,
                preexec_fn=_die_with_parent,  # noqa: PLW1509 -- no thread of ours runs Python code in the child
            )
        except OSError as error:
            raise PlatformError(f"cannot start {name}: {error}", reason="start") from error
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """The process id, shown to who wants to look at it from outside."""
        return self._child.pid

    def wait_for(self, wanted: Callable[[Event], bool], timeout_seconds: float) -> Event:
        """Return its first event that is wanted. Raises ``TransportError`` when it ends or falls silent before."""
        for _, event in follow([self], self._inbox, timeout_seconds):
            if wanted(event):
                return event
        raise TransportError(self.complaint("ended too early"))

    def wait(self, timeout_seconds: float) -> None:
        """Wait for a good end. Raises ``TransportError`` with the end of its log otherwise."""
        try:
            status = self._child.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            raise TransportError(self.complaint("does not end")) from None
        if status != 0:
            raise TransportError(self.complaint(f"ended with status {status}"))

    def end(self) -> None:
        """Ask it to end, and make it end if it does not."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                self._child.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._child.wait(_END_SECONDS)
                break
        self._reader.join(_END_SECONDS)

    def _read(self) -> None:
        assert self._child.stdout is not None  # noqa: S101 -- a pipe was asked for above
        with self.log.open("wb") as log:
            for raw in self._child.stdout:
                log.write(raw)
                log.flush()
                with contextlib.suppress(ValueError):
                    line = json.loads(raw)
                    if isinstance(line, dict):
                        self._inbox.put((self, line))
        self._inbox.put((self, None))

    def complaint(self, what: str) -> str:
        """Return a sentence about this process with the end of its log."""
        last = self.log.read_text(errors="replace").splitlines()[-_LAST_LINES:] if self.log.exists() else []
        return f"{self.name} {what}; its log {self.log} ends with:\n  " + "\n  ".join(last or ["(nothing)"])


def follow(processes: Sequence[Process], inbox: Inbox, timeout_seconds: float) -> Iterator[tuple[Process, Event]]:
    """Yield what the processes print as it comes, until all of them ended well.

    Raises ``TransportError`` as soon as one of them fails, or when all are silent for ``timeout_seconds``.
    """
    running = set(processes)
    while running:
        try:
            process, event = inbox.get(timeout=timeout_seconds)
        except queue.Empty:
            raise TransportError(next(iter(running)).complaint(f"says nothing for {timeout_seconds:.0f} s")) from None
        if event is not None:
            yield process, event
        elif process in running:
            process.wait(timeout_seconds)
            running.discard(process)


class Crew:
    """All processes of one run. Leaving the ``with`` block ends them, the last started first."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._members: list[Process] = []

    def start(self, name: str, *arguments: str, inbox: Inbox | None = None) -> Process:
        """Start ``python ARGUMENTS…`` as a member; its lines go to an inbox of its own or to a shared one."""
        process = Process(name, list(arguments), self._logs / f"{name}.log", inbox or queue.SimpleQueue())
        self._members.append(process)
        return process

    @property
    def members(self) -> tuple[Process, ...]:
        """Every process, in the order of starting."""
        return tuple(self._members)

    def __enter__(self) -> Self:
        self._previous = signal.signal(signal.SIGTERM, _raise_interrupt)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in reversed(self._members):
            process.end()
        signal.signal(signal.SIGTERM, self._previous)


def _raise_interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def _die_with_parent() -> None:
    # Linux alone can tie a child to its parent; there even a killed demonstration leaves nothing behind.
    if _PRCTL is not None:
        _PRCTL(_PR_SET_PDEATHSIG, signal.SIGTERM)
