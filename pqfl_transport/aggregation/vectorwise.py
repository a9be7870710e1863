"""Rules that judge an update as a whole: norm clipping, Krum and multi-Krum, the geometric median.

Each comes down to one coefficient for every update, the new model being ``base + sum(coefficient · delta)``. The big
tensors are read twice, once to measure and once to add up; everything between is about as many numbers as there are
pairs of updates.
"""

from collections.abc import Sequence

import numpy as np

from pqfl_transport.aggregation.fedavg import Contribution, Weights
from pqfl_transport.aggregation.geometry import lengths, moved, products, squared_distances
from pqfl_transport.aggregation.slices import Floats
from pqfl_transport.errors import RoundError

_MOST_STEPS = 10_000
_SETTLED = 1e-9
# Distances below this part of the typical one count as equal, so that a point on top of an update is no division by 0.
_SMOOTHING = 1e-6
# Inner products in float64 tell distances down to about this part of an update's length.
_RESOLUTION = 1e-8
_TINY = 1e-150
# A squared length that can still be added up a few times in float64.
_MEASURABLE = 1e300


def clipped_mean(
    base: Weights, updates: Sequence[Contribution], bound: float | None
) -> tuple[Weights, tuple[int, ...], float]:
    """Scale every longer update down to ``bound``, then average weighted by samples (Sun et al., 2019).

    Without a bound it is the median of the lengths. Returns the model, the places of the updates that were scaled
    down, and the bound. Raises ``RoundError`` (``not_finite``) when half of them are too long to be measured.
    """
    found = lengths(updates)
    limit = float(np.median(found)) if bound is None else bound
    if not np.isfinite(limit):
        raise RoundError("half of the updates are too long to be measured", reason="not_finite")
    longer = found > limit
    factors = np.divide(limit, found, out=np.ones_like(found), where=longer)
    model = moved(base, updates, (_shares(updates) * factors).tolist())
    return model, _places(longer), limit


def krum(
    base: Weights, updates: Sequence[Contribution], byzantine: int, select: int
) -> tuple[Weights, tuple[int, ...]]:
    """Average the ``select`` updates closest to their ``n - byzantine - 2`` nearest others (Blanchard et al., 2017).

    With ``select`` 1 it is Krum, else multi-Krum. Sample counts do not count; of equal scores the earlier update is
    taken. Returns the model and the places of the updates that were left out.
    Raises ``RoundError`` (``not_finite``) when too few updates lie within a measurable distance.
    """
    nearest = len(updates) - byzantine - 2
    # The distance to itself is 0, comes first in its row and is not counted.
    scores = np.sort(squared_distances(products(updates)), axis=1)[:, 1 : nearest + 1].sum(axis=1)
    chosen = np.zeros(len(updates), np.bool_)
    chosen[np.argsort(scores, kind="stable")[:select]] = True
    if not np.isfinite(scores[chosen]).all():
        raise RoundError("too few updates lie within a distance that can be measured", reason="not_finite")
    return moved(base, updates, (chosen / select).tolist()), _places(~chosen)


def geometric_median(base: Weights, updates: Sequence[Contribution]) -> tuple[Weights, tuple[float, ...]]:
    """Move to the point with the least sum of distances, weighted by samples, to all updates (Pillutla et al., 2022).

    Found by the smoothed Weiszfeld algorithm: each step is a mean in which an update counts the less, the further it
    lies away. It begins near the most central update, from where even absurd updates take few steps. Returns the model
    and the share that each update has in it. Raises ``RoundError`` (``not_finite``) when all are too long to measure.
    """
    shares = median_shares(products(updates), _shares(updates))
    return moved(base, updates, shares.tolist()), tuple(shares.tolist())


def median_shares(inner: Floats, weights: Floats) -> Floats:
    """Return the shares, which sum to 1, of the updates in their geometric median, from their inner products.

    The point is always a mean of the updates, so its distance to each follows from the inner products alone. An update
    too long to be measured has no share. Raises ``RoundError`` (``not_finite``) when all are.
    """
    measurable = np.diag(inner) < _MEASURABLE
    if not measurable.any():
        raise RoundError("no update is short enough to be measured", reason="not_finite")
    inner, squares = inner[np.ix_(measurable, measurable)], np.diag(inner)[measurable]
    weights = weights[measurable]
    apart = np.sqrt(squared_distances(inner))
    # How far the most central update is from half of the others: a minority cannot raise that at will.
    spreads = np.median(apart, axis=1)
    central, typical = int(spreads.argmin()), float(spreads.min())
    least = max(_SMOOTHING * typical, _RESOLUTION * float(np.sqrt(np.median(squares))), _TINY)
    pulls = weights / np.maximum(apart[central], max(typical, least))
    shares = pulls / pulls.sum()
    for _ in range(_MOST_STEPS):
        along = inner @ shares
        distances = np.sqrt(np.maximum(shares @ along - 2 * along + squares, 0))
        pulls = weights / np.maximum(distances, least)
        former, shares = shares, pulls / pulls.sum()
        # Of what lies far away, a share that seems to be nothing still moves the point.
        if (np.abs(shares - former) <= _SETTLED * shares).all():
            break
    found: Floats = np.zeros(len(measurable))
    found[measurable] = shares
    return found


def _shares(updates: Sequence[Contribution]) -> Floats:
    samples = np.array([update.samples for update in updates], np.float64)
    shares: Floats = samples / samples.sum()
    return shares


def _places(chosen: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> tuple[int, ...]:
    return tuple(np.flatnonzero(chosen).tolist())
