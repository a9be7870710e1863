"""From data to a level: thresholds, words, and constraints that reorder and never weaken."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pqfl_transport.errors import ConfigurationError, PolicyError
from pqfl_transport.policy import Advisory, Constraints, SecurityLevel, Verdict, Withdrawal, assess, for_level

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


@given(sensitivities, horizons, st.booleans(), st.booleans(), st.none() | st.floats(0.001, 1e9))
def test_constraints_only_reorder(
    sensitivity: float, horizon_years: float, aes: bool, cnsa2: bool, link: float | None
) -> None:
    """Whatever a place lacks, the sets are those of the level, in another order at most."""
    constraints = Constraints(aes_hardware=aes, cnsa2=cnsa2, link_kilobits_per_second=link)
    found = assess(sensitivity, horizon_years, constraints)
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


def broken(*names: str) -> Advisory:
    return Advisory("fed", 3, 0, 2000, tuple(Withdrawal(name, Verdict.BROKEN, 0, "a paper") for name in names))


def test_intelligence_takes_names_out_of_the_level() -> None:
    """The level stays where something is left of it; the reason and the changes say what went and why."""
    found = assess(0.7, 5, None, broken("SecP256r1MLKEM768"), now=1000)
    assert (found.level, found.policy.name) == (SecurityLevel.HIGH, "high-2026+advisory-3")
    assert found.policy.groups == ("X25519MLKEM768",)
    assert "SecP256r1MLKEM768 is broken: a paper" in found.reason
    assert [change.set for change in found.changes] == ["groups"]
    assert "past its end" in assess(0.7, 5, None, broken("SIKE"), now=2000).reason


def test_a_level_that_nothing_is_left_of_leads_upwards() -> None:
    """A stronger level is a legal choice, a weaker one never: above maximum, and beside CNSA 2.0, there is none."""
    found = assess(0.1, 1, None, broken("ML-DSA-44"), now=1000)
    assert found.level is SecurityLevel.HIGH
    assert "nothing is left of level standard, so it is high" in found.reason
    assert assess(0.1, 1, None, broken("ML-DSA-44", "ML-DSA-65"), now=1000).level is SecurityLevel.MAXIMUM
    for constraints, names in ((None, ("ML-DSA-87",)), (Constraints(cnsa2=True), ("ML-KEM-1024",))):
        with pytest.raises(PolicyError) as caught:
            assess(0.9, 30, constraints, broken(*names), now=1000)
        assert caught.value.reason == "withdrawn"


def test_a_withdrawal_counts_by_the_systems_clock_unless_told() -> None:
    """Who gives no time asks about now."""
    late = Advisory("fed", 3, 0, 2**40, (Withdrawal("SecP256r1MLKEM768", Verdict.DEPRECATED, 2**39, "some day"),))
    assert assess(0.7, 5, None, late).policy == for_level("high")
    assert assess(0.7, 5, None, broken("SecP256r1MLKEM768")).policy.groups == ("X25519MLKEM768",)


@pytest.mark.parametrize(
    ("sensitivity", "horizon_years"), [(-0.1, 1), (1.1, 1), (math.nan, 1), (0.5, -1), (0.5, math.nan), (0.5, math.inf)]
)
def test_numbers_that_are_none_are_refused(sensitivity: float, horizon_years: float) -> None:
    """Nothing is clamped or guessed."""
    with pytest.raises(ConfigurationError) as caught:
        assess(sensitivity, horizon_years)
    assert caught.value.reason == "bad_assessment"
