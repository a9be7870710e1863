"""Subjects that are measured beside each other: they take turns, so that a busy moment of the machine hits them all."""

import statistics
import time
from collections.abc import Callable

Subjects = dict[str, Callable[[], object]]


def take_turns(subjects: Subjects, runs: int, repeat: int) -> dict[str, float]:
    """Return the median seconds of each subject, over turns of ``repeat`` calls; the first turn is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in subjects}
    for number in range(runs + 1):
        for name, subject in subjects.items():
            began = time.perf_counter()
            for _ in range(repeat):
                subject()
            if number:
                seconds[name].append((time.perf_counter() - began) / repeat)
    return {name: statistics.median(each) for name, each in seconds.items()}
