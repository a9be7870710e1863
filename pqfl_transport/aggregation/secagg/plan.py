"""What all parties of a round agree on before a number is encoded, and the proof that no sum of them can overflow.

A delta δ of a tensor with the bound ``clip`` becomes an integer of ``bits`` bits for each unit of weight: it is clipped
to ±clip and expressed in steps of ``clip / levels``, where ``levels = 2^(bits-1) - 1``. With weight w, the site's
integer lies within ±w · 2^(bits-1), and the sum over n sites within ±n · weight_cap · 2^(bits-1). That is required to
be less than 2^30, so sums modulo 2^32 are read back without doubt, and half of all values can only come from a fault.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from pqfl_transport.aggregation.round_document import TensorSchema
from pqfl_transport.aggregation.secagg.layout import Layout
from pqfl_transport.errors import ConfigurationError, RoundError

LEAST_SITES = 3
"""With two sites each would learn the other's update from the sum."""
LARGEST_WEIGHT = 1000
SUM_LIMIT = 1 << 30
_LEAST_BITS = 2
_MOST_BITS = 30
_LARGEST: Mapping[str, float] = MappingProxyType(
    {
        "bfloat16": float.fromhex("0x1.fep127"),
        "float16": 65504.0,
        "float8_e4m3fn": 448.0,
        "float8_e5m2": 57344.0,
        "int64": 2.0**62,
        "int32": 2.0**31 - 1,
        "int16": 2.0**15 - 1,
        "int8": 2.0**7 - 1,
    }
)
_LARGEST_FLOAT32 = float.fromhex("0x1.fffffep127")
_SMALLEST_CLIP = 1e-30
"""Clips are compared in float32, where this is a normal number."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The parameters of one round's vectors; made by `Plan.of`, and refused here when they do not fit together."""

    layout: Layout
    clips: tuple[float, ...]
    """For each span of the layout, the largest magnitude that is encoded."""
    sites: int
    """n, the most sites whose vectors are added."""
    bits: int
    weight_cap: int
    """w_max, the largest weight of a site."""

    @classmethod
    def of(
        cls,
        schema: Sequence[TensorSchema],
        *,
        clip: float,
        sites: int,
        bits: int,
        weight_cap: int,
        tensor_clips: Mapping[str, float] | None = None,
    ) -> "Plan":
        """Plan a round with one ``clip`` for all tensors but those that ``tensor_clips`` names.

        Raises ``ConfigurationError``: ``bad_model`` as `Layout.of`, ``overflow`` when a sum could reach 2^30,
        ``bad_plan`` for a parameter outside of its range or a clip for a tensor that is not there.
        """
        layout = Layout.of(schema)
        own = dict(tensor_clips or {})
        clips = tuple(float(own.pop(span.name, clip)) for span in layout.spans)
        if own:
            raise ConfigurationError(f"a clip is set for {min(own)!r}, which is no tensor here", reason="bad_plan")
        return cls(layout, clips, sites, bits, weight_cap)

    def __post_init__(self) -> None:
        if self.sites < LEAST_SITES:
            raise _bad_plan(f"{self.sites} sites; at least {LEAST_SITES} are needed for a sum that hides each of them")
        if not _LEAST_BITS <= self.bits <= _MOST_BITS:
            raise _bad_plan(f"{self.bits} bits for a number and its sign, which takes {_LEAST_BITS} to {_MOST_BITS}")
        if not 1 <= self.weight_cap <= LARGEST_WEIGHT:
            raise _bad_plan(f"the largest weight is {self.weight_cap} and has to be 1 to {LARGEST_WEIGHT}")
        if len(self.clips) != len(self.layout.spans):
            raise _bad_plan(f"{len(self.clips)} clips for {len(self.layout.spans)} tensors")
        for span, clip in zip(self.layout.spans, self.clips, strict=True):
            largest = _LARGEST.get(span.dtype, _LARGEST_FLOAT32)
            if not (math.isfinite(clip) and _SMALLEST_CLIP <= clip <= largest):
                raise _bad_plan(
                    f"the clip of tensor {span.name!r} is {clip:g} and has to be {_SMALLEST_CLIP:g} to {largest:g}"
                )
        largest_sum = self.sites * self.weight_cap << (self.bits - 1)
        if largest_sum >= SUM_LIMIT:
            raise ConfigurationError(
                f"the sum of {self.sites} sites of weight {self.weight_cap} in {self.bits} bits can reach "
                f"{largest_sum} and has to stay below {SUM_LIMIT}: use fewer bits or a smaller largest weight",
                reason="overflow",
            )

    @property
    def levels(self) -> int:
        """How many steps ``clip`` is divided into."""
        return (1 << (self.bits - 1)) - 1

    @property
    def clipped_cap(self) -> int:
        """The most clipped coordinates that one site counts, so that the sum of the counts fits too."""
        return min(self.layout.coordinates, (SUM_LIMIT - 1) // self.sites)

    def require_weight(self, weight: int) -> None:
        """Raise ``RoundError`` (``bad_weight``) unless ``weight`` is 1 to ``weight_cap``."""
        if not 1 <= weight <= self.weight_cap:
            raise RoundError(f"the weight is {weight} and has to be 1 to {self.weight_cap}", reason="bad_weight")


def weight_of(samples: int, most_samples: int, weight_cap: int) -> int:
    """Return the weight, 1 to ``weight_cap``, of a site that trained on so many samples.

    ``most_samples`` is the round's: as many samples, or more, have the largest weight. Halves are rounded up. Raises
    ``RoundError`` (``bad_samples``) without a sample, ``ConfigurationError`` (``bad_plan``) for the other two.
    """
    if most_samples < 1 or not 1 <= weight_cap <= LARGEST_WEIGHT:
        raise _bad_plan(f"weights of 1 to {weight_cap} for {most_samples} samples")
    if samples < 1:
        raise RoundError(f"an update counts {samples} samples, at least 1 is needed", reason="bad_samples")
    return max(1, (2 * min(samples, most_samples) * weight_cap + most_samples) // (2 * most_samples))


def _bad_plan(what: str) -> ConfigurationError:
    return ConfigurationError(f"secure aggregation: {what}", reason="bad_plan")
