"""Weights as bytes and back: every dtype and shape, the reference implementation's own files, nothing odd."""

import json
import sys
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pqfl_transport.content.dtypes import EXTENSION_NAMES, extension_dtype
from pqfl_transport.content.tensors import (
    DTYPES,
    LENGTH_BYTES,
    MAX_HEADER_BYTES,
    TensorLayout,
    array_bytes,
    encode_header,
    header_length,
    model_digest,
    parse,
    parse_header,
    schema,
)
from pqfl_transport.errors import ConfigurationError, MessageError

dtypes = st.sampled_from(sorted(DTYPES.values(), key=str))
arrays = dtypes.flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5))
)
tensor_names = st.text(max_size=20).filter(lambda name: name != "__metadata__" and name.isprintable())


def encode(weights: Any, metadata: dict[str, str] | None = None) -> bytearray:
    layout = TensorLayout.of(weights, metadata)
    data = bytearray().join(layout.buffers())
    assert len(data) == layout.total_bytes
    return data


def same(one: Any, two: Any) -> bool:
    return (one.shape, one.dtype) == (two.shape, two.dtype) and one.tobytes() == two.tobytes()


@given(weights=st.dictionaries(tensor_names, arrays, max_size=5))
@settings(max_examples=80, deadline=None)
def test_mappings_come_back_as_they_went_in(weights: dict[str, Any]) -> None:
    """Names, order, dtypes, shapes and every bit."""
    found, metadata = parse(encode(weights))
    assert isinstance(found, dict)
    assert list(found) == list(weights)
    assert all(same(found[name], weights[name]) for name in weights)
    assert metadata == {}


@given(weights=st.lists(arrays, max_size=12))
@settings(max_examples=60, deadline=None)
def test_lists_come_back_as_lists(weights: list[Any]) -> None:
    """In their order, eleven and more of them too."""
    found, _ = parse(encode(weights))
    assert isinstance(found, list)
    assert len(found) == len(weights)
    assert all(same(one, two) for one, two in zip(found, weights, strict=True))


@pytest.mark.parametrize(
    "array",
    [
        np.array(3.5),
        np.zeros((0, 4)),
        np.asfortranarray(np.arange(12.0).reshape(3, 4)),
        np.arange(24).reshape(4, 6)[::2, ::3],
        np.arange(5, dtype=">f8"),
        np.arange(5, dtype=">i2")[::-1],
        np.array([True, False]),
        np.ones((1, 1, 1, 1), np.complex64),
    ],
)
def test_any_memory_order_gives_the_same_values(array: Any) -> None:
    """0-dimensional, empty, Fortran order, strided, big-endian, reversed: values and shape stay."""
    found, _ = parse(encode({"a": array}))
    assert isinstance(found, dict)
    assert found["a"].shape == array.shape
    assert (found["a"] == array).all()
    assert found["a"].dtype == array.dtype.newbyteorder("<")


def test_reading_is_in_place_and_writing_does_not_copy() -> None:
    """Contiguous arrays are given out as views of their own memory, and read as views of the buffer."""
    array = np.arange(1000, dtype=np.float32)
    assert np.shares_memory(np.frombuffer(array_bytes(array), np.uint8), array)
    buffer = encode({"a": array})
    found, _ = parse(buffer)
    assert isinstance(found, dict)
    assert np.shares_memory(found["a"], np.frombuffer(buffer, np.uint8))
    found["a"][0] = 7


def test_the_reference_implementation_reads_what_we_write() -> None:
    """Safetensors' own loader takes the layout."""
    weights = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.array([1, 2], np.int64)}
    found = safetensors.numpy.load(bytes(encode(weights, {"samples": "3"})))
    assert all(same(found[name], weights[name]) for name in weights)


def test_we_read_what_the_reference_implementation_writes() -> None:
    """A file of safetensors' own is a mapping here."""
    weights = {"a": np.arange(6, dtype=np.float16).reshape(2, 3), "b": np.array(True)}
    found, metadata = parse(bytearray(safetensors.numpy.save(weights, metadata={"by": "somebody"})))
    assert isinstance(found, dict)
    assert all(same(found[name], weights[name]) for name in weights)
    assert metadata == {}


def test_metadata_travels_with_the_weights() -> None:
    """Facts given are facts got, and do not change the model's digest."""
    weights = {"a": np.ones(3)}
    assert parse(encode(weights, {"samples": "12", "note": "ü"}))[1] == {"samples": "12", "note": "ü"}
    assert model_digest(weights) == model_digest({"a": np.ones(3)})


def test_the_digest_is_that_of_the_model() -> None:
    """Values, names, order, shape and dtype count; memory order does not."""
    base = {"a": np.arange(6.0).reshape(2, 3), "b": np.zeros(2)}
    assert model_digest(base) == model_digest({name: np.asfortranarray(array) for name, array in base.items()})
    others: list[dict[str, Any]] = [
        base | {"b": np.ones(2)},
        {"a": base["a"], "c": base["b"]},
        {"b": base["b"], "a": base["a"]},
        base | {"a": base["a"].reshape(3, 2)},
        base | {"b": np.zeros(2, np.float32)},
    ]
    assert len({model_digest(weights) for weights in [base, *others]}) == len(others) + 1


def test_the_schema_says_name_type_and_shape() -> None:
    """In the order of the model, in the words of the layout."""
    assert schema([np.zeros((2, 3), np.float32), np.array(1)]) == [("0", "F32", (2, 3)), ("1", "I64", ())]


@pytest.mark.parametrize(
    "weights",
    [
        {"a": np.array([{}], dtype=object)},
        {"a": np.array(["text"])},
        {"a": np.zeros(2, dtype=[("x", "f4")])},
        {"a": np.array([1], dtype="datetime64[s]")},
        {"a": np.zeros(2, np.complex128)},
        {"__metadata__": np.zeros(1)},
        {1: np.zeros(1)},
    ],
)
def test_what_has_no_name_in_the_layout_is_refused(weights: Any) -> None:
    """Objects, text, records, dates: nothing is pickled."""
    with pytest.raises(ConfigurationError) as caught:
        TensorLayout.of(weights)
    assert caught.value.reason == "unsupported"


def layout(header: Any, data: bytes) -> bytearray:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return bytearray(len(text).to_bytes(LENGTH_BYTES, "little") + text + data)


def tensor(shape: Any = (2,), dtype: Any = "U8", offsets: Any = (0, 2)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


@pytest.mark.parametrize(
    ("header", "data"),
    [
        ({"a": tensor()}, b"x"),
        ({"a": tensor()}, b"xyz"),
        ({"a": tensor(offsets=(1, 3))}, b"xyz"),
        ({"a": tensor(), "b": tensor(offsets=(1, 3))}, b"xyz"),
        ({"a": tensor(), "b": tensor(offsets=(3, 5))}, b"vwxyz"),
        ({"a": tensor(shape=(3,))}, b"xy"),
        ({"a": tensor(shape=(-2,))}, b"xy"),
        ({"a": tensor(shape=(True, 2))}, b"xy"),
        ({"a": tensor(shape=(2.0,))}, b"xy"),
        ({"a": tensor(shape=(1 << 50, 0), offsets=(0, 0))}, b""),
        ({"a": tensor(shape=[1] * 33, offsets=(0, 1))}, b"x"),
        ({"a": tensor(dtype="F7")}, b"xy"),
        ({"a": tensor(dtype=None)}, b"xy"),
        ({"a": tensor(offsets=(0, 2, 4))}, b"xy"),
        ({"a": tensor() | {"more": 1}}, b"xy"),
        ({"a": {"dtype": "U8"}}, b"xy"),
        ({"a": []}, b""),
        ({"__metadata__": {"a": 1}}, b""),
        ({"__metadata__": []}, b""),
        ([], b""),
        (b'{"a": 1, "a": 1}', b""),
        (b"\xff", b""),
        (b"[" * 100_000, b""),
        (b"", b""),
    ],
)
def test_anything_but_a_complete_gapless_layout_is_refused(header: Any, data: bytes) -> None:
    """Gaps, overlaps, wrong sizes, repeated names, wrong types, nesting without end."""
    with pytest.raises(MessageError):
        parse(layout(header, data))


@pytest.mark.parametrize("dtype", sorted(EXTENSION_NAMES))
def test_types_that_numpy_lacks_need_their_package(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without ml_dtypes they may pass through as files, but are never misread as something else."""
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    size = 2 if dtype == "BF16" else 1
    header = {"a": tensor(shape=(1,), dtype=dtype, offsets=(0, size))}
    (entry,), _ = parse_header(json.dumps(header).encode(), size)
    assert entry.dtype == dtype
    with pytest.raises(MessageError, match=r"pqfl\[ml-dtypes\]") as caught:
        parse(layout(header, bytes(size)))
    assert caught.value.reason == "unsupported"
    with pytest.raises(MessageError, match="no NumPy type"):
        _ = entry.numpy_dtype


@pytest.mark.parametrize("name", sorted(EXTENSION_NAMES.values()))
@pytest.mark.parametrize("shape", [(), (0,), (2, 3), (3, 0, 2)])
def test_bfloat16_and_8_bit_floats_come_back(name: str, shape: tuple[int, ...]) -> None:
    """Every bit pattern, any shape, strided and in Fortran order, and the reference implementation agrees."""
    dtype = extension_dtype(name)
    rng = np.random.default_rng(1)
    bits = rng.integers(0, 256, size=(*shape, dtype.itemsize), dtype=np.uint8)
    array = bits.view(dtype).reshape(shape)
    weights = {"c": array, "f": np.asfortranarray(array), "t": array.T, "r": array[::-1] if shape else array}
    data = encode(weights)
    found, _ = parse(data)
    assert isinstance(found, dict)
    assert all(same(found[key], weights[key]) for key in weights)
    assert safetensors.deserialize(bytes(encode({"a": array})))[0][1]["dtype"] == schema({"a": array})[0][1]


def test_big_endian_bfloat16_is_turned() -> None:
    """Extension types have a byte order too."""
    bfloat16 = extension_dtype("bfloat16")
    array = np.arange(3).astype(bfloat16)
    turned = array.astype(bfloat16.newbyteorder(">"))
    assert encode({"a": turned}) == encode({"a": array})


def test_plain_bytes_of_the_same_size_are_not_taken_for_bfloat16() -> None:
    """NumPy's opaque two-byte items have no meaning, and get none."""
    with pytest.raises(ConfigurationError):
        TensorLayout.of({"a": np.zeros(2, "V2")})


def test_names_that_look_alike_stay_apart() -> None:
    """Composed and decomposed characters, and scripts of the world, are names as they are."""
    names = ["caf\u00e9", "cafe\u0301", "重み", "вес", "وزن", "🧠", "a/b.c", "\x00", ""]
    weights = {name: np.array([number]) for number, name in enumerate(names)}
    found, _ = parse(encode(weights))
    assert isinstance(found, dict)
    assert [(name, int(found[name][0])) for name in found] == [(name, number) for number, name in enumerate(names)]


def test_half_a_character_is_refused_on_either_side() -> None:
    """A lone surrogate has no UTF-8, so it is neither sent nor taken; nor is a header in UTF-16."""
    with pytest.raises(ConfigurationError):
        TensorLayout.of({"\ud800": np.zeros(1)})
    with pytest.raises(ConfigurationError):
        TensorLayout.of({"a": np.zeros(1)}, {"note": "\udfff"})
    with pytest.raises(MessageError):
        parse(layout({"\ud800": tensor()}, b"xy"))
    with pytest.raises(MessageError):
        parse(layout(json.dumps({"a": tensor()}).encode("utf-16"), b"xy"))


def test_metadata_cannot_change_the_container() -> None:
    """The layout's own fact is not the caller's to set."""
    with pytest.raises(ConfigurationError):
        TensorLayout.of([np.zeros(1)], {"container": "mapping"})


def test_a_list_has_its_numbers_for_names() -> None:
    """A layout that says list and names its tensors otherwise is refused."""
    header = {"__metadata__": {"pqfl.container": "list"}, "1": tensor()}
    with pytest.raises(MessageError, match="not named"):
        parse(layout(header, b"xy"))


def test_a_header_is_capped_before_it_is_read() -> None:
    """A length field that claims a huge header is refused by itself; a short one too."""
    with pytest.raises(MessageError) as caught:
        header_length((MAX_HEADER_BYTES + 1).to_bytes(8, "little"))
    assert caught.value.reason == "too_large"
    with pytest.raises(MessageError):
        header_length(b"\x00" * 7)


def test_the_data_begins_at_a_multiple_of_eight() -> None:
    """Headers are padded, so that arrays read in place are aligned."""
    assert all(len(encode_header({"a" * length: 1})) % 8 == 0 for length in range(20))


@given(data=st.binary(max_size=200))
@settings(max_examples=100)
def test_any_bytes_are_parsed_or_refused(data: bytes) -> None:
    """Noise gives weights or a MessageError."""
    try:
        parse(bytearray(data))
    except MessageError:
        return
