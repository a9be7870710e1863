"""The largest entries of a tensor, and where they are: top-k, compressed with zstd (docs/content.md).

    blob   one zstd frame that states its content size
    content = planes(deltas) ‖ planes(values)        k deltas, k values
    deltas  the first index, then each index less the one before it; 4 bytes each up to 2³² entries, else 8
    values  as they were, in the tensor's own type
    planes  the first byte of every number, then the second byte of every number, … (little-endian)

In planes, the many zero bytes of small deltas and the similar exponents of values lie side by side.
"""

import importlib
from types import ModuleType
from typing import Any

import numpy as np

from pqfl_transport.content.arrays import Array
from pqfl_transport.content.quantizing import largest_magnitude, malformed, slices
from pqfl_transport.errors import PlatformError

_LEVEL = 3
_PACKAGE = "zstandard"
_SHORT_INDEX_ENTRIES = 1 << 32


def to_sparse(array: Array, kept: int, name: str) -> Array:
    """Return the ``kept`` entries largest in magnitude as one blob, uint8; among equals the first are kept.

    Raises ``ConfigurationError`` (``not_finite``), ``PlatformError`` (``no_zstd``).
    """
    zstd = _zstd()
    flat = array.reshape(-1)
    largest_magnitude(flat, name)
    places = _places_of_largest(flat, kept)
    deltas = np.diff(places, prepend=np.int64(0)).astype(_delta_dtype(flat.size))
    content = np.concatenate([_planes(deltas), _planes(flat[places])])
    blob = zstd.ZstdCompressor(level=_LEVEL).compress(content.data)
    return np.frombuffer(blob, np.uint8)


def is_sparse(kept: int, size: int, dtype: np.dtype[Any]) -> bool:
    """Tell whether ``kept`` entries, at least one, take fewer bytes than all ``size`` of them, uncompressed.

    No other tensor is made sparse, so what a blob decompresses to is always smaller than its tensor.
    """
    return 0 < sparse_bytes(kept, size, dtype) < size * dtype.itemsize


def sparse_bytes(kept: int, size: int, dtype: np.dtype[Any]) -> int:
    """Return how many bytes a blob has to decompress to."""
    return kept * (_delta_dtype(size).itemsize + dtype.itemsize)


def from_sparse(blob: Array, kept: int, array: Array, name: str) -> None:
    """Set a contiguous ``array`` to the blob's entries, and to 0 elsewhere.

    Memory is taken for `sparse_bytes` and no more, whatever the blob says. Raises ``MessageError`` (``malformed``),
    ``PlatformError`` (``no_zstd``).
    """
    flat = array.reshape(-1)
    content = np.frombuffer(_decompress(blob, sparse_bytes(kept, flat.size, flat.dtype), name), np.uint8)
    index = _delta_dtype(flat.size)
    border = kept * index.itemsize
    places = np.cumsum(_numbers(content[:border], index), dtype=np.uint64)
    # A sum that ran over its 64 bits shows as a step back.
    if (places[1:] <= places[:-1]).any() or places[-1] >= flat.size:
        raise malformed(name, "has places that repeat, go back or lie outside")
    values = _numbers(content[border:], flat.dtype)
    if not np.isfinite(values).all():
        raise malformed(name, "holds NaN or infinity")
    flat[:] = 0
    flat[places] = values


def _places_of_largest(flat: Array, kept: int) -> Array:
    magnitudes = np.abs(flat)
    magnitudes.partition(flat.size - kept)
    threshold = magnitudes[flat.size - kept]
    del magnitudes
    above = _places(flat, threshold, np.greater, kept)
    equal = _places(flat, threshold, np.equal, kept - above.size)
    return np.sort(np.concatenate([above, equal]))


def _places(flat: Array, threshold: Any, compare: "np.ufunc", most: int) -> Array:
    found = [np.empty(0, np.int64)]
    for part in slices(flat.size):
        if most <= 0:
            break
        found.append(np.flatnonzero(compare(np.abs(flat[part]), threshold))[:most] + part.start)
        most -= found[-1].size
    return np.concatenate(found)


def _delta_dtype(size: int) -> np.dtype[Any]:
    return np.dtype("<u4" if size <= _SHORT_INDEX_ENTRIES else "<u8")


def _planes(numbers: Array) -> Array:
    return np.ascontiguousarray(numbers).view(np.uint8).reshape(numbers.size, -1).T.reshape(-1)


def _numbers(planes: Array, dtype: np.dtype[Any]) -> Array:
    return np.ascontiguousarray(planes.reshape(dtype.itemsize, -1).T).view(dtype).reshape(-1)


def _decompress(blob: Array, size_bytes: int, name: str) -> bytes:
    zstd = _zstd()
    data = np.ascontiguousarray(blob).data
    try:
        stated = zstd.frame_content_size(data)
        if stated != size_bytes:
            raise malformed(name, f"states {stated} bytes of content and has to have {size_bytes}")
        # The frame cannot grow beyond what it states, and nothing may follow it.
        content: bytes = zstd.ZstdDecompressor().decompress(data, allow_extra_data=False)
    except zstd.ZstdError as error:
        raise malformed(name, f"is no zstd frame: {error}") from None
    if len(content) != size_bytes:
        raise malformed(name, f"has {len(content)} bytes of content and has to have {size_bytes}")
    return content


def _zstd() -> ModuleType:
    try:
        return importlib.import_module(_PACKAGE)
    except ImportError:
        raise PlatformError(
            f"top-k needs the package {_PACKAGE}, which is not here; install it with: pip install 'pqfl[zstd]'",
            reason="no_zstd",
        ) from None
