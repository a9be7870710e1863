"""Secure aggregation computed a second time, number by number in Python: what vectors and sums are held to."""

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from pqfl_transport.aggregation.fedavg import Weights
from pqfl_transport.aggregation.round_document import TensorSchema
from pqfl_transport.aggregation.secagg.plan import Plan
from pqfl_transport.content.tensors import schema

ROUND_ID = bytes(range(32))


def plan_of(weights: Weights, **changes: Any) -> Plan:
    """Return a plan for a model, with parameters that most tests do not care about."""
    rows = [TensorSchema(*row) for row in schema(weights)]
    return Plan.of(rows, **({"clip": 2.0, "sites": 5, "bits": 12, "weight_cap": 20} | changes))


def secret_of(*names: object) -> bytes:
    """Return 32 bytes that are different for different names."""
    digest = hashes.Hash(hashes.SHA256())
    digest.update(repr(names).encode())
    return digest.finalize()


def stream_words(secret: bytes, label: bytes, round_id: bytes, count: int) -> list[int]:
    """Return the first words of a mask or of the roundings."""
    info = b"".join(len(item).to_bytes(4, "big") + item for item in (b"pqfl/v1/" + label, round_id))
    key = HKDF(hashes.SHA512(), 32, None, info).derive(secret)
    # The cipher block by block in ECB mode: counter mode by its definition.
    encryptor = Cipher(algorithms.AES256(key), modes.ECB()).encryptor()  # noqa: S305 -- builds counter mode
    data = b"".join(encryptor.update(block.to_bytes(16, "big")) for block in range(-(-count // 4)))
    return [int.from_bytes(data[at : at + 4], "little") for at in range(0, 4 * count, 4)]


def encoded_integers(tensors: Sequence[Any], weight: int, plan: Plan, rounding_key: bytes) -> list[int]:
    """Return a site's vector as signed integers, trailer and all, from its tensors in the order of the schema."""
    words = iter(stream_words(rounding_key, b"rounding", ROUND_ID, plan.layout.coordinates))
    clipped, integers = 0, []
    for tensor, clip in zip(tensors, plan.clips, strict=True):
        bound = _bound(clip, tensor.dtype.name)
        for number in tensor.reshape(-1).astype(np.float64).tolist():
            within = max(-bound, min(bound, number))
            clipped += within != number
            scaled = within * (weight * plan.levels / clip)
            integers.append(math.floor(scaled + next(words) / 2**32))
    return [*integers, weight, 1, 0, 0, 0, 0, clipped]


def _bound(clip: float, dtype: str) -> float:
    if dtype in {"float64", "int64", "int32", "int16", "int8"}:
        return clip
    rounded = np.float32(clip)
    return float(rounded) if float(rounded) <= clip else float(np.nextafter(rounded, np.float32(0)))


def neighbours(sites: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield each pair of sites once, the lower index first."""
    yield from itertools.combinations(sorted(sites), 2)
