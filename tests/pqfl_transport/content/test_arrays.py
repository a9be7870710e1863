"""What callers give as tensors: arrays and PyTorch's, shared and not copied, and nothing that hides values."""

import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pqfl_transport.content.arrays import as_array
from pqfl_transport.content.dtypes import EXTENSION_NAMES, extension_dtype
from pqfl_transport.content.tensors import TensorLayout, parse
from pqfl_transport.errors import ConfigurationError, PlatformError


class FakeTensor:
    """PyTorch's protocol over an array: no bfloat16 or 8-bit floats to NumPy, and not while it wants a gradient."""

    def __init__(self, array: Any, dtype: str, *, device: str = "cpu", requires_grad: bool = False) -> None:
        self.array, self.dtype, self.device, self.requires_grad = array, f"torch.{dtype}", device, requires_grad

    def _with(self, **changes: Any) -> "FakeTensor":
        facts = {"device": self.device, "requires_grad": self.requires_grad} | changes
        return type(self)(facts.pop("array", self.array), facts.pop("dtype", self.dtype[6:]), **facts)

    def detach(self) -> "FakeTensor":
        return self._with(requires_grad=False)

    def cpu(self) -> "FakeTensor":
        return self if self.device == "cpu" else self._with(device="cpu", array=self.array.copy())

    def resolve_conj(self) -> "FakeTensor":
        return self

    resolve_neg = resolve_conj

    def view(self, dtype: str) -> "FakeTensor":
        return self._with(array=self.array.view(dtype), dtype=dtype)

    def numpy(self) -> Any:
        if self.device != "cpu" or self.requires_grad:
            raise RuntimeError("Can't call numpy() on this tensor")
        if self.dtype[6:] in EXTENSION_NAMES.values():
            raise TypeError("Got unsupported ScalarType")
        return self.array


FakeTensor.__module__ = "torch"


class FakeParameter(FakeTensor):
    """A class of somebody else's below PyTorch's own."""


@pytest.fixture
def torch_module(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the loaded module is asked for."""
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(uint8="uint8", int16="int16"))


@pytest.mark.usefixtures("torch_module")
@pytest.mark.parametrize("name", sorted(EXTENSION_NAMES.values()))
def test_torch_extension_types_keep_their_bits(name: str) -> None:
    """By way of integers of the same size, without a copy."""
    array = np.arange(6).reshape(2, 3).astype(extension_dtype(name))
    found = as_array(FakeParameter(array, name, requires_grad=True), "a")
    assert (found.dtype, found.shape) == (array.dtype, array.shape)
    assert found.tobytes() == array.tobytes()
    assert np.shares_memory(found.view(np.uint8), array.view(np.uint8))


@pytest.mark.usefixtures("torch_module")
@pytest.mark.parametrize("device", ["cpu", "cuda:0"])
def test_torch_tensors_come_by_way_of_host_memory(device: str) -> None:
    """One on the host shares its memory, one elsewhere is copied to the host first."""
    array = np.arange(4, dtype=np.float32)
    found = as_array(FakeTensor(array, "float32", device=device, requires_grad=True), "a")
    assert (found == array).all()
    assert np.shares_memory(found, array) is (device == "cpu")


@pytest.mark.usefixtures("torch_module")
def test_torch_tensors_are_laid_out_among_arrays() -> None:
    """As a caller gives them: a state dictionary with both."""
    array = np.ones((2, 2), np.float32)
    layout = TensorLayout.of({"t": FakeTensor(array, "float32"), "n": array})  # type: ignore[dict-item]
    found, _ = parse(bytearray().join(layout.buffers()))
    assert isinstance(found, dict)
    assert (found["t"] == found["n"]).all()


@pytest.mark.usefixtures("torch_module")
def test_a_torch_bfloat16_needs_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """And without it the error says so."""
    tensor = FakeTensor(np.zeros(1, extension_dtype("bfloat16")), "bfloat16")
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(PlatformError) as caught:
        as_array(tensor, "a")
    assert caught.value.reason == "no_ml_dtypes"


@pytest.mark.usefixtures("torch_module")
def test_a_tensor_that_is_no_plain_array_is_refused_by_name() -> None:
    """Sparse and quantized tensors have no array; PyTorch says why."""
    tensor = FakeTensor(np.zeros(1), "float64", requires_grad=True)
    tensor.detach = lambda: tensor  # type: ignore[method-assign]
    with pytest.raises(ConfigurationError, match="'layer'"):
        as_array(tensor, "layer")


def test_arrays_and_what_numpy_can_convert() -> None:
    """An array is itself; a subclass keeps its memory; numbers and lists become arrays."""
    array = np.zeros(3)
    assert as_array(array, "a") is array
    assert as_array([1, 2], "a").tolist() == [1, 2]
    assert as_array(2.5, "a").shape == ()


def test_a_masked_array_is_refused() -> None:
    """What it hides would be sent."""
    with pytest.raises(ConfigurationError, match="masked") as caught:
        as_array(np.ma.masked_array([1, 2], [True, False]), "a")
    assert caught.value.reason == "unsupported"


def test_what_refuses_to_be_an_array_is_named() -> None:
    """Ragged lists, objects that raise when asked."""
    with pytest.raises(ConfigurationError, match="'layer'"):
        as_array([[1], [1, 2]], "layer")


def test_real_torch_tensors() -> None:
    """Every type that both have, strided, conjugated, wanting a gradient; host memory is shared."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")

    names = ["float32", "float64", "float16", "int8", "uint8", "int16", "int32", "int64", "bool", "complex64"]
    for name in [*names, *EXTENSION_NAMES.values()]:
        dtype = getattr(torch, name)
        tensor = torch.arange(6).reshape(2, 3).to(torch.float32).to(dtype)
        found = as_array(tensor, name)
        assert found.ctypes.data == tensor.data_ptr()
        assert found.shape == (2, 3)
        assert found.astype(np.complex64).tolist() == tensor.to(torch.complex64).tolist()
        assert as_array(tensor.T, name).tobytes("A") == found.T.tobytes("A")
    parameter = torch.nn.Parameter(torch.ones(2, 2, dtype=torch.bfloat16))
    assert as_array(parameter, "p").astype(np.float32).tolist() == [[1, 1], [1, 1]]
    conjugated = torch.tensor([1 + 2j]).conj()
    assert as_array(conjugated, "c").tolist() == [1 - 2j]
    with pytest.raises(ConfigurationError, match="'sparse'"):
        as_array(torch.eye(3).to_sparse(), "sparse")
    with pytest.raises(ConfigurationError, match="'meta'"):
        as_array(torch.empty(3, device="meta"), "meta")
