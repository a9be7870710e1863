"""The sum: bit for bit the integers in the clear, scaled back, and held back when any check fails."""

from typing import Any
from unittest import mock

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pqfl_transport.aggregation.fedavg import Update, Weights, federated_average
from pqfl_transport.aggregation.secagg import layout
from pqfl_transport.aggregation.secagg.masking import add_vector, mask, unmask
from pqfl_transport.aggregation.secagg.plan import Plan
from pqfl_transport.aggregation.secagg.quantizing import quantize
from pqfl_transport.aggregation.secagg.summing import check_sum, mean_delta
from pqfl_transport.errors import RoundError
from tests.support.masks import ROUND_ID, encoded_integers, plan_of, secret_of

FLOATS = [np.float16, np.float32, np.float64, ml_dtypes.bfloat16]


def pair(one: int, other: int) -> bytes:
    return secret_of("pair", min(one, other), max(one, other))


def upload(site: int, sites: int, delta: Weights, weight: int, plan: Plan) -> Any:
    vector = np.empty(plan.layout.length, "<u4")
    quantize(delta, weight, plan, rounding_key=secret_of("rounding", site), round_id=ROUND_ID, out=vector)
    pairs = {other: pair(site, other) for other in range(sites) if other != site}
    mask(vector, site, secret_of("own", site), pairs, ROUND_ID)
    return vector


def opened(vectors: dict[int, Any], sites: int) -> Any:
    """Add the vectors that arrived and take the masks away."""
    total = np.zeros_like(next(iter(vectors.values())))
    for vector in vectors.values():
        add_vector(total, vector)
    own = {site: secret_of("own", site) for site in vectors}
    dropped = set(range(sites)) - set(vectors)
    unmask(total, own, {(site, other): pair(site, other) for site in vectors for other in dropped}, ROUND_ID)
    return total


@st.composite
def rounds(draw: st.DrawFn) -> tuple[list[list[Any]], list[int], set[int]]:
    """Return the deltas of the sites, their weights, and who drops out: three stay at least."""
    sites = draw(st.integers(3, 7))
    shapes = draw(st.lists(hnp.array_shapes(min_dims=0, max_dims=3, max_side=4), min_size=1, max_size=3))
    dtypes = [draw(st.sampled_from(FLOATS)) for _ in shapes]
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    # Some of a normal distribution lies beyond a clip of 2 and is clipped.
    deltas = [
        [np.asarray(random.normal(size=shape)).astype(dtype) for shape, dtype in zip(shapes, dtypes, strict=True)]
        for _ in range(sites)
    ]
    weights = [draw(st.integers(1, 20)) for _ in range(sites)]
    dropped = draw(st.sets(st.integers(0, sites - 1), max_size=sites - 3))
    return deltas, weights, dropped


@settings(max_examples=150)
@given(rounds(), st.integers(2, 22), st.integers(1, 9))
def test_the_unmasked_sum_is_bit_for_bit_the_integers_in_the_clear(
    made: tuple[list[list[Any]], list[int], set[int]], bits: int, slice_coordinates: int
) -> None:
    """Any sites, dropouts, shapes and types: masks leave no trace, and the sum is that of Python's integers."""
    deltas, weights, dropped = made
    plan = plan_of(deltas[0], sites=len(deltas), bits=bits)
    added = [site for site in range(len(deltas)) if site not in dropped]
    with mock.patch.object(layout, "SLICE_COORDINATES", slice_coordinates):
        vectors = {site: upload(site, len(deltas), deltas[site], weights[site], plan) for site in added}
        total = opened(vectors, len(deltas))
        mean = mean_delta(total, plan, len(added), deltas[0])
    clear = [encoded_integers(deltas[site], weights[site], plan, secret_of("rounding", site)) for site in added]
    expected = [sum(column) for column in zip(*clear, strict=True)]
    assert total.view(np.int32).tolist() == expected
    assert mean.weight == sum(weights[site] for site in added) == expected[-7]
    assert mean.clipped == expected[-1]
    # What comes out is the mean of the clipped deltas, up to a step of each site and the type's own rounding.
    for number, tensor in enumerate(mean.delta):
        assert isinstance(tensor, np.ndarray)
        assert (tensor.dtype, tensor.shape) == (deltas[0][number].dtype, deltas[0][number].shape)
        parts = [np.clip(deltas[site][number].astype(np.float64), -2, 2) * weights[site] for site in added]
        error = np.abs(tensor.astype(np.float64) - sum(parts) / mean.weight)
        own = {2: 2.0**-7, 4: 2.0**-22, 8: 2.0**-50}[tensor.dtype.itemsize]
        assert error.max(initial=0) <= 2.0 / plan.levels * len(added) / mean.weight * 1.001 + own * 2


def test_a_mean_is_applied_like_any_update() -> None:
    """Base plus mean delta, in the form and order of the base: what averaging without masks gives, within a step."""
    random = np.random.default_rng(3)
    base = {"b": random.normal(size=(4, 5)).astype(np.float32), "a": random.normal(size=7)}
    deltas = [{name: (random.normal(size=t.shape) / 10).astype(t.dtype) for name, t in base.items()} for _ in range(4)]
    plan = plan_of(base, bits=20, weight_cap=100)
    vectors = {site: upload(site, 4, delta, 10 * (site + 1), plan) for site, delta in enumerate(deltas)}
    mean = mean_delta(opened(vectors, 4), plan, 4, base)
    found = federated_average(base, [Update(mean.delta, 1)])
    plain = federated_average(base, [Update(delta, 10 * (site + 1)) for site, delta in enumerate(deltas)])
    assert isinstance(found, dict)
    assert isinstance(plain, dict)
    assert list(found) == ["b", "a"]
    for name, tensor in found.items():
        assert np.abs(tensor - plain[name]).max() < 2.0 / plan.levels


def test_integers_are_rounded_and_narrow_types_stay_finite() -> None:
    """A counter's mean is the nearest integer; at the edge of float16 a step too much does not become infinity."""
    deltas: list[Any] = [[np.array([10, -7, 100]), np.full(3, np.float16(65504))] for _ in range(3)]
    plan = plan_of(deltas[0], clip=65504.0, sites=3, bits=2, weight_cap=1, tensor_clips={"0": 200.0})
    total = np.zeros(plan.layout.length, "<u4")
    # Two steps each where the clip is one: what rounding upwards can add, at all sites at once.
    total.view(np.int32)[:] = [6, -3, 1, 6, 6, -6, 3, 3, 0, 0, 0, 0, 0]
    mean = mean_delta(total, plan, 3, deltas[0])
    assert isinstance(mean.delta, list)
    assert mean.delta[0].tolist() == [200, -200, 67]
    assert mean.delta[1].tolist() == [65504, 65504, -65504]


DELTA: list[Any] = [np.linspace(-2, 2, 50)]
PLAN = plan_of(DELTA)


def good_vectors() -> dict[int, Any]:
    return {site: upload(site, 5, DELTA, 3, PLAN) for site in range(4)}


def refused(total: Any, vectors: int = 4) -> str:
    with pytest.raises(RoundError, match="unmasked sum is wrong") as caught:
        mean_delta(total, PLAN, vectors, DELTA)
    assert caught.value.reason == "bad_sum"
    assert not any(character.isdigit() for character in str(caught.value))
    return str(caught.value)


def test_a_good_sum_passes() -> None:
    """The cases below change one thing each of this one."""
    assert check_sum(opened(good_vectors(), 5), PLAN, 4) == (12, 0)


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        (52, 1, "zeros"),
        (53, 1, "zeros"),
        (54, -1, "zeros"),
        (55, 1 << 31, "zeros"),
        (51, 3, "constants"),
        (51, 5, "constants"),
        (50, 3, "weights"),
        (50, 81, "weights"),
        (50, -12, "weights"),
        (56, 4 * 50 + 1, "clipped"),
        (56, -1, "clipped"),
        (0, 12 * 2**11 + 1, "coordinate"),
        (49, -12 * 2**11 - 1, "coordinate"),
        (7, 1 << 30, "coordinate"),
        (7, -(1 << 31), "coordinate"),
    ],
)
def test_one_wrong_number_is_a_failed_round(place: int, value: int, words: str) -> None:
    """Every check of the protocol fails alone, and the error holds no number of the sum."""
    total = opened(good_vectors(), 5)
    total[place] = value % 2**32
    assert words in refused(total)


@pytest.mark.parametrize(("place", "value"), [(50, 4), (50, 80), (56, 200), (0, 12 * 2**11), (0, -12 * 2**11)])
def test_the_limits_themselves_pass(place: int, value: int) -> None:
    """What honest sites can add up to is not refused: smallest and largest weights, everything clipped."""
    total = opened(good_vectors(), 5)
    if place == 50 and value == 4:
        total[:50] = 0
    total[place] = value % 2**32
    check_sum(total, PLAN, 4)


def test_a_wrong_missing_or_left_over_mask_is_a_failed_round() -> None:
    """Nothing that the masks still cover is taken for a model."""
    vectors = good_vectors()
    own = {site: secret_of("own", site) for site in vectors}
    pairs = {(site, 4): pair(site, 4) for site in vectors}
    cases = [
        (own | {0: secret_of("wrong")}, pairs, ROUND_ID),
        (own, {}, ROUND_ID),
        (own, pairs | {(0, 4): secret_of("wrong")}, ROUND_ID),
        (own, {place: secret for place, secret in pairs.items() if place != (2, 4)}, ROUND_ID),
        (own, pairs, bytes(32)),
        ({site: own[site] for site in (0, 1, 2)}, {place: s for place, s in pairs.items() if place[0] != 3}, ROUND_ID),
    ]
    for own_secrets, dropped_pairs, round_id in cases:
        total = np.zeros(PLAN.layout.length, "<u4")
        for vector in vectors.values():
            add_vector(total, vector)
        unmask(total, own_secrets, dropped_pairs, round_id)
        refused(total, len(own_secrets))


def test_a_vector_added_twice_or_not_at_all_is_a_failed_round() -> None:
    """The masks of pairs do not cancel out then."""
    vectors = good_vectors()
    for parts in ([*vectors.values(), vectors[0]], list(vectors.values())[:3]):
        total = np.zeros(PLAN.layout.length, "<u4")
        for vector in parts:
            add_vector(total, vector)
        own = {site: secret_of("own", site) for site in vectors}
        unmask(total, own, {(site, 4): pair(site, 4) for site in vectors}, ROUND_ID)
        refused(total)


@pytest.mark.parametrize("vectors", [0, 1, 2, 6])
def test_a_sum_of_too_few_or_too_many_is_not_opened(vectors: int) -> None:
    """Two sites would see each other's update; more than planned could overflow."""
    total = opened(good_vectors(), 5)
    with pytest.raises(RoundError) as caught:
        mean_delta(total, PLAN, vectors, DELTA)
    assert caught.value.reason == ("too_few_sites" if vectors < 3 else "too_many_sites")


def test_a_sum_of_another_form_is_refused() -> None:
    """Length and type of the vector, names and shapes of the base."""
    total = opened(good_vectors(), 5)
    for wrong, base, reason in (
        (total[:-1], DELTA, "wrong_shape"),
        (total.view(np.int32), DELTA, "wrong_dtype"),
        (total, [np.zeros(51)], "wrong_shape"),
        (total, {"a": DELTA[0]}, "wrong_names"),
    ):
        with pytest.raises(RoundError) as caught:
            mean_delta(wrong, PLAN, 4, base)
        assert caught.value.reason == reason
