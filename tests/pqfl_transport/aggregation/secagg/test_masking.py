"""Masks: the streams of their definition, added in place in little memory, gone when everything was taken away."""

import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pqfl_transport.aggregation.secagg import layout
from pqfl_transport.aggregation.secagg.masking import add_vector, key_stream, mask, require_vector, unmask
from pqfl_transport.crypto.contexts import Label
from pqfl_transport.errors import ConfigurationError, PqflError, RoundError
from tests.support.masks import ROUND_ID, secret_of, stream_words

OWN = secret_of("own")
PAIRS = {0: secret_of(0), 1: secret_of(1), 5: secret_of(5)}
ROOT = Path(__file__).parents[4]


def masked(vector: Any, index: int = 3, *, start: int = 0, round_id: bytes = ROUND_ID) -> Any:
    found = np.array(vector, "<u4")
    mask(found, index, OWN, PAIRS, round_id, start=start)
    return found


@given(st.lists(st.integers(0, 2**32 - 1), max_size=40), st.integers(1, 9))
def test_a_masked_vector_is_the_sum_of_the_streams(numbers: list[int], slice_coordinates: int) -> None:
    """Own mask and pairs with higher indices are added, pairs with lower ones taken away, however it is sliced."""
    own = stream_words(OWN, b"mask-own", ROUND_ID, len(numbers))
    pairs = {other: stream_words(secret, b"mask-pair", ROUND_ID, len(numbers)) for other, secret in PAIRS.items()}
    expected = [
        (number + own[at] - pairs[0][at] - pairs[1][at] + pairs[5][at]) % 2**32 for at, number in enumerate(numbers)
    ]
    with mock.patch.object(layout, "SLICE_COORDINATES", slice_coordinates):
        assert masked(numbers).tolist() == expected


@pytest.mark.parametrize(("begin", "end"), [(0, 1), (1, 2), (3, 70_000), (65_535, 65_537), (65_536, 150_001)])
def test_any_range_can_be_masked_without_what_is_before_it(begin: int, end: int) -> None:
    """A mask is one stream by coordinate: a part, masked alone, is that part of the whole."""
    vector = np.arange(150_001, dtype="<u4")
    assert (masked(vector[begin:end], start=begin) == masked(vector)[begin:end]).all()


def test_streams_are_separated_by_purpose_and_round() -> None:
    """One secret never gives the same words twice: for another purpose, in another round, from another secret."""
    heads = set()
    for secret in (OWN, PAIRS[0]):
        for purpose in (Label.MASK_OWN, Label.MASK_PAIR, Label.ROUNDING):
            for round_id in (ROUND_ID, bytes(32), ROUND_ID + b"\0"):
                head = bytearray(32)
                key_stream(secret, purpose, round_id).fill(head)
                heads.add(bytes(head))
    assert len(heads) == 2 * 3 * 3


def test_a_masked_vector_looks_random() -> None:
    """A vector of zeros has every bit set about half of the time, and shares no coordinate with its unmasked form."""
    found = masked(np.zeros(100_000))
    for bit in range(32):
        assert abs(float(((found >> np.uint32(bit)) & 1).mean()) - 0.5) < 5 * 0.5 / 100_000**0.5
    assert np.count_nonzero(found == 0) < 5


@pytest.mark.parametrize("dropped", [(), (4,), (0,), (2, 4)])
def test_what_is_left_of_the_masks_can_be_taken_away(dropped: tuple[int, ...]) -> None:
    """Pairs of sites that were added cancel out; own masks, and those with sites that were not, are taken away."""
    sites = range(6)
    added = [site for site in sites if site not in dropped]
    total, plain = np.zeros(1000, "<u4"), np.zeros(1000, "<u4")
    for site in added:
        vector = np.random.default_rng(site).integers(0, 2**32, 1000, "<u4")
        add_vector(plain, vector)
        mask(vector, site, secret_of(site), {other: pair(site, other) for other in sites if other != site}, ROUND_ID)
        add_vector(total, vector)
    assert (total != plain).any()
    own = {site: secret_of(site) for site in added}
    left = {(site, other): pair(site, other) for site in added for other in dropped}
    parts = total.copy()
    unmask(total, own, left, ROUND_ID)
    assert (total == plain).all()
    for begin, end in ((0, 333), (333, 1000)):
        unmask(parts[begin:end], own, left, ROUND_ID, start=begin)
    assert (parts == plain).all()


def pair(one: int, other: int) -> bytes:
    return secret_of("pair", min(one, other), max(one, other))


def call_mask(**changes: Any) -> None:
    parameters = {"own_index": 3, "own_secret": OWN, "pair_secrets": PAIRS, "round_id": ROUND_ID} | changes
    mask(np.zeros(4, "<u4"), **parameters)


def call_unmask(**changes: Any) -> None:
    own = {site: secret_of(site) for site in (1, 2, 3)}
    parameters = {"own_secrets": own, "dropped_pairs": {(1, 4): OWN}, "round_id": ROUND_ID} | changes
    unmask(np.zeros(4, "<u4"), **parameters)


@pytest.mark.parametrize(
    ("action", "changes", "reason"),
    [
        (call_mask, {"pair_secrets": {}}, "too_few_sites"),
        (call_mask, {"pair_secrets": {0: PAIRS[0]}}, "too_few_sites"),
        (call_mask, {"own_index": 5}, "bad_masks"),
        (call_mask, {"pair_secrets": {0: PAIRS[0], 1: PAIRS[0]}}, "bad_masks"),
        (call_mask, {"own_secret": PAIRS[0]}, "bad_masks"),
        (call_mask, {"own_secret": OWN[:16]}, "bad_key"),
        (call_mask, {"pair_secrets": {0: PAIRS[0], 1: b""}}, "bad_key"),
        (call_mask, {"round_id": b"round 1"}, "bad_key"),
        (call_unmask, {"own_secrets": {1: OWN, 2: PAIRS[0]}, "dropped_pairs": {}}, "too_few_sites"),
        (call_unmask, {"dropped_pairs": {(1, 2): OWN}}, "both_secrets"),
        (call_unmask, {"dropped_pairs": {(4, 5): OWN}}, "bad_masks"),
        (call_unmask, {"dropped_pairs": {(1, 4): OWN[:31]}}, "bad_key"),
        (call_unmask, {"round_id": b""}, "bad_key"),
    ],
)
def test_masks_that_do_not_hide_are_refused(action: Callable[..., None], changes: dict[str, Any], reason: str) -> None:
    """Too few sites, secrets that cancel out, short keys, both secrets of one site: refused."""
    action()
    with pytest.raises(ConfigurationError) as caught:
        action(**changes)
    assert caught.value.reason == reason


def test_a_refusal_changes_nothing() -> None:
    """A caller that goes on after the error has not half a mask on its vector, nor the half of a sum in the clear."""
    vector = np.arange(9, dtype="<u4")
    with pytest.raises(PqflError):
        mask(vector, 3, OWN, {0: PAIRS[0], 1: b""}, ROUND_ID)
    with pytest.raises(PqflError):
        unmask(vector, {1: OWN, 2: PAIRS[0], 3: b""}, {}, ROUND_ID)
    assert vector.tolist() == list(range(9))


@pytest.mark.parametrize(
    ("vector", "reason"),
    [
        (np.zeros(5, "<u4"), "wrong_shape"),
        (np.zeros((2, 2), "<u4"), "wrong_shape"),
        (np.zeros(4, "<u8"), "wrong_dtype"),
        (np.zeros(4, "<i4"), "wrong_dtype"),
        (np.zeros(4, np.float32), "wrong_dtype"),
        (np.zeros(4, ">u4"), "wrong_dtype"),
    ],
)
def test_a_vector_of_another_form_is_not_added(vector: Any, reason: str) -> None:
    """A shorter vector would not be broadcast, a wider one not be cut."""
    total = np.ones(4, "<u4")
    with pytest.raises(RoundError) as caught:
        add_vector(total, vector)
    assert caught.value.reason == reason
    assert total.tolist() == [1, 1, 1, 1]
    with pytest.raises(RoundError):
        require_vector(vector, 4)
    if vector.dtype != np.dtype("<u4"):
        with pytest.raises(RoundError):
            mask(vector, 3, OWN, PAIRS, ROUND_ID)


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is given in other units elsewhere")
def test_masking_a_large_vector_takes_little_memory() -> None:
    """Ten masks on 64 MiB, after ten on a small vector, add less than 4 MiB to the peak of a process."""
    script = (
        "import resource, numpy as np\n"
        "from pqfl_transport.aggregation.secagg.masking import mask\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "pairs = {n: bytes([n]) * 32 for n in range(1, 11)}\n"
        "vector = np.ones(16 << 20, '<u4')\n"
        "mask(vector[:1 << 17], 0, bytes(32), pairs, bytes(32))\n"
        "before = peak()\n"
        "mask(vector, 0, bytes(32), pairs, bytes(32))\n"
        "print(peak() - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    assert int(done.stdout) < 4 * 1024
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss > 64 * 1024
