"""Shamir's sharing: any t of n restore, fewer learn nothing, and the field is the one of AES."""

import itertools
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pqfl_transport.crypto.shamir import combine_shares, split_secret
from pqfl_transport.errors import ConfigurationError


@given(secret=st.binary(min_size=1, max_size=40), count=st.integers(2, 7), data=st.data())
@settings(max_examples=60)
def test_any_threshold_of_the_shares_restores_the_secret(secret: bytes, count: int, data: st.DataObject) -> None:
    """Whichever shares meet, in whatever order, and more than needed do no harm."""
    threshold = data.draw(st.integers(2, count))
    shares = split_secret(secret, threshold, count)
    assert sorted(shares) == list(range(1, count + 1))
    chosen = data.draw(st.permutations(sorted(shares)))[: data.draw(st.integers(threshold, count))]
    assert combine_shares({index: shares[index] for index in chosen}) == secret


def test_fewer_shares_fit_every_secret() -> None:
    """Two of three shares of a one-byte secret are consistent with each of the 256 secrets, exactly once."""
    shares = split_secret(b"\x2a", 3, 3)
    two = {1: shares[1], 2: shares[2]}
    found = {combine_shares(two | {3: bytes([guess])}) for guess in range(256)}
    assert len(found) == 256


def test_one_share_alone_is_uniform() -> None:
    """Over all random bytes a share takes every value equally often, whatever the secret is."""
    for secret in (b"\x00", b"\xff"):
        fixed: Callable[[int], Callable[[int], bytes]] = lambda value: lambda _size: bytes([value])  # noqa: E731 -- a table of sources
        values = [split_secret(secret, 2, 2, random=fixed(value))[2] for value in range(256)]
        assert len(set(values)) == 256


def naive_product(left: int, right: int) -> int:
    """Multiply as FIPS 197 §4.2 defines it: polynomials modulo x^8 + x^4 + x^3 + x + 1."""
    product = 0
    for bit in range(8):
        if right >> bit & 1:
            product ^= left << bit
    for bit in range(15, 7, -1):
        if product >> bit & 1:
            product ^= 0x11B << (bit - 8)
    return product


def test_the_field_is_that_of_aes() -> None:
    """A share is secret + coefficient * index in the field of FIPS 197 §4.2, whose example 57 * 83 = c1 holds."""
    assert naive_product(0x57, 0x83) == 0xC1
    coefficient = bytes(range(256))
    shares = split_secret(bytes(256), 2, 255, random=lambda _size: coefficient)
    for index in (1, 2, 3, 0x53, 0x83, 255):
        assert shares[index] == bytes(naive_product(value, index) for value in range(256))


def test_all_pairs_of_many_shares_restore() -> None:
    """Indices up to 255 work, and every pair of a selection gives the same secret."""
    shares = split_secret(b"k" * 32, 2, 255)
    for pair in itertools.combinations([1, 2, 128, 254, 255], 2):
        assert combine_shares({index: shares[index] for index in pair}) == b"k" * 32


def test_a_wrong_share_gives_noise() -> None:
    """Nothing in the shares themselves tells a wrong one; that is what their hashes in the header are for."""
    shares = split_secret(b"k" * 32, 2, 3)
    changed = {1: shares[1], 2: bytes([shares[2][0] ^ 1]) + shares[2][1:]}
    assert combine_shares(changed) != b"k" * 32


@pytest.mark.parametrize(("threshold", "count"), [(1, 3), (0, 3), (4, 3), (2, 256), (-1, -1)])
def test_senseless_thresholds_are_refused(threshold: int, count: int) -> None:
    """One share alone would be the secret itself, and there are 255 places beside it."""
    with pytest.raises(ConfigurationError) as caught:
        split_secret(b"k", threshold, count)
    assert caught.value.reason == "threshold"


@pytest.mark.parametrize("shares", [{}, {0: b"a"}, {256: b"a"}, {1: b"a", 2: b"ab"}])
def test_senseless_shares_are_refused(shares: dict[int, bytes]) -> None:
    """Index 0 is where the secret lies; shares of different lengths are of different secrets."""
    with pytest.raises(ConfigurationError) as caught:
        combine_shares(shares)
    assert caught.value.reason == "threshold"
