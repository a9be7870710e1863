"""Federated averaging (McMahan et al., 2017) of model *deltas*, weighted by the number of samples.

A site sends ``delta = new - base``, and the new model is ``base + sum(samples · delta) / sum(samples)``. Sums are held
in float64 whatever the tensors' own type. Updates are added one after the other, each asked for its delta once, so that
the memory beside the new model is one float64 copy of it, whatever the number of updates. Results are rounded back to
each tensor's type.

Tensors are floating-point or signed integers (a counter of batches, say). Integers are averaged like the rest and
rounded to the nearest, ties to even; beyond 2^53 float64 no longer holds every integer. Booleans, unsigned integers
and complex numbers are refused at the start: a delta of them cannot be negative, or has no order to average in.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pqfl_transport.aggregation.slices import Floats, added, slice_width, slices
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
    """What is averaged: an `Update`, or one whose delta is fetched whenever it is asked for."""

    @property
    def delta(self) -> Weights:
        """The delta, shaped like the base model."""

    @property
    def samples(self) -> int:
        """The samples it was trained on."""


@dataclass(frozen=True, slots=True)
class Reweighted:
    """A contribution that counts as another number of samples than its own."""

    contribution: Contribution
    samples: int

    @property
    def delta(self) -> Weights:
        """The delta as it was."""
        return self.contribution.delta


def federated_average(base: Weights, updates: Sequence[Contribution]) -> Weights:
    """Return ``base`` plus the sample-weighted mean of the deltas, in the form, names and types of ``base``.

    The base is left unchanged. Raises ``RoundError``: ``no_updates``, ``bad_samples``, what `check_update` finds of
    names, shapes and types, and ``not_finite`` when the mean leaves the range of a tensor's type; and what asking for a
    delta raises.
    """
    check_counts(updates)
    sums = {name: np.zeros(tensor.size, np.float64) for name, tensor in named_tensors(base)}
    for update in updates:
        _add(sums, update, base)
    total = sum(update.samples for update in updates)
    return like(base, lambda name, tensor: _moved(name, tensor, sums.pop(name), total))


def subtract(new: Weights, base: Weights) -> Weights:
    """Return the delta ``new - base`` in the form and types of ``base``.

    Raises ``RoundError`` as `check_layout` does, and ``not_finite`` when a difference does not fit its integer type.
    """
    check_layout(new, base)
    return like(base, lambda name, tensor: _difference(name, tensor_of(new, name), tensor))


def check_updates(base: Weights, updates: Sequence[Contribution]) -> None:
    """Raise ``RoundError`` as `check_counts` does, or unless each update is of the right layout."""
    check_counts(updates)
    for update in updates:
        check_layout(update.delta, base)


def check_counts(updates: Sequence[Contribution]) -> None:
    """Raise ``RoundError`` unless there are updates (``no_updates``), each with samples (``bad_samples``)."""
    if not updates:
        raise RoundError("there is no update to average", reason="no_updates")
    for update in updates:
        if update.samples < 1:
            raise RoundError(f"an update counts {update.samples} samples, at least 1 is needed", reason="bad_samples")


def check_update(delta: Weights, base: Weights) -> None:
    """Raise ``RoundError`` unless ``delta`` fits the base model and every number in it is finite.

    Reasons: ``wrong_names``, ``wrong_shape``, ``wrong_dtype``, ``not_finite``; the sentence names the tensor.
    """
    check_layout(delta, base)
    for name, tensor in named_tensors(delta):
        if not is_finite(tensor):
            raise RoundError(f"tensor {name!r} holds NaN or infinity", reason="not_finite")


def check_layout(weights: Weights, base: Weights) -> None:
    """Raise ``RoundError`` unless names (or list length), shapes and types are those of the base model."""
    if isinstance(weights, list) is not isinstance(base, list):
        form = "a list" if isinstance(base, list) else "a mapping"
        raise RoundError(f"the base model is {form} of tensors, the update is not", reason="wrong_names")
    expected, given = dict(named_tensors(base)), dict(named_tensors(weights))
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
    for name, tensor in named_tensors(weights):
        if tensor.dtype.kind != "i" and not is_float(tensor.dtype):
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


def named_tensors(weights: Weights) -> list[tuple[str | int, Array]]:
    """Return the tensors with their names, or with their places in a list."""
    return list(enumerate(weights)) if isinstance(weights, list) else list(weights.items())


def tensor_of(weights: Weights, name: str | int) -> Array:
    """Return one tensor by its name, or its place in a list."""
    if isinstance(weights, list):
        return weights[int(name)]
    return weights[str(name)]


def like(base: Weights, make: Callable[[str | int, Array], Array]) -> Weights:
    """Return what ``make`` gives for each tensor's name and value, in the form of ``base``."""
    made = {name: make(name, tensor) for name, tensor in named_tensors(base)}
    return list(made.values()) if isinstance(base, list) else {str(name): tensor for name, tensor in made.items()}


def is_float(dtype: np.dtype[Any]) -> bool:
    """Tell whether a type is floating-point, those of ml_dtypes included."""
    return dtype.kind == "f" or dtype.name in _EXTENSION_FLOATS


def _add(sums: Mapping[str | int, Floats], update: Contribution, base: Weights) -> None:
    # It is let go of with the end of this function, before the next one is fetched.
    delta, samples = update.delta, update.samples
    check_layout(delta, base)
    width = slice_width(1)
    term = np.empty(width, np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        for name, tensor in named_tensors(delta):
            flat, total = tensor.reshape(-1), sums[name]
            for part in slices(flat.size, width):
                own = term[: part.stop - part.start]
                np.copyto(own, flat[part], casting="unsafe")
                own *= samples
                total[part] += own


def _moved(name: str | int, base: Array, mean: Floats, total: int) -> Array:
    def change(part: slice) -> Floats:
        mean[part] /= total
        return mean[part]

    return added(name, base, change, slice_width(1))


def _difference(name: str | int, new: Array, base: Array) -> Array:
    with np.errstate(over="ignore", invalid="ignore"):
        delta = np.asarray(np.subtract(new, base))
    # Integer subtraction wraps round silently: that happened where the delta's sign contradicts the operands'.
    if base.dtype.kind == "i" and bool((((new ^ base) & (new ^ delta)) < 0).any()):
        raise RoundError(f"the change of tensor {name!r} does not fit {base.dtype}", reason="not_finite")
    return delta


def _shown(names: Iterable[str | int]) -> str:
    ordered = sorted(map(str, names))
    more = f" and {len(ordered) - _NAMES_SHOWN} more" if len(ordered) > _NAMES_SHOWN else ""
    return ", ".join(ordered[:_NAMES_SHOWN]) + more if ordered else "none"
