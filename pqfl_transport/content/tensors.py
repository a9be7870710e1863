"""Model weights as bytes and back: the safetensors layout, written as a scatter list and read in place.

The layout is eight bytes of length (little-endian), a JSON object that gives each tensor its dtype, shape and place,
then the tensors' bytes back to back, little-endian, in C order. It cannot hold code, so reading it never runs any.
`Weights` are an ordered list of arrays or a mapping of names, and come back as they went in.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from pqfl_transport.content.arrays import Array, as_array
from pqfl_transport.content.dtypes import DTYPES, dtype_word, item_bytes, numpy_dtype
from pqfl_transport.crypto.pyca import Buffer
from pqfl_transport.errors import ConfigurationError, MessageError

__all__ = [
    "DTYPES",
    "LENGTH_BYTES",
    "MAX_HEADER_BYTES",
    "SAMPLES",
    "Array",
    "TensorEntry",
    "TensorLayout",
    "Weights",
    "allocate",
    "array_bytes",
    "dtype_name",
    "encode_header",
    "header_length",
    "model_digest",
    "named_arrays",
    "parse",
    "parse_header",
    "schema",
]

Weights = Sequence[Array] | Mapping[str, Array]

MAX_HEADER_BYTES = 16 << 20
MAX_TENSORS = 1 << 16
MAX_DIMENSIONS = 32
LENGTH_BYTES = 8

SAMPLES = "samples"
"""The metadata of an update that holds how many samples it was trained on."""

_METADATA = "__metadata__"
_PREFIX = "pqfl."
_CONTAINER = f"{_PREFIX}container"
_LIST, _MAPPING = "list", "mapping"


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """Where one tensor lies: ``begin`` and ``end`` count from the first byte behind the header."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def numpy_dtype(self) -> np.dtype[Any]:
        """NumPy's own dtype, which `.npy` has a name for. Raises ``MessageError`` (``unsupported``) for others."""
        if self.dtype not in DTYPES:
            raise MessageError(
                f"tensor {self.name!r} is of type {self.dtype}, which is no NumPy type", reason="unsupported"
            )
        return DTYPES[self.dtype]


@dataclass(frozen=True, slots=True)
class TensorLayout:
    """Weights laid out: a header and the arrays' own memory, copied only where it is not contiguous."""

    header_bytes: bytes
    arrays: tuple[Array, ...]
    total_bytes: int

    @classmethod
    def of(cls, weights: Weights, metadata: Mapping[str, str] | None = None) -> "TensorLayout":
        """Lay out ``weights``; ``metadata`` are short facts that travel with them.

        Raises ``ConfigurationError`` for a dtype that the layout has no name for (object arrays among them), and for
        metadata called ``container``, which the layout itself holds.
        """
        named = named_arrays(weights)
        container = _MAPPING if isinstance(weights, Mapping) else _LIST
        facts = {_PREFIX + key: value for key, value in (metadata or {}).items()}
        if _CONTAINER in facts:
            raise ConfigurationError("metadata cannot be called 'container'", reason="unsupported")
        if not all(_is_unicode(key + value) for key, value in facts.items()):
            raise ConfigurationError("metadata hold half a character", reason="unsupported")
        facts = {_CONTAINER: container} | facts
        return cls._of(named, {_METADATA: facts})

    @classmethod
    def _of(cls, named: Mapping[str, Array], header: dict[str, Any]) -> "TensorLayout":
        at = 0
        for name, array in named.items():
            end = at + array.nbytes
            entry = {"dtype": dtype_name(array, name), "shape": list(array.shape), "data_offsets": [at, end]}
            header[name] = entry
            at = end
        encoded = encode_header(header)
        return cls(encoded, tuple(named.values()), len(encoded) + at)

    def buffers(self) -> Iterator[memoryview]:
        """Yield the layout's bytes in order: views of the arrays, or a copy of one at a time."""
        yield memoryview(self.header_bytes)
        for array in self.arrays:
            yield array_bytes(array)


def schema(weights: Weights) -> list[tuple[str, str, tuple[int, ...]]]:
    """Return name, dtype (as the layout spells it) and shape of every tensor, in order."""
    return [(name, dtype_name(array, name), array.shape) for name, array in named_arrays(weights).items()]


def total_bytes(weights: Weights) -> int:
    """Return what all tensors take, without names and shapes."""
    return sum(array.nbytes for array in named_arrays(weights).values())


def model_digest(weights: Weights) -> bytes:
    """Return SHA-256 over the layout without metadata, 32 bytes: the same model has the same digest everywhere."""
    digest = hashlib.sha256()
    for buffer in TensorLayout._of(named_arrays(weights), {}).buffers():  # noqa: SLF001 -- the same class, other metadata
        digest.update(buffer)
    return digest.digest()


def parse(buffer: bytearray | memoryview) -> tuple[list[Array] | dict[str, Array], dict[str, str]]:
    """Read weights in place: the arrays are views of ``buffer``. Return them with their metadata.

    Raises ``MessageError`` (``malformed``, ``too_large``, ``unsupported``) for anything but a complete, gapless layout.
    """
    view = memoryview(buffer)
    header_bytes = header_length(view[:LENGTH_BYTES]) + LENGTH_BYTES
    entries, metadata = parse_header(bytes(view[LENGTH_BYTES:header_bytes]), len(view) - header_bytes)
    data = view[header_bytes:]
    arrays = {entry.name: _array(entry, data) for entry in entries}
    facts = {key.removeprefix(_PREFIX): value for key, value in metadata.items() if key.startswith(_PREFIX)}
    if facts.pop("container", _MAPPING) != _LIST:
        return arrays, facts
    if list(arrays) != [str(index) for index in range(len(arrays))]:
        raise _malformed("a list's tensors are not named 0, 1, 2 …")
    return list(arrays.values()), facts


def header_length(prefix: Buffer) -> int:
    """Return the header's length from the layout's first eight bytes. Raises ``MessageError``."""
    if len(prefix) < LENGTH_BYTES:
        raise _malformed("shorter than its own length field")
    length = int.from_bytes(prefix[:LENGTH_BYTES], "little")
    if length > MAX_HEADER_BYTES:
        raise MessageError(f"a tensor header of {length} bytes; {MAX_HEADER_BYTES} are allowed", reason="too_large")
    return length


def parse_header(header: bytes, data_bytes: int) -> tuple[list[TensorEntry], dict[str, str]]:
    """Parse the JSON header of a layout with ``data_bytes`` behind it; return entries by place, and the metadata."""
    try:
        # Decoded here, since the parser would guess at UTF-16 and UTF-32 too.
        found = json.loads(header.decode("utf-8"), object_pairs_hook=_without_repetition)
    except (ValueError, RecursionError) as error:
        raise _malformed(f"the header is not JSON: {error}") from None
    if not isinstance(found, dict) or len(found) > MAX_TENSORS + 1:
        raise _malformed(f"the header is not an object of at most {MAX_TENSORS} tensors")
    metadata = _metadata(found.pop(_METADATA, {}))
    entries = sorted((_entry(name, facts) for name, facts in found.items()), key=lambda entry: (entry.begin, entry.end))
    at = 0
    for entry in entries:
        if entry.begin != at:
            raise _malformed(f"tensor {entry.name!r} does not begin where the one before it ends")
        at = entry.end
    if at != data_bytes:
        raise _malformed(f"the tensors take {at} bytes and there are {data_bytes}")
    # Tensors without elements share their place with a neighbour, so order is the header's among equals.
    return entries, metadata


def encode_header(header: Mapping[str, Any]) -> bytes:
    """Return length and JSON, padded with spaces so that the tensors begin at a multiple of eight bytes."""
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % LENGTH_BYTES)
    if len(text) > MAX_HEADER_BYTES:
        raise ConfigurationError(f"{len(header)} tensors need a header of {len(text)} bytes", reason="too_large")
    return len(text).to_bytes(LENGTH_BYTES, "little") + text


def allocate(size_bytes: int) -> memoryview:
    """Return a new writable buffer for large content, without touching its memory.

    It comes from NumPy, which asks the system for large pages: filling a fresh `bytearray` of hundreds of megabytes
    costs more in page faults than encrypting it.
    """
    return np.empty(size_bytes, np.uint8).data


def array_bytes(array: Array) -> memoryview:
    """Return the bytes of one array, little-endian in C order; a view where its memory is that already."""
    ordered = np.asarray(array, dtype=array.dtype.newbyteorder("<"), order="C")
    # `memoryview` refuses some dtypes and zero-sized shapes, a flat view as bytes never.
    return ordered.reshape(-1).view(np.uint8).data


def dtype_name(array: Array, name: str) -> str:
    """Return the layout's word for an array's dtype. Raises ``ConfigurationError`` naming the tensor."""
    return dtype_word(array.dtype, name)


def named_arrays(weights: Weights) -> dict[str, Array]:
    """Return weights of either form as arrays by name; a list's names are its numbers.

    Raises ``ConfigurationError`` (``unsupported``, ``too_large``) for names and tensors that cannot be sent.
    """
    items = weights.items() if isinstance(weights, Mapping) else ((str(i), array) for i, array in enumerate(weights))
    named = {}
    for name, array in items:
        if not isinstance(name, str) or name == _METADATA or not _is_unicode(name):
            raise ConfigurationError(f"{name!r} cannot be the name of a tensor", reason="unsupported")
        named[name] = as_array(array, name)
    if len(named) > MAX_TENSORS:
        raise ConfigurationError(f"{len(named)} tensors; {MAX_TENSORS} are allowed", reason="too_large")
    return named


def _array(entry: TensorEntry, data: memoryview) -> Array:
    array = np.frombuffer(data[entry.begin : entry.end], dtype=numpy_dtype(entry.dtype, entry.name))
    return array.reshape(entry.shape)


def _entry(name: str, facts: object) -> TensorEntry:
    if not isinstance(facts, dict) or set(facts) != {"dtype", "shape", "data_offsets"}:
        raise _malformed(f"tensor {name!r} is not given by dtype, shape and data_offsets")
    dtype, shape, offsets = facts["dtype"], facts["shape"], facts["data_offsets"]
    if not _are_sizes(shape) or len(shape) > MAX_DIMENSIONS or not _are_sizes(offsets) or len(offsets) != 2:  # noqa: PLR2004 -- begin and end
        raise _malformed(f"tensor {name!r} has a bad shape or bad offsets")
    size_bytes = math.prod(shape) * item_bytes(dtype, name)
    begin, end = cast("list[int]", offsets)
    if end - begin != size_bytes:
        raise _malformed(f"tensor {name!r} of shape {shape} does not take {end - begin} bytes")
    return TensorEntry(name, dtype, tuple(shape), begin, end)


def _are_sizes(values: object) -> bool:
    # `type` and not `isinstance`: JSON's true is an int to Python.
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 1 << 48 for value in values)


def _metadata(found: object) -> dict[str, str]:
    if not isinstance(found, dict) or not all(isinstance(text, str) and _is_unicode(text) for text in found.values()):
        raise _malformed("the metadata are not strings")
    return found


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice")
    if not all(_is_unicode(name) for name in found):
        raise ValueError("a name holds half a character")
    return found


def _is_unicode(text: str) -> bool:
    # Half of a surrogate pair is a string to Python and to JSON's escapes, and has no UTF-8.
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _malformed(what: str) -> MessageError:
    return MessageError(f"malformed tensors: {what}", reason="malformed")
