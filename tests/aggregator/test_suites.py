"""Which suites fit: the keys decide which of the listed ones, and nothing else is taken."""

from dataclasses import replace
from pathlib import Path

import pytest

from aggregator.suites import Suites, kinds_of
from pqfl_transport.crypto.pyca import SigningKey
from pqfl_transport.errors import PolicyError
from pqfl_transport.pki.membership import Membership
from pqfl_transport.pki.spiffe import Role
from pqfl_transport.policy import tighten
from tests.support.advisories import advisory
from tests.support.pki import make_federation
from tests.support.rounds import membership

SITE = ("ML-DSA-65", "ML-KEM-768+X25519")
GCM, CHACHA = "pqfl/v1/mlkem768x25519-mldsa65", "pqfl/v1/mlkem768x25519-chacha-mldsa65"


@pytest.fixture(scope="module")
def member(tmp_path_factory: pytest.TempPathFactory) -> Membership:
    federation = make_federation(Path(tmp_path_factory.mktemp("federation")), sites=())
    return membership(federation, federation.aggregator, Role.AGGREGATOR)


def test_the_first_that_fits_is_worked_with(member: Membership) -> None:
    """And the next one where the first was withdrawn."""
    suites = Suites(member, [SITE, SITE])
    assert (suites.of_updates.id, suites.of_models.id) == (GCM, GCM)
    suites.policy, _ = tighten(member.policy, advisory([GCM]), 2e9)
    suites.require_fitting()
    assert (suites.of_updates.id, suites.of_models.id) == (CHACHA, CHACHA)
    assert (suites.allows(GCM), suites.allows(CHACHA)) == (False, True)


@pytest.mark.parametrize(
    ("sites", "named"),
    [
        ([("ML-DSA-87", SITE[1])], "ML-DSA-87"),
        ([("ML-DSA-65", "ML-KEM-1024")], "ML-KEM-1024"),
        ([SITE, ("ML-DSA-65", "ML-KEM-1024")], r"ML-KEM-1024 and ML-KEM-768\+X25519"),
    ],
)
def test_keys_that_no_listed_suite_fits_are_named(member: Membership, sites: list[tuple[str, str]], named: str) -> None:
    """At the start, before any round is opened."""
    with pytest.raises(PolicyError, match=named) as caught:
        Suites(member, sites)
    assert caught.value.reason == "content_suite"


def test_nothing_is_allowed_once_everything_was_withdrawn(member: Membership) -> None:
    """Whatever the policy listed before."""
    suites = Suites(member, [SITE])
    suites.require_any()
    suites.withdrawn = PolicyError("advisory 9", reason="withdrawn")
    assert not suites.allows(GCM)
    with pytest.raises(PolicyError, match="advisory 9"):
        suites.require_any()


def test_this_end_s_own_key_may_become_another(member: Membership) -> None:
    """Models are sealed with its suite from then on; one that no suite fits changes nothing."""
    suites = Suites(member, [SITE])
    for algorithm in ("ML-DSA-87", "ML-DSA-44"):
        identity = replace(member.identity, key=SigningKey.generate(algorithm))
        with pytest.raises(PolicyError, match=algorithm):
            suites.fit(replace(member, identity=identity), [SITE])
        assert suites.of_models.id == GCM


def test_the_kinds_are_those_of_the_sites(tmp_path: Path) -> None:
    """One pair a site, and none for the aggregator."""
    federation = make_federation(tmp_path, sites=("bank-a", "bank-b"))
    assert kinds_of(membership(federation, federation.aggregator, Role.AGGREGATOR)) == [SITE, SITE]
