"""Federated averaging: the mean NumPy would give, in the form the model came in."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pqfl_transport.aggregation.fedavg import (
    Update,
    Weights,
    check_update,
    federated_average,
    require_averageable,
    subtract,
)
from pqfl_transport.errors import ConfigurationError, RoundError

_SHAPES = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)


@st.composite
def rounds(draw: st.DrawFn) -> tuple[dict[str, np.ndarray], list[Update]]:
    """A base model of one to three tensors and one to four updates to it."""
    dtypes = st.sampled_from([np.float64, np.float32, np.float16])
    layout = draw(st.lists(st.tuples(_SHAPES, dtypes), min_size=1, max_size=3))

    def model() -> dict[str, np.ndarray]:
        numbers = st.floats(-128, 128, width=16)
        return {
            f"layer.{place}": draw(hnp.arrays(dtype, shape, elements=numbers))
            for place, (shape, dtype) in enumerate(layout)
        }

    updates = draw(st.lists(st.integers(1, 10_000), min_size=1, max_size=4))
    return model(), [Update(model(), samples) for samples in updates]


@settings(max_examples=60, deadline=None)
@given(case=rounds())
def test_average_equals_numpy(case: tuple[dict[str, np.ndarray], list[Update]]) -> None:
    """The new model is the base plus ``numpy.average`` of the deltas, weighted by samples, in float64."""
    base, updates = case
    averaged = federated_average(base, updates)
    assert isinstance(averaged, dict)
    assert list(averaged) == list(base)
    for name, tensor in base.items():
        deltas = np.stack([dict(update.delta)[name].astype(np.float64) for update in updates])  # type: ignore[arg-type]
        mean = np.average(deltas, axis=0, weights=[update.samples for update in updates])
        reference = (tensor.astype(np.float64) + mean).astype(tensor.dtype)
        assert averaged[name].dtype == tensor.dtype
        assert averaged[name].shape == tensor.shape
        np.testing.assert_allclose(
            averaged[name],
            reference,
            rtol=1e-3 if tensor.dtype == np.float16 else 1e-6,
            atol=1e-3 if tensor.dtype == np.float16 else 1e-6,
        )


@settings(max_examples=40, deadline=None)
@given(case=rounds())
def test_one_update_gives_the_new_weights(case: tuple[dict[str, np.ndarray], list[Update]]) -> None:
    """With one site, base plus its delta is what it trained, up to rounding."""
    base, updates = case
    new = updates[0].delta
    averaged = federated_average(base, [Update(subtract(new, base), 7)])
    for name in base:
        np.testing.assert_allclose(dict(averaged)[name], dict(new)[name], rtol=1e-2, atol=0.2)  # type: ignore[arg-type]


def test_list_in_list_out_and_base_untouched() -> None:
    """A list of tensors comes back as a list, and the base model is not written to."""
    base: Weights = [np.zeros(2, np.float32), np.array(1.0)]
    averaged = federated_average(base, [Update([np.ones(2, np.float32), np.array(2.0)], 1)])
    assert isinstance(averaged, list)
    np.testing.assert_array_equal(averaged[0], [1, 1])
    assert float(averaged[1]) == 3.0
    assert not np.any(base[0])


def test_integers_are_rounded_to_the_nearest() -> None:
    """Signed integers are averaged and rounded, ties to even."""
    base: Weights = {"steps": np.array([10, 10, 10], np.int64)}
    updates = [Update({"steps": np.array([1, 0, 3], np.int64)}, 1), Update({"steps": np.array([2, 1, 4], np.int64)}, 1)]
    averaged = federated_average(base, updates)
    np.testing.assert_array_equal(dict(averaged)["steps"], [12, 10, 14])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("delta", "reason"),
    [
        ([np.zeros(2, np.float32)], "wrong_names"),
        ({"a": np.zeros(2, np.float32)}, "wrong_names"),
        ({"a": np.zeros(2, np.float32), "b": np.zeros(1), "c": np.zeros(1)}, "wrong_names"),
        ({"a": np.zeros(3, np.float32), "b": np.zeros(1)}, "wrong_shape"),
        ({"a": np.zeros((2, 1), np.float32), "b": np.zeros(1)}, "wrong_shape"),
        ({"a": np.zeros(2, np.float64), "b": np.zeros(1)}, "wrong_dtype"),
        ({"a": np.array([0, np.nan], np.float32), "b": np.zeros(1)}, "not_finite"),
        ({"a": np.zeros(2, np.float32), "b": np.array([-np.inf])}, "not_finite"),
    ],
)
def test_an_update_that_does_not_fit_is_refused(delta: Weights, reason: str) -> None:
    """Names, shapes, types and non-finite numbers each have their own reason."""
    base: Weights = {"a": np.zeros(2, np.float32), "b": np.zeros(1)}
    with pytest.raises(RoundError) as caught:
        check_update(delta, base)
    assert caught.value.reason == reason


def test_an_average_out_of_range_is_refused() -> None:
    """A mean that leaves the range of its type is an error, not an infinity or a wrapped integer."""
    for tensor, delta in (
        (np.array([3e38], np.float32), np.array([3e38], np.float32)),
        (np.array([100], np.int8), np.array([100], np.int8)),
        (np.array([2**63 - 1], np.int64), np.array([2**62], np.int64)),
    ):
        with pytest.raises(RoundError) as caught:
            federated_average([tensor], [Update([delta], 1)])
        assert caught.value.reason == "not_finite"


def test_no_updates_and_no_samples_are_refused() -> None:
    """Nothing to average, and an update that counts no samples, are errors."""
    with pytest.raises(RoundError) as caught:
        federated_average([np.zeros(1)], [])
    assert caught.value.reason == "no_updates"
    with pytest.raises(RoundError) as caught:
        federated_average([np.zeros(1)], [Update([np.zeros(1)], 0)])
    assert caught.value.reason == "bad_samples"


def test_a_wrapped_integer_delta_is_refused() -> None:
    """A difference that does not fit the integer type is refused instead of wrapping round."""
    np.testing.assert_array_equal(subtract([np.array([-100], np.int8)], [np.array([27], np.int8)])[0], [-127])
    with pytest.raises(RoundError):
        subtract([np.array([-100], np.int8)], [np.array([100], np.int8)])


@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.complex64])
def test_types_without_a_delta_are_refused(dtype: type[np.generic]) -> None:
    """A model with booleans, unsigned integers or complex numbers is refused at the start, and so is an empty one."""
    with pytest.raises(ConfigurationError, match="'mask'"):
        require_averageable({"mask": np.zeros(2, dtype)})
    with pytest.raises(ConfigurationError):
        require_averageable([])
