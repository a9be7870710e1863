"""Words for fingerprints: the published list, both ways, with mistakes of the ear found."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pqfl_transport.errors import ConfigurationError
from pqfl_transport.pki import words

FINGERPRINT = bytes(range(100, 132))


def complaint(text: str) -> str:
    with pytest.raises(ConfigurationError) as caught:
        words.parse_fingerprint(text)
    assert caught.value.reason == "bad_words"
    return str(caught.value)


def test_the_list_is_the_published_one() -> None:
    """The fingerprint that descriptions of the list have as their example; 512 words, and never another one."""
    data = bytes.fromhex("E58294F2E9A227486E8B061B31CC528FD7FA3F19")
    assert " ".join(words.to_words(data)) == (
        "topmost Istanbul Pluto vagabond treadmill Pacific brackish dictator goldfish Medusa"
        " afflict bravado chatter revolver Dupont midsummer stopwatch whimsical cowbell bottomless"
    )
    even, odd = words._lists()
    assert (len(even), len(odd), len({word.lower() for word in even + odd})) == (256, 256, 512)
    pinned = "3e090850023f09a3bff58dbc9926ee0840dd829fa8198af8ceffd1b2280a7096"
    assert hashlib.sha256(" ".join(even + odd).encode()).hexdigest() == pinned


@given(
    st.binary(max_size=64),
    st.sampled_from([str.lower, str.upper, str.title]),
    st.sampled_from([" ", "\n", ", ", " . "]),
)
def test_words_come_back_as_bytes(data: bytes, case: object, between: str) -> None:
    """In any case, between blanks, lines or commas."""
    assert callable(case)
    assert words.from_words(case(between.join(words.to_words(data)))) == data


def test_a_fingerprint_is_four_lines_of_eight() -> None:
    """Thirty-two words in lines that can be read out one by one."""
    lines = words.to_lines(FINGERPRINT)
    assert [len(line.split()) for line in lines] == [8, 8, 8, 8]
    assert words.parse_fingerprint("\n".join(lines)) == FINGERPRINT


@pytest.mark.parametrize("text", [FINGERPRINT.hex(), FINGERPRINT.hex(" ").upper(), FINGERPRINT.hex(":", 2)])
def test_hexadecimal_does_as_well(text: str) -> None:
    """Digits in any case, with blanks or colons."""
    assert words.parse_fingerprint(text) == FINGERPRINT


@given(st.integers(0, 30), st.data())
def test_what_the_ear_does_to_a_list_is_noticed(place: int, data: st.DataObject) -> None:
    """A word left out, doubled or swapped with its neighbour is told by its place, and never taken for another."""
    said = words.to_words(data.draw(st.binary(min_size=32, max_size=32)))
    swapped = [*said[:place], said[place + 1], said[place], *said[place + 2 :]]
    left_out = [*said[:place], *said[place + 1 :]]
    doubled = [*said[:place], said[place], *said[place:]]
    for heard in (swapped, left_out, doubled):
        with pytest.raises(ConfigurationError, match="left out, added or swapped"):
            words.from_words(" ".join(heard))


def test_a_word_that_was_misheard_is_named() -> None:
    """With its place and the one on the list that comes close."""
    said = words.to_words(FINGERPRINT)
    said[2] = said[2][:-1] + "x"
    assert f"word 3, {said[2]!r}" in complaint(" ".join(said))
    assert f"is it {words.to_words(FINGERPRINT)[2]!r}?" in complaint(" ".join(said))


@pytest.mark.parametrize(
    "text",
    ["", "aardvark", FINGERPRINT.hex()[:30], FINGERPRINT.hex() + "00", "abc", "aardvark " * 5000, "\x1b[31m" * 20],
)
def test_too_little_and_too_much_are_refused(text: str) -> None:
    """Less than 128 bits compares nothing, more than 256 is no fingerprint, and noise is neither."""
    assert complaint(text)


def test_the_beginning_is_compared_where_no_more_was_read() -> None:
    """At least sixteen words; every one of them counts."""
    half = words.parse_fingerprint(" ".join(words.to_words(FINGERPRINT)[:16]))
    assert words.agrees(FINGERPRINT, half)
    assert not words.agrees(FINGERPRINT, half[:-1] + b"\0")
    assert not words.agrees(FINGERPRINT, FINGERPRINT[:-1] + b"\0")
    assert not words.agrees(b"", half)
