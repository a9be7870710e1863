"""The order of numbers in a masked vector: a model's tensors one after the other, then a trailer.

A *coordinate* is the place of one number. Tensors stand in the order of the round's schema, each in C order; the same
coordinate is the same number of the model at every site. The trailer has `TRAILER` coordinates of its own.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from pqfl_transport.aggregation.fedavg import Array, Weights
from pqfl_transport.aggregation.round_document import TensorSchema
from pqfl_transport.errors import ConfigurationError, RoundError

TRAILER = 7
"""Behind the tensors: the weight, the constant 1, four zeros, and how many coordinates were clipped."""

SLICE_COORDINATES = 1 << 16
"""Vectors are worked on in slices that stay in a processor's cache; temporary memory is a few of them."""

DTYPE_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "F64": "float64",
        "F32": "float32",
        "F16": "float16",
        "BF16": "bfloat16",
        "F8_E4M3": "float8_e4m3fn",
        "F8_E5M2": "float8_e5m2",
        "I64": "int64",
        "I32": "int32",
        "I16": "int16",
        "I8": "int8",
    }
)
"""The schema's words for types of numbers that have a sum, and what NumPy calls them."""


@dataclass(frozen=True, slots=True)
class Span:
    """Where one tensor lies: coordinates ``begin`` to ``end``, without the last."""

    name: str
    dtype: str
    """NumPy's name."""
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class Layout:
    """The spans of a model in order; ``coordinates`` counts its numbers, ``length`` those and the trailer."""

    spans: tuple[Span, ...]
    coordinates: int
    length: int

    @classmethod
    def of(cls, schema: Sequence[TensorSchema]) -> "Layout":
        """Lay out the tensors of a round document.

        Raises ``ConfigurationError`` (``bad_model``) for a model without numbers, two tensors of one name, and a type
        that cannot be averaged: booleans, unsigned integers, complex numbers.
        """
        spans, at = [], 0
        for row in schema:
            if row.dtype not in DTYPE_NAMES:
                raise ConfigurationError(
                    f"tensor {row.name!r} is {row.dtype}; only floating-point numbers and signed integers can be added",
                    reason="bad_model",
                )
            end = at + math.prod(row.shape)
            spans.append(Span(row.name, DTYPE_NAMES[row.dtype], row.shape, at, end))
            at = end
        if not at:
            raise ConfigurationError("the model holds no numbers", reason="bad_model")
        if len({span.name for span in spans}) != len(spans):
            raise ConfigurationError("two tensors of the model have the same name", reason="bad_model")
        return cls(tuple(spans), at, at + TRAILER)

    def flatten(self, weights: Weights) -> list[tuple[Span, Array]]:
        """Return each span with its tensor as one dimension; nothing is copied where memory is contiguous.

        A list's tensors are called by their numbers, as in the schema. Raises ``RoundError``: ``wrong_names``,
        ``wrong_shape``, ``wrong_dtype``.
        """
        items = enumerate(weights) if isinstance(weights, list) else weights.items()
        named: dict[str, Array] = {str(name): tensor for name, tensor in items}
        names = [span.name for span in self.spans]
        if named.keys() != set(names) or (isinstance(weights, list) and list(named) != names):
            raise RoundError("the names of the tensors are not those of the round's schema", reason="wrong_names")
        for span in self.spans:
            tensor = named[span.name]
            if tensor.shape != span.shape:
                raise RoundError(
                    f"tensor {span.name!r} has shape {tensor.shape}, expected {span.shape}", reason="wrong_shape"
                )
            if tensor.dtype.name != span.dtype:
                raise RoundError(f"tensor {span.name!r} is {tensor.dtype}, expected {span.dtype}", reason="wrong_dtype")
        return [(span, named[span.name].reshape(-1)) for span in self.spans]


def slices(size: int) -> Iterator[slice]:
    """Yield the slices that ``size`` coordinates are worked on in."""
    for start in range(0, size, SLICE_COORDINATES):
        yield slice(start, min(start + SLICE_COORDINATES, size))
