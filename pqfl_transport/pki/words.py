"""Fingerprints as words, to be compared by voice: the PGP word list, one word a byte (`pgp-words.json`).

Bytes at even places are said with words of two syllables, those at odd places with words of three, so a word that was
dropped, doubled or swapped with its neighbour is noticed at once. The words were chosen to sound unlike each other.

A fingerprint has 32 words in four lines. All of them are what a key is known by: who wants another key with the same
fingerprint has to try 2^256 keys, 2^128 steps of a quantum computer. The first two lines alone are 2^128 keys, and 2^64
such steps: enough against anybody without one.
"""

import difflib
import hmac
import json
import re
from functools import cache
from importlib.resources import files

from pqfl_transport.errors import ConfigurationError

WORDS_PER_LINE = 8
MIN_COMPARED_BYTES = 16
"""Nothing shorter is compared: 128 bits, the first two lines."""
FINGERPRINT_BYTES = 32
_MAX_TEXT = 4096
_HEXADECIMAL = re.compile(r"[0-9a-fA-F]+")
_SEPARATORS = re.compile(r"[\s,;:.]+")


def to_words(data: bytes) -> list[str]:
    """Return one word a byte."""
    return [_lists()[place % 2][value] for place, value in enumerate(data)]


def to_lines(data: bytes) -> list[str]:
    """Return the words in lines of eight, for reading out."""
    words = to_words(data)
    return [" ".join(words[at : at + WORDS_PER_LINE]) for at in range(0, len(words), WORDS_PER_LINE)]


def from_words(text: str) -> bytes:
    """Return the bytes that words stand for, in any case, between white space or punctuation.

    Raises ``ConfigurationError`` (``bad_words``) naming the first word that is on neither list, with the one that may
    be meant, or that stands at a place where only the other list can.
    """
    if len(text) > _MAX_TEXT:
        raise ConfigurationError("that is no fingerprint: too long", reason="bad_words")
    return bytes(_value(word, place) for place, word in enumerate(filter(None, _SEPARATORS.split(text.strip()))))


def parse_fingerprint(text: str) -> bytes:
    """Return what somebody read out, as words or in hexadecimal, perhaps with spaces or colons in it.

    Raises ``ConfigurationError`` (``bad_words``) for anything else, and for less than 128 bits or more than 256.
    """
    digits = _SEPARATORS.sub("", text)
    is_hexadecimal = _HEXADECIMAL.fullmatch(digits) is not None and len(digits) % 2 == 0
    data = bytes.fromhex(digits) if is_hexadecimal else from_words(text)
    if not MIN_COMPARED_BYTES <= len(data) <= FINGERPRINT_BYTES:
        raise ConfigurationError(
            f"{len(data)} words or pairs of digits; compare all {FINGERPRINT_BYTES}, or at least the first"
            f" {MIN_COMPARED_BYTES}",
            reason="bad_words",
        )
    return data


def agrees(fingerprint: bytes, heard: bytes) -> bool:
    """Return whether a fingerprint begins with what was heard (`parse_fingerprint`)."""
    return hmac.compare_digest(fingerprint[: len(heard)], heard)


def _value(word: str, place: int) -> int:
    parity = place % 2
    value = _values()[parity].get(word.lower())
    if value is not None:
        return value
    if word.lower() in _values()[1 - parity]:
        raise ConfigurationError(
            f"word {place + 1}, {word[:40]!r}, cannot stand there: one before it was left out, added or swapped",
            reason="bad_words",
        )
    close = difflib.get_close_matches(word.lower()[:40], _values()[parity], n=1)
    hint = f"; is it {_lists()[parity][_values()[parity][close[0]]]!r}?" if close else ""
    raise ConfigurationError(f"word {place + 1}, {word[:40]!r}, is not on the list{hint}", reason="bad_words")


@cache
def _lists() -> tuple[list[str], list[str]]:
    table = json.loads(files(__package__).joinpath("pgp-words.json").read_text("utf-8"))
    return table["even"], table["odd"]


@cache
def _values() -> tuple[dict[str, int], dict[str, int]]:
    even, odd = _lists()
    return {word.lower(): value for value, word in enumerate(even)}, {w.lower(): v for v, w in enumerate(odd)}
