"""Tensors worked through in slices, so that combining updates needs memory for a slice and not for a model.

A result is made in float64, whatever the tensors' own type, and rounded back to that type slice by slice.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pqfl_transport.errors import RoundError

Array = NDArray[Any]
Floats = NDArray[np.float64]

BLOCK_NUMBERS = 1 << 18
"""The most numbers that a block of one slice of every update holds, up to 1,024 updates."""
_WIDEST, _NARROWEST = 1 << 14, 1 << 8
"""Numbers in one slice: few enough to stay in a processor's cache, enough to be worth a call."""


def slice_width(updates: int) -> int:
    """Return how many numbers of a tensor are worked on at once when there are so many updates."""
    return min(_WIDEST, max(_NARROWEST, BLOCK_NUMBERS // max(updates, 1)))


def slices(size: int, width: int) -> Iterator[slice]:
    """Cut ``size`` numbers into slices."""
    return (slice(start, min(start + width, size)) for start in range(0, size, width))


def blocks(tensors: Sequence[Array], dtype: np.dtype[Any]) -> Iterator[Array]:
    """Yield a tensor's slices of all updates as one array, a row an update; it is written over at the next step."""
    flat = [tensor.reshape(-1) for tensor in tensors]
    size = flat[0].size
    width = min(slice_width(len(flat)), max(size, 1))
    buffer = np.empty((len(flat), width), dtype)
    for part in slices(size, width):
        block = buffer[:, : part.stop - part.start]
        for row, tensor in zip(block, flat, strict=True):
            np.copyto(row, tensor[part], casting="unsafe")
        yield block


def added(name: str | int, base: Array, changes: Callable[[slice], Floats], width: int) -> Array:
    """Return ``base`` plus what ``changes`` gives for each slice of it, in the type of ``base``.

    ``changes`` returns a float64 array that may be written to. Raises ``RoundError`` (``not_finite``) when a result
    leaves the range of the tensor's type.
    """
    flat, result = base.reshape(-1), np.empty(base.shape, base.dtype)
    out = result.reshape(-1)
    term = np.empty(min(width, flat.size), np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        for part in slices(flat.size, width):
            values, own = changes(part), term[: part.stop - part.start]
            np.copyto(own, flat[part], casting="unsafe")
            values += own
            out[part] = _rounded(name, values, base.dtype)
    return result


def _rounded(name: str | int, values: Floats, dtype: np.dtype[Any]) -> Array:
    if dtype.kind == "i":
        np.rint(values, out=values)
        limits = np.iinfo(dtype)
        # float64 rounds the largest int64 up to 2^63, so the upper limit is compared exclusively.
        if not (values.min() >= float(limits.min) and values.max() < float(limits.max) + 1):
            raise RoundError(f"the average of tensor {name!r} does not fit {dtype}", reason="not_finite")
        return values.astype(dtype)
    result = values.astype(dtype)
    if not np.isfinite(result).all():
        raise RoundError(f"the average of tensor {name!r} is not finite", reason="not_finite")
    return result
