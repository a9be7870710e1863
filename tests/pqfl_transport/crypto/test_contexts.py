"""Context strings and labels: one place, no two alike, unambiguous framing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pqfl_transport.crypto.contexts import DOMAIN, Context, Label, length_prefixed, split_prefixed
from pqfl_transport.errors import MessageError


def test_no_two_kinds_of_message_share_a_context() -> None:
    """A signature of one kind can never pass for another, and FIPS 204 caps a context at 255 bytes."""
    values = [member.value for member in (*Context, *Label)]
    assert len(set(values)) == len(values)
    assert all(value.startswith(DOMAIN) and len(value) <= 255 for value in values)


def test_length_prefixed_is_what_the_specification_says() -> None:
    """Every item is preceded by its length in 4 bytes, big-endian."""
    assert length_prefixed(b"ab", b"", b"c") == b"\0\0\0\x02ab\0\0\0\0\0\0\0\x01c"


@given(st.lists(st.binary(max_size=40)), st.lists(st.binary(max_size=40)))
def test_different_lists_never_frame_alike(left: list[bytes], right: list[bytes]) -> None:
    """The framing is injective: moving a byte from one item to the next changes the bytes."""
    assert (length_prefixed(*left) == length_prefixed(*right)) == (left == right)


@given(st.lists(st.binary(max_size=40), max_size=8))
def test_what_was_framed_is_split_again(items: list[bytes]) -> None:
    """Splitting gives the items back, empty ones too."""
    assert split_prefixed(length_prefixed(*items), maximum=8) == items


@pytest.mark.parametrize(
    "data", [b"\0", b"\0\0\0", b"\0\0\0\x02a", b"\xff\xff\xff\xff", length_prefixed(b"", b"", b"")]
)
def test_what_is_cut_or_too_many_is_refused(data: bytes) -> None:
    """A length without its bytes, half a length, and one item more than allowed."""
    with pytest.raises(MessageError) as caught:
        split_prefixed(data, maximum=2)
    assert caught.value.reason == "malformed"
