"""Floating-point numbers in fewer bits: bfloat16, and int8 with one scale a tensor (docs/content.md).

Arrays are worked on in slices: temporary memory stays small at any size. No package is needed for bfloat16, whose bits
are the upper half of a float32's.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from pqfl_transport.content.arrays import Array
from pqfl_transport.errors import ConfigurationError, MessageError

SLICE_NUMBERS = 1 << 18
_LEVELS = 127
"""int8 has as many steps on either side of zero; -128 is not used, so that the range is symmetric."""
_LARGEST_BFLOAT16 = np.uint32(0x7F7F)
_BFLOAT16_EXPONENT = np.uint16(0x7F80)


def slices(size: int) -> Iterator[slice]:
    """Yield the slices that ``size`` numbers are worked on in."""
    for start in range(0, size, SLICE_NUMBERS):
        yield slice(start, min(start + SLICE_NUMBERS, size))


def largest_magnitude(flat: Array, name: str) -> float:
    """Return max│x│ of a tensor that has elements. Raises ``ConfigurationError`` (``not_finite``)."""
    # NaN spreads through both extremes, and an infinity is one of them.
    largest = float(max(abs(float(flat.max())), abs(float(flat.min()))))
    if not math.isfinite(largest):
        raise ConfigurationError(
            f"tensor {name!r} holds NaN or infinity, which no codec that loses precision takes", reason="not_finite"
        )
    return largest


def to_bfloat16(array: Array, name: str) -> Array:
    """Round finite float32 or float64 to the nearest bfloat16, ties to even, as uint16 of the same shape.

    What is larger than the largest bfloat16 and still a float32 becomes the largest. Raises ``ConfigurationError``:
    ``not_finite``, ``out_of_range`` for a float64 beyond float32.
    """
    flat = array.reshape(-1)
    if largest_magnitude(flat, name) > float(np.finfo(np.float32).max):
        raise ConfigurationError(f"tensor {name!r} holds numbers beyond the range of bfloat16", reason="out_of_range")
    encoded = np.empty(flat.size, "<u2")
    for part in slices(flat.size):
        bits = flat[part].astype(np.float32).view(np.uint32)
        sign = (bits >> np.uint32(16)) & np.uint32(0x8000)
        magnitude = bits & np.uint32(0x7FFFFFFF)
        # Half of the last kept place, less one where that place is even: a tie then goes to the even neighbour.
        magnitude += np.uint32(0x7FFF) + ((magnitude >> np.uint32(16)) & np.uint32(1))
        encoded[part] = sign | np.minimum(magnitude >> np.uint32(16), _LARGEST_BFLOAT16)
    return encoded.reshape(array.shape)


def from_bfloat16(encoded: Array, array: Array, name: str) -> None:
    """Widen bfloat16 bits (uint16) into a contiguous ``array`` of the same size. Raises ``MessageError``."""
    bits, flat = encoded.reshape(-1), array.reshape(-1)
    for part in slices(flat.size):
        piece = bits[part]
        if ((piece & _BFLOAT16_EXPONENT) == _BFLOAT16_EXPONENT).any():
            raise malformed(name, "holds NaN or infinity")
        flat[part] = (piece.astype(np.uint32) << np.uint32(16)).view(np.float32)


def int8_scale(array: Array, name: str) -> float | None:
    """Return the step between two values, max│x│ / 127; None where it would be too small to divide by.

    Raises ``ConfigurationError`` (``not_finite``).
    """
    largest = largest_magnitude(array.reshape(-1), name)
    scale = largest / _LEVELS
    if largest and scale < np.finfo(np.float64).tiny:
        return None
    # Rounding may have put the outermost value beyond the type's largest number.
    return scale if _fits(scale, array.dtype) else math.nextafter(scale, 0.0)


def to_int8(array: Array, scale: float) -> Array:
    """Return the multiples of ``scale`` nearest to finite numbers, from -127 to 127, in the same shape."""
    flat = array.reshape(-1)
    encoded = np.zeros(flat.size, np.int8)
    if scale:
        for part in slices(flat.size):
            multiples = flat[part].astype(np.float64) / scale
            encoded[part] = np.clip(np.rint(multiples), -_LEVELS, _LEVELS)
    return encoded.reshape(array.shape)


def from_int8(encoded: Array, scale: float, array: Array, name: str) -> None:
    """Multiply int8 by ``scale`` into a contiguous ``array`` of the same size. Raises ``MessageError``."""
    multiples, flat = encoded.reshape(-1), array.reshape(-1)
    for part in slices(flat.size):
        piece = multiples[part]
        if (piece < -_LEVELS).any():
            raise malformed(name, f"holds a multiple below -{_LEVELS}")
        flat[part] = piece.astype(np.float64) * scale


def require_scale(scale: object, dtype: np.dtype[Any], name: str) -> float:
    """Return a received scale. Raises ``MessageError`` unless it is 0 or a step whose multiples ``dtype`` holds."""
    # `type` and not `isinstance`: JSON's true is an int to Python. Some writers leave the point out of whole numbers.
    if type(scale) is int and 0 <= scale < 1 << 53:
        scale = float(scale)
    if type(scale) is not float or not (scale == 0 or np.finfo(np.float64).tiny <= scale) or not _fits(scale, dtype):
        raise malformed(name, f"has the scale {scale!r}")
    return scale


def malformed(name: str, what: str) -> MessageError:
    """Return the error for an encoded tensor that no sender makes."""
    return MessageError(f"encoded tensor {name!r} {what}", reason="malformed")


def _fits(scale: float, dtype: np.dtype[Any]) -> bool:
    # One float64 is rounded into the type as a whole array of them would be.
    with np.errstate(over="ignore"):
        return bool(np.isfinite(np.array(scale * _LEVELS).astype(dtype)))
