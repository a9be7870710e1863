"""A site's weighted delta as integers modulo 2^32, without the masks.

Each coordinate is ``floor(w · clip(δ) · levels / clip + u)`` with u uniform in [0, 1): rounded up with the probability
of the fraction, so that the mean of many sites is not biased. u comes from AES-256-CTR, 32 bits a coordinate, under a
key that the site makes for the round and forgets: nobody else needs it. The product is in float64, whose 53 bits hold
the integer part (30 bits at most) and 23 bits of the fraction in the worst case, 32 in all usual ones.

The weight is multiplied in before rounding. The range is that of the product either way, and the error is one step
of the sum instead of w.
"""

from typing import Any

import numpy as np

from pqfl_transport.aggregation.fedavg import Array, Weights
from pqfl_transport.aggregation.secagg.layout import SLICE_COORDINATES, Span, slices
from pqfl_transport.aggregation.secagg.masking import Vector, key_stream, require_vector
from pqfl_transport.aggregation.secagg.plan import Plan
from pqfl_transport.crypto.contexts import Label
from pqfl_transport.crypto.pyca import Keystream
from pqfl_transport.errors import RoundError

_UNIT = 2.0**-32
# These hold no integer beyond 2^24, or none at all; what they clip to is compared in float32.
_NARROW = ("float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2")


def quantize(delta: Weights, weight: int, plan: Plan, *, rounding_key: bytes, round_id: bytes, out: Vector) -> None:
    """Write the delta and the trailer into ``out``, ``plan.layout.length`` coordinates of uint32.

    How often a number was clipped stands in the trailer only, where the masks cover it. Extra memory is about 2 MiB,
    and copies of the tensors whose memory is not contiguous. ``rounding_key`` is 32 fresh random bytes, ``round_id`` as
    in `masking`. Raises ``RoundError``: ``bad_weight``, what `Layout.flatten` finds, ``not_finite`` for NaN or
    infinity; ``out`` then holds nothing of use.
    """
    plan.require_weight(weight)
    require_vector(out, plan.layout.length)
    tensors = plan.layout.flatten(delta)
    rounder = _Rounder(key_stream(rounding_key, Label.ROUNDING, round_id))
    clipped = sum(
        rounder.round_into(out[span.begin : span.end], tensor, span, clip, weight * plan.levels)
        for (span, tensor), clip in zip(tensors, plan.clips, strict=True)
    )
    out[plan.layout.coordinates :] = (weight, 1, 0, 0, 0, 0, min(clipped, plan.clipped_cap))


class _Rounder:
    """The stream and the scratch memory of one vector."""

    def __init__(self, stream: Keystream) -> None:
        self._stream = stream
        self._random = np.empty(SLICE_COORDINATES, "<u4")
        self._numbers = np.empty(SLICE_COORDINATES, np.float64)
        self._within = np.empty(SLICE_COORDINATES, np.float64)
        self._scaled = np.empty(SLICE_COORDINATES, np.float64)
        self._flags = np.empty(SLICE_COORDINATES, np.bool_)

    def round_into(self, out: Vector, tensor: Array, span: Span, clip: float, steps: int) -> int:
        """Encode one tensor, ``steps`` for ``clip``; return how many numbers were clipped."""
        dtype = np.dtype(np.float32 if span.dtype in _NARROW else np.float64)
        bound = _largest_at_most(clip, dtype)
        clipped = 0
        for part in slices(tensor.size):
            size = part.stop - part.start
            numbers, within = self._numbers.view(dtype)[:size], self._within.view(dtype)[:size]
            flags = self._flags[:size]
            np.copyto(numbers, tensor[part], casting="unsafe")
            if not np.isfinite(numbers, out=flags).all():
                raise RoundError(f"tensor {span.name!r} holds NaN or infinity", reason="not_finite")
            np.clip(numbers, -bound, bound, out=within)
            clipped += int(np.count_nonzero(np.not_equal(numbers, within, out=flags)))
            self._round(out[part], within, steps / clip)
        return clipped

    def _round(self, out: Vector, within: Array, factor: float) -> None:
        # What was clipped is counted by now, so its place holds the random fraction.
        random, fraction, scaled = self._random[: out.size], self._numbers[: out.size], self._scaled[: out.size]
        self._stream.fill(random.view(np.uint8).data)
        np.multiply(within, factor, out=scaled, dtype=np.float64)
        scaled += np.multiply(random, _UNIT, out=fraction)
        np.copyto(out.view(np.int32), np.floor(scaled, out=scaled), casting="unsafe")


def _largest_at_most(clip: float, dtype: np.dtype[Any]) -> Any:
    """Return the largest number of ``dtype`` that is not beyond ``clip``, so that rounding it cannot pass the range."""
    nearest = dtype.type(clip)
    return nearest if float(nearest) <= clip else np.nextafter(nearest, dtype.type(0))
