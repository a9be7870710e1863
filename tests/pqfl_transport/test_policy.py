"""Policies: explicit sets, and nothing is ever "at least"."""

import pytest

from pqfl_transport.algorithms import CONTENT_SUITES, Kind, Status, find
from pqfl_transport.errors import ConfigurationError, PolicyError
from pqfl_transport.policy import DEFAULT_LEVEL, POLICIES, Policy, SecurityLevel, for_level, leaf_algorithm

ALL = list(POLICIES.values())


def test_the_four_levels_are_the_documented_sets() -> None:
    """The table of security levels, written out."""
    table = {p.level.value: (p.groups, p.leaf_keys, p.content_suites) for p in ALL}
    assert table == {
        "standard": (("X25519MLKEM768",), ("ML-DSA-44",), ("pqfl/v1/mlkem768x25519-mldsa44",)),
        "high": (("X25519MLKEM768", "SecP256r1MLKEM768"), ("ML-DSA-65",), ("pqfl/v1/mlkem768x25519-mldsa65",)),
        "maximum": (("SecP384r1MLKEM1024",), ("ML-DSA-87",), ("pqfl/v1/mlkem1024p384-mldsa87",)),
        "cnsa2": (("MLKEM1024",), ("ML-DSA-87",), ("pqfl/v1/mlkem1024-mldsa87",)),
    }


def test_the_default_level_is_high() -> None:
    """Who names no level gets ML-DSA-65 and X25519MLKEM768."""
    assert DEFAULT_LEVEL is SecurityLevel.HIGH
    assert for_level(DEFAULT_LEVEL).groups[0] == "X25519MLKEM768"


@pytest.mark.parametrize("policy", ALL, ids=lambda policy: policy.name)
def test_a_policy_names_only_rows_that_exist_and_resist_quantum_computers(policy: Policy) -> None:
    """No classical, superseded or broken row is in any of the five sets."""
    rows = [find(name, Kind.TLS_GROUP) for name in policy.groups]
    rows += [find(name, Kind.SIGNATURE) for name in (*policy.leaf_keys, *policy.ca_signatures)]
    rows += [find(name, Kind.TLS_SUITE) for name in policy.tls_suites]
    assert {row.status for row in rows} <= {Status.STANDARD, Status.DRAFT}
    assert set(policy.content_suites) <= set(CONTENT_SUITES)


@pytest.mark.parametrize("policy", ALL, ids=lambda policy: policy.name)
def test_the_content_is_signed_as_strongly_as_the_certificates(policy: Policy) -> None:
    """The suite that a policy seals with signs with the algorithm of its signing certificates."""
    assert policy.content_suite.signature == leaf_algorithm(policy)


@pytest.mark.parametrize("policy", ALL, ids=lambda policy: policy.name)
def test_an_issuer_may_be_as_strong_as_its_leaves_or_stronger_never_weaker(policy: Policy) -> None:
    """An issuer's level is at least its leaf's, and the ML-DSA-87 root is always acceptable."""
    order = ["ML-DSA-44", "ML-DSA-65", "ML-DSA-87"]
    weakest_leaf = min(order.index(name) for name in policy.leaf_keys)
    assert all(order.index(name) >= weakest_leaf for name in policy.ca_signatures)
    assert "ML-DSA-87" in policy.ca_signatures


@pytest.mark.parametrize(
    ("check", "name", "reason"),
    [
        (Policy.require_group, "x25519", "no_pq_group"),
        (Policy.require_group, "SecP384r1MLKEM1024", "no_pq_group"),
        (Policy.require_group, None, "no_pq_group"),
        (Policy.require_tls_suite, "TLS_AES_128_GCM_SHA256", "cipher_suite"),
        (Policy.require_leaf_key, "ECDSA-P256", "bad_sigalg"),
        (Policy.require_leaf_key, "ML-DSA-44", "bad_sigalg"),
        (Policy.require_leaf_key, "ML-DSA-87", "bad_sigalg"),
        (Policy.require_ca_signature, "RSA-PSS", "bad_sigalg"),
        (Policy.require_content_suite, "pqfl/v1/mlkem1024-mldsa87", "content_suite"),
    ],
)
def test_a_name_outside_the_set_is_refused_however_strong(check: object, name: str | None, reason: str) -> None:
    """The refusal names what was offered, the policy and what it lists."""
    with pytest.raises(PolicyError, match="high-2026: it lists") as caught:
        check(for_level("high"), name)  # type: ignore[operator]
    assert caught.value.reason == reason


def test_an_unknown_level_is_refused_and_the_levels_are_listed() -> None:
    """A level that does not exist is a usage error that helps."""
    with pytest.raises(ConfigurationError, match="standard, high, maximum, cnsa2"):
        for_level("paranoid")
