"""A site's integers: bit for bit those of a second computation, unbiased, clipped and counted."""

import math
from fractions import Fraction
from typing import Any
from unittest import mock

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pqfl_transport.aggregation.fedavg import Weights
from pqfl_transport.aggregation.secagg import layout
from pqfl_transport.aggregation.secagg.plan import Plan
from pqfl_transport.aggregation.secagg.quantizing import quantize
from pqfl_transport.errors import ConfigurationError, RoundError
from tests.support.masks import ROUND_ID, encoded_integers, plan_of, secret_of

KEY = secret_of("rounding")
DTYPES = [np.float16, np.float32, np.float64, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, np.int8, np.int32, np.int64]


def tensors() -> st.SearchStrategy[Any]:
    """Numbers on both sides of the clip, in every type that can be added."""
    values = hnp.arrays(
        np.float64,
        hnp.array_shapes(min_dims=0, max_dims=3, max_side=6),
        elements=st.floats(-5, 5, allow_nan=False),
    )
    return st.tuples(values, st.sampled_from(DTYPES)).map(lambda pair: pair[0].astype(pair[1]))


def quantized(delta: Weights, weight: int, plan: Plan, key: bytes = KEY) -> Any:
    out = np.full(plan.layout.length, 0xDEADBEEF, "<u4")
    quantize(delta, weight, plan, rounding_key=key, round_id=ROUND_ID, out=out)
    return out


@settings(max_examples=200)
@given(
    st.lists(tensors(), min_size=1, max_size=4),
    st.integers(1, 20),
    st.integers(2, 23),
    st.floats(1e-3, 4.5),
    st.integers(1, 9),
)
def test_a_vector_is_bit_for_bit_the_reference(
    delta: list[Any], weight: int, bits: int, clip: float, slice_coordinates: int
) -> None:
    """Any types and shapes, any clip, however it is sliced: the integers of the definition, modulo 2^32."""
    plan = plan_of(delta, bits=bits, clip=clip)
    with mock.patch.object(layout, "SLICE_COORDINATES", slice_coordinates):
        found = quantized(delta, weight, plan)
    expected = encoded_integers(delta, weight, plan, KEY)
    assert found.tolist() == [number % 2**32 for number in expected]
    # And the definition is right: an integer beside the exact quotient, and within the range of the overflow proof.
    limit = weight << (bits - 1)
    exact = [
        (Fraction(max(-clip, min(clip, number))) * weight * plan.levels / Fraction(clip))
        for tensor in delta
        for number in tensor.reshape(-1).astype(np.float64).tolist()
    ]
    for integer, quotient in zip(expected, exact, strict=False):
        assert abs(integer - quotient) < 1 + Fraction(limit, 2**23)
        assert abs(integer) <= limit


def test_long_tensors_are_the_reference_over_several_slices() -> None:
    """The stream goes on from slice to slice and from tensor to tensor."""
    random = np.random.default_rng(7)
    delta: Weights = [random.normal(size=size).astype(np.float32) for size in (3, 140_000, 70_001)]
    plan = plan_of(delta)
    assert quantized(delta, 3, plan).tolist() == [n % 2**32 for n in encoded_integers(delta, 3, plan, KEY)]


# The statistical tests below have a fixed key: they give the same numbers on every run, and would fail by more than ten
# standard deviations if rounding were to the nearest, downwards, or with too little randomness.
COUNT = 1_000_000


@pytest.mark.parametrize("fraction", [0.03, 0.25, 0.5, 0.7, 0.999])
@pytest.mark.parametrize("whole", [-2048, -3, -1, 0, 1, 1000])
def test_rounding_is_unbiased(whole: int, fraction: float) -> None:
    """The mean of a million roundings of one number is that number, within five standard deviations."""
    value = whole + fraction
    plan = plan_of([np.zeros(COUNT, np.float64)], clip=2**15 - 1, bits=16, weight_cap=1)
    found = quantized([np.full(COUNT, value, np.float64)], 1, plan).view(np.int32)[:COUNT]
    assert set(np.unique(found)) == {whole, whole + 1}
    deviation = math.sqrt(fraction * (1 - fraction) / COUNT)
    assert abs(float(found.mean()) - value) < 5 * deviation


def test_rounding_of_neighbours_is_independent() -> None:
    """Of coordinates that are rounded up half of the time, a quarter of the pairs are rounded up together."""
    plan = plan_of([np.zeros(COUNT, np.float64)], clip=2**11 - 1, bits=12, weight_cap=1)
    up = quantized([np.full(COUNT, 0.5)], 1, plan)[:COUNT]
    for distance in (1, 2, 3, 4, 8, 1 << 16):
        together = float((up[distance:] & up[:-distance]).mean())
        assert abs(together - 0.25) < 5 * math.sqrt(0.1875 / COUNT)


def test_whole_steps_are_not_rounded() -> None:
    """What is a multiple of the step stays what it is; zero stays zero."""
    plan = plan_of([np.zeros(5)], clip=2047.0, bits=12)
    assert quantized([np.array([0.0, -0.0, 1.0, -1.0, 2047.0])], 7, plan).view(np.int32)[:5].tolist() == [
        0,
        0,
        7,
        -7,
        7 * 2047,
    ]


def test_the_weight_does_not_make_the_error_larger() -> None:
    """The product is rounded, not the number: the error is below one step whatever the weight."""
    delta: Weights = [np.linspace(-2, 2, 1001)]
    plan = plan_of(delta, bits=8)
    assert isinstance(delta, list)
    exact = delta[0] * 20 * plan.levels / 2.0
    assert np.abs(quantized(delta, 20, plan).view(np.int32)[:1001] - exact).max() < 1


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ml_dtypes.bfloat16])
def test_clipped_numbers_are_counted_in_the_trailer_and_nowhere_else(dtype: Any) -> None:
    """Numbers beyond the clip become the clip; those on it are not counted."""
    numbers: Weights = [np.array([2.0, -2.0, 2.5, -3.0, 60000.0, 0.5]).astype(dtype), np.array([7.0]).astype(dtype)]
    found = quantized(numbers, 4, plan_of(numbers)).view(np.int32).tolist()
    most = 4 * (2**11 - 1)
    assert found[:5] == [most, -most, most, -most, most]
    assert found[6:] == [most, 4, 1, 0, 0, 0, 0, 4]


def test_a_clip_that_float32_has_no_number_for_is_never_passed() -> None:
    """0.1 rounds up to float32: a float32 delta of just that is clipped below it, so that the range holds."""
    delta: Weights = [np.full(4000, np.float32(0.1))]
    plan = plan_of(delta, clip=0.1, bits=27, weight_cap=1)
    found = quantized(delta, 1, plan).view(np.int32)
    assert found[:4000].max() <= plan.levels
    assert found[-1] == 4000


def test_the_count_of_clipped_numbers_stops_at_its_cap() -> None:
    """A model of more coordinates than the sum could count reports the cap."""
    delta: Weights = [np.full(10, 9.0)]
    plan = plan_of(delta)
    with mock.patch.object(Plan, "clipped_cap", 7):
        assert quantized(delta, 1, plan)[-1] == 7


def test_another_key_or_round_rounds_otherwise() -> None:
    """Roundings are never used again: two rounds with the same delta differ."""
    delta: Weights = [np.full(256, 0.3)]
    plan = plan_of(delta)
    first = quantized(delta, 1, plan)
    assert (first == quantized(delta, 1, plan)).all()
    assert (first != quantized(delta, 1, plan, secret_of("other"))).any()
    out = np.empty_like(first)
    quantize(delta, 1, plan, rounding_key=KEY, round_id=bytes(32), out=out)
    assert (first != out).any()


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ml_dtypes.bfloat16])
def test_a_delta_that_is_not_finite_is_refused(number: float, dtype: Any) -> None:
    """Neither clipped nor counted: training went wrong, and the site is told which tensor it was."""
    delta: Weights = {"good": np.zeros(3, dtype), "bad": np.array([0.0, number]).astype(dtype)}
    with pytest.raises(RoundError, match="'bad'") as caught:
        quantized(delta, 1, plan_of(delta))
    assert caught.value.reason == "not_finite"


def test_what_does_not_fit_the_plan_is_refused() -> None:
    """Weight, form of the delta, place for the result, keys."""
    delta: Weights = [np.zeros(3, np.float32)]
    plan = plan_of(delta)
    out = np.empty(plan.layout.length, "<u4")
    cases: list[tuple[Any, ...]] = [
        (delta, 0, KEY, ROUND_ID, out, "bad_weight"),
        (delta, 21, KEY, ROUND_ID, out, "bad_weight"),
        ([np.zeros(4, np.float32)], 1, KEY, ROUND_ID, out, "wrong_shape"),
        (delta, 1, KEY, ROUND_ID, out[:-1], "wrong_shape"),
        (delta, 1, KEY, ROUND_ID, out.astype("<u8"), "wrong_dtype"),
    ]
    for given_delta, weight, key, round_id, place, reason in cases:
        with pytest.raises(RoundError) as found:
            quantize(given_delta, weight, plan, rounding_key=key, round_id=round_id, out=place)
        assert found.value.reason == reason
    for key, round_id in ((KEY[:31], ROUND_ID), (KEY, ROUND_ID[:31])):
        with pytest.raises(ConfigurationError) as caught:
            quantize(delta, 1, plan, rounding_key=key, round_id=round_id, out=out)
        assert caught.value.reason == "bad_key"


def test_the_place_of_numbers_in_memory_does_not_matter() -> None:
    """Turned, strided and big-endian tensors give the vector of the same numbers in plain memory."""
    plain = np.random.default_rng(5).normal(size=(30, 40)).astype(np.float32)
    plan = plan_of([plain])
    wide = np.zeros((60, 80), np.float32)
    wide[::2, ::2] = plain
    expected = quantized([plain], 2, plan).tolist()
    for same in (np.asfortranarray(plain), wide[::2, ::2], plain.astype(">f4")):
        assert quantized([same], 2, plan).tolist() == expected
