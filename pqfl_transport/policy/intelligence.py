"""What became known about algorithms after a policy was written, as values.

Intelligence only ever tightens. It can say that an algorithm is deprecated or broken; there is no word for the
opposite. An advisory that has expired keeps what it tightened: forgetting that something is broken is never right, and
a stale advisory only means that nothing newer came.
"""

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum

from pqfl_transport.algorithms import Kind
from pqfl_transport.policy.parts import Part, meant_by, rests_on


class NewStatus(StrEnum):
    """What an algorithm has become. Both mean that it is not used any more."""

    DEPRECATED = "deprecated"
    BROKEN = "broken"


@dataclass(frozen=True, slots=True)
class AdvisoryEntry:
    """One algorithm that is given up. Everything built of it goes with it."""

    algorithm: str
    """The name of a row of any kind, or the id of a content suite."""
    status: NewStatus
    not_before: int
    """Unix seconds from which on it holds."""
    remark: str = ""
    """Why, for people."""

    def __str__(self) -> str:
        remark = f" ({self.remark})" if self.remark else ""
        return f"{self.algorithm} is {self.status} since {day(self.not_before)}{remark}"


@dataclass(frozen=True, slots=True)
class Intelligence:
    """An advisory: numbered, expiring, of one federation."""

    federation: str
    number: int
    issued_at: int
    """Unix seconds."""
    expires_at: int
    """Unix seconds at which a newer one is overdue. The entries go on to hold."""
    entries: tuple[AdvisoryEntry, ...]

    def is_stale(self, now: float) -> bool:
        """Whether a newer advisory is overdue."""
        return now >= self.expires_at

    def in_force(self, now: float | None) -> tuple[AdvisoryEntry, ...]:
        """Return the entries that hold at ``now``, Unix seconds; where nobody knows the time, all of them."""
        return tuple(entry for entry in self.entries if now is None or entry.not_before <= now)

    def against(self, kind: Kind, name: str, now: float | None) -> AdvisoryEntry | None:
        """Return the entry for which this name of a policy is refused at ``now``, ``None`` where there is none."""
        parts = rests_on(kind, name)
        return next((entry for entry in self.in_force(now) if parts & _meant(entry)), None)

    def next_change(self, now: float) -> int | None:
        """Return when, after ``now``, the next entry begins to hold; ``None`` where all of them do."""
        return min((entry.not_before for entry in self.entries if entry.not_before > now), default=None)

    @property
    def unknown(self) -> tuple[str, ...]:
        """What the advisory names and this version of the program does not know, so it cannot use it either."""
        return tuple(entry.algorithm for entry in self.entries if not _meant(entry) and not _is_refused_anyway(entry))

    def after(self, earlier: "Intelligence | None") -> "Intelligence":
        """Return this advisory with what an earlier one said and this one leaves out or puts off."""
        if earlier is None:
            return self
        kept = tuple(entry for entry in earlier.entries if not any(_covers(mine, entry) for mine in self.entries))
        return replace(self, entries=(*self.entries, *kept))


def day(seconds: int) -> str:
    """Return the day of a time in Unix seconds as ``YYYY-MM-DD``, UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d")


def _meant(entry: AdvisoryEntry) -> frozenset[Part]:
    return meant_by(entry.algorithm)


def _covers(mine: AdvisoryEntry, earlier: AdvisoryEntry) -> bool:
    return mine.algorithm == earlier.algorithm and mine.not_before <= earlier.not_before
