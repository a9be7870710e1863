"""Rules that look at one coordinate at a time: median and trimmed mean (Yin et al., 2018). Every update counts once.

The values that the updates give for a coordinate are sorted, and those in the middle averaged. Sorting is done by
Batcher's network (Knuth, The Art of Computer Programming 3, algorithm 5.2.2M) over whole slices: a comparator is one
minimum and one maximum of two rows, which processors do for many coordinates at once, and those on which the wanted
places do not depend are left out. The result does not depend on the order of the updates.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from pqfl_transport.aggregation.fedavg import Contribution, Weights, like, tensor_of
from pqfl_transport.aggregation.slices import Array, Floats, added, blocks, slice_width

Comparator = tuple[int, int, bool, bool]
"""Two places, and whether the smaller value, put at the first, and the larger, put at the second, are needed."""


def coordinate_median(base: Weights, updates: Sequence[Contribution]) -> Weights:
    """Return ``base`` plus the median of each coordinate; of an even number, the mean of the two in the middle."""
    count = len(updates)
    return middle_mean(base, updates, (count - 1) // 2)


def middle_mean(base: Weights, updates: Sequence[Contribution], cut: int) -> Weights:
    """Return ``base`` plus, of each coordinate, the mean without the ``cut`` smallest and the ``cut`` largest values.

    ``cut`` has to leave one value at least. Raises ``RoundError`` (``not_finite``) when a result leaves the range of a
    tensor's type.
    """
    return like(
        base,
        lambda name, tensor: middle_of(name, tensor, [tensor_of(update.delta, name) for update in updates], cut),
    )


def middle_of(name: str | int, base: Array, deltas: Sequence[Array], cut: int) -> Array:
    """Do for one tensor what `middle_mean` does for a model."""
    wanted = range(cut, len(deltas) - cut)
    if not wanted:
        raise ValueError("nothing is left in the middle")
    network = comparators(len(deltas), wanted)
    pieces = blocks(deltas, _exact_type(base.dtype))

    def change(_part: slice) -> Floats:
        rows = _sorted(next(pieces), network)
        total = rows[cut].astype(np.float64)
        for place in wanted[1:]:
            total += rows[place]
        total /= len(wanted)
        return total

    return added(name, base, change, slice_width(len(deltas)))


@lru_cache(maxsize=64)
def comparators(count: int, wanted: range) -> tuple[Comparator, ...]:
    """Return the comparators, in order, after which the ``wanted`` places hold what they do in sorted order."""
    needed, kept = set(wanted), []
    for low, high in reversed(_merge_exchange(count)):
        if low in needed or high in needed:
            kept.append((low, high, low in needed, high in needed))
            needed |= {low, high}
    return tuple(reversed(kept))


def _merge_exchange(count: int) -> list[tuple[int, int]]:
    pairs: list[tuple[int, int]] = []
    first = 1 << max((count - 1).bit_length() - 1, 0)
    step = first
    while step:
        other, rest, distance = first, 0, step
        while True:
            pairs += [(low, low + distance) for low in range(count - distance) if low & step == rest]
            if other == step:
                break
            distance, other, rest = other - step, other >> 1, step
        step >>= 1
    return pairs


def _sorted(block: Array, network: Sequence[Comparator]) -> list[Array]:
    rows, spare = list(block), np.empty_like(block[0])
    for low, high, smaller, larger in network:
        if not larger:
            np.minimum(rows[low], rows[high], out=rows[low])
        elif not smaller:
            np.maximum(rows[low], rows[high], out=rows[high])
        else:
            np.minimum(rows[low], rows[high], out=spare)
            np.maximum(rows[low], rows[high], out=rows[high])
            rows[low], spare = spare, rows[low]
    return rows


def _exact_type(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the type that values are sorted in: their own, or float32 for floats that are shorter."""
    return np.dtype(np.float32) if dtype.kind not in "fi" or dtype == np.float16 else dtype
