"""Codecs: fewer bytes for the same tensors, with a known bound on what is lost (docs/content.md).

An encoded model is weights again: the same container, names and order, each tensor as it was or replaced by its encoded
form, and one item of metadata that says what each one was. Both ends know the codec from the signed header.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np

from pqfl_transport.content.arrays import Array
from pqfl_transport.content.dtypes import DTYPES, dtype_word
from pqfl_transport.content.header import CODECS
from pqfl_transport.content.quantizing import (
    from_bfloat16,
    from_int8,
    int8_scale,
    largest_magnitude,
    malformed,
    require_scale,
    to_bfloat16,
    to_int8,
)
from pqfl_transport.content.sparse import from_sparse, is_sparse, to_sparse
from pqfl_transport.content.tensors import MAX_DIMENSIONS, Weights, named_arrays
from pqfl_transport.errors import ConfigurationError, MessageError

FACTS = "codec"
"""The metadata that hold what a codec did; no other fact may have this name."""
DEFAULT_FRACTION = 0.01
"""How many of a tensor's entries top-k keeps, unless told otherwise: one in a hundred, at least one."""

_IDENTITY, _BF16, _INT8, _TOPK = CODECS
_FLOATS = frozenset({"F32", "F64"})
_MAX_SIDE = 1 << 48

Encoded = list[Array] | dict[str, Array]
_Fact = list[Any]
"""What the metadata say of one encoded tensor besides its type: JSON values."""


def encode(weights: Weights, codec: str, *, fraction: float = DEFAULT_FRACTION) -> tuple[Encoded, dict[str, str]]:
    """Return what to lay out in place of ``weights``, and the metadata to send with it (see `with_codec`).

    ``fraction``, above 0 and at most 1, is what top-k keeps. Raises ``ConfigurationError``: ``not_finite`` for NaN or
    infinity under a codec that loses precision, ``out_of_range`` for what bfloat16 cannot hold, ``unknown_codec``,
    ``bad_fraction``; ``PlatformError`` (``no_zstd``) for top-k without the package ``zstandard``.
    """
    if not 0 < fraction <= 1:
        raise ConfigurationError(f"top-k keeps a fraction above 0 and up to 1, not {fraction}", reason="bad_fraction")
    if codec not in CODECS:
        raise ConfigurationError(f"{codec!r} is no codec; known are {', '.join(CODECS)}", reason="unknown_codec")
    arrays = named_arrays(weights)
    if codec == _IDENTITY:
        return _contained(weights, arrays), {}
    encoder = _TopK(fraction) if codec == _TOPK else _METHODS[codec]
    facts = []
    for name, array in arrays.items():
        word = dtype_word(array.dtype, name)
        done = None
        if word in encoder.words and array.size:
            done = encoder.encode(np.asarray(array, dtype=DTYPES[word], order="C"), name)
        facts.append(None if done is None else [word, *done[1]])
        arrays[name] = array if done is None else done[0]
    return _contained(weights, arrays), {FACTS: json.dumps(facts, separators=(",", ":"), allow_nan=False)}


def decode(weights: Weights, metadata: Mapping[str, str], codec: str, *, max_bytes: int) -> Encoded:
    """Return the weights that were encoded: same container, names, order, dtypes and shapes.

    What all tensors take together is held against ``max_bytes`` before memory is taken for any of them; tensors that
    the codec left alone stay views. Raises ``MessageError``: ``too_large``, ``malformed``, ``unknown_codec``;
    ``PlatformError`` (``no_zstd``).
    """
    if codec not in CODECS:
        raise MessageError(f"the tensors are encoded by {codec!r}, which is unknown here", reason="unknown_codec")
    arrays = named_arrays(weights)
    targets = _targets(arrays, metadata, codec)
    total = sum(array.nbytes for name, array in arrays.items() if name not in targets)
    total += sum(target.total_bytes for target in targets.values())
    if total > max_bytes:
        raise MessageError(f"the decoded tensors take {total} bytes; {max_bytes} are allowed", reason="too_large")
    for name, target in targets.items():
        decoded = np.empty(target.shape, target.dtype)
        _METHODS[codec].decode_into(arrays[name], target.fact, decoded, name)
        arrays[name] = decoded
    return _contained(weights, arrays)


def with_codec(metadata: Mapping[str, str], facts: Mapping[str, str]) -> dict[str, str]:
    """Return a caller's metadata and a codec's together. Raises ``ConfigurationError`` where the name is taken."""
    if FACTS in metadata:
        raise ConfigurationError(f"metadata cannot be called {FACTS!r}", reason="unsupported")
    return {**metadata, **facts}


def without_codec(metadata: Mapping[str, str]) -> dict[str, str]:
    """Return the metadata as the sending caller gave them."""
    return {key: value for key, value in metadata.items() if key != FACTS}


class _Method(Protocol):
    """How one codec treats one tensor that has elements."""

    @property
    def words(self) -> frozenset[str]:
        """The types that it encodes."""

    def encode(self, array: Array, name: str) -> tuple[Array, _Fact] | None:
        """Encode a little-endian array in C order; None leaves the tensor as it is."""

    def shape(self, encoded: Array, fact: _Fact, dtype: np.dtype[Any], name: str) -> tuple[int, ...]:
        """Check everything that needs no memory, and return the tensor's shape. Raises ``MessageError``."""

    def decode_into(self, encoded: Array, fact: _Fact, array: Array, name: str) -> None:
        """Set a new array of that shape."""


class _BFloat16:
    words = _FLOATS

    def encode(self, array: Array, name: str) -> tuple[Array, _Fact]:
        return to_bfloat16(array, name), []

    def shape(self, encoded: Array, fact: _Fact, _dtype: np.dtype[Any], name: str) -> tuple[int, ...]:
        if fact or encoded.dtype != np.uint16:
            raise malformed(name, "is not in bfloat16")
        return encoded.shape

    def decode_into(self, encoded: Array, _fact: _Fact, array: Array, name: str) -> None:
        from_bfloat16(encoded, array, name)


class _Int8:
    words = _FLOATS | {"F16"}

    def encode(self, array: Array, name: str) -> tuple[Array, _Fact] | None:
        scale = int8_scale(array, name)
        return None if scale is None else (to_int8(array, scale), [scale])

    def shape(self, encoded: Array, fact: _Fact, dtype: np.dtype[Any], name: str) -> tuple[int, ...]:
        if len(fact) != 1 or encoded.dtype != np.int8:
            raise malformed(name, "is not in int8 with one scale")
        require_scale(fact[0], dtype, name)
        return encoded.shape

    def decode_into(self, encoded: Array, fact: _Fact, array: Array, name: str) -> None:
        from_int8(encoded, require_scale(fact[0], array.dtype, name), array, name)


@dataclass(frozen=True, slots=True)
class _TopK:
    fraction: float = DEFAULT_FRACTION
    words: frozenset[str] = _FLOATS | {"F16"}

    def encode(self, array: Array, name: str) -> tuple[Array, _Fact] | None:
        kept = math.ceil(array.size * self.fraction)
        if not is_sparse(kept, array.size, array.dtype):
            largest_magnitude(array.reshape(-1), name)
            return None
        return to_sparse(array, kept, name), [list(array.shape), kept]

    def shape(self, encoded: Array, fact: _Fact, dtype: np.dtype[Any], name: str) -> tuple[int, ...]:
        if len(fact) != 2 or encoded.dtype != np.uint8 or encoded.ndim != 1:  # noqa: PLR2004 -- shape and count
            raise malformed(name, "is no compressed blob with a shape and a count")
        shape, kept = fact
        if not isinstance(shape, list) or len(shape) > MAX_DIMENSIONS or not all(map(_is_side, shape)):
            raise malformed(name, f"has the shape {shape!r}")
        if type(kept) is not int or not is_sparse(kept, math.prod(shape), dtype):
            raise malformed(name, f"keeps {kept!r} of {math.prod(shape)} entries")
        return tuple(shape)

    def decode_into(self, encoded: Array, fact: _Fact, array: Array, name: str) -> None:
        from_sparse(encoded, fact[1], array, name)


_METHODS: Mapping[str, _Method] = MappingProxyType({_BF16: _BFloat16(), _INT8: _Int8(), _TOPK: _TopK()})


@dataclass(frozen=True, slots=True)
class _Target:
    """The tensor that an encoded one stands for; nothing is allocated yet."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    fact: _Fact

    @property
    def total_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def _targets(arrays: Mapping[str, Array], metadata: Mapping[str, str], codec: str) -> dict[str, _Target]:
    if codec == _IDENTITY:
        if FACTS in metadata:
            raise MessageError("the metadata tell of a codec, the header does not", reason="malformed")
        return {}
    facts = _facts(metadata, len(arrays))
    method = _METHODS[codec]
    targets = {}
    for (name, array), fact in zip(arrays.items(), facts, strict=True):
        if fact is None:
            continue
        if not isinstance(fact, list) or not fact or fact[0] not in tuple(method.words) or not array.size:
            raise malformed(name, f"cannot come of {codec}")
        dtype = DTYPES[fact[0]]
        targets[name] = _Target(dtype, method.shape(array, fact[1:], dtype, name), fact[1:])
    return targets


def _facts(metadata: Mapping[str, str], tensors: int) -> list[Any]:
    try:
        facts = json.loads(metadata.get(FACTS, ""))
    except (ValueError, RecursionError) as error:
        raise MessageError(f"the metadata do not tell what the codec did: {error}", reason="malformed") from None
    if not isinstance(facts, list) or len(facts) != tensors:
        raise MessageError(f"the metadata do not tell what the codec did to {tensors} tensors", reason="malformed")
    return facts


def _is_side(value: object) -> bool:
    # `type` and not `isinstance`: JSON's true is an int to Python.
    return type(value) is int and 0 <= value < _MAX_SIDE


def _contained(weights: Weights, arrays: dict[str, Array]) -> Encoded:
    return arrays if isinstance(weights, Mapping) else list(arrays.values())
