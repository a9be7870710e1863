"""The masks of a vector: keystreams of AES-256-CTR, added and taken away modulo 2^32.

A mask is the keystream of one secret, read as little-endian uint32, word k for coordinate k (`layout`). Its key is
HKDF-SHA-512 of a 32-byte secret, separated by purpose and round:

    key = HKDF(secret, info = LP(label, round_id), 32 bytes)     labels D"mask-own", D"mask-pair", D"rounding"

``round_id`` is a hash of 32 bytes or more that stands for the round and no other, such as the transcript that every
site agrees on. Site i of the roster uploads ``x_i + own(b_i) + Σ_{i<j} pair(s_ij) - Σ_{j<i} pair(s_ij)``.

Work goes over slices, all masks on one slice before the next: extra memory is `SLICE_COORDINATES` words, whatever the
vector's length and however many masks there are.
"""

from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt

from pqfl_transport.aggregation.secagg.layout import SLICE_COORDINATES, slices
from pqfl_transport.aggregation.secagg.plan import LEAST_SITES
from pqfl_transport.crypto.contexts import Label, length_prefixed
from pqfl_transport.crypto.pyca import KEYSTREAM_KEY_BYTES, Keystream, hkdf_sha512
from pqfl_transport.errors import ConfigurationError, RoundError

Vector = npt.NDArray[np.uint32]

SECRET_BYTES = 32
_LEAST_ROUND_ID_BYTES = 32
_WORD_BYTES = 4

Masks = Iterable[tuple[Keystream, int]]
"""Streams that stand at the same coordinate, each with +1 to be added or -1 to be taken away."""


def mask(
    vector: Vector,
    own_index: int,
    own_secret: bytes,
    pair_secrets: Mapping[int, bytes],
    round_id: bytes,
    *,
    start: int = 0,
) -> None:
    """Add a site's own mask and one for each neighbour, in place. Indices are those of the roster.

    ``vector`` may be a part of the whole that begins at coordinate ``start``. Raises ``ConfigurationError``:
    ``too_few_sites`` below two neighbours, since the own mask is taken away in the end; ``bad_masks`` for the own index
    among the neighbours or one secret used twice, which could cancel out; ``bad_key`` for a length.
    """
    if len(pair_secrets) < LEAST_SITES - 1:
        raise ConfigurationError(
            f"{len(pair_secrets)} neighbours; masks with at least {LEAST_SITES - 1} are needed to hide an update",
            reason="too_few_sites",
        )
    secrets = [own_secret, *pair_secrets.values()]
    if len(set(secrets)) != len(secrets):
        raise ConfigurationError("two masks of a site have the same secret", reason="bad_masks")
    masks = [(key_stream(own_secret, Label.MASK_OWN, round_id, start), 1)]
    masks += [
        (key_stream(secret, Label.MASK_PAIR, round_id, start), _pair_sign(own_index, other))
        for other, secret in pair_secrets.items()
    ]
    _apply(vector, masks)


def unmask(
    total: Vector,
    own_secrets: Mapping[int, bytes],
    dropped_pairs: Mapping[tuple[int, int], bytes],
    round_id: bytes,
    *,
    start: int = 0,
) -> None:
    """Take the masks that are left out of a sum of vectors, in place.

    ``own_secrets`` are those of all sites whose vectors were added; ``dropped_pairs`` maps (site that was added,
    neighbour that was not) to the secret of the two. Whether the sum is right is for `summing` to find. Raises
    ``ConfigurationError``: ``too_few_sites`` for a sum of fewer than three, ``both_secrets`` when both kinds of secret
    of a site are given, ``bad_masks`` for a pair with a site that was not added, ``bad_key``.
    """
    if len(own_secrets) < LEAST_SITES:
        raise ConfigurationError(
            f"a sum of {len(own_secrets)} vectors would show one site another's; {LEAST_SITES} are needed",
            reason="too_few_sites",
        )
    for added, dropped in dropped_pairs:
        if dropped in own_secrets:
            raise ConfigurationError(
                f"site {dropped} was added and is called dropped: its update would be seen", reason="both_secrets"
            )
        if added not in own_secrets:
            raise ConfigurationError(f"site {added} was not added and has no mask here", reason="bad_masks")
    masks = [(key_stream(secret, Label.MASK_OWN, round_id, start), -1) for secret in own_secrets.values()]
    masks += [
        (key_stream(secret, Label.MASK_PAIR, round_id, start), -_pair_sign(added, dropped))
        for (added, dropped), secret in dropped_pairs.items()
    ]
    _apply(total, masks)


def add_vector(total: Vector, vector: Vector) -> None:
    """Add a site's masked vector to the sum, in place. Raises ``RoundError``: ``wrong_shape``, ``wrong_dtype``."""
    require_vector(vector, total.size)
    np.add(total, vector, out=total)


def require_vector(vector: Vector, length: int) -> None:
    """Raise ``RoundError`` (``wrong_shape``, ``wrong_dtype``) unless these are ``length`` numbers of uint32."""
    if vector.dtype != np.dtype("<u4"):
        raise RoundError(f"a masked vector is of {vector.dtype}, expected uint32", reason="wrong_dtype")
    if vector.shape != (length,):
        raise RoundError(f"a masked vector has shape {vector.shape}, expected {(length,)}", reason="wrong_shape")


def key_stream(secret: bytes, purpose: Label, round_id: bytes, start: int = 0) -> Keystream:
    """Return the stream of a secret for one purpose in one round, at the word of coordinate ``start``.

    Raises ``ConfigurationError`` (``bad_key``) for a secret that is not of 32 bytes or a round ID of fewer.
    """
    if len(secret) != SECRET_BYTES:
        raise ConfigurationError(f"a mask's secret of {len(secret)} bytes, expected {SECRET_BYTES}", reason="bad_key")
    if len(round_id) < _LEAST_ROUND_ID_BYTES:
        raise ConfigurationError(
            f"a round ID of {len(round_id)} bytes; a hash has {_LEAST_ROUND_ID_BYTES} or more", reason="bad_key"
        )
    key = hkdf_sha512(secret, length_prefixed(purpose.value, round_id), KEYSTREAM_KEY_BYTES)
    return Keystream(key, start * _WORD_BYTES)


def _pair_sign(own_index: int, other_index: int) -> int:
    if own_index == other_index:
        raise ConfigurationError(f"site {own_index} has no mask with itself", reason="bad_masks")
    return 1 if own_index < other_index else -1


def _apply(vector: Vector, masks: Masks) -> None:
    require_vector(vector, vector.size)
    words = np.empty(min(vector.size, SLICE_COORDINATES), "<u4")
    streams = list(masks)
    for place in slices(vector.size):
        part = vector[place]
        random = words[: part.size]
        for stream, sign in streams:
            stream.fill(random.view(np.uint8).data)
            if sign > 0:
                np.add(part, random, out=part)
            else:
                np.subtract(part, random, out=part)
