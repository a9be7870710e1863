"""Slices: all of a tensor, once, with little memory, and rounded back to its type or refused."""

import tracemalloc

import ml_dtypes
import numpy as np
import pytest

from pqfl_transport.aggregation.slices import BLOCK_NUMBERS, Floats, added, blocks, slice_width, slices
from pqfl_transport.errors import RoundError


@pytest.mark.parametrize("updates", [1, 3, 10, 100, 1024])
def test_a_block_is_bounded(updates: int) -> None:
    """However many updates there are, up to 1,024, a block holds no more numbers than stated."""
    assert slice_width(updates) * updates <= BLOCK_NUMBERS
    assert slice_width(updates) >= 256


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 24])
def test_slices_cover_everything_once(size: int) -> None:
    """Nothing is left out or done twice, the last slice being shorter."""
    numbers = np.zeros(size, np.int64)
    for part in slices(size, 8):
        numbers[part] += 1
        assert part.stop <= size
    assert (numbers == 1).all()


def test_blocks_hold_a_row_for_each_update() -> None:
    """Put together again they are the tensors, in the type asked for."""
    tensors = [np.arange(number, number + 40_000, dtype=np.float32).reshape(200, 200) for number in (0, 5)]
    pieces = [block.copy() for block in blocks(tensors, np.dtype(np.float64))]
    assert len(pieces) == 3
    assert pieces[0].dtype == np.float64
    np.testing.assert_array_equal(np.concatenate(pieces, axis=1), [tensor.reshape(-1) for tensor in tensors])


@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3)])
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16, np.int8, np.int64])
def test_added_keeps_shape_and_type(shape: tuple[int, ...], dtype: type[np.generic]) -> None:
    """Scalars and empty tensors too; the base is not written to."""
    base = np.ones(shape, dtype)
    result = added("w", base, lambda part: np.full(part.stop - part.start, 2.0), 2)
    assert (result.shape, result.dtype) == (base.shape, base.dtype)
    assert (result.astype(np.float64) == 3).all()
    assert (base.astype(np.float64) == 1).all()


def test_integers_are_rounded_to_the_nearest() -> None:
    """Ties go to the even number."""
    result = added("n", np.zeros(3, np.int32), lambda _part: np.array([0.5, 1.5, -0.6]), 3)
    np.testing.assert_array_equal(result, [0, 2, -1])


@pytest.mark.parametrize(
    ("base", "change"),
    [
        (np.zeros(3, np.float32), 1e39),
        (np.zeros(3, np.float16), 1e5),
        (np.zeros(3, np.float64), np.inf),
        (np.zeros(3, np.float64), np.nan),
        (np.full(3, 100, np.int8), 28.0),
        (np.full(3, -100, np.int8), -29.0),
        (np.zeros(3, np.int64), 2.0**63),
    ],
)
def test_what_does_not_fit_is_refused(base: np.ndarray, change: float) -> None:
    """In the last slice as in the first, with the tensor's name."""

    def changes(part: slice) -> Floats:
        values = np.zeros(part.stop - part.start)
        values[-1] = change if part.stop == 3 else 0
        return values

    with pytest.raises(RoundError, match="'w'") as caught:
        added("w", base, changes, 2)
    assert caught.value.reason == "not_finite"


def test_memory_does_not_grow_with_the_tensor() -> None:
    """Beside the result there is a slice or two."""
    base = np.zeros(4_000_000, np.float32)
    tracemalloc.start()
    try:
        added("w", base, lambda part: np.ones(part.stop - part.start), slice_width(1))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < base.nbytes + (1 << 20)
