"""A stopwatch for the reports: how long cryptography, training and transfer took."""

import time
from collections.abc import Generator
from contextlib import contextmanager
from threading import Lock


class Stopwatch:
    """Adds up the seconds of the blocks it wraps; blocks may run in several threads at once and then all count."""

    def __init__(self) -> None:
        self._lock = Lock()
        self.seconds = 0.0

    @contextmanager
    def running(self) -> Generator[None]:
        """Count the time inside the ``with`` block, whatever ends it."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            elapsed = time.perf_counter() - begin
            with self._lock:
                self.seconds += elapsed
