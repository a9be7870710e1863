"""Every value of the field is found, wherever it stands and however the message is cut; nonsense is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.http.protobuf import FieldReader, Value, fields_of
from pqfl_transport.errors import MessageError


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*out, value))


def encode(number: int, value: Value) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


ENTRIES = st.lists(
    st.tuples(st.integers(1, 20), st.one_of(st.integers(0, 2**64 - 1), st.binary(max_size=60))), max_size=10
)


@given(entries=ENTRIES, cuts=st.lists(st.integers(0, 400), max_size=5))
def test_all_values_are_found_however_it_is_cut(entries: list[tuple[int, Value]], cuts: list[int]) -> None:
    """Order and number of pieces make no difference, and a complete message ends at a boundary."""
    message = b"".join(encode(number, value) for number, value in entries)
    reader = FieldReader(1)
    at = 0
    for cut in sorted(cuts):
        reader.feed(message[at:cut])
        at = max(at, cut)
    reader.feed(message[at:])
    assert reader.values == [value for number, value in entries if number == 1]
    assert reader.at_boundary


def test_a_second_value_behind_a_large_one_is_seen() -> None:
    """The later one counts for the backend, so hiding it behind megabytes must not help."""
    message = encode(1, b"\x08\x01") + encode(4, bytes(1 << 20)) + encode(1, b"\x08\x02")
    assert fields_of(message, 1) == [b"\x08\x01", b"\x08\x02"]


def test_fixed_width_values_are_stepped_over() -> None:
    """A double and a float between others."""
    message = b"\x11" + bytes(8) + b"\x1d" + bytes(4) + encode(1, 7)
    assert fields_of(message, 1) == [7]


@pytest.mark.parametrize(
    "message", [b"\x0b", b"\xff" * 11, b"\x0a\x41" + bytes(65), b"\x0a", b"\x0a\x05ab", b"\x08\x80"]
)
def test_nonsense_is_refused(message: bytes) -> None:
    """Groups, numbers without end, an oversized value, a message that is cut."""
    with pytest.raises(MessageError) as caught:
        fields_of(message, 1)
    assert caught.value.reason == "malformed"


def test_a_value_inside_messages_is_found_however_it_is_cut() -> None:
    """Every message of the path is looked into, others are not, and what follows them is outside again."""
    inner = encode(1, 9) + encode(3, 5) + encode(2, b"\x18\x63") + encode(3, 6)
    message = encode(3, 1) + encode(2, encode(1, inner) + encode(3, 2)) + encode(2, b"") + encode(1, encode(3, 4))
    message += encode(2, encode(2, b"\x18\x07") + encode(1, b"") + encode(1, encode(3, 7)))
    for size in (1, 2, 3, len(message)):
        reader = FieldReader(2, 1, 3)
        for at in range(0, len(message), size):
            reader.feed(message[at : at + size])
        assert (reader.values, reader.at_boundary) == ([5, 6, 7], True)


def test_a_message_that_ends_inside_a_field_is_refused() -> None:
    """Nothing may reach over the end of the message around it; where the whole is cut, no boundary is seen."""
    reader = FieldReader(2, 1)
    with pytest.raises(MessageError) as caught:
        # The outer message has three bytes, the field in it announces five.
        reader.feed(b"\x12\x03\x1a\x05abcdef")
    assert caught.value.reason == "malformed"
    cut = FieldReader(2, 1)
    cut.feed(b"\x12\x05\x18\x01")
    assert not cut.at_boundary


@pytest.mark.parametrize(
    "message", [b"\x08" + varint(2**64 + 5), b"\x08" + b"\xff" * 9 + b"\x7f", varint(2**35 | 8) + b"\x05"]
)
def test_numbers_that_readers_cut_differently_are_refused(message: bytes) -> None:
    """One reader sees a number of another node, or another field, where a second one drops the upper bits."""
    with pytest.raises(MessageError) as caught:
        fields_of(message, 1)
    assert caught.value.reason == "malformed"
    assert fields_of(encode(1, 2**64 - 1), 1) == [2**64 - 1]
