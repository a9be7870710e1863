"""What became known about algorithms since a policy was written: an advisory, and what it leaves of a policy.

An advisory is a numbered list of algorithms that must not be used any more, from a date on. It only takes away: nothing
in it adds a name to a set, and one that was taken away comes back by no other entry.

What an entry takes away. Its name means every row and content suite that bears it or has it as an alias. A name in
a policy's set goes with it where it *rests on* one of them (`algorithms.foundation`): a broken ML-KEM-768 takes
X25519MLKEM768 along, and every envelope whose key is wrapped by it. A hybrid rests on its post-quantum half alone:
where X25519 is broken, X25519MLKEM768 is as good as ML-KEM-768 and stays; where ML-KEM-768 is, what is left is a
classical group, which is not what it was listed for, and it goes. Who means a hybrid as such writes its own name.

An advisory that is past its end goes on taking away what it did: what is broken does not mend because nobody wrote
a newer list. It is *stale* then, which is said wherever it is in force.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from pqfl_transport.algorithms import foundation, meant_by
from pqfl_transport.errors import PolicyError
from pqfl_transport.policy.sets import Classical, Policy

SETS = ("groups", "leaf_keys", "ca_signatures", "tls_suites", "content_suites")
CLASSICAL_SETS = ("groups", "leaf_keys", "ca_signatures")
_WORDS = {
    "groups": "TLS groups",
    "leaf_keys": "certificate keys",
    "ca_signatures": "certificate signatures",
    "tls_suites": "TLS cipher suites",
    "content_suites": "content suites",
}


class Verdict(StrEnum):
    """What became of an algorithm. Both are taken out of use; the word tells whether in order or in a hurry."""

    DEPRECATED = "deprecated"
    BROKEN = "broken"


@dataclass(frozen=True, slots=True)
class Withdrawal:
    """One algorithm that must not be used from a moment on."""

    algorithm: str
    """The name or an alias of a row, or the id of a content suite."""
    status: Verdict
    not_before: int
    """Unix seconds; 0 for at once."""
    why: str

    def sentence(self) -> str:
        """Say it: what, since when, why."""
        since = f" since {_day(self.not_before)}" if self.not_before else ""
        return f"{self.algorithm} is {self.status}{since}: {self.why}"


@dataclass(frozen=True, slots=True)
class Advisory:
    """One numbered state of what a federation knows; a higher number replaces a lower one as a whole."""

    federation: str
    number: int
    issued_at: int
    """Unix seconds."""
    expires_at: int
    """Unix seconds: by then there has to be a newer one."""
    withdrawals: tuple[Withdrawal, ...]

    def is_stale(self, now: float) -> bool:
        """Whether there should be a newer one by now."""
        return now >= self.expires_at

    def in_force(self, now: float) -> tuple[Withdrawal, ...]:
        """Return the withdrawals whose day has come."""
        return tuple(one for one in self.withdrawals if one.not_before <= now)

    def next_change(self, now: float) -> int | None:
        """Return when this same advisory will say something else: a withdrawal's day, or its own end."""
        moments = [*(one.not_before for one in self.withdrawals), self.expires_at]
        return min((moment for moment in moments if moment > now), default=None)


@dataclass(frozen=True, slots=True)
class Change:
    """What was taken out of one set."""

    set: str
    """The field of the policy, with ``classical.`` before those of its classical half."""
    old: tuple[str, ...]
    new: tuple[str, ...]
    why: str


@dataclass(frozen=True, slots=True)
class Advised:
    """A policy as an advisory leaves it, at one moment."""

    base: Policy
    advisory: Advisory
    policy: Policy
    changes: tuple[Change, ...]
    stale: bool

    def facts(self) -> dict[str, object]:
        """Return what to record of it: the advisory's number, what it took away, and why."""
        gone = sorted(f"{one.set}: {name}" for one in self.changes for name in set(one.old) - set(one.new))
        sentences = list(dict.fromkeys(change.why for change in self.changes))
        number = self.advisory.number
        if not sentences:
            sentences.append(f"advisory {number} takes nothing away now")
        if self.stale:
            sentences.append(f"advisory {number} is past its end and goes on counting; get the current one")
        return {
            "advisory": number, "withdrawn": ", ".join(gone) or None, "stale": self.stale or None,
            "why": "; ".join(sentences),
        }  # fmt: skip


def advise(base: Policy, advisory: Advisory, now: float) -> Advised:
    """Return what an advisory leaves of a policy now, and all there is to say about it. Raises as `tighten` does."""
    policy, changes = tighten(base, advisory, now)
    return Advised(base, advisory, policy, changes, advisory.is_stale(now))


def tighten(policy: Policy, advisory: Advisory, now: float) -> tuple[Policy, tuple[Change, ...]]:
    """Return the policy without what rests on a withdrawn algorithm, and each change; ``now`` is Unix seconds.

    Where something was taken away, the name shows by which advisory. The classical half may lose everything: its peers
    are served by courtesy. Raises ``PolicyError`` (``withdrawn``) where one of the five sets would be empty, and
    ``ConfigurationError`` (``unknown_algorithm``) for a name that nothing bears.
    """
    withdrawn = {name: one for one in advisory.in_force(now) for name in meant_by(one.algorithm)}
    changes: list[Change] = []

    def left(where: str, names: tuple[str, ...]) -> tuple[str, ...]:
        reasons = {name: [withdrawn[part] for part in sorted(foundation(name) & withdrawn.keys())] for name in names}
        kept = tuple(name for name in names if not reasons[name])
        if kept != names:
            why = _why(advisory, (one for some in reasons.values() for one in some))
            changes.append(Change(where, names, kept, why))
        return kept

    sets = {name: left(name, getattr(policy, name)) for name in SETS}
    classical = policy.classical
    if classical is not None:
        classical = Classical(**{name: left(f"classical.{name}", getattr(classical, name)) for name in CLASSICAL_SETS})
    for change in changes:
        if change.set in SETS and not change.new:
            raise _nothing_left(policy, advisory, change)
    if not changes:
        return policy, ()
    name = f"{policy.name}+advisory-{advisory.number}"
    return Policy(name, policy.level, classical=classical, **sets), tuple(changes)


def _why(advisory: Advisory, withdrawals: Iterable[Withdrawal]) -> str:
    sentences = "; ".join(dict.fromkeys(one.sentence() for one in withdrawals))
    return f"advisory {advisory.number} of {advisory.federation}: {sentences}"


def _nothing_left(policy: Policy, advisory: Advisory, change: Change) -> PolicyError:
    return PolicyError(
        f"policy {policy.name} is left without {_WORDS[change.set]} (it listed {', '.join(change.old)}). {change.why}."
        " Nothing is done without them: choose a level or a policy file that lists others, with keys and certificates"
        f" to fit, or get an advisory above number {advisory.number} where this one is mistaken",
        reason="withdrawn",
    )


def _day(moment: int) -> str:
    when = datetime.fromtimestamp(moment, UTC)
    return when.strftime("%Y-%m-%d" if when.time() == datetime.min.time() else "%Y-%m-%d %H:%M UTC")
