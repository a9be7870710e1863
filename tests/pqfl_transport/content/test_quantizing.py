"""bfloat16 and int8: what is lost stays within the documented bounds, at every magnitude."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pqfl_transport.content.dtypes import extension_dtype
from pqfl_transport.content.quantizing import (
    SLICE_NUMBERS,
    from_bfloat16,
    from_int8,
    int8_scale,
    largest_magnitude,
    require_scale,
    slices,
    to_bfloat16,
    to_int8,
)
from pqfl_transport.errors import ConfigurationError, MessageError

FLOAT32_MAX = float(np.finfo(np.float32).max)
SMALLEST_NORMAL = 2.0**-126


def floats(width: Any, largest: float | None = None) -> st.SearchStrategy[Any]:
    return hnp.arrays(
        np.dtype(f"<f{width // 8}"),
        hnp.array_shapes(min_dims=0, max_dims=3, max_side=5),
        elements=st.floats(
            width=width,
            allow_nan=False,
            allow_infinity=False,
            min_value=None if largest is None else -largest,
            max_value=largest,
        ),
    )


def bfloat16_and_back(array: Any) -> Any:
    encoded = to_bfloat16(array, "a")
    assert (encoded.dtype, encoded.shape) == (np.dtype("<u2"), array.shape)
    found = np.empty_like(array)
    from_bfloat16(encoded, found, "a")
    return found


def int8_and_back(array: Any) -> Any:
    scale = int8_scale(array, "a")
    if scale is None:
        return array
    assert require_scale(scale, array.dtype, "a") == scale
    encoded = to_int8(array, scale)
    assert (encoded.dtype, encoded.shape) == (np.int8, array.shape)
    found = np.empty_like(array)
    from_int8(encoded, scale, found, "a")
    return found


@given(array=floats(32) | floats(64, FLOAT32_MAX))
@example(np.array([FLOAT32_MAX, -FLOAT32_MAX, SMALLEST_NORMAL, 2.0**-149, -0.0]))
@settings(max_examples=200, deadline=None)
def test_bfloat16_is_off_by_one_part_in_256_at_most(array: Any) -> None:
    """For normal numbers, the largest included; below them by 2^-133 at most; and signs stay."""
    found = bfloat16_and_back(array)
    error = np.abs(found.astype(np.float64) - array.astype(np.float64))
    assert np.isfinite(found).all()
    assert (error <= np.maximum(np.abs(array.astype(np.float64)) * 2.0**-8, 2.0**-133)).all()
    assert (np.signbit(found) == np.signbit(array)).all()


@given(array=floats(32, 2.0**127))
@settings(max_examples=100, deadline=None)
def test_bfloat16_rounds_as_the_reference_does(array: Any) -> None:
    """To the nearest, ties to even, bit for bit as ml_dtypes."""
    expected = array.astype(extension_dtype("bfloat16")).view(np.uint16)
    assert (to_bfloat16(array, "a") == expected).all()


def test_bfloat16_ties_go_to_the_even_neighbour() -> None:
    """Exactly half of the last place, on either side of an odd and an even value."""
    array = np.array([1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8], np.float32)
    assert bfloat16_and_back(array).tolist() == [1, 1 + 2**-6, -1]


@given(array=floats(16) | floats(32) | floats(64))
@example(np.array([np.finfo(np.float64).max, -np.finfo(np.float64).max]))
@example(np.array([np.finfo(np.float16).max], np.float16))
@example(np.array([5e-324, -1e-310]))
@settings(max_examples=300, deadline=None)
def test_int8_is_off_by_half_a_step_at_most(array: Any) -> None:
    """By max|x|/254, and what rounding into the tensor's own type adds: half of its last place."""
    found = int8_and_back(array)
    assert np.isfinite(found).all()
    wide = array.astype(np.longdouble)
    largest = np.abs(wide).max()
    rounding = np.spacing(np.abs(array).max()).astype(np.longdouble) / 2 if largest < np.finfo(array.dtype).max else 0
    error = np.abs(found.astype(np.longdouble) - wide)
    assert (error <= largest / 254 * (1 + np.longdouble(2) ** -44) + rounding).all()


def test_int8_keeps_zero_and_the_extremes() -> None:
    """All zeros come back as zeros, and the largest as itself."""
    assert int8_and_back(np.zeros(3, np.float32)).tolist() == [0, 0, 0]
    assert int8_and_back(np.array([0, 2.54, -2.54], np.float32)).tolist() == np.float32([0, 2.54, -2.54]).tolist()


def test_int8_leaves_alone_what_is_too_small_to_divide_by() -> None:
    """A float64 tensor of subnormal numbers has no step."""
    assert int8_scale(np.array([1e-310]), "a") is None


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_what_is_not_finite_is_refused_by_name(bad: float, dtype: str) -> None:
    """Whatever else the tensor holds."""
    array = np.array([1, bad, 2], dtype)
    for encode in (largest_magnitude, int8_scale, to_bfloat16):
        with pytest.raises(ConfigurationError, match="'layer'") as caught:
            encode(array, "layer")
        assert caught.value.reason == "not_finite"


def test_a_float64_beyond_float32_is_refused() -> None:
    """bfloat16 has the range of float32."""
    with pytest.raises(ConfigurationError) as caught:
        to_bfloat16(np.array([1e39]), "a")
    assert caught.value.reason == "out_of_range"


def test_tensors_larger_than_a_slice_come_back() -> None:
    """The slices meet without gap or overlap."""
    assert [(part.start, part.stop) for part in slices(SLICE_NUMBERS + 3)] == [
        (0, SLICE_NUMBERS),
        (SLICE_NUMBERS, SLICE_NUMBERS + 3),
    ]
    array = np.arange(2 * SLICE_NUMBERS + 7, dtype=np.float32) % 127
    assert (bfloat16_and_back(array) == array).all()
    array[0] = 127
    assert (int8_and_back(array) == array).all()


@pytest.mark.parametrize("bits", [0x7F80, 0xFF80, 0x7FC0, 0xFFFF])
def test_received_bfloat16_that_is_not_finite_is_refused(bits: int) -> None:
    """No sender makes it."""
    with pytest.raises(MessageError) as caught:
        from_bfloat16(np.array([1, bits], np.uint16), np.empty(2, np.float32), "a")
    assert caught.value.reason == "malformed"


def test_received_int8_outside_the_symmetric_range_is_refused() -> None:
    """-128 is no multiple that a sender makes."""
    with pytest.raises(MessageError):
        from_int8(np.array([-128], np.int8), 1.0, np.empty(1, np.float32), "a")


@pytest.mark.parametrize(
    "scale", [math.nan, math.inf, -1.0, -1, 5e-324, 1e308, 3e36, True, None, "1", [1.0], 1 << 60, 10**400]
)
def test_a_scale_that_no_sender_makes_is_refused(scale: Any) -> None:
    """NaN, negative, too small, or with multiples beyond float32."""
    with pytest.raises(MessageError) as caught:
        require_scale(scale, np.dtype(np.float32), "a")
    assert caught.value.reason == "malformed"


def test_a_whole_number_is_a_scale() -> None:
    """JSON's writers differ in how they spell 2.0."""
    assert require_scale(2, np.dtype(np.float32), "a") == 2.0
    assert require_scale(0, np.dtype(np.float32), "a") == 0.0
