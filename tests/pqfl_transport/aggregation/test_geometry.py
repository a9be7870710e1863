"""Updates as points: lengths, products and distances as NumPy gives them, sums as fedavg would, integers apart."""

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pqfl_transport.aggregation.fedavg import Update, federated_average
from pqfl_transport.aggregation.geometry import lengths, moved, products, require_points, squared_distances
from pqfl_transport.errors import ConfigurationError, RoundError


def points(rows: Any) -> list[Update]:
    """Updates of two tensors of different types, and a counter that must not matter."""
    return [
        Update({"a": row[:2], "n": np.array(number * 1000), "b": row[2:].astype(np.float32)}, number + 1)
        for number, row in enumerate(rows)
    ]


@settings(max_examples=50, deadline=None)
@given(rows=hnp.arrays(np.float64, (4, 5), elements=st.floats(-1e3, 1e3, width=32)))
def test_lengths_and_distances_equal_numpy(rows: np.ndarray) -> None:
    """Over all floating-point tensors together; counters are not in them."""
    updates = points(rows)
    np.testing.assert_allclose(lengths(updates), np.linalg.norm(rows, axis=1), rtol=1e-9)
    inner = products(updates)
    np.testing.assert_allclose(inner, rows @ rows.T, rtol=1e-9, atol=1e-6)
    apart = ((rows[:, np.newaxis] - rows[np.newaxis]) ** 2).sum(axis=2)
    np.testing.assert_allclose(squared_distances(inner), apart, rtol=1e-9, atol=1e-6)


def test_many_slices() -> None:
    """A tensor longer than a slice is measured whole."""
    rng = np.random.default_rng(2)
    rows = rng.standard_normal((3, 50_000)).astype(np.float32)
    updates = [Update([row], 1) for row in rows]
    np.testing.assert_allclose(lengths(updates), np.linalg.norm(rows.astype(np.float64), axis=1))
    np.testing.assert_allclose(products(updates), rows.astype(np.float64) @ rows.T.astype(np.float64), atol=1e-6)


def test_what_float64_cannot_measure_is_infinitely_far() -> None:
    """And tells nothing about the others."""
    updates = [Update([np.array([value, 0.0])], 1) for value in (1e300, -1e300, 1e300, 3.0, 5.0)]
    np.testing.assert_array_equal(lengths(updates), [np.inf, np.inf, np.inf, 3, 5])
    found = squared_distances(products(updates))
    np.testing.assert_array_equal(found[3:, 3:], [[0, 4], [4, 0]])
    assert not found.diagonal().any()
    found[3:, 3:] = np.inf
    np.fill_diagonal(found, np.inf)
    assert (found == np.inf).all()


def test_equal_updates_are_no_distance_apart() -> None:
    """Rounding makes no distance negative."""
    row = np.random.default_rng(3).standard_normal(1000)
    found = squared_distances(products([Update([row * 1e6], 1) for _ in range(3)]))
    assert (found >= 0).all()
    assert found.max() < 1e-8 * (row @ row) * 1e12


@settings(max_examples=40, deadline=None)
@given(rows=hnp.arrays(np.float64, (3, 5), elements=st.floats(-1e3, 1e3, width=32)))
def test_moved_by_the_shares_of_the_samples_is_fedavg(rows: np.ndarray) -> None:
    """Floats as the mean; the counter is the median of all, whatever the coefficients."""
    base: dict[str, Any] = {"a": np.ones(2), "n": np.array(7), "b": np.ones(3, np.float32)}
    updates = points(rows)
    found: Any = moved(base, updates, [1 / 6, 2 / 6, 3 / 6])
    mean: Any = federated_average(base, updates)
    for name in ("a", "b"):
        np.testing.assert_allclose(found[name], mean[name], rtol=1e-6, atol=1e-4)
        assert found[name].dtype == base[name].dtype
    assert found["n"] == 1007
    assert moved(base, updates, [0, 0, 1])["n"] == 1007  # type: ignore[call-overload]


def test_a_coefficient_of_zero_leaves_an_update_out() -> None:
    """Even where its product with anything else would overflow."""
    updates = [Update([np.array([value])], 1) for value in (1e308, 2.0)]
    assert moved([np.ones(1)], updates, [0.0, 1.0])[0] == 3
    with pytest.raises(RoundError) as caught:
        moved([np.full(1, 1e308)], updates, [1.0, 0.0])
    assert caught.value.reason == "not_finite"


def test_a_model_without_floats_has_no_points() -> None:
    """Empty tensors do not count; the short types of machine learning do."""
    require_points([np.zeros(2, ml_dtypes.bfloat16)])
    require_points({"n": np.zeros(2, np.int32), "w": np.zeros(1, np.float16)})
    with pytest.raises(ConfigurationError, match="floating-point") as caught:
        require_points({"n": np.zeros(2, np.int32), "w": np.zeros((0, 2))})
    assert caught.value.reason == "bad_model"
