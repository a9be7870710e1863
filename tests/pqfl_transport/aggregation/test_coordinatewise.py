"""Median and trimmed mean: what NumPy gives, whatever the order, and never beyond what honest sites sent."""

import itertools
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pqfl_transport.aggregation.coordinatewise import comparators, coordinate_median, middle_mean, middle_of
from pqfl_transport.aggregation.fedavg import Update
from pqfl_transport.errors import RoundError

NUMBERS = st.floats(-1e6, 1e6, width=32)
ANYTHING = st.floats(allow_nan=False, allow_infinity=False, width=32)


def updates_of(rows: Any) -> list[Update]:
    return [Update([row], 1) for row in rows]


def run(network: Any, values: list[int]) -> list[int]:
    values = list(values)
    for low, high, smaller, larger in network:
        pair = sorted((values[low], values[high]))
        if smaller:
            values[low] = pair[0]
        if larger:
            values[high] = pair[1]
    return values


@pytest.mark.parametrize("count", range(1, 13))
def test_the_whole_network_sorts(count: int) -> None:
    """By the 0-1 principle, a network that sorts all rows of zeros and ones sorts everything."""
    network = comparators(count, range(count))
    for bits in itertools.product((0, 1), repeat=count):
        assert run(network, list(bits)) == sorted(bits)


@pytest.mark.parametrize("count", range(1, 13))
def test_what_is_left_of_a_network_gives_the_wanted_places(count: int) -> None:
    """Comparators that were left out had no part in them."""
    for cut in range((count + 1) // 2):
        wanted = range(cut, count - cut)
        network = comparators(count, wanted)
        assert len(network) <= len(comparators(count, range(count)))
        for bits in itertools.product((0, 1), repeat=count):
            found = run(network, list(bits))
            assert [found[place] for place in wanted] == sorted(bits)[cut : count - cut]


@pytest.mark.parametrize("count", [33, 64, 100, 257])
def test_large_networks_sort(count: int) -> None:
    """Random permutations, where all of zeros and ones are too many."""
    rng = np.random.default_rng(count)
    for _ in range(20):
        assert run(comparators(count, range(count)), rng.permutation(count).tolist()) == list(range(count))


@settings(max_examples=60, deadline=None)
@given(rows=hnp.arrays(np.float32, st.tuples(st.integers(1, 11), st.integers(0, 6)), elements=NUMBERS), data=st.data())
def test_equals_numpy(rows: np.ndarray, data: st.DataObject) -> None:
    """The median, and the mean of what lies between the cuts, in float64, added to the base."""
    base = np.linspace(-1, 1, rows.shape[1]).astype(np.float32)
    median = base + np.median(rows.astype(np.float64), axis=0)
    np.testing.assert_array_equal(coordinate_median([base], updates_of(rows))[0], median.astype(np.float32))
    cut = data.draw(st.integers(0, (len(rows) - 1) // 2))
    middle = np.sort(rows.astype(np.float64), axis=0)[cut : len(rows) - cut]
    np.testing.assert_allclose(
        middle_mean([base], updates_of(rows), cut)[0], base + middle.mean(axis=0), rtol=1e-6, atol=1e-3
    )


@settings(max_examples=60, deadline=None)
@given(rows=hnp.arrays(np.float32, (7, 5), elements=ANYTHING), order=st.permutations(range(7)), cut=st.integers(1, 3))
def test_the_order_does_not_count(rows: np.ndarray, order: list[int], cut: int) -> None:
    """Not by a single bit."""
    base: list[Any] = [np.zeros(5, np.float64)]
    found = middle_mean(base, [Update([row.astype(np.float64)], 1) for row in rows], cut)[0]
    again = middle_mean(base, [Update([rows[place].astype(np.float64)], 1) for place in order], cut)[0]
    np.testing.assert_array_equal(found, again)


@settings(max_examples=40, deadline=None)
@given(
    rows=hnp.arrays(np.float64, (5, 4), elements=NUMBERS),
    scale=hnp.arrays(np.float64, 4, elements=st.floats(-8, 8)),
    shift=hnp.arrays(np.float64, 4, elements=st.floats(-100, 100)),
)
def test_units_do_not_count(rows: np.ndarray, scale: np.ndarray, shift: np.ndarray) -> None:
    """Every coordinate can be scaled, turned and shifted on its own: the result is so too."""
    for cut in (1, 2):
        plain = middle_mean([np.zeros(4)], updates_of(rows), cut)[0]
        changed = middle_mean([np.zeros(4)], updates_of(rows * scale + shift), cut)[0]
        np.testing.assert_allclose(changed, plain * scale + shift, rtol=1e-9, atol=1e-6)


@settings(max_examples=80, deadline=None)
@given(
    honest=hnp.arrays(np.float32, (5, 4), elements=NUMBERS),
    attackers=hnp.arrays(np.float32, st.tuples(st.integers(1, 2), st.just(4)), elements=ANYTHING),
    data=st.data(),
)
def test_attackers_do_not_leave_the_honest_range(
    honest: np.ndarray, attackers: np.ndarray, data: st.DataObject
) -> None:
    """Two of seven send anything; every coordinate stays between the least and the greatest honest value."""
    rows = np.concatenate([honest, attackers])[data.draw(st.permutations(range(5 + len(attackers))))]
    for cut in {2, (len(rows) - 1) // 2}:
        found = middle_mean([np.zeros(4, np.float32)], updates_of(rows), cut)[0]
        assert (found >= honest.min(axis=0)).all()
        assert (found <= honest.max(axis=0)).all()


def test_one_attacker_too_many_is_too_many() -> None:
    """What a rule tolerates is exact: the next attacker has the result."""
    rows = np.concatenate([np.zeros((3, 1)), np.full((2, 1), 1e9)])
    assert coordinate_median([np.zeros(1)], updates_of(rows))[0] == 0
    assert coordinate_median([np.zeros(1)], updates_of(rows[1:].repeat([1, 1, 1, 2], axis=0)))[0] == 1e9
    assert middle_mean([np.zeros(1)], updates_of(rows), 1)[0] > 1e8


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, np.int8, np.int64])
def test_every_type_of_tensor(dtype: type[np.generic]) -> None:
    """Sorted exactly, averaged in float64, rounded back."""
    rows = [np.array([value, -value], np.float64).astype(dtype) for value in (1, 5, 2, 3)]
    found = coordinate_median([np.ones(2, dtype)], updates_of(rows))[0]
    assert found.dtype == dtype
    expected = [4, -2] if np.dtype(dtype).kind == "i" else np.array([3.5, -1.5])
    np.testing.assert_array_equal(found.astype(np.float64), expected)


def test_large_numbers_of_short_types() -> None:
    """bfloat16 has the range of float32, and int64 more digits than float64: neither is lost while sorting."""
    rows = [np.array([value], ml_dtypes.bfloat16) for value in (1e30, 2e30, 5e30)]
    assert float(coordinate_median([np.zeros(1, ml_dtypes.bfloat16)], updates_of(rows))[0][0]) == float(rows[1][0])
    numbers = [np.array([2**53 + value], np.int64) for value in (2, 4, 6)]
    assert coordinate_median([np.zeros(1, np.int64)], updates_of(numbers))[0][0] == 2**53 + 4


def test_many_tensors_and_many_slices() -> None:
    """A model of several tensors, one of them longer than a slice."""
    rng = np.random.default_rng(1)
    base = {"long": np.zeros((300, 200), np.float32), "one": np.array(2.0), "none": np.zeros((0, 3))}
    deltas = [{name: rng.standard_normal(tensor.shape).astype(tensor.dtype) for name, tensor in base.items()}
              for _ in range(6)]  # fmt: skip
    found: Any = coordinate_median(base, [Update(delta, 1) for delta in deltas])
    for name, tensor in base.items():
        expected = tensor + np.median(np.stack([delta[name] for delta in deltas]).astype(np.float64), axis=0)
        np.testing.assert_array_equal(found[name], expected.astype(tensor.dtype))


def test_results_out_of_range_are_refused() -> None:
    """Where most updates leave the range of the type, there is no result."""
    with pytest.raises(RoundError) as caught:
        coordinate_median([np.full(1, 3e38, np.float32)], updates_of(np.full((3, 1), 3e38, np.float32)))
    assert caught.value.reason == "not_finite"


def test_something_has_to_be_left() -> None:
    """Dropping all values is a mistake of the program."""
    with pytest.raises(ValueError, match="nothing is left"):
        middle_of("w", np.zeros(1), [np.zeros(1)] * 4, 2)
