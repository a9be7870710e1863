"""From what the data is to a security level: sensitivity, how long it has to stay secret, and what the place allows.

The level follows from the data alone. What a place lacks (`Constraints`) changes the order in which the level's own
algorithms are preferred, and never takes the choice below the level.
"""

import math
from dataclasses import dataclass, replace

from pqfl_transport.algorithms import CONTENT_SUITES, Kind, find
from pqfl_transport.errors import ConfigurationError
from pqfl_transport.policy.named import for_level
from pqfl_transport.policy.sets import Policy, SecurityLevel

HIGH_SENSITIVITY = 0.5
HIGH_HORIZON_YEARS = 10.0
MAXIMUM_SENSITIVITY = 0.8
MAXIMUM_HORIZON_YEARS = 20.0
_CHACHA = "ChaCha20-Poly1305"


@dataclass(frozen=True, slots=True)
class Constraints:
    """What a place allows or demands beside the data itself."""

    aes_hardware: bool = True
    """False where AES has no instructions of its own: ChaCha20-Poly1305 is then preferred where the level lists it."""
    cnsa2: bool = False
    """Whether a regulation asks for CNSA 2.0: then nothing else is asked."""


@dataclass(frozen=True, slots=True)
class Assessment:
    """The level for some data, why in words, and the policy to work under."""

    level: SecurityLevel
    reason: str
    policy: Policy


def assess(sensitivity: float, horizon_years: float, constraints: Constraints | None = None) -> Assessment:
    """Return the level for data of a sensitivity (0 to 1) that has to stay secret for so many years.

    Maximum above 0.8 *and* 20 years, high above 0.5 *or* 10 years, standard below. Raises ``ConfigurationError``
    (``bad_assessment``) for numbers that are none.
    """
    _require("sensitivity", sensitivity, 1.0)
    _require("horizon_years", horizon_years, math.inf)
    constraints = constraints or Constraints()
    level, reason = _level(sensitivity, horizon_years, constraints)
    policy = for_level(level)
    if not constraints.aes_hardware:
        policy, remark = _without_aes_hardware(policy)
        reason = f"{reason}; {remark}"
    return Assessment(level, reason, policy)


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


def _without_aes_hardware(policy: Policy) -> tuple[Policy, str]:
    """Prefer ChaCha20 in TLS and in the key wrap; the body's cipher is part of the format and stays."""
    stream = [name for name in policy.tls_suites if find(name, Kind.TLS_SUITE).family == "stream"]
    wraps = [name for name in policy.content_suites if CONTENT_SUITES[name].aead == _CHACHA]
    if not stream:
        return policy, f"no AES hardware, but {policy.name} lists AES alone, so AES it is"
    preferred = replace(
        policy,
        tls_suites=tuple(dict.fromkeys((*stream, *policy.tls_suites))),
        content_suites=tuple(dict.fromkeys((*wraps, *policy.content_suites))),
    )
    return preferred, "no AES hardware, so ChaCha20-Poly1305 is preferred in TLS and in the key wrap"


def _require(name: str, value: float, most: float) -> None:
    if not 0 <= value <= most or math.isinf(value):
        allowed = "from 0 to 1" if most == 1 else "a number of years from 0 on"
        raise ConfigurationError(f"{name} is {value}; it has to be {allowed}", reason="bad_assessment")
