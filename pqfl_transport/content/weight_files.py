"""Files of weights, `.npz` and `.safetensors`, read and written piece by piece as the safetensors layout.

The file's ending decides its format. Arrays that lie in a file as the layout wants them are never whole in memory.
"""

import contextlib
import os
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError
from typing import IO, BinaryIO

import numpy as np
from numpy.lib import format as npy

from pqfl_transport.content.sealing import SLICE_BYTES
from pqfl_transport.content.tensors import (
    DTYPES,
    LENGTH_BYTES,
    Array,
    TensorEntry,
    TensorLayout,
    array_bytes,
    dtype_name,
    encode_header,
    header_length,
    parse,
    parse_header,
)
from pqfl_transport.errors import ConfigurationError, MessageError

MAX_TENSOR_BYTES = 1 << 38
_ENDINGS = (".npz", ".safetensors")
_NPY = ".npy"
# What `zipfile` raises for what is damaged, encrypted, or packed in a way that it does not know.
_DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError, ValueError)


def load_weights(source: Path) -> dict[str, Array]:
    """Return all tensors of a plain ``.npz`` or ``.safetensors``. Raises ``ConfigurationError`` naming the file."""
    require_ending(source)
    with open_source(source) as plain:
        # Grown by what is there, and not made as large as what the file says of itself.
        layout = bytearray()
        for piece in plain.pieces():
            layout += piece
        arrays, _ = parse(layout)
    return arrays if isinstance(arrays, dict) else {str(number): array for number, array in enumerate(arrays)}


@dataclass(frozen=True, slots=True)
class PlainWeights:
    """A source as the layout's bytes: how many, and in which pieces."""

    total_bytes: int
    header: bytes
    tensors: Sequence["_Tensor | _Array"]

    @classmethod
    def of(cls, layout: TensorLayout) -> "PlainWeights":
        """Return weights that are in memory already."""
        return cls(
            layout.total_bytes, layout.header_bytes, tuple(_Array(array_bytes(array)) for array in layout.arrays)
        )

    def pieces(self) -> Iterator[memoryview | bytes]:
        """Yield the layout's bytes in order, in pieces of at most a slice."""
        yield from _sliced(memoryview(self.header))
        for tensor in self.tensors:
            yield from tensor.pieces()


@dataclass(frozen=True, slots=True)
class _Tensor:
    """The bytes of one stored array, or of a whole safetensors file's data, read when they are wanted."""

    stream: "IO[bytes] | _Member"
    size_bytes: int
    label: str
    reorder: "_Reorder | None" = None

    def pieces(self) -> Iterator[memoryview | bytes]:
        if self.reorder is not None:
            yield from _sliced(self.reorder.read(self.stream, self.size_bytes, self.label))
            return
        left = self.size_bytes
        while left:
            piece = self.stream.read(min(left, SLICE_BYTES))
            if not piece:
                raise ConfigurationError(f"{self.label}: {left} bytes short", reason="truncated")
            left -= len(piece)
            yield piece


@dataclass(frozen=True, slots=True)
class _Array:
    """The bytes of one array in memory."""

    data: memoryview

    def pieces(self) -> Iterator[memoryview]:
        return _sliced(self.data)


@dataclass(frozen=True, slots=True)
class _Reorder:
    """An array stored in another order than the layout's: read whole, one at a time."""

    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    fortran_order: bool

    def read(self, stream: "IO[bytes] | _Member", size_bytes: int, label: str) -> memoryview:
        data = stream.read(size_bytes)
        if len(data) != size_bytes:
            raise ConfigurationError(f"{label}: {size_bytes - len(data)} bytes short", reason="truncated")
        flat = np.frombuffer(data, self.dtype)
        return array_bytes(flat.reshape(self.shape, order="F") if self.fortran_order else flat.reshape(self.shape))


@contextmanager
def open_source(source: Path) -> Iterator[PlainWeights]:
    """Open a file of weights as the layout's bytes. Raises ``ConfigurationError`` naming the file and what is wrong."""
    try:
        if source.suffix == ".safetensors":
            with source.open("rb") as stream:
                yield _safetensors(stream, source)
        else:
            with contextlib.ExitStack() as stack:
                yield _npz(stack.enter_context(_archive(source)), stack, source)
    except FileNotFoundError:
        raise ConfigurationError(f"{source}: no such file", reason="no_file") from None
    except MessageError as error:
        raise ConfigurationError(f"{source}: {error}", reason=error.reason) from error


def _archive(source: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(source)
    except FileNotFoundError:
        raise
    except _DAMAGED as error:
        raise ConfigurationError(f"{source}: not an .npz file: {error}", reason="malformed") from None


def _safetensors(stream: BinaryIO, source: Path) -> PlainWeights:
    size = source.stat().st_size
    prefix = stream.read(LENGTH_BYTES)
    header = stream.read(header_length(prefix))
    data_bytes = size - LENGTH_BYTES - len(header)
    parse_header(header, data_bytes)
    return PlainWeights(size, prefix + header, (_Tensor(stream, data_bytes, str(source)),))


def _npz(archive: zipfile.ZipFile, stack: contextlib.ExitStack, source: Path) -> PlainWeights:
    header: dict[str, object] = {"__metadata__": {"pqfl.container": "mapping"}}
    tensors = []
    at = 0
    for info in archive.infolist():
        name = info.filename.removesuffix(_NPY)
        label = f"{source}: {info.filename}"
        if name in header or not info.filename.endswith(_NPY):
            raise ConfigurationError(f"{label}: not an array, or twice", reason="malformed")
        stream = _Member(archive, info, stack, label)
        shape, fortran_order, dtype = _read_npy_header(stream, label)
        size = int(np.prod(shape, dtype=object)) * dtype.itemsize
        if size > MAX_TENSOR_BYTES:
            raise ConfigurationError(f"{label}: claims {size} bytes", reason="too_large")
        try:
            word = dtype_name(np.empty(0, dtype), name)
        except ConfigurationError as error:
            raise ConfigurationError(f"{label}: {error}", reason=error.reason) from error
        # Only the orders that differ from the layout's need the array in memory.
        reorder = _Reorder(shape, dtype, fortran_order) if fortran_order or dtype != DTYPES[word] else None
        header[name] = {"dtype": word, "shape": list(shape), "data_offsets": [at, at + size]}
        tensors.append(_Tensor(stream, size, label, reorder))
        at += size
    encoded = encode_header(header)
    return PlainWeights(len(encoded) + at, encoded, tensors)


class _Member:
    """One file of an archive, unpacked as it is read. Raises ``ConfigurationError`` (``malformed``) naming it."""

    __slots__ = ("_label", "_stream")

    def __init__(
        self, archive: zipfile.ZipFile, info: zipfile.ZipInfo, stack: contextlib.ExitStack, label: str
    ) -> None:
        self._label = label
        with self._unpacking():
            self._stream = stack.enter_context(archive.open(info))

    def read(self, size_bytes: int = -1, /) -> bytes:
        """Return the next bytes, as many as are there at most; all of them where no number is given."""
        with self._unpacking():
            return self._stream.read(size_bytes)

    @contextmanager
    def _unpacking(self) -> Iterator[None]:
        try:
            yield
        except _DAMAGED as error:
            raise ConfigurationError(f"{self._label}: cannot be unpacked: {error}", reason="malformed") from None


def _read_npy_header(stream: _Member, label: str) -> tuple[tuple[int, ...], bool, "np.dtype[np.generic]"]:
    try:
        version = npy.read_magic(stream)
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, fortran_order, dtype = read(stream)
    except (ValueError, SyntaxError, TokenError, RecursionError, MemoryError) as error:
        # The header is a Python literal, which NumPy also tries to read as one of Python 2, token by token.
        raise ConfigurationError(f"{label}: not a NumPy array: {error}", reason="malformed") from None
    if not all(type(size) is int and size >= 0 for size in shape):
        raise ConfigurationError(f"{label}: has the shape {shape}", reason="malformed")
    if dtype.hasobject:
        raise ConfigurationError(f"{label}: holds Python objects, which need pickle and are refused", reason="pickle")
    return shape, fortran_order, dtype


def _read_layout(layout: IO[bytes]) -> tuple[list[TensorEntry], int]:
    size = layout.seek(0, os.SEEK_END)
    layout.seek(0)
    length = header_length(layout.read(LENGTH_BYTES))
    header = layout.read(length)
    entries, _ = parse_header(header, size - LENGTH_BYTES - len(header))
    return entries, LENGTH_BYTES + length


def require_layout(layout: IO[bytes]) -> None:
    """Raise ``MessageError`` unless the staged bytes are a complete layout; leave the position at the end."""
    _read_layout(layout)
    layout.seek(0, os.SEEK_END)


def write_npz(layout: IO[bytes], output: BinaryIO) -> None:
    """Write a staged layout as ``.npz``, uncompressed."""
    entries, begin = _read_layout(layout)
    layout.seek(begin)
    with zipfile.ZipFile(output, "w", zipfile.ZIP_STORED) as archive:
        for entry in entries:
            facts = {"descr": npy.dtype_to_descr(entry.numpy_dtype), "fortran_order": False, "shape": entry.shape}
            with archive.open(entry.name + _NPY, "w", force_zip64=True) as member:
                npy.write_array_header_1_0(member, facts)
                for piece in _Tensor(layout, entry.end - entry.begin, entry.name).pieces():
                    member.write(piece)


def _sliced(data: memoryview) -> Iterator[memoryview]:
    for start in range(0, len(data), SLICE_BYTES):
        yield data[start : start + SLICE_BYTES]


def require_ending(path: Path) -> None:
    """Raise ``ConfigurationError`` (``unknown_ending``) unless the file's ending names a format."""
    if path.suffix not in _ENDINGS:
        raise ConfigurationError(f"{path}: a file of weights ends in {' or '.join(_ENDINGS)}", reason="unknown_ending")
