"""Updates as points: their lengths, how far they lie apart, and weighted sums of them.

Only floating-point tensors are coordinates of a point. Integers in a model are counters (of batches, say), and a
difference of a hundred batches would outweigh every difference of the weights. So they decide nothing, and are
combined on their own: the median of each, which a site cannot move at will either.

Everything is in float64. What lies further away than float64 can tell is infinitely far, which is no error: such an
update is clipped to nothing, left out, or given no weight.
"""

from collections.abc import Sequence

import numpy as np

from pqfl_transport.aggregation.coordinatewise import middle_of
from pqfl_transport.aggregation.fedavg import Contribution, Weights, is_float, like, named_tensors, tensor_of
from pqfl_transport.aggregation.slices import Array, Floats, added, blocks, slice_width
from pqfl_transport.errors import ConfigurationError


def require_points(model: Weights) -> None:
    """Raise ``ConfigurationError`` (``bad_model``) for a model without a single floating-point number."""
    if not any(is_float(tensor.dtype) and tensor.size for _, tensor in named_tensors(model)):
        raise ConfigurationError(
            "this rule compares updates by their floating-point tensors, and the model has none", reason="bad_model"
        )


def lengths(updates: Sequence[Contribution]) -> Floats:
    """Return the Euclidean norm of each update's floating-point tensors."""
    squares = np.zeros(len(updates))
    with np.errstate(over="ignore"):
        for deltas in _coordinates(updates):
            for block in blocks(deltas, np.dtype(np.float64)):
                squares += np.einsum("ij,ij->i", block, block)
    return np.sqrt(squares)


def products(updates: Sequence[Contribution]) -> Floats:
    """Return the inner products of every two updates; what overflows is infinite or not a number."""
    found = np.zeros((len(updates), len(updates)))
    with np.errstate(over="ignore", invalid="ignore"):
        for deltas in _coordinates(updates):
            for block in blocks(deltas, np.dtype(np.float64)):
                found += block @ block.T
    return found


def squared_distances(inner: Floats) -> Floats:
    """Return the squared distance of every two updates, from their inner products."""
    squares = np.diag(inner)
    with np.errstate(invalid="ignore", over="ignore"):
        found = squares[:, np.newaxis] + squares[np.newaxis, :] - 2 * inner
    found[~np.isfinite(found)] = np.inf
    np.fill_diagonal(found, 0)
    return np.maximum(found, 0)


def moved(base: Weights, updates: Sequence[Contribution], coefficients: Sequence[float]) -> Weights:
    """Return ``base`` plus the sum of the deltas times their coefficients; integers by the median of all updates.

    Raises ``RoundError`` (``not_finite``) when a result leaves the range of a tensor's type.
    """

    def combine(name: str | int, tensor: Array) -> Array:
        deltas = [tensor_of(update.delta, name) for update in updates]
        if is_float(tensor.dtype):
            return _sum(name, tensor, deltas, coefficients)
        return middle_of(name, tensor, deltas, (len(deltas) - 1) // 2)

    return like(base, combine)


def _sum(name: str | int, base: Array, deltas: Sequence[Array], coefficients: Sequence[float]) -> Array:
    width = slice_width(1)
    used = [(delta.reshape(-1), factor) for delta, factor in zip(deltas, coefficients, strict=True) if factor]
    total, term = np.empty((2, min(width, base.size)), np.float64)

    def change(part: slice) -> Floats:
        size = part.stop - part.start
        total[:size] = 0
        for delta, factor in used:
            np.copyto(term[:size], delta[part], casting="unsafe")
            term[:size] *= factor
            total[:size] += term[:size]
        return total[:size]

    return added(name, base, change, width)


def _coordinates(updates: Sequence[Contribution]) -> list[list[Array]]:
    """The floating-point tensors that hold something: of each, what every update has for it."""
    return [
        [tensor_of(update.delta, name) for update in updates]
        for name, tensor in named_tensors(updates[0].delta)
        if is_float(tensor.dtype) and tensor.size
    ]
