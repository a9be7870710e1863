"""Just enough of the protocol buffers' wire format to find one field of a message while the message passes by.

A message is tags, lengths and values (https://protobuf.dev/programming-guides/encoding/). Which of two values of one
field counts is the later one, so a reader that stops at the first can be deceived: this one sees them all.
"""

from collections.abc import Generator

from pqfl_transport.errors import MessageError

MAX_VALUE_BYTES = 64
_MAX_VARINT_BYTES = 10
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

Value = int | bytes


class FieldReader:
    """Told the pieces of a message, it collects every value of one field at its top level."""

    def __init__(self, field: int) -> None:
        self.values: list[Value] = []
        self._between = True
        self._steps = self._read(field)
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
                at += taken
                if not self._wanted:
                    self._wanted = self._steps.send(b"")
                continue
            need = self._wanted - len(self._kept)
            self._kept += piece[at : at + need]
            at += need
            if len(self._kept) == self._wanted:
                kept = bytes(self._kept)
                self._kept.clear()
                self._wanted = self._steps.send(kept)

    @property
    def at_boundary(self) -> bool:
        """Whether the message could end here."""
        return self._wanted == 1 and not self._kept and self._between

    def _read(self, field: int) -> Generator[int, bytes, None]:
        """Yield how many bytes to keep (positive) or to skip (negative) next."""
        while True:
            self._between = True
            tag = yield from self._varint()
            number, kind = tag >> 3, tag & 7
            if kind == _VARINT:
                value: Value = yield from self._varint()
            elif kind in {_FIXED64, _FIXED32}:
                value = yield 8 if kind == _FIXED64 else 4
            elif kind == _BYTES:
                length = yield from self._varint()
                if number != field:
                    if length:
                        yield -length
                    continue
                if length > MAX_VALUE_BYTES:
                    raise MessageError(f"field {field} has {length} bytes", reason="malformed")
                value = (yield length) if length else b""
            else:
                raise MessageError(f"field {number} is of kind {kind}", reason="malformed")
            if number == field:
                self.values.append(value)

    def _varint(self) -> Generator[int, bytes, int]:
        value = 0
        for position in range(_MAX_VARINT_BYTES):
            byte = (yield 1)[0]
            self._between = False
            value |= (byte & 0x7F) << (7 * position)
            if byte < 0x80:  # noqa: PLR2004 -- the continuation bit
                return value
        raise MessageError("a number does not end", reason="malformed")


def fields_of(message: bytes, field: int) -> list[Value]:
    """Return every value of a field of a whole message. Raises ``MessageError`` (``malformed``)."""
    reader = FieldReader(field)
    reader.feed(message)
    if not reader.at_boundary:
        raise MessageError("the message is cut short", reason="malformed")
    return reader.values
