"""What little a place has decides the order of preference, and nothing else."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pqfl_transport.errors import ConfigurationError
from pqfl_transport.policy import POLICIES, Constraints, Costs, Policy, for_level, prefer
from pqfl_transport.policy.costs import handshake_bytes
from pqfl_transport.policy.intelligence import SETS

HIGH = for_level("high")
FIRST, SECOND = HIGH.groups
COSTS = Costs(
    exchange={FIRST: 0.004, SECOND: 0.002}, sign={"ML-DSA-65": 0.001}, verify={"ML-DSA-65": 0.001},
    mebibyte={"TLS_AES_256_GCM_SHA384": 0.02, "TLS_CHACHA20_POLY1305_SHA256": 0.01},
)  # fmt: skip


def test_a_handshake_has_about_the_size_that_was_measured() -> None:
    """A mutual handshake at level high was measured at 20.7 kB; the estimate is near it."""
    assert 19_000 < handshake_bytes(HIGH, "X25519MLKEM768") < 23_000


@pytest.mark.parametrize(
    ("link", "words"), [(10_000, "within 1 s"), (10, "more than 1 s: nothing that high-2026 lists")]
)
def test_a_slow_link_is_weighed_and_never_lowers_the_level(link: float, words: str) -> None:
    """The remark has bytes, seconds and the outcome; the smallest group comes first either way."""
    policy, (remark,) = prefer(replace(HIGH, groups=(SECOND, FIRST)), Constraints(link_kilobits_per_second=link))
    assert policy == HIGH
    assert "21 kB" in remark
    assert words in remark


@pytest.mark.parametrize(("budget", "words"), [(10, "6 ms a handshake, within 10 ms"), (1, "more than 1 ms")])
def test_what_was_measured_here_decides_the_order(budget: float, words: str) -> None:
    """The quickest group and the quickest cipher come first, and the budget is answered."""
    policy, (remark,) = prefer(HIGH, Constraints(cpu_milliseconds=budget, measured=COSTS))
    assert policy.groups == (SECOND, FIRST)
    assert policy.tls_suites[0] == "TLS_CHACHA20_POLY1305_SHA256"
    assert words in remark


def test_only_the_key_wrap_or_only_tls_may_have_an_alternative() -> None:
    """The remark says where ChaCha20-Poly1305 is preferred."""
    only_wrap = replace(HIGH, tls_suites=("TLS_AES_256_GCM_SHA384",))
    policy, (remark,) = prefer(only_wrap, Constraints(aes_hardware=False))
    assert policy.content_suite.aead == "ChaCha20-Poly1305"
    assert remark.endswith("preferred in the key wrap")


@pytest.mark.parametrize(
    "wrong",
    [
        {"link_kilobits_per_second": 0},
        {"link_kilobits_per_second": float("nan")},
        {"handshake_seconds": -1},
        {"cpu_milliseconds": float("inf"), "measured": COSTS},
        {"cpu_milliseconds": 1},
    ],
)
def test_a_budget_that_is_none_is_refused(wrong: dict[str, float]) -> None:
    """Nothing is clamped, and a processor budget needs a measurement."""
    with pytest.raises(ConfigurationError) as caught:
        Constraints(**wrong)  # type: ignore[arg-type]
    assert caught.value.reason == "bad_constraint"


@given(
    policy=st.sampled_from(list(POLICIES.values())),
    seconds=st.lists(st.floats(1e-6, 1), min_size=20, max_size=20),
    link=st.none() | st.floats(0.1, 1e9),
    aes=st.booleans(),
)
def test_preference_adds_and_drops_nothing(policy: Policy, seconds: list[float], link: float | None, aes: bool) -> None:
    """Every set keeps its members, and level and name stay."""
    cost = iter(seconds)
    costs = Costs(*(dict.fromkeys(names, next(cost)) for names in (
        policy.groups, policy.leaf_keys, policy.leaf_keys, policy.tls_suites,
    )))  # fmt: skip
    constraints = Constraints(
        aes_hardware=aes, link_kilobits_per_second=link, cpu_milliseconds=1000 * next(cost), measured=costs
    )
    preferred, _ = prefer(policy, constraints)
    for name in SETS:
        assert sorted(getattr(preferred, name)) == sorted(getattr(policy, name))
    assert (preferred.name, preferred.level, preferred.classical) == (policy.name, policy.level, policy.classical)
