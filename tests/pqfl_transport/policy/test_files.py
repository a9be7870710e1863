"""Policies that operators write: held to their level, and every refusal names file and key."""

import tomllib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pqfl_transport.algorithms import CONTENT_SUITES
from pqfl_transport.errors import ConfigurationError, PolicyError, PqflError
from pqfl_transport.policy import POLICIES, Policy, SecurityLevel
from pqfl_transport.policy.files import MAX_POLICY_BYTES, parse_policy

GOOD = """
name = "cardio-2027"
level = "high"
groups = ["X25519MLKEM768"]
leaf_keys = ["ML-DSA-65"]
ca_signatures = ["ML-DSA-65", "ML-DSA-87"]
tls_suites = ["TLS_AES_256_GCM_SHA384"]
content_suites = ["pqfl/v1/mlkem768x25519-mldsa65"]
"""
CLASSICAL = """
[classical]
groups = ["x25519"]
leaf_keys = ["ECDSA-P256"]
ca_signatures = ["ECDSA-P256"]
"""


def parse(text: str) -> Policy:
    return parse_policy(text.encode(), "own.toml")


def test_five_sets_and_a_level_are_a_policy() -> None:
    """As written and in that order; without a classical table nothing classical is served."""
    policy = parse(GOOD)
    assert (policy.name, policy.level) == ("cardio-2027", SecurityLevel.HIGH)
    assert policy.ca_signatures == ("ML-DSA-65", "ML-DSA-87")
    assert policy.classical is None


def test_a_classical_table_is_the_half_of_a_migration() -> None:
    """It lists classical names, by any spelling."""
    policy = parse(GOOD + CLASSICAL.replace('"x25519"', '"P-256"'))
    assert policy.classical is not None
    assert policy.classical.groups == ("secp256r1",)


def test_names_of_older_papers_are_resolved() -> None:
    """A policy holds the names that are compared on a connection."""
    policy = parse(GOOD.replace("X25519MLKEM768", "X25519Kyber768").replace('["ML-DSA-65"]', '["Dilithium3"]'))
    assert (policy.groups, policy.leaf_keys) == (("X25519MLKEM768",), ("ML-DSA-65",))


def test_an_experimental_suite_counts_where_it_is_written_down() -> None:
    """This is the only way to one; its category has to be that of the level."""
    experimental = "pqfl/v1/x-hqc3-x25519-mldsa65"
    assert experimental in CONTENT_SUITES
    assert not any(experimental in policy.content_suites for policy in POLICIES.values())
    assert parse(GOOD.replace("pqfl/v1/mlkem768x25519-mldsa65", experimental)).content_suite.id == experimental
    with pytest.raises(PolicyError, match=r"own\.toml: content_suites: .*category 1, level high begins at 3"):
        parse(GOOD.replace("pqfl/v1/mlkem768x25519-mldsa65", "pqfl/v1/x-hqc1-x25519-mldsa44"))


GROUPS = '["X25519MLKEM768"]'


def changed(before: str, after: str) -> Callable[[], str]:
    assert before in GOOD + CLASSICAL
    return lambda: (GOOD + CLASSICAL).replace(before, after)


@pytest.mark.parametrize(
    ("text", "error", "reason", "message"),
    [
        (changed("cardio-2027", "high-2026"), ConfigurationError, "bad_policy", "name: high-2026 is the name of"),
        (changed("cardio-2027", "cardio"), ConfigurationError, "bad_policy", "name: expected .*year"),
        (changed('"high"', '"paranoid"'), ConfigurationError, "bad_policy", "level: unknown security level"),
        (changed('"high"', "3"), ConfigurationError, "bad_policy", "level: expected standard"),
        (changed(GROUPS, "[]"), ConfigurationError, "bad_policy", "groups: expected a list"),
        (changed(GROUPS, '"X25519MLKEM768"'), ConfigurationError, "bad_policy", "groups: expected a list"),
        (changed("groups", "group"), ConfigurationError, "bad_policy", "group: no such key"),
        (changed("X25519MLKEM768", "X25519MLKEM786"), ConfigurationError, "unknown_algorithm", "groups: unknown"),
        (changed(GROUPS, '["x25519"]'), PolicyError, "not_quantum_safe", r"groups: x25519 .*\[classical\]"),
        (changed("X25519MLKEM768", "MLKEM512"), PolicyError, "below_level", "groups: MLKEM512 is of NIST category 1"),
        (changed('["ML-DSA-65"]', '["ML-DSA-44"]'), PolicyError, "below_level", "leaf_keys: ML-DSA-44"),
        (changed('["ML-DSA-65"]', '["Rainbow"]'), PolicyError, "broken", "leaf_keys: Rainbow is broken since 2022"),
        (changed('["ML-DSA-65"]', '["Falcon-1024"]'), ConfigurationError, "bad_policy", "cannot be used in TLS"),
        (changed('["ML-DSA-65"]', '["ML-DSA-87"]'), ConfigurationError, "bad_policy", "signed with ML-DSA-65"),
        (changed('"ML-DSA-65", "ML-DSA-87"', '"ML-DSA-65", "Dilithium3"'), ConfigurationError, "bad_policy", "twice"),
        (changed("TLS_AES_256_GCM_SHA384", "TLS_AES_128_GCM_SHA256"), PolicyError, "below_level", "tls_suites"),
        (changed("mldsa65", "mldsa66"), ConfigurationError, "bad_policy", "content_suites: unknown content suite"),
        (changed('"x25519"', '"X25519MLKEM768"'), ConfigurationError, "bad_policy", "groups: .*not classical"),
        (changed("[classical]", "[classical]\nmore = 1"), ConfigurationError, "bad_policy", "classical.more"),
        (changed("[classical]", "[classic]"), ConfigurationError, "bad_policy", "classic: no such key"),
        (changed('"high"', '"cnsa2"'), PolicyError, "below_level", "level cnsa2 begins at 5"),
        (lambda: "name = ", ConfigurationError, "bad_policy", "not TOML"),
        (lambda: "#" * (MAX_POLICY_BYTES + 1), ConfigurationError, "too_large", "more than"),
    ],
)  # fmt: skip
def test_what_no_policy_can_say(text: Callable[[], str], error: type[PqflError], reason: str, message: str) -> None:
    """Refused with the file, the key and what was expected."""
    with pytest.raises(error, match=rf"^own\.toml: (?s:.*){message}") as caught:
        parse(text())
    assert caught.value.reason == reason


def test_a_regulation_has_no_alternatives() -> None:
    """A file of level cnsa2 may list less than the regulation's sets and nothing else."""
    cnsa = {
        "cardio": "cardio", '"high"': '"cnsa2"', "X25519MLKEM768": "MLKEM1024", '["ML-DSA-65"]': '["ML-DSA-87"]',
        '"ML-DSA-65", ': "", "pqfl/v1/mlkem768x25519-mldsa65": "pqfl/v1/mlkem1024-mldsa87",
    }  # fmt: skip
    text = GOOD
    for before, after in cnsa.items():
        text = text.replace(before, after)
    assert parse(text).groups == ("MLKEM1024",)
    with pytest.raises(PolicyError, match="regulation"):
        parse(text.replace("MLKEM1024", "SecP384r1MLKEM1024"))


VALUES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=5)
    | st.lists(st.sampled_from(["X25519MLKEM768", "x25519", "ML-DSA-65", "SIKE", "é"]), max_size=3)
)


def toml(value: Any) -> str:
    """One value as TOML writes it."""
    if isinstance(value, bool) or value is None:
        return "true" if value else "false"
    if isinstance(value, list):
        return f"[{', '.join(toml(one) for one in value)}]"
    return str(value) if isinstance(value, int) else f'"{value.encode("unicode_escape").decode("ascii")}"'


@given(key=st.sampled_from([*tomllib.loads(GOOD), "classical", "more"]), value=VALUES)
def test_any_value_of_any_key_is_a_policy_or_our_own_error(key: str, value: Any) -> None:
    """Whatever an operator writes, the outcome is a policy or a sentence that names the file."""
    lines = [line for line in GOOD.splitlines() if not line.startswith(f"{key} =")]
    try:
        policy = parse("\n".join([*lines, f"{key} = {toml(value)}"]))
    except PqflError as error:
        assert str(error).startswith("own.toml: ")  # noqa: PT017 -- both ends are allowed
    else:
        assert policy.groups


@given(data=st.binary(max_size=200))
def test_any_bytes_are_refused_in_our_own_words(data: bytes) -> None:
    """No input makes the reader fail in its own way."""
    with pytest.raises(PqflError, match=r"^own\.toml: "):
        parse_policy(data, "own.toml")
