"""Waiting for something to be so, because how long it takes depends on the machine."""

import time
from collections.abc import Callable

WAIT_SECONDS = 30.0
_LOOK_SECONDS = 0.05


def wait_until(condition: Callable[[], object], what: str, *, seconds: float = WAIT_SECONDS) -> None:
    """Return as soon as the condition holds; fail the test when it does not in time."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, f"waited in vain for {what}"
        time.sleep(_LOOK_SECONDS)
