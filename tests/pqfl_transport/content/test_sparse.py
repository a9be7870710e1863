"""Top-k: the largest entries come back exactly, the rest as zero, and no blob takes more memory than agreed."""

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pqfl_transport.content.quantizing import SLICE_NUMBERS
from pqfl_transport.content.sparse import from_sparse, is_sparse, sparse_bytes, to_sparse
from pqfl_transport.errors import ConfigurationError, MessageError, PlatformError

dtypes = st.sampled_from([np.dtype("<f2"), np.dtype("<f4"), np.dtype("<f8")])
tensors = dtypes.flatmap(
    lambda dtype: hnp.arrays(
        dtype,
        hnp.array_shapes(max_dims=3, max_side=6),
        elements=st.floats(width=dtype.itemsize * 8, allow_nan=False, allow_infinity=False),  # type: ignore[arg-type]
    )
)


def and_back(array: Any, kept: int) -> Any:
    found = np.full_like(array, 7)
    from_sparse(to_sparse(array, kept, "a"), kept, found, "a")
    return found


@given(array=tensors, data=st.data())
@settings(max_examples=200, deadline=None)
def test_the_largest_come_back_and_the_rest_is_no_larger(array: Any, data: st.DataObject) -> None:
    """Kept entries to the bit; a dropped one is at most the smallest kept in magnitude."""
    kept = data.draw(st.integers(1, array.size))
    found = and_back(array, kept)
    order = np.sort(np.abs(array).reshape(-1))[::-1]
    lost = found != array
    assert np.count_nonzero(lost) <= array.size - kept
    assert (found[lost] == 0).all()
    assert (np.abs(array[lost]) <= order[kept - 1]).all()
    assert np.count_nonzero(found) == min(kept, np.count_nonzero(array))


def test_among_equals_the_first_are_kept() -> None:
    """The choice does not depend on the machine."""
    assert and_back(np.array([1, -2, 1, 2, 1.0]), 3).tolist() == [1, -2, 0, 2, 0]
    assert and_back(np.zeros(4), 2).tolist() == [0, 0, 0, 0]


def test_tensors_larger_than_a_slice_come_back() -> None:
    """Places count from the tensor's beginning, not the slice's."""
    array = np.zeros(2 * SLICE_NUMBERS + 9, np.float32)
    array[[3, SLICE_NUMBERS, array.size - 1]] = [1, -2, 3]
    assert (and_back(array, 3) == array).all()


def test_small_updates_take_few_bytes() -> None:
    """One entry in a hundred of a million takes less than a fiftieth of the tensor."""
    array = np.random.default_rng(3).standard_normal(1_000_000).astype(np.float32)
    assert to_sparse(array, 10_000, "a").size < array.nbytes / 50


def test_only_what_gets_smaller_is_sparse() -> None:
    """Index and value of the kept have to take less than all values; none kept is no tensor."""
    dtype = np.dtype("<f4")
    assert is_sparse(49, 100, dtype)
    assert not is_sparse(50, 100, dtype)
    assert not is_sparse(0, 100, dtype)
    assert not is_sparse(-1, 100, dtype)
    assert sparse_bytes(10, 100, dtype) == 80
    assert sparse_bytes(10, (1 << 32) + 1, dtype) == 120


def test_what_is_not_finite_is_refused() -> None:
    """NaN has no magnitude."""
    with pytest.raises(ConfigurationError) as caught:
        to_sparse(np.array([1, np.nan, 2]), 1, "a")
    assert caught.value.reason == "not_finite"


def blob(deltas: list[int], values: list[float], **changes: Any) -> Any:
    planes = [
        np.array(each, dtype).view(np.uint8).reshape(len(each), 4).T.tobytes()
        for each, dtype in ((deltas, "<u4"), (values, "<f4"))
    ]
    content = changes.get("content", b"".join(planes))
    frame = zstandard.ZstdCompressor(write_content_size=changes.get("sized", True)).compress(content)
    return np.frombuffer(frame + changes.get("behind", b""), np.uint8)


def test_the_format_is_as_described() -> None:
    """Two deltas and two values in planes of bytes, made by hand."""
    found = np.empty(9, np.float32)
    from_sparse(blob([2, 5], [1.5, -2.0]), 2, found, "a")
    assert found.tolist() == [0, 0, 1.5, 0, 0, 0, 0, -2.0, 0]


def _lying_size() -> Any:
    frame = bytearray(blob([1, 1], [1.0, 1.0]).tobytes())
    honest = zstandard.ZstdCompressor().compress(bytes(1 << 20))
    # The frame of a megabyte, its stated size replaced by sixteen bytes in the same width.
    assert zstandard.frame_content_size(bytes(frame)) == 16
    at = honest.index((1 << 20).to_bytes(4, "little"))
    return np.frombuffer(honest[:at] + (16).to_bytes(4, "little") + honest[at + 4 :], np.uint8)


@pytest.mark.parametrize(
    "make",
    [
        lambda: blob([2, 0], [1.0, 1.0]),
        lambda: blob([2, 0xFFFFFFFF], [1.0, 1.0]),
        lambda: blob([9, 1], [1.0, 1.0]),
        lambda: blob([1, 8], [1.0, 1.0]),
        lambda: blob([1, 1], [1.0, np.nan]),
        lambda: blob([1, 1], [np.inf, 1.0]),
        lambda: blob([1], [1.0]),
        lambda: blob([1, 1, 1], [1.0, 1.0, 1.0]),
        lambda: blob([1, 1], [1.0, 1.0], behind=b"x"),
        lambda: blob([1, 1], [1.0, 1.0], behind=blob([1, 1], [1.0, 1.0]).tobytes()),
        lambda: blob([1, 1], [1.0, 1.0], sized=False),
        lambda: blob([1, 1], [1.0, 1.0])[:-1],
        lambda: blob([], [], content=bytes(1 << 24)),
        lambda: np.frombuffer(b"no frame at all", np.uint8),
        lambda: np.frombuffer(b"\x50\x2a\x4d\x18\x04\x00\x00\x00skip", np.uint8),
        _lying_size,
    ],
)
def test_a_blob_that_no_sender_makes_is_refused(make: Callable[[], Any]) -> None:
    """Places that repeat, go back or lie outside; bombs, lying and missing sizes, something behind, no frame."""
    with pytest.raises(MessageError) as caught:
        from_sparse(make(), 2, np.empty(9, np.float32), "a")
    assert caught.value.reason == "malformed"


@given(data=st.binary(max_size=80))
@settings(max_examples=100)
def test_any_bytes_are_decoded_or_refused(data: bytes) -> None:
    """Noise, and noise in an honest frame."""
    for frame in (data, zstandard.compress((data + bytes(16))[:16])):
        try:
            from_sparse(np.frombuffer(frame, np.uint8), 2, np.empty(9, np.float32), "a")
        except MessageError:
            continue


def test_places_that_run_over_64_bits_are_refused() -> None:
    """With 8-byte deltas a sum can wrap, which shows as a step back; only the shape of the array is huge."""
    array = np.lib.stride_tricks.as_strided(np.zeros(1, np.float32), ((1 << 32) + 1,), (0,), writeable=True)
    deltas = np.array([5, (1 << 64) - 3], "<u8")
    planes = (
        deltas.view(np.uint8).reshape(2, 8).T.tobytes() + np.ones(2, "<f4").view(np.uint8).reshape(2, 4).T.tobytes()
    )
    with pytest.raises(MessageError, match="go back"):
        from_sparse(np.frombuffer(zstandard.compress(planes), np.uint8), 2, array, "a")


def test_without_the_package_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the way out and on the way in."""
    good = blob([1, 1], [1.0, 1.0])
    monkeypatch.setitem(sys.modules, "zstandard", None)
    for use in (lambda: to_sparse(np.ones(9), 1, "a"), lambda: from_sparse(good, 2, np.empty(9, np.float32), "a")):
        with pytest.raises(PlatformError, match=r"pip install 'pqfl\[zstd\]'") as caught:
            use()
        assert caught.value.reason == "no_zstd"
