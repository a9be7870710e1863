"""The policies that are shipped, and what an operator's words choose."""

import pytest

from pqfl_transport.algorithms import CONTENT_SUITES, Kind, Status, find
from pqfl_transport.errors import ConfigurationError
from pqfl_transport.policy import (
    DEFAULT_LEVEL,
    POLICIES,
    Policy,
    SecurityLevel,
    choose,
    for_level,
    for_name,
    leaf_algorithm,
)

ALL = list(POLICIES.values())
PREFER = for_name("pq-prefer-2026")


def test_the_four_levels_are_the_documented_sets() -> None:
    """The table of security levels, written out."""
    table = {p.level.value: (p.groups, p.leaf_keys, p.content_suites) for p in map(for_level, SecurityLevel)}
    assert table == {
        "standard": (
            ("X25519MLKEM768",),
            ("ML-DSA-44",),
            ("pqfl/v1/mlkem768x25519-mldsa44", "pqfl/v1/mlkem768x25519-chacha-mldsa44"),
        ),
        "high": (
            ("X25519MLKEM768", "SecP256r1MLKEM768"),
            ("ML-DSA-65",),
            ("pqfl/v1/mlkem768x25519-mldsa65", "pqfl/v1/mlkem768x25519-chacha-mldsa65"),
        ),
        "maximum": (
            ("SecP384r1MLKEM1024",),
            ("ML-DSA-87",),
            ("pqfl/v1/mlkem1024p384-mldsa87", "pqfl/v1/mlkem1024p384-chacha-mldsa87"),
        ),
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


def test_an_unknown_level_is_refused_and_the_levels_are_listed() -> None:
    """A level that does not exist is a usage error that helps."""
    with pytest.raises(ConfigurationError, match="standard, high, maximum, cnsa2"):
        for_level("paranoid")


def test_the_named_policies_are_the_default_level_with_and_without_a_classical_half() -> None:
    """Requiring is the level high by another name; preferring adds the classical sets, written out, and no other."""
    high, require = for_level("high"), for_name("pq-require-2026")
    assert {policy.name for policy in ALL} == {
        "standard-2026", "high-2026", "maximum-2026", "cnsa2-2026", "pq-require-2026", "pq-prefer-2026",
    }  # fmt: skip
    for policy in (require, PREFER):
        assert (policy.groups, policy.leaf_keys, policy.ca_signatures) == (
            high.groups, high.leaf_keys, high.ca_signatures,
        )  # fmt: skip
        assert (policy.tls_suites, policy.content_suites) == (high.tls_suites, high.content_suites)
    assert [policy.name for policy in ALL if policy.classical is not None] == ["pq-prefer-2026"]
    assert PREFER.classical is not None
    assert PREFER.classical.groups == ("x25519", "secp256r1", "secp384r1")
    assert PREFER.classical.leaf_keys == ("ECDSA-P256", "ECDSA-P384", "Ed25519", "RSA-PSS")
    assert PREFER.classical.ca_signatures == (*PREFER.classical.leaf_keys, "RSA-PKCS1-SHA256", "RSA-PKCS1-SHA384")


def test_the_classical_half_names_classical_rows_only() -> None:
    """Every name is that of a row, and nothing broken is served to anybody."""
    sets = PREFER.classical
    assert sets is not None
    rows = [find(name, Kind.TLS_GROUP) for name in sets.groups]
    rows += [find(name, Kind.SIGNATURE) for name in (*sets.leaf_keys, *sets.ca_signatures)]
    assert {row.status for row in rows} == {Status.CLASSICAL}


def test_an_unknown_policy_is_refused_and_the_names_are_listed() -> None:
    """Names are exact: a year or a capital letter makes another name."""
    for word in ("pq-require", "PQ-REQUIRE-2026", ""):
        with pytest.raises(ConfigurationError, match=r"cnsa2-2026, high-2026.*pq-prefer-2026") as caught:
            for_name(word)
        assert caught.value.reason == "unknown_policy"


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ({}, "high-2026"),
        ({"level": "cnsa2"}, "cnsa2-2026"),
        ({"level": "maximum", "pq": "require"}, "maximum-2026"),
        ({"pq": "prefer"}, "pq-prefer-2026"),
        ({"pq": "prefer", "level": "high"}, "pq-prefer-2026"),
        ({"name": "pq-require-2026"}, "pq-require-2026"),
        ({"name": "cnsa2-2026"}, "cnsa2-2026"),
    ],
)
def test_what_an_operator_says_chooses_one_policy(words: dict[str, str], name: str) -> None:
    """A name, or a level and a mode; nothing said is the default level, classical peers refused."""
    assert choose(**words).name == name


@pytest.mark.parametrize(
    ("words", "reason", "message"),
    [
        ({"name": "cnsa2-2026", "level": "cnsa2"}, "two_policies", "--policy cnsa2-2026"),
        ({"name": "pq-prefer-2026", "pq": "prefer"}, "two_policies", "leave --level and --pq away"),
        ({"pq": "prefer", "level": "maximum"}, "no_classical", "level maximum has no classical half"),
        ({"pq": "prefer", "level": "cnsa2"}, "no_classical", "level cnsa2 has no classical half"),
        ({"pq": "prefer", "level": "standard"}, "no_classical", "level standard has no classical half"),
        ({"pq": "perhaps"}, "unknown_policy", "expected require or prefer"),
        ({"level": "paranoid"}, "unknown_level", "paranoid"),
        ({"name": ""}, "unknown_policy", "unknown policy ''"),
    ],
)
def test_words_that_contradict_each_other_are_refused(words: dict[str, str], reason: str, message: str) -> None:
    """Nothing is guessed: the sentence says which flag is too many, or why the level excludes the mode."""
    with pytest.raises(ConfigurationError, match=message) as caught:
        choose(**words)
    assert caught.value.reason == reason
