"""Verifying without a secret: prologue and trailer, and nothing but the length where there is no trailer."""

import pytest

from pqfl_transport.content.verifying import TrailerVerifier
from pqfl_transport.errors import MessageError
from tests.support.envelopes import make_keys, split

KEYS = make_keys()
PLAIN, TRAILED = bytes(KEYS.seal()), bytes(KEYS.seal(trailer=True))


def check(envelope: bytes, data: bytes, step: int = 10_000) -> None:
    prologue = split(envelope)[0]
    verifier = TrailerVerifier(prologue, sender_key=KEYS.signing.verifying_key)
    rest = data[len(prologue.raw) :]
    for start in range(0, len(rest), step):
        verifier.split(rest[start : start + step])
    verifier.finalize()


@pytest.mark.parametrize("step", [1000, 16_384, 1 << 20])
def test_whole_envelopes_hold_in_pieces_of_any_size(step: int) -> None:
    """However the stream is cut, a whole envelope verifies."""
    check(PLAIN, PLAIN, step)
    check(TRAILED, TRAILED, step)


def test_with_a_trailer_every_byte_counts() -> None:
    """A changed byte of body or trailer, a cut, a byte too many, a stripped trailer are told apart."""
    start = len(split(TRAILED)[0].raw)
    cases = [
        (TRAILED[:start] + bytes([TRAILED[start] ^ 1]) + TRAILED[start + 1 :], "bad_trailer"),
        (TRAILED[:-1] + bytes([TRAILED[-1] ^ 1]), "bad_trailer"),
        (TRAILED[:-1], "truncated"),
        (TRAILED[:-3309], "truncated"),
        (TRAILED + b"x", "excess"),
    ]
    for data, reason in cases:
        with pytest.raises(MessageError) as caught:
            check(TRAILED, data)
        assert caught.value.reason == reason


def test_without_a_trailer_only_the_length_is_checked() -> None:
    """The sender signed no more than the prologue: a changed body passes here, and fails for who opens it."""
    changed = PLAIN[:-1] + bytes([PLAIN[-1] ^ 1])
    check(PLAIN, changed)
    with pytest.raises(MessageError):
        KEYS.open(changed)
    with pytest.raises(MessageError) as caught:
        check(PLAIN, PLAIN[:-1])
    assert caught.value.reason == "truncated"
