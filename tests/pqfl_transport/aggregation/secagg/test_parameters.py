"""What a round is: the threshold's bounds, who may take part, and a digest of every fact."""

from dataclasses import replace
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pqfl_transport.aggregation.secagg.parameters import RoundParameters, full_graph, round_parameters
from pqfl_transport.algorithms import CONTENT_SUITES, content_suite
from pqfl_transport.errors import ConfigurationError, MessageError, PolicyError
from pqfl_transport.pki.roster import Party, Roster, SecureAggregation
from pqfl_transport.pki.spiffe import SpiffeId
from pqfl_transport.policy import SecurityLevel, for_level
from tests.support.secagg import HUB, MODEL, SUITE, make_parameters, signing_key, site_name


def roster_of(count: int, *, algorithm: str = "ML-DSA-65", odd: str = "") -> Roster:
    """Return a roster of so many sites and one aggregator; ``odd`` signs with another algorithm."""
    names = [HUB, *(site_name(index) for index in range(1, count + 1))]
    parties = {
        name: Party(
            SpiffeId.parse(name),
            signing_key(name, "ML-DSA-87" if name == odd else algorithm).verifying_key,
            b"",
            bytes(32),
            10,
        )
        for name in reversed(names)
    }
    return Roster("fed", SecurityLevel.HIGH, 3, 0, MappingProxyType(parties))


def of_roster(roster: Roster, **changes: Any) -> RoundParameters:
    """Return the parameters of a round of this roster."""
    facts: dict[str, Any] = {"suite": SUITE, "round_number": 7, "model_digest": MODEL, "aggregator": HUB}
    return round_parameters(roster, for_level(SecurityLevel.HIGH), **(facts | changes))


@pytest.mark.parametrize(("count", "threshold"), [(3, 3), (4, 3), (5, 4), (6, 5), (10, 7), (32, 22)])
def test_the_threshold_is_more_than_two_thirds(count: int, threshold: int) -> None:
    """⌊2n/3⌋ + 1, so that with three sites nobody may drop out."""
    assert make_parameters(count).threshold_for(count) == threshold


@given(st.integers(3, 255))
def test_two_sets_of_t_sites_share_an_honest_one(count: int) -> None:
    """Even where a third of the sites help a malicious server: 2t - n > n/3, which is the reason for t."""
    threshold = make_parameters(3).threshold_for(count)
    assert 2 * threshold - count > count // 3
    assert threshold <= count


def test_an_honest_server_needs_more_than_half() -> None:
    """Only where the parameters say that the server is honest but curious."""
    trusting = replace(make_parameters(5), honest_but_curious=True)
    assert [trusting.threshold_for(count) for count in (3, 5, 10)] == [2, 3, 6]
    assert trusting.transcript != make_parameters(5).transcript


def test_the_roster_can_only_raise_the_threshold() -> None:
    """A low threshold in the roster changes nothing, a higher one counts, one that nobody reaches is refused."""
    assert make_parameters(5, secure=SecureAggregation(5, 2)).threshold_for(5) == 4
    assert make_parameters(5, secure=SecureAggregation(5, 5)).threshold_for(5) == 5
    with pytest.raises(ConfigurationError) as caught:
        make_parameters(5, secure=SecureAggregation(3, 6)).threshold_for(5)
    assert caught.value.reason == "threshold"


@pytest.mark.parametrize(("count", "least"), [(2, 1), (0, 1), (5, 6)])
def test_too_few_sites(count: int, least: int) -> None:
    """Never below three, and never below what the roster says."""
    with pytest.raises(ConfigurationError) as caught:
        make_parameters(3, secure=SecureAggregation(least, 1)).threshold_for(count)
    assert caught.value.reason == "too_few_sites"


def test_every_fact_is_in_the_transcript() -> None:
    """Two parties that differ in any of them have different transcripts."""
    base = make_parameters(5)
    secure = SecureAggregation()
    changed = [
        {"federation": "other"}, {"round": 8}, {"model_digest": bytes(32)}, {"roster_number": 4},
        {"suite": content_suite("pqfl/v1/mlkem768x25519-mldsa44")}, {"aggregator": "spiffe://fed/aggregator/x"},
        {"honest_but_curious": True}, {"secure": replace(secure, minimum_sites=4)},
        {"secure": replace(secure, threshold=3)}, {"secure": replace(secure, clip=8.5)},
        {"secure": replace(secure, bits=23)},
    ]  # fmt: skip
    transcripts = {replace(base, **change).transcript for change in changed} | {base.transcript}
    assert len(transcripts) == len(changed) + 1


@pytest.mark.parametrize(("suite", "size"), [(SUITE, 32), ("pqfl/v1/mlkem1024p384-mldsa87", 48)])
def test_the_highest_levels_hash_with_sha384(suite: str, size: int) -> None:
    """As trailers do."""
    parameters = make_parameters(3, suite=suite)
    assert parameters.digest_bytes == len(parameters.transcript) == size


def test_sites_are_in_roster_order_and_the_aggregator_is_none() -> None:
    """Whatever order the roster's mapping has."""
    parameters = of_roster(roster_of(4))
    assert list(parameters.sites) == [site_name(index) for index in range(1, 5)]
    assert parameters.aggregator_key == signing_key(HUB).verifying_key


def test_more_sites_than_a_full_graph_takes_are_refused() -> None:
    """32 are the most, and the error says why."""
    of_roster(roster_of(32))
    with pytest.raises(ConfigurationError, match="every site shares keys with every other") as caught:
        of_roster(roster_of(33))
    assert caught.value.reason == "too_many_sites"


def test_a_suite_that_the_policy_does_not_list_is_refused() -> None:
    """Here as everywhere."""
    with pytest.raises(PolicyError) as caught:
        of_roster(roster_of(3), suite="pqfl/v1/mlkem1024-mldsa87")
    assert caught.value.reason == "content_suite"


def test_a_suite_whose_keys_have_no_seed_is_refused() -> None:
    """Mask keys derive from a seed."""
    suite = next(one for one in CONTENT_SUITES.values() if one.is_experimental and one.signature == "ML-DSA-65")
    policy = replace(for_level(SecurityLevel.HIGH), content_suites=(suite.id,))
    facts: dict[str, Any] = {"suite": suite.id, "round_number": 7, "model_digest": MODEL, "aggregator": HUB}
    with pytest.raises(ConfigurationError) as caught:
        round_parameters(roster_of(3), policy, **facts)
    assert caught.value.reason == "bad_suite"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model_digest": b"short"}, "bad_round"),
        ({"round_number": -1}, "bad_round"),
        ({"round_number": 1 << 63}, "bad_round"),
    ],
)
def test_a_round_that_is_none(changes: dict[str, Any], reason: str) -> None:
    """Numbers and digests have their ranges."""
    with pytest.raises(ConfigurationError) as caught:
        of_roster(roster_of(3), **changes)
    assert caught.value.reason == reason


def test_parties_of_the_roster_that_do_not_fit() -> None:
    """One that signs otherwise than the suite, an aggregator that is not listed, too few sites."""
    with pytest.raises(ConfigurationError) as caught:
        of_roster(roster_of(3, odd=site_name(2)))
    assert caught.value.reason == "wrong_key"
    with pytest.raises(MessageError) as unknown:
        of_roster(roster_of(3), aggregator="spiffe://fed/aggregator/other")
    assert unknown.value.reason == "unknown_sender"
    with pytest.raises(ConfigurationError) as few:
        of_roster(roster_of(2))
    assert few.value.reason == "too_few_sites"


@given(st.integers(1, 32))
def test_a_full_graph_is_symmetric(count: int) -> None:
    """Everybody is everybody's neighbour, and nobody is its own."""
    for index in range(1, count + 1):
        near = full_graph(index, count)
        assert len(near) == count - 1
        assert all(index in full_graph(other, count) for other in near)
