"""Shamir's secret sharing over GF(2^8), byte by byte (Shamir, "How to share a secret", CACM 22(11), 1979).

Fewer than ``threshold`` shares say nothing about the secret but its length. The field is that of AES (FIPS 197 §4.2,
polynomial 0x11b). There is no table and no branch that a secret could steer: all bytes of a value are lanes of one
integer, and a secret is only ever multiplied by a share's index or by a Lagrange coefficient, both of which are public.
"""

import secrets
from collections.abc import Callable, Mapping
from functools import cache

from pqfl_transport.errors import ConfigurationError

MAX_SHARES = 255
_POLYNOMIAL = 0x1B
_FIELD_ORDER = 255


def split_secret(
    secret: bytes, threshold: int, count: int, *, random: Callable[[int], bytes] = secrets.token_bytes
) -> dict[int, bytes]:
    """Return ``count`` shares by index, 1 to ``count``, each as long as ``secret``; ``threshold`` of them restore it.

    ``random`` is replaced in tests only. Raises ``ConfigurationError`` (``threshold``) unless
    2 ≤ threshold ≤ count ≤ 255.
    """
    if not 2 <= threshold <= count <= MAX_SHARES:  # noqa: PLR2004 -- one share alone would be the secret
        raise ConfigurationError(
            f"a threshold of {threshold} of {count}: at least 2, at most all, and no more than {MAX_SHARES} shares",
            reason="threshold",
        )
    size = len(secret)
    # The polynomial's value at 0 is the secret; its other coefficients are random, one polynomial a byte.
    coefficients = [int.from_bytes(secret, "big")]
    coefficients += [int.from_bytes(random(size), "big") for _ in range(threshold - 1)]
    return {index: _evaluate(coefficients, index, size).to_bytes(size, "big") for index in range(1, count + 1)}


def combine_shares(shares: Mapping[int, bytes]) -> bytes:
    """Return the secret that these shares restore, or noise where one is wrong or too few are given.

    Raises ``ConfigurationError`` (``threshold``) for an index outside 1 to 255, and for shares of different lengths.
    """
    sizes = {len(share) for share in shares.values()}
    if len(sizes) != 1 or not all(1 <= index <= MAX_SHARES for index in shares):
        raise ConfigurationError("shares are of one length, with indices of 1 to 255", reason="threshold")
    size = sizes.pop()
    secret = 0
    for index, share in shares.items():
        # The Lagrange coefficient at 0; subtraction in this field is exclusive or.
        factor = 1
        for other in shares:
            if other != index:
                factor = _times(factor, _times(other, _inverse(other ^ index), 1), 1)
        secret ^= _times(int.from_bytes(share, "big"), factor, size)
    return secret.to_bytes(size, "big")


def _evaluate(coefficients: list[int], index: int, size: int) -> int:
    value = 0
    for coefficient in reversed(coefficients):
        value = _times(value, index, size) ^ coefficient
    return value


def _times(lanes: int, factor: int, size: int) -> int:
    """Multiply each of ``size`` bytes by a public byte."""
    ones = int.from_bytes(b"\x01" * size, "big")
    product = 0
    while factor:
        if factor & 1:
            product ^= lanes
        carry = (lanes >> 7) & ones
        lanes = ((lanes & (ones * 0x7F)) << 1) ^ (carry * _POLYNOMIAL)
        factor >>= 1
    return product


@cache
def _inverse(element: int) -> int:
    """Return the inverse of a public byte: its 254th power."""
    result = 1
    for _ in range(_FIELD_ORDER - 1):
        result = _times(result, element, 1)
    return result
