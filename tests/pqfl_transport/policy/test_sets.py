"""Policies: explicit sets, and nothing is ever "at least"."""

import pytest

from pqfl_transport.errors import PolicyError
from pqfl_transport.policy import POLICIES, Policy, for_level, for_name

ALL = list(POLICIES.values())
PREFER = for_name("pq-prefer-2026")


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


def test_the_post_quantum_names_come_first() -> None:
    """Order is preference: whoever can do both does the post-quantum one."""
    for policy in ALL:
        more = policy.classical
        assert policy.all_groups == (*policy.groups, *(more.groups if more else ()))
        assert policy.all_leaf_keys == (*policy.leaf_keys, *(more.leaf_keys if more else ()))
        assert policy.all_ca_signatures == (*policy.ca_signatures, *(more.ca_signatures if more else ()))
        assert policy.all_signatures[0] == policy.leaf_keys[0]
        assert set(policy.all_signatures) == {*policy.all_leaf_keys, *policy.all_ca_signatures}
        assert len(set(policy.all_signatures)) == len(policy.all_signatures)


@pytest.mark.parametrize(
    ("check", "listed", "other"),
    [
        (Policy.require_group, ("X25519MLKEM768", "x25519"), "x448"),
        (Policy.require_leaf_key, ("ML-DSA-65", "RSA-PSS"), "ML-DSA-44"),
        (Policy.require_ca_signature, ("ML-DSA-87", "RSA-PKCS1-SHA256"), "1.2.840.113549.1.1.5"),
    ],
)
def test_a_migration_accepts_both_halves_and_its_post_quantum_half_only_one(
    check: object, listed: tuple[str, str], other: str
) -> None:
    """What is in neither set is refused all the same, ML-DSA of another level included."""
    for name in listed:
        check(PREFER, name)  # type: ignore[operator]
    with pytest.raises(PolicyError):
        check(PREFER, other)  # type: ignore[operator]
    check(PREFER.post_quantum_half, listed[0])  # type: ignore[operator]
    with pytest.raises(PolicyError):
        check(PREFER.post_quantum_half, listed[1])  # type: ignore[operator]
    assert for_level("high").post_quantum_half is for_level("high")


@pytest.mark.parametrize(
    ("group", "own", "peer", "expected"),
    [
        ("X25519MLKEM768", "ML-DSA-65", "ML-DSA-65", True),
        ("x25519", "ML-DSA-65", "ML-DSA-65", False),
        ("X25519MLKEM768", "ECDSA-P256", "ML-DSA-65", False),
        ("X25519MLKEM768", "ML-DSA-65", "RSA-PSS", False),
        ("SecP384r1MLKEM1024", "ML-DSA-65", "ML-DSA-65", False),
    ],
)
def test_a_connection_is_post_quantum_when_all_of_it_is(group: str, own: str, peer: str, expected: bool) -> None:
    """One classical part makes a connection classical."""
    assert PREFER.is_post_quantum(group, own, peer) is expected


def test_the_suite_is_the_first_listed_one_that_the_keys_fit() -> None:
    """Keys that no listed suite fits are named, and nothing else is taken instead."""
    high = for_level("high")
    assert high.suite_for("ML-DSA-65").id == high.content_suites[0]
    assert high.suite_for("ML-DSA-65", "ML-KEM-768+X25519").id == high.content_suites[0]
    for keys in (("ML-DSA-87",), ("ML-DSA-65", "ML-KEM-1024")):
        with pytest.raises(PolicyError, match=keys[-1]) as caught:
            high.suite_for(*keys)
        assert caught.value.reason == "content_suite"
