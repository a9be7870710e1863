"""Just enough of the protocol buffers' wire format to find one field in a message while the message passes by.

A message is tags, lengths and values (https://protobuf.dev/programming-guides/encoding/). Which of two values of one
field counts is the later one, so a reader that stops at the first can be deceived: this one sees them all.
"""

from collections.abc import Generator

from pqfl_transport.errors import MessageError

MAX_VALUE_BYTES = 64
_MAX_VARINT_BYTES = 10
_MAX_TAG = 2**32 - 1
_MAX_NUMBER = 2**64 - 1
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

Value = int | bytes


class FieldReader:
    """Told the pieces of a message, it collects every value of one field.

    ``path`` are field numbers: of a field that holds a message, of a field in that message, and so on.
    """

    def __init__(self, *path: int) -> None:
        self.values: list[Value] = []
        self._between = True
        self._position = 0
        self._steps = self._read(path)
        self._wanted = next(self._steps)
        self._kept = bytearray()

    def feed(self, piece: bytes) -> None:
        """Take the next piece. Raises ``MessageError`` (``malformed``)."""
        at = 0
        while at < len(piece):
            if self._wanted < 0:
                # A value that nobody asked for is not kept, however long it is.
                taken = min(-self._wanted, len(piece) - at)
                self._wanted += taken
                self._position += taken
                at += taken
                if not self._wanted:
                    self._wanted = self._steps.send(b"")
                continue
            taken = min(self._wanted - len(self._kept), len(piece) - at)
            self._kept += piece[at : at + taken]
            self._position += taken
            at += taken
            if len(self._kept) == self._wanted:
                kept = bytes(self._kept)
                self._kept.clear()
                self._wanted = self._steps.send(kept)

    @property
    def at_boundary(self) -> bool:
        """Whether the message could end here."""
        return self._wanted == 1 and not self._kept and self._between

    def _read(self, path: tuple[int, ...]) -> Generator[int, bytes, None]:
        """Yield how many bytes to keep (positive) or to skip (negative) next."""
        # Where the messages around the present place end, in bytes from the beginning of the whole.
        ends: list[int] = []
        while True:
            self._leave(ends)
            self._between = not ends
            number, kind = yield from self._tag()
            wanted, at_leaf = number == path[len(ends)], len(ends) == len(path) - 1
            if kind != _BYTES:
                value: Value = yield from self._scalar(number, kind)
            else:
                length = yield from self._varint()
                if wanted and not at_leaf:
                    ends.append(self._position + length)
                    continue
                value = yield from self._bytes(number, length, keep=wanted)
            if wanted and at_leaf:
                self.values.append(value)

    def _leave(self, ends: list[int]) -> None:
        """Drop the messages that end here."""
        while ends and self._position == ends[-1]:
            ends.pop()
        if ends and self._position > ends[-1]:
            raise MessageError("a field goes on behind the end of its message", reason="malformed")

    def _tag(self) -> Generator[int, bytes, tuple[int, int]]:
        tag = yield from self._varint()
        # Some readers drop the upper bits of what is too large and see another field than this one.
        if tag > _MAX_TAG:
            raise MessageError("a field has a number that none can have", reason="malformed")
        return tag >> 3, tag & 7

    def _scalar(self, number: int, kind: int) -> Generator[int, bytes, Value]:
        if kind == _VARINT:
            return (yield from self._varint())
        if kind in {_FIXED64, _FIXED32}:
            return (yield 8 if kind == _FIXED64 else 4)
        raise MessageError(f"field {number} is of kind {kind}", reason="malformed")

    def _bytes(self, number: int, length: int, *, keep: bool) -> Generator[int, bytes, bytes]:
        if keep and length > MAX_VALUE_BYTES:
            raise MessageError(f"field {number} has {length} bytes", reason="malformed")
        return (yield length if keep else -length) if length else b""

    def _varint(self) -> Generator[int, bytes, int]:
        value = 0
        for position in range(_MAX_VARINT_BYTES):
            byte = (yield 1)[0]
            self._between = False
            value |= (byte & 0x7F) << (7 * position)
            if byte < 0x80:  # noqa: PLR2004 -- the continuation bit
                if value > _MAX_NUMBER:
                    raise MessageError("a number has more than 64 bits", reason="malformed")
                return value
        raise MessageError("a number does not end", reason="malformed")


def fields_of(message: bytes, field: int) -> list[Value]:
    """Return every value of a field of a whole message. Raises ``MessageError`` (``malformed``)."""
    reader = FieldReader(field)
    reader.feed(message)
    if not reader.at_boundary:
        raise MessageError("the message is cut short", reason="malformed")
    return reader.values
