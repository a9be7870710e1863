"""Coordinates of a model: one order everywhere, and a refusal for what has no sum."""

import ml_dtypes
import numpy as np
import pytest

from pqfl_transport.aggregation.fedavg import Weights
from pqfl_transport.aggregation.round_document import TensorSchema
from pqfl_transport.aggregation.secagg import layout as module
from pqfl_transport.aggregation.secagg.layout import TRAILER, Layout, slices
from pqfl_transport.content.tensors import schema
from pqfl_transport.errors import ConfigurationError, RoundError

MODEL = {
    "w": np.arange(6, dtype=np.float32).reshape(2, 3),
    "empty": np.zeros((0, 4), np.float16),
    "scalar": np.array(7, np.int64),
    "b": np.arange(3).astype(ml_dtypes.bfloat16),
}


def layout_of(weights: Weights) -> Layout:
    return Layout.of([TensorSchema(*row) for row in schema(weights)])


def test_tensors_stand_one_after_the_other_in_the_order_of_the_schema() -> None:
    """Every coordinate belongs to one tensor, scalars take one, empty tensors none."""
    layout = layout_of(MODEL)
    assert [(span.name, span.begin, span.end) for span in layout.spans] == [
        ("w", 0, 6),
        ("empty", 6, 6),
        ("scalar", 6, 7),
        ("b", 7, 10),
    ]
    assert (layout.coordinates, layout.length) == (10, 10 + TRAILER)


def test_a_model_is_flattened_by_name_in_c_order_without_copies() -> None:
    """The order of the mapping does not matter, that of memory does, and contiguous tensors stay where they are."""
    layout = layout_of(MODEL)
    shuffled: Weights = dict(reversed(MODEL.items()))
    assert [(span.name, tensor.tolist()) for span, tensor in layout.flatten(shuffled)] == [
        ("w", [0, 1, 2, 3, 4, 5]),
        ("empty", []),
        ("scalar", [7]),
        ("b", [0, 1, 2]),
    ]
    assert all(np.shares_memory(tensor, MODEL[span.name]) for span, tensor in layout.flatten(shuffled) if tensor.size)
    turned: Weights = MODEL | {"w": np.asfortranarray(MODEL["w"])}
    assert layout.flatten(turned)[0][1].tolist() == [0, 1, 2, 3, 4, 5]


def test_a_lists_tensors_are_called_by_number() -> None:
    """A list fits the schema of a list, in its own order and length only."""
    arrays = [np.zeros(2, np.float32), np.ones(2, np.float32)]
    layout = layout_of(arrays)
    assert [tensor.tolist() for _, tensor in layout.flatten(arrays)] == [[0, 0], [1, 1]]
    with pytest.raises(RoundError) as caught:
        layout.flatten(arrays[:1])
    assert caught.value.reason == "wrong_names"
    backwards = Layout.of([TensorSchema("1", "F32", (2,)), TensorSchema("0", "F32", (2,))])
    with pytest.raises(RoundError) as caught:
        backwards.flatten(arrays)
    assert caught.value.reason == "wrong_names"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"c": np.zeros(1, np.float32)}, "wrong_names"),
        ({"w": np.zeros((3, 2), np.float32)}, "wrong_shape"),
        ({"w": np.zeros((2, 3), np.float64)}, "wrong_dtype"),
        ({"b": np.zeros(3, np.uint16)}, "wrong_dtype"),
    ],
)
def test_a_model_of_another_form_is_refused(changes: Weights, reason: str) -> None:
    """Names, shapes and types are the schema's, or there is no vector."""
    assert isinstance(changes, dict)
    with pytest.raises(RoundError) as caught:
        layout_of(MODEL).flatten(MODEL | changes)
    assert caught.value.reason == reason


def test_a_missing_tensor_is_refused() -> None:
    """A vector of fewer numbers would be added to the wrong ones."""
    with pytest.raises(RoundError) as caught:
        layout_of(MODEL).flatten({name: tensor for name, tensor in MODEL.items() if name != "b"})
    assert caught.value.reason == "wrong_names"


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [TensorSchema("a", "F32", (0,))],
        [TensorSchema("a", "F32", (1,)), TensorSchema("a", "F32", (1,))],
        *([TensorSchema("a", word, (1,))] for word in ("BOOL", "U8", "U64", "C64", "F8_E8M0", "f32", "")),
    ],
    ids=str,
)
def test_a_schema_without_a_sum_is_refused(rows: list[TensorSchema]) -> None:
    """No numbers, one name twice, and types that are never negative or have no order: one clear error."""
    with pytest.raises(ConfigurationError) as caught:
        Layout.of(rows)
    assert caught.value.reason == "bad_model"


@pytest.mark.parametrize(("size", "expected"), [(0, []), (3, [(0, 3)]), (4, [(0, 4)]), (9, [(0, 4), (4, 8), (8, 9)])])
def test_slices_cover_everything_once(
    size: int, expected: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """None overlaps, none is empty, the last is as short as it has to be."""
    monkeypatch.setattr(module, "SLICE_COORDINATES", 4)
    assert [(part.start, part.stop) for part in slices(size)] == expected
