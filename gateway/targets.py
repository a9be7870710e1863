"""Which target to try next: fail-over in the given order, and what is known of each. No I/O, no clock of its own.

A target that failed is avoided for a while that doubles with every failure after it. When that is over, one connection
tries it first; the others keep going where connections work until that one has an answer, so that a target which
swallows packets delays one of them and not all. While every target is avoided, all are tried: a connection is worth
more than a guess.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pqfl_transport.errors import ConfigurationError
from pqfl_transport.net.address import Address

RETRY_SECONDS = 1.0
MAX_RETRY_SECONDS = 30.0
NEWS_SECONDS = 2.0
"""What was heard of a target is good for so long."""


@dataclass(slots=True)
class _State:
    failures: int = 0
    """How many attempts in a row failed; those of connections that failed together count as one."""
    avoid_until: float = 0.0
    on_trial: bool = False
    """Somebody was sent there after the pause, and has not reported."""
    why: str = ""
    heard_at: float | None = None


class Targets:
    """The targets of one listener, in order of preference. Raises ``ConfigurationError`` where there is none."""

    def __init__(self, addresses: Sequence[Address], *, retry_seconds: float = RETRY_SECONDS) -> None:
        self._retry_seconds = retry_seconds
        self._states: dict[Address, _State] = {}
        self.replace(addresses)

    def replace(self, addresses: Sequence[Address]) -> None:
        """Use other targets from now on; what is known of those that stay is kept."""
        if not addresses:
            raise ConfigurationError("--target: where do connections go?", reason="no_target")
        self._states = {address: self._states.get(address) or _State() for address in addresses}
        self._first = addresses[0]

    def order(self, now: float) -> list[Address]:
        """Return all of them in the order to try them now, those to be avoided at the end.

        Whoever asks is the one that tries a target whose pause is over.
        """
        found = self._sorted(now)
        for state in self._states.values():
            if state.failures and state.avoid_until <= now:
                state.avoid_until, state.on_trial = now + self._pause_seconds(state), True
        return found

    def preferred(self, now: float) -> Address:
        """Return the one that `order` would name first, without a promise to try it."""
        if not self._states[self._first].failures:
            return self._first
        return self._sorted(now)[0]

    def failed(self, address: Address, now: float, why: str) -> None:
        """A connection to this target could not be made. Nothing happens where it is no target any more."""
        state = self._states.get(address)
        if state is None:
            return
        if not state.failures or state.on_trial or state.avoid_until <= now:
            state.failures += 1
            state.avoid_until, state.on_trial = now + self._pause_seconds(state), False
        state.why, state.heard_at = why, now

    def succeeded(self, address: Address, now: float) -> None:
        """A connection to this target was made. Nothing happens where it is no target any more."""
        state = self._states.get(address)
        if state is None:
            return
        state.heard_at = now
        if state.failures:
            state.failures, state.avoid_until, state.on_trial, state.why = 0, 0.0, False, ""

    def not_heard_of(self, now: float) -> list[Address]:
        """Return the targets of which nothing is known that is still good."""
        return [
            address
            for address, state in self._states.items()
            if state.heard_at is None or now - state.heard_at > NEWS_SECONDS
        ]

    def states(self) -> dict[str, dict[str, Any]]:
        """Return, by target, whether it is up as far as is known, and why not. Never tried counts as up."""
        return {
            str(address): {"up": not state.failures, "detail": state.why} for address, state in self._states.items()
        }

    def _sorted(self, now: float) -> list[Address]:
        return sorted(self._states, key=lambda address: self._states[address].avoid_until > now)

    def _pause_seconds(self, state: _State) -> float:
        # The exponent is held down because a float of a power without end is an error.
        return min(self._retry_seconds * 2.0 ** min(state.failures - 1, 64), MAX_RETRY_SECONDS)
