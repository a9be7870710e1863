"""What an entry of a vector file looks like; README.md beside the vectors describes it."""

import base64
from typing import Any

import numpy as np

Entry = dict[str, Any]
Rows = list[list[Any]]

SMALL_ROWS: Rows = [["w", "<f4", [2], "0000803f00000040"]]
"""What `tests.support.forging.SMALL` opens to."""
SAMPLES = {"samples": "42"}


def encode(data: bytes) -> str:
    """Return base64."""
    return base64.b64encode(data).decode()


def good(section: str, name: str, envelope: bytes, *, tensors: Rows | None = None, **more: Any) -> Entry:
    """Return an entry that opens."""
    found = {"name": name, "section": section, "key": 0, "tensors": SMALL_ROWS if tensors is None else tensors}
    return found | {"metadata": SAMPLES} | more | {"envelope": encode(envelope)}


def bad(section: str, name: str, envelope: bytes, error: str, **more: Any) -> Entry:
    """Return an entry that is refused."""
    return {"name": name, "section": section, "key": 0, "error": error} | more | {"envelope": encode(envelope)}


def rows(weights: dict[str, np.ndarray[Any, np.dtype[Any]]]) -> Rows:
    """Return arrays as they are recorded."""
    return [[name, array.dtype.str, list(array.shape), array.tobytes().hex()] for name, array in weights.items()]
