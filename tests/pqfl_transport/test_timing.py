"""The stopwatch of the reports."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from pqfl_transport.timing import Stopwatch


def test_blocks_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two blocks count both, and an exception inside one still counts its time."""
    ticks = iter([1.0, 3.5, 10.0, 10.25])
    monkeypatch.setattr(time, "perf_counter", lambda: next(ticks))
    watch = Stopwatch()
    with watch.running():
        pass
    with pytest.raises(KeyError), watch.running():
        raise KeyError
    assert watch.seconds == 2.75


def test_threads_count_each() -> None:
    """Blocks in many threads lose no time to each other."""
    watch = Stopwatch()

    def block(_: int) -> None:
        with watch.running():
            pass

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(block, range(100)))
    assert watch.seconds > 0
