"""Extra keys: what a header asks for has to come from somewhere."""

import pytest

from pqfl_transport.content.header import Header
from pqfl_transport.content.keysource import ExtraKey, extra_material
from pqfl_transport.errors import MessageError
from tests.support.envelopes import make_keys, split

KEYS = make_keys()


class Fixed:
    """A source that knows one key."""

    def fetch(self, header: Header) -> tuple[bytes, ...]:
        """Return it for each id."""
        return tuple(b"m" * 32 for _ in header.extra_key_ids)


def test_a_header_with_extra_keys_needs_a_source() -> None:
    """Without one the envelope is refused by the id's name; without ids nothing is asked."""
    header = split(KEYS.seal(extra_keys=(ExtraKey("qkd:link:1", b"m" * 32),)))[0].header
    assert extra_material(header, Fixed()) == (b"m" * 32,)
    with pytest.raises(MessageError, match="qkd:link:1") as caught:
        extra_material(header, None)
    assert caught.value.reason == "extra_key"
    assert extra_material(split(KEYS.seal())[0].header, None) == ()


def test_key_material_is_not_shown() -> None:
    """A log line or traceback with an extra key in it gives nothing away."""
    assert "mmmm" not in repr(ExtraKey("qkd:link:1", b"m" * 32))
