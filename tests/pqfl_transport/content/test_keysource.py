"""Extra keys: what a header asks for has to come from somewhere."""

import pytest

from pqfl_transport.content.envelope import Prologue
from pqfl_transport.content.keysource import ExtraKey, KeyId, extra_material, is_key_name, settle
from pqfl_transport.errors import MessageError
from tests.support.envelopes import make_keys, split

KEYS = make_keys()
UUID = "bc490419-7d60-487f-adc1-4ddcc177c139"


class Fixed:
    """A source that knows one key."""

    def __init__(self) -> None:
        self.settled: list[bytes] = []

    def fetch(self, prologue: Prologue) -> tuple[bytes, ...]:
        """Return it for each id."""
        return tuple(b"m" * 32 for _ in prologue.header.extra_key_ids)

    def settle(self, prologue: Prologue) -> None:
        """Remember that the envelope was opened."""
        self.settled.append(prologue.digest)


def test_a_header_with_extra_keys_needs_a_source() -> None:
    """Without one the envelope is refused by the id's name; without ids nothing is asked."""
    prologue = split(KEYS.seal(extra_keys=(ExtraKey("qkd:link:1", b"m" * 32),)))[0]
    assert extra_material(prologue, Fixed()) == (b"m" * 32,)
    with pytest.raises(MessageError, match="qkd:link:1") as caught:
        extra_material(prologue, None)
    assert caught.value.reason == "extra_key"
    assert extra_material(split(KEYS.seal())[0], None) == ()


def test_a_source_is_told_when_the_envelope_is_open() -> None:
    """It can forget the material then, and not before: an envelope that breaks may be tried again."""
    source, extra = Fixed(), (ExtraKey("qkd:link:1", b"m" * 32),)
    envelope = bytearray(KEYS.seal(extra_keys=extra))
    envelope[-1] ^= 1
    with pytest.raises(MessageError):
        KEYS.open(envelope, key_source=source)
    assert source.settled == []
    envelope[-1] ^= 1
    KEYS.open(envelope, key_source=source)
    assert source.settled == [split(envelope)[0].digest]
    settle(split(envelope)[0], None)


class Asked(Fixed):
    """A source that must not be asked."""

    def fetch(self, prologue: Prologue) -> tuple[bytes, ...]:
        raise AssertionError(f"asked for {prologue.header.extra_key_ids}")


def test_nothing_is_fetched_for_what_is_forged_cut_short_or_not_ours() -> None:
    """Only what its sender signed, what our key unwraps and what is all there uses up a key that both ends hold."""
    envelope = bytearray(KEYS.seal(extra_keys=(ExtraKey("qkd:link:1", b"m" * 32),)))
    with pytest.raises(MessageError) as caught:
        KEYS.open(envelope, key_source=Asked(), receiving_key=KEYS.other)
    assert caught.value.reason == "not_for_us"
    with pytest.raises(MessageError) as caught:
        KEYS.open(envelope[:-1], key_source=Asked())
    assert caught.value.reason == "truncated"
    envelope[envelope.index(split(envelope)[0].signature)] ^= 1
    with pytest.raises(MessageError) as caught:
        KEYS.open(envelope, key_source=Asked())
    assert caught.value.reason == "bad_signature"


@pytest.mark.parametrize(
    "text",
    ["qkd:link-1:" + UUID, "qkd:l:" + UUID[:-1] + "A", "psk:spring:" + "0f" * 16, "psk:" + "a" * 63 + ":" + "0" * 32],
)
def test_ids_are_taken_apart(text: str) -> None:
    """Into the source that both ends know and what names one key of it; printed, they are as they came."""
    key_id = KeyId.parse(text)
    assert str(key_id) == text
    assert text.startswith(key_id.source + ":")
    assert key_id.canonical == text.lower()


@pytest.mark.parametrize(
    "text",
    ["", "qkd", "qkd:link", "qkd:link:1", "psk:spring", "psk:spring:" + UUID, "qkd::" + UUID, "qkd:Link:" + UUID,
     "psk:spring:" + "0F" * 16, "psk:spring:" + "0f" * 16 + "\n", "key:link:" + UUID, "qkd:link:" + UUID + "0",
     "qkd:-link:" + UUID, "psk:" + "a" * 64 + ":" + "0" * 32],
)  # fmt: skip
def test_ids_outside_the_grammar_are_refused(text: str) -> None:
    """One spelling of each, nothing behind it."""
    with pytest.raises(MessageError) as caught:
        KeyId.parse(text)
    assert caught.value.reason == "extra_key"


def test_names_of_links_and_keys() -> None:
    """The grammar of party names."""
    assert is_key_name("north-hub-2")
    assert not any(map(is_key_name, ["", "-x", "X", "a:b", "a" * 64, "a\n"]))


def test_key_material_is_not_shown() -> None:
    """A log line or traceback with an extra key in it gives nothing away."""
    assert "mmmm" not in repr(ExtraKey("qkd:link:1", b"m" * 32))
