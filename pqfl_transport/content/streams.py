"""Sealing and opening from anything that comes in pieces: iterators, files, sockets, asynchronous streams.

Memory is constant at any size. What an opener gives out is *not yet verified* plaintext, which belongs into staging;
it counts when the call that opens returns, and not a piece earlier.
"""

from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Iterator
from typing import Protocol

from pqfl_transport.content.envelope import Prologue, PrologueReader
from pqfl_transport.content.opening import Opener
from pqfl_transport.content.sealing import SLICE_BYTES, Sealer, slices
from pqfl_transport.crypto.pyca import BODY_CHUNK_BYTES, Buffer
from pqfl_transport.errors import MessageError

# One slice and the chunk that was held back before it.
_BUFFER_BYTES = SLICE_BYTES + 2 * BODY_CHUNK_BYTES

Begin = Callable[[Prologue], Opener]
"""Verifies a prologue (`verify_prologue`), decides whether it is wanted here, and finds the key to open it."""


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


class _Receiving(Protocol):
    def recv_into(self, buffer: memoryview, /) -> int: ...


class _ReadableStream(Protocol):
    async def read(self, size: int, /) -> bytes: ...


def sealed(sealer: Sealer, plaintext: Iterable[Buffer]) -> Iterator[bytes]:
    """Yield a whole envelope over the plaintext's pieces, which may have any size.

    Raises ``ConfigurationError`` (``wrong_length``) unless they are as long as the sealer was told.
    """
    yield sealer.prologue.raw
    for piece in plaintext:
        for part in slices(piece):
            # Less than a chunk gives nothing yet, and an empty piece means the end to some who send.
            if ciphertext := sealer.update(part):
                yield ciphertext
    yield sealer.finalize()


async def sealed_async(sealer: Sealer, plaintext: AsyncIterable[Buffer]) -> AsyncIterator[bytes]:
    """Yield what `sealed` yields, over pieces that are waited for. Raises as `sealed` does."""
    yield sealer.prologue.raw
    async for piece in plaintext:
        for part in slices(piece):
            # Less than a chunk gives nothing yet, and an empty piece means the end to some who send.
            if ciphertext := sealer.update(part):
                yield ciphertext
    yield sealer.finalize()


class StreamOpener:
    """One envelope from its first byte on, without I/O: bytes in, unverified plaintext out.

    ``begin`` is called once, when the prologue is complete and before a byte of the body is decrypted; what it raises
    ends the envelope. Raises ``MessageError`` as `PrologueReader` and `Opener` do.
    """

    def __init__(self, begin: Begin) -> None:
        self._begin = begin
        self._reader = PrologueReader()
        self._opener: Opener | None = None
        self._buffer = memoryview(bytearray(_BUFFER_BYTES))

    @property
    def prologue(self) -> Prologue | None:
        """The prologue, once ``begin`` has accepted it."""
        return None if self._opener is None else self._opener.prologue

    def feed(self, data: Buffer) -> Iterator[memoryview]:
        """Take more of the envelope; yield plaintext, each piece valid until the next one is asked for."""
        if self._opener is None:
            prologue = self._reader.feed(data)
            if prologue is None:
                return
            self._opener = self._begin(prologue)
            data = self._reader.rest
        for part in slices(data):
            yield self._buffer[: self._opener.update_into(part, self._buffer)]

    def finalize(self) -> bytes:
        """The envelope has ended: return its last plaintext, once everything is there and everything holds."""
        if self._opener is None:
            self._reader.finish()
            raise MessageError("the envelope is empty", reason="truncated")
        return self._opener.finalize()


def open_to(write: Callable[[Buffer], object], envelope: Iterable[Buffer], begin: Begin) -> Prologue:
    """Open an envelope that comes in pieces of any size; ``write`` puts plaintext into staging, as a file's does.

    What it is given is its own only until it returns, and counts when this function has. Raises what ``begin``,
    ``write`` and the envelope raise.
    """
    opener = StreamOpener(begin)
    for piece in envelope:
        for plaintext in opener.feed(piece):
            write(plaintext)
    write(opener.finalize())
    return _begun(opener)


async def open_to_async(
    write: Callable[[Buffer], Awaitable[object]], envelope: AsyncIterable[Buffer], begin: Begin
) -> Prologue:
    """Open an envelope as `open_to` does, from pieces that are waited for and into staging that is."""
    opener = StreamOpener(begin)
    async for piece in envelope:
        for plaintext in opener.feed(piece):
            await write(plaintext)
    await write(opener.finalize())
    return _begun(opener)


def file_pieces(file: _Readable) -> Iterator[bytes]:
    """Yield what is left of a binary file, a slice at a time."""
    while piece := file.read(SLICE_BYTES):
        yield piece


def socket_pieces(connection: _Receiving) -> Iterator[memoryview]:
    """Yield what a blocking socket receives until its other end has closed, in views of one buffer."""
    buffer = memoryview(bytearray(SLICE_BYTES))
    while received := connection.recv_into(buffer):
        yield buffer[:received]


async def stream_pieces(stream: _ReadableStream) -> AsyncIterator[bytes]:
    """Yield what an ``asyncio.StreamReader``, or anything with its ``read``, gives until its end."""
    while piece := await stream.read(SLICE_BYTES):
        yield piece


def _begun(opener: StreamOpener) -> Prologue:
    prologue = opener.prologue
    assert prologue is not None  # noqa: S101 -- `finalize` has raised otherwise
    return prologue
