"""From an unmasked sum to the mean delta: checked first, and nothing of it leaves when a check fails."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pqfl_transport.aggregation.fedavg import Array, Weights
from pqfl_transport.aggregation.secagg.layout import SLICE_COORDINATES, Span, slices
from pqfl_transport.aggregation.secagg.masking import Vector, require_vector
from pqfl_transport.aggregation.secagg.plan import LEAST_SITES, Plan
from pqfl_transport.errors import RoundError


@dataclass(frozen=True, slots=True)
class Mean:
    """What a round gives: the weighted mean of the sites' deltas, and two sums over all of them."""

    delta: Weights
    weight: int
    """The sum of the weights."""
    clipped: int
    """How many numbers were clipped at all sites together, at least: none counts beyond `Plan.clipped_cap`."""


def mean_delta(total: Vector, plan: Plan, vectors: int, base: Weights) -> Mean:
    """Return the mean delta of so many summed vectors, in the form, names and types of ``base``.

    ``base`` is read for its form only. Raises ``RoundError`` as `check_sum` and `Layout.flatten` do.
    """
    weight, clipped = check_sum(total, plan, vectors)
    signed = total.view(np.int32)
    tensors: dict[str, Array] = {}
    for (span, like), clip in zip(plan.layout.flatten(base), plan.clips, strict=True):
        tensors[span.name] = _scaled(signed, span, clip, plan.levels * weight, like.dtype)
    if isinstance(base, list):
        return Mean(list(tensors.values()), weight, clipped)
    return Mean({name: tensors[name] for name in base}, weight, clipped)


def check_sum(total: Vector, plan: Plan, vectors: int) -> tuple[int, int]:
    """Return the sum of the weights and of the clipped numbers, once everything that can be checked holds.

    Raises ``RoundError``: ``too_few_sites`` below three vectors, ``too_many_sites`` beyond those of the plan,
    ``bad_sum`` when the zeros do not add up to zero, the constants not to the number of vectors, or when the weights,
    the clipped numbers or any coordinate pass what so many sites can add up to; the sentence holds no number of the
    sum. With a wrong, missing or left-over mask the zeros add up to zero with a probability of 2^-128. What a site
    puts into its delta within the clip is not found.
    """
    if vectors < LEAST_SITES:
        raise RoundError(f"a sum of {vectors} vectors; at least {LEAST_SITES} are needed", reason="too_few_sites")
    if vectors > plan.sites:
        raise RoundError(f"a sum of {vectors} vectors; the round has {plan.sites} sites", reason="too_many_sites")
    require_vector(total, plan.layout.length)
    weight, constants, *zeros, clipped = (int(number) for number in total[plan.layout.coordinates :])
    if any(zeros):
        raise _bad_sum("the zeros do not add up to zero")
    if constants != vectors:
        raise _bad_sum("the constants do not add up to the number of vectors")
    if not vectors <= weight <= vectors * plan.weight_cap:
        raise _bad_sum("the weights do not add up to what so many sites can have")
    if clipped > vectors * plan.clipped_cap:
        raise _bad_sum("more numbers are clipped than there are")
    _require_within(total[: plan.layout.coordinates].view(np.int32), weight << (plan.bits - 1))
    return weight, clipped


def _require_within(numbers: npt.NDArray[np.int32], limit: int) -> None:
    # The plan keeps this limit below 2^30 for every sum of weights that passed.
    for place in slices(numbers.size):
        part = numbers[place]
        if int(part.max()) > limit or int(part.min()) < -limit:
            raise _bad_sum("a coordinate is beyond what such weights can add up to")


def _scaled(signed: npt.NDArray[np.int32], span: Span, clip: float, steps: int, dtype: np.dtype[Any]) -> Array:
    result = np.empty(span.end - span.begin, dtype)
    wide = np.empty(min(result.size, SLICE_COORDINATES), np.float64)
    encoded = signed[span.begin : span.end]
    for place in slices(result.size):
        part = result[place]
        numbers = wide[: part.size]
        np.multiply(encoded[place], clip / steps, out=numbers)
        # Rounding at the sites can have added a step to what they clipped, which a narrow type might not hold.
        np.clip(numbers, -clip, clip, out=numbers)
        if dtype.kind == "i":
            np.rint(numbers, out=numbers)
        np.copyto(part, numbers, casting="unsafe")
    return result.reshape(span.shape)


def _bad_sum(what: str) -> RoundError:
    return RoundError(
        f"the unmasked sum is wrong: {what}; an update or a mask was not what the protocol asks for", reason="bad_sum"
    )
