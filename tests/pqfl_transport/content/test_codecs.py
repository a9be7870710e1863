"""Codecs as callers see them: what went in comes out in form, within bounds in value, and lies are refused early."""

import json
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pqfl_transport.content.codecs import (
    DEFAULT_FRACTION,
    FACTS,
    decode,
    encode,
    with_codec,
    without_codec,
)
from pqfl_transport.content.dtypes import DTYPES, EXTENSION_NAMES, numpy_dtype
from pqfl_transport.content.header import CODECS
from pqfl_transport.content.tensors import SAMPLES, TensorLayout, parse
from pqfl_transport.errors import ConfigurationError, MessageError

LOSSY = CODECS[1:]
BF16, INT8, TOPK = LOSSY
ENOUGH = 1 << 20

every_dtype = st.sampled_from([*DTYPES.values(), *(numpy_dtype(word, "") for word in EXTENSION_NAMES)])


@st.composite
def tensors(draw: st.DrawFn) -> Any:
    """Draw a tensor of any type, shape and memory order, finite and within float32 where it is of floats."""
    dtype = draw(every_dtype)
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=6))
    values = draw(hnp.arrays(np.float32, shape, elements=st.floats(-100, 100, width=32)))
    with np.errstate(invalid="ignore"):
        array = values.astype(dtype)
    if draw(st.booleans()):
        array = array.astype(dtype.newbyteorder(">"))
    return array.T if draw(st.booleans()) else array


containers = st.lists(tensors(), max_size=5) | st.dictionaries(st.text(max_size=8).filter(str.isprintable), tensors())


def through_the_layout(weights: Any, codec: str, fraction: float = DEFAULT_FRACTION, **limits: int) -> Any:
    encoded, facts = encode(weights, codec, fraction=fraction)
    data = bytearray().join(TensorLayout.of(encoded, with_codec({SAMPLES: "3"}, facts)).buffers())
    received, metadata = parse(data)
    assert without_codec(metadata) == {SAMPLES: "3"}
    return decode(received, metadata, codec, **({"max_bytes": ENOUGH} | limits))


def items(weights: Any) -> list[tuple[Any, Any]]:
    return list(weights.items() if isinstance(weights, dict) else enumerate(weights))


@given(weights=containers, codec=st.sampled_from(CODECS), fraction=st.floats(0.001, 1))
@settings(max_examples=250, deadline=None)
def test_container_names_order_dtypes_and_shapes_come_back(weights: Any, codec: str, fraction: float) -> None:
    """From every type, in every codec; and values within the codec's bound."""
    found = through_the_layout(weights, codec, fraction)
    assert type(found) is type(weights)
    assert [name for name, _ in items(found)] == [name for name, _ in items(weights)]
    for (_, one), (_, two) in zip(items(found), items(weights), strict=True):
        assert one.shape == two.shape
        assert one.dtype == two.dtype.newbyteorder("<")
        _require_bound(one, two, codec, fraction)


def _require_bound(found: Any, array: Any, codec: str, fraction: float) -> None:
    touched = {"safetensors": "", BF16: "48", INT8: "248", TOPK: "248"}[codec]
    if array.dtype.kind != "f" or array.dtype.name.startswith("float8") or str(array.dtype.itemsize) not in touched:
        assert found.tobytes() == array.astype(array.dtype.newbyteorder("<")).tobytes()
        return
    one, two = found.astype(np.float64), array.astype(np.float64)
    error, largest = np.abs(one - two), float(np.abs(two).max(initial=0))
    if codec == BF16:
        assert (error <= np.maximum(np.abs(two) * 2.0**-8, 2.0**-133)).all()
    elif codec == INT8:
        half_of_the_last_place = float(np.spacing(array.dtype.type(largest))) / 2
        assert (error <= largest / 254 * (1 + 1e-12) + half_of_the_last_place).all()
    else:
        assert np.count_nonzero(error) <= array.size * (1 - fraction) + 1
        smallest_kept = np.abs(one[one != 0]).min(initial=np.inf)
        assert (error <= min(smallest_kept, largest)).all()


def test_lossy_codecs_save_what_they_promise() -> None:
    """bf16 halves float32, int8 quarters it, top-k leaves less than a fortieth."""
    weights = [np.random.default_rng(0).standard_normal((400, 500)).astype(np.float32)]
    sizes = {codec: sum(array.nbytes for array in encode(weights, codec)[0]) for codec in CODECS}
    plain = weights[0].nbytes
    assert (sizes["safetensors"], sizes[BF16], sizes[INT8]) == (plain, plain // 2, plain // 4)
    assert sizes[TOPK] < plain / 40


def test_nothing_is_copied_that_is_not_encoded() -> None:
    """Integers under any codec, everything under the plain one: the same memory on either side."""
    numbers = np.arange(10)
    for codec in CODECS:
        encoded, facts = encode([numbers], codec)
        assert encoded[0] is numbers
        assert np.shares_memory(decode(encoded, facts, codec, max_bytes=80)[0], numbers)


@pytest.mark.parametrize("codec", LOSSY)
def test_the_callers_arrays_stay_as_they_are(codec: str) -> None:
    """Encoding changes nothing in place."""
    array = np.linspace(-3, 3, 1000, dtype=np.float32)
    before = array.tobytes()
    encode({"a": array}, codec)
    assert array.tobytes() == before


@pytest.mark.parametrize("codec", LOSSY)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("size", [1, 1000])
def test_a_tensor_that_is_not_finite_is_refused_by_name(codec: str, bad: float, size: int) -> None:
    """By every codec that loses precision, even where it would leave a tensor of that size alone."""
    with pytest.raises(ConfigurationError, match="'layer'") as caught:
        encode({"fine": np.ones(3), "layer": np.full(size, bad, np.float32)}, codec)
    assert caught.value.reason == "not_finite"


@pytest.mark.parametrize("fraction", [0, -0.5, 1.01, float("nan"), float("inf")])
def test_a_fraction_is_above_zero_and_at_most_one(fraction: float) -> None:
    """Anything else is a mistake of the caller's."""
    with pytest.raises(ConfigurationError) as caught:
        encode([], TOPK, fraction=fraction)
    assert caught.value.reason == "bad_fraction"


def test_an_unknown_codec_is_refused_on_either_side() -> None:
    """By the sender's own error and by the receiver's."""
    with pytest.raises(ConfigurationError) as configuration:
        encode([], "safetensors+gzip")
    with pytest.raises(MessageError) as message:
        decode([], {}, "safetensors+gzip", max_bytes=0)
    assert configuration.value.reason == message.value.reason == "unknown_codec"


def test_the_codecs_metadata_do_not_collide() -> None:
    """A caller cannot use the name, and gets back only what it gave."""
    with pytest.raises(ConfigurationError):
        with_codec({FACTS: "mine"}, {})
    assert without_codec(with_codec({SAMPLES: "1"}, {FACTS: "[]"})) == {SAMPLES: "1"}


@pytest.mark.parametrize("codec", CODECS)
def test_decoded_sizes_are_capped_together(codec: str) -> None:
    """Two tensors that fit alone and not together are refused; the exact sum passes."""
    weights = {"a": np.zeros(100, np.float32), "b": np.ones(100, np.float64)}
    through_the_layout(weights, codec, max_bytes=1200)
    with pytest.raises(MessageError) as caught:
        through_the_layout(weights, codec, max_bytes=1199)
    assert caught.value.reason == "too_large"


def test_a_huge_shape_takes_no_memory_before_it_is_refused() -> None:
    """A few bytes that stand for terabytes are refused from the metadata alone."""
    facts = {FACTS: json.dumps([["F32", [1 << 40], 1]])}
    tracemalloc.start()
    try:
        with pytest.raises(MessageError) as caught:
            decode([np.zeros(20, np.uint8)], facts, TOPK, max_bytes=1 << 30)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    assert caught.value.reason == "too_large"


U8, I8, U16 = np.zeros(20, np.uint8), np.zeros(20, np.int8), np.zeros(20, np.uint16)


@pytest.mark.parametrize(
    ("codec", "array", "fact"),
    [
        (BF16, U16, ["F16"]),
        (BF16, U16, ["F32", 1]),
        (BF16, U16, ["U16"]),
        (BF16, U16, [["F32"]]),
        (BF16, U16, []),
        (BF16, U16, "F32"),
        (BF16, U16, {"F32": 1}),
        (BF16, U8, ["F32"]),
        (BF16, np.zeros(0, np.uint16), ["F32"]),
        (INT8, I8, ["F32"]),
        (INT8, I8, ["F32", None]),
        (INT8, I8, ["F32", float("nan")]),
        (INT8, I8, ["F32", -1.0]),
        (INT8, I8, ["F32", 1.0, 1.0]),
        (INT8, I8, ["BF16", 1.0]),
        (INT8, U8, ["F32", 1.0]),
        (TOPK, U8, ["F32"]),
        (TOPK, U8, ["F32", 100, 1]),
        (TOPK, U8, ["F32", [100], 50]),
        (TOPK, U8, ["F32", [100], 0]),
        (TOPK, U8, ["F32", [100], -1]),
        (TOPK, U8, ["F32", [100], True]),
        (TOPK, U8, ["F32", [100], 1.0]),
        (TOPK, U8, ["F32", [-100], 1]),
        (TOPK, U8, ["F32", [100.0], 1]),
        (TOPK, U8, ["F32", [True, 100], 1]),
        (TOPK, U8, ["F32", [1 << 48], 1]),
        (TOPK, U8, ["F32", [0], 1]),
        (TOPK, U8, ["F32", [10] + [1] * 32, 1]),
        (TOPK, U8.reshape(4, 5), ["F32", [100], 1]),
        (TOPK, U8, ["F32", [100], 1]),
        (TOPK, I8, ["F32", [100], 1]),
    ],
)
def test_a_fact_that_no_sender_states_is_refused(codec: str, array: Any, fact: Any) -> None:
    """Wrong types, counts, shapes, scales; a blob that is none."""
    with pytest.raises(MessageError) as caught:
        decode({"a": array}, {FACTS: json.dumps([fact])}, codec, max_bytes=ENOUGH)
    assert caught.value.reason == "malformed"


@pytest.mark.parametrize("facts", [{}, {FACTS: ""}, {FACTS: "{}"}, {FACTS: "[]"}, {FACTS: "[null,null]"}])
@pytest.mark.parametrize("codec", LOSSY)
def test_facts_fit_the_tensors(codec: str, facts: dict[str, str]) -> None:
    """One for each, in a list."""
    with pytest.raises(MessageError) as caught:
        decode([np.zeros(1)], facts, codec, max_bytes=ENOUGH)
    assert caught.value.reason == "malformed"


def test_nesting_without_end_is_refused() -> None:
    """JSON that exhausts the parser is malformed."""
    with pytest.raises(MessageError):
        decode([np.zeros(1)], {FACTS: "[" * 100_000}, BF16, max_bytes=ENOUGH)


def test_plain_tensors_have_no_codec() -> None:
    """Metadata that tell of one under a header that does not are refused."""
    with pytest.raises(MessageError):
        decode([], {FACTS: "[]"}, "safetensors", max_bytes=0)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["F16", "F32", "F64"]),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=8,
)


@given(codec=st.sampled_from(LOSSY), fact=json_values, dtype=st.sampled_from(["u1", "i1", "u2"]))
@settings(max_examples=200, deadline=None)
def test_any_facts_are_decoded_or_refused(codec: str, fact: Any, dtype: str) -> None:
    """Noise in the metadata gives weights or a MessageError, and never more than the cap."""
    try:
        found = decode([np.ones(9, dtype)], {FACTS: json.dumps([fact])}, codec, max_bytes=1000)
    except MessageError:
        return
    assert sum(array.nbytes for array in found) <= 1000
