"""The parameters of a round: the proof that no sum overflows, and weights that say little of sample counts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pqfl_transport.aggregation.round_document import TensorSchema
from pqfl_transport.aggregation.secagg.plan import LARGEST_WEIGHT, Plan, weight_of
from pqfl_transport.errors import ConfigurationError, RoundError

ROWS = (TensorSchema("w", "F32", (2, 3)), TensorSchema("n", "I64", ()), TensorSchema("h", "F16", (5,)))


def plan(**changes: object) -> Plan:
    parameters = {"clip": 8.0, "sites": 5, "bits": 16, "weight_cap": 100} | changes
    return Plan.of(ROWS, **parameters)  # type: ignore[arg-type]  # wrong parameters are the point


@given(st.integers(3, 10_000), st.integers(2, 30), st.integers(1, LARGEST_WEIGHT))
def test_a_plan_is_made_exactly_when_its_largest_sum_stays_below_two_to_the_thirtieth(
    sites: int, bits: int, weight_cap: int
) -> None:
    """That is: n · w_max · 2^(b-1) < 2^30, with equality refused, and the error says what to change."""
    if sites * weight_cap * 2 ** (bits - 1) < 2**30:
        made = plan(sites=sites, bits=bits, weight_cap=weight_cap)
        # What the sites can really add up to, rounding upwards included, and their counts of clipped numbers.
        assert sites * (weight_cap * made.levels + 1) < 2**30
        assert sites * made.clipped_cap < 2**30
        return
    with pytest.raises(ConfigurationError, match="fewer bits or a smaller largest weight") as caught:
        plan(sites=sites, bits=bits, weight_cap=weight_cap)
    assert caught.value.reason == "overflow"


@pytest.mark.parametrize(("sites", "fits"), [(1023, True), (1024, False)])
def test_the_limit_itself_is_refused(sites: int, fits: bool) -> None:
    """1024 sites of weight 1 in 21 bits reach 2^30 exactly."""
    if fits:
        assert plan(sites=sites, bits=21, weight_cap=1).sites == sites
    else:
        with pytest.raises(ConfigurationError) as caught:
            plan(sites=sites, bits=21, weight_cap=1)
        assert caught.value.reason == "overflow"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sites": 2}, "2 sites"),
        ({"bits": 1}, "1 bits"),
        ({"bits": 31}, "31 bits"),
        ({"bits": 10**9}, "bits"),
        ({"weight_cap": 0}, "largest weight"),
        ({"weight_cap": 1001, "bits": 2}, "largest weight"),
        ({"clip": 0.0}, "clip of tensor 'w'"),
        ({"clip": -1.0}, "clip of tensor 'w'"),
        ({"clip": float("nan")}, "clip of tensor 'w'"),
        ({"clip": float("inf")}, "clip of tensor 'w'"),
        ({"clip": 1e5}, "clip of tensor 'h'"),
        ({"tensor_clips": {"h": 0.0}}, "clip of tensor 'h'"),
        ({"tensor_clips": {"x": 1.0}}, "'x', which is no tensor"),
    ],
)
def test_a_parameter_outside_of_its_range_is_refused(changes: dict[str, object], words: str) -> None:
    """Each by one sentence that names it."""
    with pytest.raises(ConfigurationError, match=words) as caught:
        plan(**changes)
    assert caught.value.reason == "bad_plan"


def test_clips_and_tensors_go_together() -> None:
    """A plan built by hand has one clip a tensor too."""
    good = plan()
    with pytest.raises(ConfigurationError) as caught:
        Plan(good.layout, good.clips[:1], good.sites, good.bits, good.weight_cap)
    assert caught.value.reason == "bad_plan"


def test_a_tensor_may_have_a_clip_of_its_own() -> None:
    """A counter moves by more than a weight does."""
    assert plan(tensor_clips={"n": 1000.0}).clips == (8.0, 1000.0, 8.0)


def test_the_count_of_clipped_numbers_is_capped_for_huge_models_only() -> None:
    """Up to 2^30 over n coordinates it is exact."""
    assert plan().clipped_cap == 12
    huge = Plan.of([TensorSchema("w", "F32", (10**9,))], clip=1.0, sites=5, bits=8, weight_cap=1)
    assert huge.clipped_cap == (2**30 - 1) // 5


@pytest.mark.parametrize("weight", [0, -1, 101])
def test_a_weight_is_one_of_the_plan(weight: int) -> None:
    """Weight 0 would hide that a site did not take part, and a larger one breaks the proof."""
    plan().require_weight(1)
    plan().require_weight(100)
    with pytest.raises(RoundError) as caught:
        plan().require_weight(weight)
    assert caught.value.reason == "bad_weight"


@pytest.mark.parametrize(
    ("samples", "most", "cap", "expected"),
    [
        (1, 10**9, 1000, 1),
        (10**9, 10**9, 1000, 1000),
        (10**12, 10**9, 1000, 1000),
        (500, 1000, 10, 5),
        (549, 1000, 10, 5),
        (550, 1000, 10, 6),
        (5, 5, 1, 1),
        (3, 2, 7, 7),
        (1, 3, 1000, 333),
    ],
)
def test_weights_are_shares_of_the_largest_sample_count(samples: int, most: int, cap: int, expected: int) -> None:
    """Rounded to the nearest, halves up, never below 1 and never above the cap."""
    assert weight_of(samples, most, cap) == expected


def test_weights_need_samples_and_a_range() -> None:
    """No samples is the site's fault, no range the configuration's."""
    with pytest.raises(RoundError) as found:
        weight_of(0, 10, 10)
    assert found.value.reason == "bad_samples"
    for most, cap in ((0, 10), (10, 0), (10, 1001)):
        with pytest.raises(ConfigurationError) as caught:
            weight_of(1, most, cap)
        assert caught.value.reason == "bad_plan"
