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
from types import MappingProxyType
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from pqfl_transport.crypto.pyca import Buffer
from pqfl_transport.errors import ConfigurationError, MessageError

Array = npt.NDArray[Any]
Weights = Sequence[Array] | Mapping[str, Array]

MAX_HEADER_BYTES = 16 << 20
MAX_TENSORS = 1 << 16
MAX_DIMENSIONS = 32
LENGTH_BYTES = 8

SAMPLES = "samples"
"""The metadata of an update that holds how many samples it was trained on."""

DTYPES: Mapping[str, np.dtype[Any]] = MappingProxyType(
    {
        "BOOL": np.dtype("?"),
        "U8": np.dtype("u1"),
        "I8": np.dtype("i1"),
        "U16": np.dtype("<u2"),
        "I16": np.dtype("<i2"),
        "F16": np.dtype("<f2"),
        "U32": np.dtype("<u4"),
        "I32": np.dtype("<i4"),
        "F32": np.dtype("<f4"),
        "U64": np.dtype("<u8"),
        "I64": np.dtype("<i8"),
        "F64": np.dtype("<f8"),
        "C64": np.dtype("<c8"),
    }
)
# NumPy has no such types of its own: files with them pass through as bytes, but do not become arrays.
_BYTES_ONLY = MappingProxyType({"BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1})
_NAMES = MappingProxyType({dtype: name for name, dtype in DTYPES.items()})

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
        """The dtype of NumPy. Raises ``MessageError`` (``unsupported``) where NumPy has none."""
        try:
            return DTYPES[self.dtype]
        except KeyError:
            raise MessageError(
                f"tensor {self.name!r} is of type {self.dtype}, which is no NumPy type", reason="unsupported"
            ) from None


@dataclass(frozen=True, slots=True)
class TensorLayout:
    """Weights laid out: a header and the arrays' own memory, copied only where it is not contiguous."""

    header_bytes: bytes
    arrays: tuple[Array, ...]
    total_bytes: int

    @classmethod
    def of(cls, weights: Weights, metadata: Mapping[str, str] | None = None) -> "TensorLayout":
        """Lay out ``weights``; ``metadata`` are short facts that travel with them.

        Raises ``ConfigurationError`` for a dtype that the layout has no name for (object arrays among them).
        """
        named = _named(weights)
        container = _MAPPING if isinstance(weights, Mapping) else _LIST
        facts = {_CONTAINER: container} | {_PREFIX + key: value for key, value in (metadata or {}).items()}
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
    return [(name, dtype_name(array, name), array.shape) for name, array in _named(weights).items()]


def model_digest(weights: Weights) -> bytes:
    """Return SHA-256 over the layout without metadata, 32 bytes: the same model has the same digest everywhere."""
    digest = hashlib.sha256()
    for buffer in TensorLayout._of(_named(weights), {}).buffers():  # noqa: SLF001 -- the same class, other metadata
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
        found = json.loads(header, object_pairs_hook=_without_repetition)
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
    word = _NAMES.get(array.dtype.newbyteorder("<"))
    if word is None:
        raise ConfigurationError(
            f"tensor {name!r} is of dtype {array.dtype}, which cannot be sent; known are {', '.join(DTYPES)}",
            reason="unsupported",
        )
    return word


def _named(weights: Weights) -> dict[str, Array]:
    items = weights.items() if isinstance(weights, Mapping) else ((str(i), array) for i, array in enumerate(weights))
    named = {}
    for name, array in items:
        if not isinstance(name, str) or name == _METADATA:
            raise ConfigurationError(f"{name!r} cannot be the name of a tensor", reason="unsupported")
        named[name] = np.asanyarray(array)
    if len(named) > MAX_TENSORS:
        raise ConfigurationError(f"{len(named)} tensors; {MAX_TENSORS} are allowed", reason="too_large")
    return named


def _array(entry: TensorEntry, data: memoryview) -> Array:
    array = np.frombuffer(data[entry.begin : entry.end], dtype=entry.numpy_dtype)
    return array.reshape(entry.shape)


def _entry(name: str, facts: object) -> TensorEntry:
    if not isinstance(facts, dict) or set(facts) != {"dtype", "shape", "data_offsets"}:
        raise _malformed(f"tensor {name!r} is not given by dtype, shape and data_offsets")
    dtype, shape, offsets = facts["dtype"], facts["shape"], facts["data_offsets"]
    if not _are_sizes(shape) or len(shape) > MAX_DIMENSIONS or not _are_sizes(offsets) or len(offsets) != 2:  # noqa: PLR2004 -- begin and end
        raise _malformed(f"tensor {name!r} has a bad shape or bad offsets")
    item_bytes = _item_bytes(name, dtype)
    begin, end = cast("list[int]", offsets)
    if end - begin != math.prod(shape) * item_bytes:
        raise _malformed(f"tensor {name!r} of shape {shape} does not take {end - begin} bytes")
    return TensorEntry(name, dtype, tuple(shape), begin, end)


def _item_bytes(name: str, dtype: object) -> int:
    if isinstance(dtype, str):
        if dtype in DTYPES:
            return DTYPES[dtype].itemsize
        if dtype in _BYTES_ONLY:
            return _BYTES_ONLY[dtype]
    raise MessageError(f"tensor {name!r} is of an unknown type {dtype!r}", reason="unsupported")


def _are_sizes(values: object) -> bool:
    # `type` and not `isinstance`: JSON's true is an int to Python.
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 1 << 48 for value in values)


def _metadata(found: object) -> dict[str, str]:
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise _malformed("the metadata are not strings")
    return found


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice")
    return found


def _malformed(what: str) -> MessageError:
    return MessageError(f"malformed tensors: {what}", reason="malformed")
