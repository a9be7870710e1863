"""Rules that make one model of a round's updates: a table of rows, and what each can be relied on for.

`federated_average` trusts every site. The others hold when some sites send anything at all, as many as the row's
``tolerates`` says, as long as the rest send something sensible. What an update holds is not looked at: a rule sees
numbers, and a small, plausible, wrong change passes every one of them.

Sample counts are claims of the sites. Rules whose papers weight updates take them unless ``weights`` says otherwise;
they then hold against less than a share of the *samples*. With the others every update counts once.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from enum import StrEnum

from pqfl_transport.aggregation import coordinatewise, vectorwise
from pqfl_transport.aggregation.fedavg import (
    Contribution,
    Reweighted,
    Update,
    Weights,
    check_counts,
    check_updates,
    federated_average,
)
from pqfl_transport.aggregation.geometry import require_points
from pqfl_transport.errors import ConfigurationError, RoundError

_ROUNDING = 1e-9


class Weighting(StrEnum):
    """What an update counts for in a rule whose paper has weights."""

    SAMPLES = "samples"
    EQUAL = "equal"


@dataclass(frozen=True, slots=True)
class Parameters:
    """What rules can be told; each rule takes some of it (`Rule.takes`)."""

    trim: float | None = None
    """Part of the values of a coordinate that is dropped at each end, above 0 and below 0.5."""
    byzantine: int | None = None
    """How many updates of a round may be anything; 1 or more."""
    select: int | None = None
    """How many updates multi-Krum averages; as many as there can be unless given."""
    clip: float | None = None
    """The greatest length of an update; the median of the round's lengths unless given."""
    weights: Weighting | None = None
    """What an update counts for; its samples unless given."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a rule did to the updates of one round, by their places."""

    left_out: tuple[int, ...] | None = None
    clipped: tuple[int, ...] | None = None
    bound: float | None = None
    """The length that updates were clipped to."""
    cut: int | None = None
    """How many values of each coordinate were dropped at each end."""
    shares: tuple[float, ...] | None = None
    """How much of each update is in the result."""


Combine = Callable[[Weights, Sequence[Contribution], Parameters], tuple[Weights, Outcome]]


@dataclass(frozen=True, slots=True)
class Rule:
    """One row of the table."""

    name: str
    source: str
    """The paper that it is from."""
    breakdown: str
    """How much may be anything before the result may be anything."""
    combine: Combine
    tolerates: Callable[[Parameters, int], int]
    """How many of so many updates may be anything, where all count the same."""
    takes: frozenset[str] = frozenset()
    """The parameters that it takes."""
    needs: frozenset[str] = frozenset()
    """Those that it does not work without."""
    least_updates: Callable[[Parameters], int] = lambda _parameters: 3
    """The fewest updates with which it does what it promises."""
    single_updates: bool = True
    """Whether it looks at single updates, which secure aggregation hides."""
    points: bool = False
    """Whether it compares updates by their floating-point tensors."""


@dataclass(frozen=True, slots=True)
class Aggregation:
    """A rule with its parameters. Raises ``ConfigurationError`` (``rule``) where they do not go together."""

    rule: Rule
    parameters: Parameters = Parameters()

    def __post_init__(self) -> None:
        rule, given = self.rule, self.parameters
        for field in fields(given):
            value = getattr(given, field.name)
            if value is not None and field.name not in rule.takes:
                raise _bad(f"{field.name} is no parameter of {rule.name}; {_named(rule)}")
            if value is None and field.name in rule.needs:
                raise _bad(f"{rule.name} needs {field.name}")
        if given.trim is not None and not 0 < given.trim < 0.5:  # noqa: PLR2004 -- a half at each end is all
            raise _bad(f"trim is {given.trim}; expected a part above 0 and below 0.5")
        if given.byzantine is not None and given.byzantine < 1:
            raise _bad(f"byzantine is {given.byzantine}; expected 1 or more")
        if given.select is not None and given.select < 1:
            raise _bad(f"select is {given.select}; expected 1 or more")
        if given.clip is not None and not 0 < given.clip < float("inf"):
            raise _bad(f"clip is {given.clip}; expected a length above 0")

    def require_updates(self, count: int) -> None:
        """Raise ``ConfigurationError`` (``rule``) unless the rule does what it promises with so few updates."""
        least = self.rule.least_updates(self.parameters)
        if count < least:
            told = ", ".join(self._told())
            raise _bad(
                f"{self.rule.name}{f' with {told}' if told else ''} takes at least {least} updates a round, not {count}"
            )

    def require_model(self, model: Weights) -> None:
        """Raise ``ConfigurationError`` (``bad_model``) for a model that the rule cannot work on."""
        if self.rule.points:
            require_points(model)

    def require_only_sums(self) -> None:
        """Raise ``ConfigurationError`` (``rule``) unless the rule can work on the sum of all updates alone."""
        if self.rule.single_updates:
            raise _bad(
                f"{self.rule.name} compares the updates of single sites, and secure aggregation hides them: all that"
                " is ever known is their sum; take fedavg with it, or do without it"
            )

    def apply(self, base: Weights, updates: Sequence[Contribution]) -> tuple[Weights, Outcome]:
        """Return the new model, and what was done to the updates, which have to be finite.

        Raises ``RoundError``: what `check_updates` raises; ``too_few`` where the rule takes more updates;
        ``not_finite`` when the result leaves the range of a tensor's type, or updates that of float64.
        """
        check_counts(updates)
        least = self.rule.least_updates(self.parameters)
        if len(updates) < least:
            raise RoundError(f"{self.rule.name} takes {least} updates, there are {len(updates)}", reason="too_few")
        if self.parameters.weights is Weighting.EQUAL:
            updates = [Reweighted(update, 1) for update in updates]
        if self.rule.single_updates:
            # They are looked at again and again. A sum fetches each of them once, and checks it then.
            updates = [Update(update.delta, update.samples) for update in updates]
            check_updates(base, updates)
        return self.rule.combine(base, updates, self.parameters)

    def tolerates(self, count: int) -> int:
        """Return how many of so many updates may be anything, where all count the same."""
        return self.rule.tolerates(self.parameters, count)

    def _told(self) -> list[str]:
        given = ((field.name, getattr(self.parameters, field.name)) for field in fields(self.parameters))
        return [f"{name} = {value}" for name, value in given if value is not None]


def cut_of(parameters: Parameters, count: int) -> int:
    """Return how many of so many values the trimmed mean drops at each end."""
    # A decimal such as 0.29 times 100 is a little less than 29 in binary. One value has to be left.
    return min(int(_given(parameters.trim) * count + _ROUNDING), (count - 1) // 2)


def _least_trimmed(parameters: Parameters) -> int:
    count = max(3, math.floor(1 / _given(parameters.trim)))
    while cut_of(parameters, count) < 1:
        count += 1
    return count


def _least_krum(parameters: Parameters) -> int:
    # n >= 2f + 3 (Blanchard et al., 2017). As many as a score has neighbours, n - f - 2, are averaged at most.
    byzantine = int(_given(parameters.byzantine))
    return max(2 * byzantine + 3, byzantine + 2 + (parameters.select or 1))


def _minority(_parameters: Parameters, count: int) -> int:
    return (count - 1) // 2


def _fedavg(base: Weights, updates: Sequence[Contribution], _parameters: Parameters) -> tuple[Weights, Outcome]:
    return federated_average(base, updates), Outcome()


def _median(base: Weights, updates: Sequence[Contribution], _parameters: Parameters) -> tuple[Weights, Outcome]:
    return coordinatewise.coordinate_median(base, updates), Outcome()


def _trimmed_mean(base: Weights, updates: Sequence[Contribution], parameters: Parameters) -> tuple[Weights, Outcome]:
    cut = cut_of(parameters, len(updates))
    return coordinatewise.middle_mean(base, updates, cut), Outcome(cut=cut)


def _norm_clipping(base: Weights, updates: Sequence[Contribution], parameters: Parameters) -> tuple[Weights, Outcome]:
    model, clipped, bound = vectorwise.clipped_mean(base, updates, parameters.clip)
    return model, Outcome(clipped=clipped, bound=bound)


def _krum(base: Weights, updates: Sequence[Contribution], parameters: Parameters) -> tuple[Weights, Outcome]:
    model, left_out = vectorwise.krum(base, updates, int(_given(parameters.byzantine)), 1)
    return model, Outcome(left_out=left_out)


def _multi_krum(base: Weights, updates: Sequence[Contribution], parameters: Parameters) -> tuple[Weights, Outcome]:
    byzantine = int(_given(parameters.byzantine))
    select = parameters.select or len(updates) - byzantine - 2
    model, left_out = vectorwise.krum(base, updates, byzantine, select)
    return model, Outcome(left_out=left_out)


def _geometric_median(
    base: Weights, updates: Sequence[Contribution], _parameters: Parameters
) -> tuple[Weights, Outcome]:
    model, shares = vectorwise.geometric_median(base, updates)
    return model, Outcome(shares=shares)


FEDAVG = Rule(
    "fedavg", "McMahan et al., AISTATS 2017", "none: one update is enough", _fedavg, lambda _parameters, _count: 0,
    takes=frozenset({"weights"}), least_updates=lambda _parameters: 1, single_updates=False,
)  # fmt: skip

RULES = {
    rule.name: rule
    for rule in (
        FEDAVG,
        Rule("median", "Yin et al., ICML 2018", "half of the updates", _median, _minority),
        Rule(
            "trimmed-mean", "Yin et al., ICML 2018", "the part that is trimmed", _trimmed_mean, cut_of,
            takes=frozenset({"trim"}), needs=frozenset({"trim"}), least_updates=_least_trimmed,
        ),
        Rule(
            "norm-clipping", "Sun et al., 2019 (arXiv:1911.07963)",
            "half of the updates; none with a fixed length, of which each moves the result by its share at most",
            _norm_clipping,
            lambda parameters, count: _minority(parameters, count) if parameters.clip is None else count,
            takes=frozenset({"clip", "weights"}),
            least_updates=lambda parameters: 3 if parameters.clip is None else 1, points=True,
        ),
        Rule(
            "krum", "Blanchard et al., NeurIPS 2017", "`byzantine` updates", _krum,
            lambda parameters, _count: int(_given(parameters.byzantine)),
            takes=frozenset({"byzantine"}), needs=frozenset({"byzantine"}), least_updates=_least_krum, points=True,
        ),
        Rule(
            "multi-krum", "Blanchard et al., NeurIPS 2017", "`byzantine` updates", _multi_krum,
            lambda parameters, _count: int(_given(parameters.byzantine)),
            takes=frozenset({"byzantine", "select"}), needs=frozenset({"byzantine"}), least_updates=_least_krum,
            points=True,
        ),
        Rule(
            "geometric-median", "Pillutla et al. (RFA), IEEE TSP 2022",
            "half of the samples, or of the updates where they weigh the same", _geometric_median, _minority,
            takes=frozenset({"weights"}), points=True,
        ),
    )
}  # fmt: skip
"""The rules by name, in the order in which they are listed."""

PLAIN = Aggregation(FEDAVG)
"""What is done unless another rule is asked for."""


def _named(rule: Rule) -> str:
    return f"it takes {', '.join(sorted(rule.takes))}" if rule.takes else "it takes none"


def _given(value: float | None) -> float:
    if value is None:
        raise ValueError("a parameter that the rule needs was not checked")
    return value


def _bad(sentence: str) -> ConfigurationError:
    return ConfigurationError(sentence, reason="rule")
