"""Advisories: they take away what rests on what fell, never add, and say what they did."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pqfl_transport.algorithms import CONTENT_SUITES, TABLE, foundation
from pqfl_transport.errors import ConfigurationError, PolicyError
from pqfl_transport.policy import POLICIES, Policy, for_level, for_name
from pqfl_transport.policy.intelligence import (
    CLASSICAL_SETS,
    SETS,
    Advisory,
    Verdict,
    Withdrawal,
    advise,
    tighten,
)

NOW = 1_800_000_000
HIGH, PREFER = for_level("high"), for_name("pq-prefer-2026")
GCM_65, CHACHA_65 = HIGH.content_suites


def advisory(*algorithms: str, not_before: int = 0, number: int = 7) -> Advisory:
    """An advisory that calls these broken."""
    withdrawals = tuple(Withdrawal(name, Verdict.BROKEN, not_before, "a paper") for name in algorithms)
    return Advisory("fed", number, NOW - 10, NOW + 1000, withdrawals)


@pytest.mark.parametrize(
    ("base", "fallen", "gone"),
    [
        (HIGH, "SecP256r1MLKEM768", {"groups": {"SecP256r1MLKEM768"}}),
        (HIGH, "P256Kyber768", {"groups": {"SecP256r1MLKEM768"}}),
        (HIGH, GCM_65, {"content_suites": {GCM_65}}),
        (HIGH, "ML-DSA-87", {"ca_signatures": {"ML-DSA-87"}}),
        (
            HIGH,
            "ChaCha20-Poly1305",
            {"tls_suites": {"TLS_CHACHA20_POLY1305_SHA256"}, "content_suites": {CHACHA_65}},
        ),
        (PREFER, "X25519", {"classical.groups": {"x25519"}}),
        (PREFER, "RSA", {"classical.leaf_keys": {"RSA-PSS"}, "classical.ca_signatures": {"RSA-PSS"}}),
        (HIGH, "HQC-3", {}),
        (HIGH, "SIKE", {}),
    ],
)
def test_what_rests_on_a_fallen_algorithm_goes_and_nothing_else(
    base: Policy, fallen: str, gone: dict[str, set[str]]
) -> None:
    """By any of its names; each change has what was there, what is left, and why."""
    policy, changes = tighten(base, advisory(fallen), NOW)
    assert {change.set: set(change.old) - set(change.new) for change in changes} == gone
    for change in changes:
        assert "advisory 7 of fed" in change.why
        assert f"{fallen} is broken: a paper" in change.why
    assert policy.name == (f"{base.name}+advisory-7" if gone else base.name)


def test_a_hybrid_stays_without_its_classical_half_and_goes_without_the_other() -> None:
    """Broken X25519 leaves X25519MLKEM768 what it was listed for; broken ML-KEM-768 does not."""
    assert tighten(HIGH, advisory("x25519", "P-256", "P-384"), NOW) == (HIGH, ())
    with pytest.raises(PolicyError, match="left without TLS groups") as caught:
        tighten(HIGH, advisory("ML-KEM-768"), NOW)
    assert caught.value.reason == "withdrawn"


@pytest.mark.parametrize(
    ("fallen", "words"),
    [
        ("ML-KEM-768", "TLS groups"),
        ("ML-DSA-65", "certificate keys"),
        ("X-Wing", "content suites"),
        ("AES-256-GCM", "content suites"),
    ],
)
def test_an_emptied_set_closes_and_says_what_to_do(fallen: str, words: str) -> None:
    """The sentence names the policy, the advisory, what fell and the two ways out."""
    with pytest.raises(PolicyError, match=words) as caught:
        tighten(HIGH, advisory(fallen), NOW)
    for part in ("high-2026", "advisory 7 of fed", f"{fallen} is broken", "policy file", "above number 7"):
        assert part in str(caught.value)


def test_a_classical_half_may_lose_everything() -> None:
    """Its peers are served by courtesy; the post-quantum sets go on without it, and no half is invented."""
    assert PREFER.classical is not None
    policy, _ = tighten(PREFER, advisory(*PREFER.classical.groups, *PREFER.classical.ca_signatures), NOW)
    assert policy.classical is not None
    assert policy.all_groups == HIGH.groups
    assert policy.all_leaf_keys == HIGH.leaf_keys
    assert tighten(HIGH, advisory("RSA"), NOW)[0].classical is None


def test_a_withdrawal_waits_for_its_day_and_an_advisory_says_when_it_changes() -> None:
    """Before the day nothing happens; the day itself counts; then there is its own end, and then nothing more."""
    announced = advisory("SecP256r1MLKEM768", not_before=NOW + 10)
    assert tighten(HIGH, announced, NOW + 9.9) == (HIGH, ())
    assert tighten(HIGH, announced, NOW + 10)[0].groups == ("X25519MLKEM768",)
    assert [announced.next_change(NOW + after) for after in (0, 10, 1000)] == [NOW + 10, NOW + 1000, None]
    assert "since 2027-01-15 08:00 UTC" in tighten(HIGH, announced, NOW + 10)[1][0].why


def test_an_advisory_past_its_end_is_stale_and_loosens_nothing() -> None:
    """What is broken does not mend because nobody wrote a newer list."""
    fresh = advise(HIGH, advisory("SecP256r1MLKEM768"), NOW)
    late = advise(HIGH, advisory("SecP256r1MLKEM768"), NOW + 1000)
    assert (fresh.stale, late.stale) == (False, True)
    assert late == replace(fresh, stale=True)


def test_a_name_that_nothing_bears_is_an_error() -> None:
    """A typing error would leave in force what was meant to go."""
    with pytest.raises(ConfigurationError) as caught:
        tighten(HIGH, advisory("ML-KEM-786"), NOW)
    assert caught.value.reason == "unknown_algorithm"


NAMES = st.sampled_from([*(row.name for row in TABLE), *CONTENT_SUITES])


@given(policy=st.sampled_from(list(POLICIES.values())), fallen=st.lists(NAMES, max_size=4), more=NAMES)
def test_an_advisory_only_ever_tightens(policy: Policy, fallen: list[str], more: str) -> None:
    """Every set is a part of what it was, in the same order; nothing left rests on what fell; more takes more away."""
    try:
        tightened, changes = tighten(policy, advisory(*fallen), NOW)
    except PolicyError:
        with pytest.raises(PolicyError):
            tighten(policy, advisory(*fallen, more), NOW)
        return
    pairs = [(getattr(policy, name), getattr(tightened, name)) for name in SETS]
    if policy.classical is not None and tightened.classical is not None:
        pairs += [(getattr(policy.classical, name), getattr(tightened.classical, name)) for name in CLASSICAL_SETS]
    for before, after in pairs:
        assert after == tuple(name for name in before if name in after)
        assert not any(foundation(name) & set(fallen) for name in after)
    assert bool(changes) == (tightened != policy)
    assert tightened.level is policy.level
