"""From what the data is to a security level: sensitivity, how long it has to stay secret, and what the place allows.

The level follows from the data. What a place lacks (`Constraints`) changes the order in which the level's own
algorithms are preferred, and never takes the choice below the level. What became known since (`Advisory`) takes
algorithms away; where a level is left without any, the next level above it is the choice, and never one below.
"""

import math
from dataclasses import dataclass
from datetime import UTC, datetime

from pqfl_transport.errors import ConfigurationError, PolicyError
from pqfl_transport.policy.costs import NO_CONSTRAINTS, Constraints, prefer
from pqfl_transport.policy.intelligence import Advisory, Change, tighten
from pqfl_transport.policy.named import for_level
from pqfl_transport.policy.sets import Policy, SecurityLevel

HIGH_SENSITIVITY = 0.5
HIGH_HORIZON_YEARS = 10.0
MAXIMUM_SENSITIVITY = 0.8
MAXIMUM_HORIZON_YEARS = 20.0
# The levels that data alone leads to; CNSA 2.0 is a regulation's and nobody is led there.
_UPWARD = (SecurityLevel.STANDARD, SecurityLevel.HIGH, SecurityLevel.MAXIMUM)


@dataclass(frozen=True, slots=True)
class Assessment:
    """The level for some data, why in words, and the policy to work under."""

    level: SecurityLevel
    reason: str
    policy: Policy
    changes: tuple[Change, ...] = ()
    """What an advisory took out of the level's policy."""


def assess(
    sensitivity: float,
    horizon_years: float,
    constraints: Constraints | None = None,
    intelligence: Advisory | None = None,
    *,
    now: float | None = None,
) -> Assessment:
    """Return the level for data of a sensitivity (0 to 1) that has to stay secret for so many years.

    Maximum above 0.8 *and* 20 years, high above 0.5 *or* 10 years, standard below. ``now`` (Unix seconds) decides which
    entries of an advisory count; it is the system's clock unless given. Raises ``ConfigurationError``
    (``bad_assessment``) for numbers that are none, ``PolicyError`` (``withdrawn``) where an advisory leaves nothing at
    this level and above.
    """
    _require("sensitivity", sensitivity, 1.0)
    _require("horizon_years", horizon_years, math.inf)
    constraints = constraints or NO_CONSTRAINTS
    level, reason = _level(sensitivity, horizon_years, constraints)
    reasons = [reason]
    policy, changes = for_level(level), tuple[Change, ...]()
    if intelligence is not None:
        policy, changes, remarks = _at_least(level, intelligence, datetime.now(UTC).timestamp() if now is None else now)
        reasons += remarks
    policy, remarks = prefer(policy, constraints)
    return Assessment(policy.level, "; ".join([*reasons, *remarks]), policy, changes)


def _at_least(
    level: SecurityLevel, intelligence: Advisory, now: float
) -> tuple[Policy, tuple[Change, ...], tuple[str, ...]]:
    """Return the lowest level from this one up that an advisory leaves something of."""
    above = _UPWARD[_UPWARD.index(level) :] if level in _UPWARD else (level,)
    refusals: list[PolicyError] = []
    for candidate in above:
        try:
            policy, changes = tighten(for_level(candidate), intelligence, now)
        except PolicyError as error:
            refusals.append(error)
            continue
        remarks = [change.why for change in changes]
        if refusals:
            remarks.insert(0, f"nothing is left of level {level}, so it is {candidate}: {refusals[0]}")
        if intelligence.is_stale(now):
            remarks.append(f"advisory {intelligence.number} is past its end; get the current one")
        return policy, changes, tuple(dict.fromkeys(remarks))
    raise refusals[-1]


def _level(sensitivity: float, horizon_years: float, constraints: Constraints) -> tuple[SecurityLevel, str]:
    if constraints.cnsa2:
        return SecurityLevel.CNSA2, "a regulation asks for CNSA 2.0"
    facts = f"sensitivity {sensitivity:g} and a horizon of {horizon_years:g} years"
    if sensitivity > MAXIMUM_SENSITIVITY and horizon_years > MAXIMUM_HORIZON_YEARS:
        return SecurityLevel.MAXIMUM, f"{facts}: above {MAXIMUM_SENSITIVITY:g} and {MAXIMUM_HORIZON_YEARS:g} years"
    if sensitivity > HIGH_SENSITIVITY:
        return SecurityLevel.HIGH, f"{facts}: the sensitivity is above {HIGH_SENSITIVITY:g}"
    if horizon_years > HIGH_HORIZON_YEARS:
        return SecurityLevel.HIGH, f"{facts}: the horizon is above {HIGH_HORIZON_YEARS:g} years"
    return SecurityLevel.STANDARD, f"{facts}: neither above {HIGH_SENSITIVITY:g} nor above {HIGH_HORIZON_YEARS:g} years"


def _require(name: str, value: float, most: float) -> None:
    if not 0 <= value <= most or math.isinf(value):
        allowed = "from 0 to 1" if most == 1 else "a number of years from 0 on"
        raise ConfigurationError(f"{name} is {value}; it has to be {allowed}", reason="bad_assessment")
