"""Federated averaging (McMahan et al., 2017) of model *deltas*, weighted by the number of samples.

A site sends ``delta = new - base``, and the new model is ``base + sum(samples · delta) / sum(samples)``. Sums are held
in float64 whatever the tensors' own type. Updates are added one after the other and asked for their delta once, so that
the extra memory is one float64 copy of the model, whatever the number of updates, and another of its largest tensor.
Results are rounded back to each tensor's type.

Tensors are floating-point or signed integers (a counter of batches, say). Integers are averaged like the rest and
rounded to the nearest, ties to even; beyond 2^53 float64 no longer holds every integer. Booleans, unsigned integers
and complex numbers are refused at the start: a delta of them cannot be negative, or has no order to average in.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pqfl_transport.errors import ConfigurationError, RoundError

Array = NDArray[Any]
Weights = list[Array] | dict[str, Array]

_FINITE_SLICE = 1 << 20
_NAMES_SHOWN = 3
# Types of the ml_dtypes package, which NumPy itself counts as opaque.
_EXTENSION_FLOATS = ("bfloat16", "float8_e4m3fn", "float8_e5m2")


@dataclass(frozen=True, slots=True)
class Update:
    """One site's contribution: its delta, shaped like the base model, and the samples it trained on (1 or more)."""

    delta: Weights
    samples: int


class Contribution(Protocol):
    """What is averaged: an `Update`, or one whose delta has to be fetched first."""

    @property
    def delta(self) -> Weights:
        """The delta, shaped like the base model."""

    @property
    def samples(self) -> int:
        """The samples it was trained on."""


def federated_average(base: Weights, updates: Sequence[Contribution]) -> Weights:
    """Return ``base`` plus the sample-weighted mean of the deltas, in the form, names and types of ``base``.

    The base is left unchanged. Raises ``RoundError``: ``no_updates``, ``bad_samples``, what `check_update` finds of
    names, shapes and types, and ``not_finite`` when the mean leaves the range of a tensor's type; and what asking for a
    delta raises.
    """
    if not updates:
        raise RoundError("there is no update to average", reason="no_updates")
    for update in updates:
        if update.samples < 1:
            raise RoundError(f"an update counts {update.samples} samples, at least 1 is needed", reason="bad_samples")
    sums = {name: np.zeros(tensor.shape, np.float64) for name, tensor in _items(base)}
    for update in updates:
        _add(sums, update.delta, update.samples, base)
    total = sum(update.samples for update in updates)
    averaged = {name: _moved(name, tensor, sums.pop(name), total) for name, tensor in _items(base)}
    return list(averaged.values()) if isinstance(base, list) else {str(name): out for name, out in averaged.items()}


def subtract(new: Weights, base: Weights) -> Weights:
    """Return the delta ``new - base`` in the form and types of ``base``.

    Raises ``RoundError`` as `check_layout` does, and ``not_finite`` when a difference does not fit its integer type.
    """
    check_layout(new, base)
    deltas = {name: _difference(name, _tensor(new, name), tensor) for name, tensor in _items(base)}
    return list(deltas.values()) if isinstance(base, list) else {str(name): delta for name, delta in deltas.items()}


def check_update(delta: Weights, base: Weights) -> None:
    """Raise ``RoundError`` unless ``delta`` fits the base model and every number in it is finite.

    Reasons: ``wrong_names``, ``wrong_shape``, ``wrong_dtype``, ``not_finite``; the sentence names the tensor.
    """
    check_layout(delta, base)
    for name, tensor in _items(delta):
        if not is_finite(tensor):
            raise RoundError(f"tensor {name!r} holds NaN or infinity", reason="not_finite")


def check_layout(weights: Weights, base: Weights) -> None:
    """Raise ``RoundError`` unless names (or list length), shapes and types are those of the base model."""
    if isinstance(weights, list) is not isinstance(base, list):
        form = "a list" if isinstance(base, list) else "a mapping"
        raise RoundError(f"the base model is {form} of tensors, the update is not", reason="wrong_names")
    expected, given = dict(_items(base)), dict(_items(weights))
    if expected.keys() != given.keys():
        missing, extra = expected.keys() - given.keys(), given.keys() - expected.keys()
        raise RoundError(f"tensors missing: {_shown(missing)}; not expected: {_shown(extra)}", reason="wrong_names")
    for name, tensor in expected.items():
        if given[name].shape != tensor.shape:
            raise RoundError(
                f"tensor {name!r} has shape {given[name].shape}, expected {tensor.shape}", reason="wrong_shape"
            )
        if given[name].dtype != tensor.dtype:
            raise RoundError(f"tensor {name!r} is {given[name].dtype}, expected {tensor.dtype}", reason="wrong_dtype")


def require_averageable(weights: Weights) -> None:
    """Raise ``ConfigurationError`` when a model is empty or holds a type that cannot be averaged."""
    if not weights:
        raise ConfigurationError("the model holds no tensors", reason="bad_model")
    for name, tensor in _items(weights):
        if tensor.dtype.kind not in "fi" and tensor.dtype.name not in _EXTENSION_FLOATS:
            raise ConfigurationError(
                f"tensor {name!r} is {tensor.dtype}; only floating-point numbers and signed integers can be averaged",
                reason="bad_model",
            )


def is_finite(tensor: Array) -> bool:
    """Tell whether every number is finite, looking at slices so that little memory is needed."""
    if tensor.dtype.kind == "i":
        return True
    flat = tensor.reshape(-1)
    return all(
        bool(np.isfinite(flat[start : start + _FINITE_SLICE]).all()) for start in range(0, flat.size, _FINITE_SLICE)
    )


def _add(sums: dict[str | int, NDArray[np.float64]], delta: Weights, samples: int, base: Weights) -> None:
    check_layout(delta, base)
    with np.errstate(over="ignore", invalid="ignore"):
        for name, tensor in _items(delta):
            term = tensor.astype(np.float64)
            term *= samples
            sums[name] += term


def _moved(name: str | int, base: Array, mean: NDArray[np.float64], total: int) -> Array:
    with np.errstate(over="ignore", invalid="ignore"):
        mean /= total
        mean += base.astype(np.float64)
        if base.dtype.kind == "i":
            np.rint(mean, out=mean)
            result = _to_integers(name, mean, base.dtype)
        else:
            result = mean.astype(base.dtype)
    if not is_finite(result):
        raise RoundError(f"the average of tensor {name!r} is not finite", reason="not_finite")
    return result


def _to_integers(name: str | int, mean: Array, dtype: np.dtype[Any]) -> Array:
    limits = np.iinfo(dtype)
    # float64 rounds the largest int64 up to 2^63, so the upper limit is compared exclusively.
    if mean.size and not (mean.min() >= float(limits.min) and mean.max() < float(limits.max) + 1):
        raise RoundError(f"the average of tensor {name!r} does not fit {dtype}", reason="not_finite")
    return mean.astype(dtype)


def _difference(name: str | int, new: Array, base: Array) -> Array:
    with np.errstate(over="ignore", invalid="ignore"):
        delta = np.asarray(np.subtract(new, base))
    # Integer subtraction wraps round silently: that happened where the delta's sign contradicts the operands'.
    if base.dtype.kind == "i" and bool((((new ^ base) & (new ^ delta)) < 0).any()):
        raise RoundError(f"the change of tensor {name!r} does not fit {base.dtype}", reason="not_finite")
    return delta


def _items(weights: Weights) -> list[tuple[str | int, Array]]:
    return list(enumerate(weights)) if isinstance(weights, list) else list(weights.items())


def _tensor(weights: Weights, name: str | int) -> Array:
    if isinstance(weights, list):
        return weights[int(name)]
    return weights[str(name)]


def _shown(names: Iterable[str | int]) -> str:
    ordered = sorted(map(str, names))
    more = f" and {len(ordered) - _NAMES_SHOWN} more" if len(ordered) > _NAMES_SHOWN else ""
    return ", ".join(ordered[:_NAMES_SHOWN]) + more if ordered else "none"
