"""From data to a level: thresholds, words, and constraints that reorder and never weaken."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pqfl_transport.errors import ConfigurationError
from pqfl_transport.policy import Constraints, SecurityLevel, assess, for_level

STRENGTH = [SecurityLevel.STANDARD, SecurityLevel.HIGH, SecurityLevel.MAXIMUM]
sensitivities = st.floats(0, 1)
horizons = st.floats(0, 1000)


@pytest.mark.parametrize(
    ("sensitivity", "horizon_years", "level"),
    [
        (0.0, 0.0, "standard"), (0.5, 10.0, "standard"), (0.51, 1.0, "high"), (0.1, 10.1, "high"), (0.8, 50.0, "high"),
        (0.81, 20.0, "high"), (0.81, 20.1, "maximum"), (1.0, 100.0, "maximum"),
    ],
)  # fmt: skip
def test_the_thresholds(sensitivity: float, horizon_years: float, level: str) -> None:
    """Above 0.5 or ten years is high, above 0.8 and twenty years is maximum; the thresholds themselves are below."""
    assessment = assess(sensitivity, horizon_years)
    assert assessment.level == level
    assert assessment.policy == for_level(level)
    assert f"{sensitivity:g}" in assessment.reason


@given(sensitivities, sensitivities, horizons, horizons)
def test_more_never_means_less(one: float, other: float, short: float, long: float) -> None:
    """More sensitivity or a longer horizon never gives a weaker level."""
    low, high = sorted((one, other))
    brief, lasting = sorted((short, long))
    assert STRENGTH.index(assess(low, brief).level) <= STRENGTH.index(assess(high, lasting).level)


@given(sensitivities, horizons, st.booleans(), st.booleans())
def test_constraints_only_reorder(sensitivity: float, horizon_years: float, aes: bool, cnsa2: bool) -> None:
    """Whatever a place lacks, the sets are those of the level, in another order at most."""
    found = assess(sensitivity, horizon_years, Constraints(aes_hardware=aes, cnsa2=cnsa2))
    level = for_level(found.level)
    for name in ("groups", "leaf_keys", "ca_signatures", "tls_suites", "content_suites"):
        assert sorted(getattr(found.policy, name)) == sorted(getattr(level, name))
    assert (found.level is SecurityLevel.CNSA2) == cnsa2


def test_without_aes_hardware_chacha_comes_first() -> None:
    """In TLS and in the key wrap; the reason says so."""
    found = assess(0.7, 5, Constraints(aes_hardware=False))
    assert found.policy.tls_suites[0] == "TLS_CHACHA20_POLY1305_SHA256"
    assert found.policy.content_suite.id == "pqfl/v1/mlkem768x25519-chacha-mldsa65"
    assert found.policy.content_suite.body == "Cobblestone-256"
    assert "ChaCha20" in found.reason


def test_cnsa2_has_no_chacha_and_says_so() -> None:
    """A constraint that the level cannot meet is named, and the level stays."""
    found = assess(0.7, 5, Constraints(aes_hardware=False, cnsa2=True))
    assert found.policy == for_level("cnsa2")
    assert "AES alone" in found.reason


@pytest.mark.parametrize(
    ("sensitivity", "horizon_years"), [(-0.1, 1), (1.1, 1), (math.nan, 1), (0.5, -1), (0.5, math.nan), (0.5, math.inf)]
)
def test_numbers_that_are_none_are_refused(sensitivity: float, horizon_years: float) -> None:
    """Nothing is clamped or guessed."""
    with pytest.raises(ConfigurationError) as caught:
        assess(sensitivity, horizon_years)
    assert caught.value.reason == "bad_assessment"
