"""What a caller gives as a tensor, as a NumPy array: without a copy wherever the tensor lies in this process's memory.

PyTorch is never imported here. Its tensors are recognised by the module of their class, and by then it is loaded.
"""

import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from pqfl_transport.content.dtypes import EXTENSION_NAMES, extension_dtype
from pqfl_transport.errors import ConfigurationError

Array = npt.NDArray[Any]

_TORCH = "torch"
_TORCH_PREFIX = f"{_TORCH}."


def as_array(value: object, name: str) -> Array:
    """Return a tensor as an array: an array itself, what NumPy can convert, or a PyTorch tensor.

    A PyTorch tensor on the host shares its memory with the array; one on another device is copied to the host. Raises
    ``ConfigurationError`` (``unsupported``) naming the tensor for what is no plain array of numbers, ``PlatformError``
    (``no_ml_dtypes``) for a bfloat16 or 8-bit float from PyTorch without that package.
    """
    if type(value) is np.ndarray:
        return value
    try:
        array = _from_torch(value) if _is_torch(value) else np.asanyarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise _unsupported(name, f"cannot become an array: {error}") from error
    if isinstance(array, np.ma.MaskedArray):
        # Its mask has no place in the layout, and without it hidden values would be sent.
        raise _unsupported(name, "is a masked array; fill or compress it first")
    return array


def _is_torch(value: object) -> bool:
    # Parameters and other subclasses have PyTorch's own class among their bases.
    return any(base.__module__.partition(".")[0] == _TORCH for base in type(value).__mro__)


def _from_torch(value: Any) -> Array:
    tensor = value.detach().cpu().resolve_conj().resolve_neg()
    dtype = str(tensor.dtype).removeprefix(_TORCH_PREFIX)
    if dtype not in EXTENSION_NAMES.values():
        array: Array = tensor.numpy()
        return array
    # NumPy takes no such type from PyTorch, but integers of the same size, whose bits are then named again.
    torch = sys.modules[_TORCH]
    extension = extension_dtype(dtype)
    bits: Mapping[int, Any] = {1: torch.uint8, 2: torch.int16}
    return np.asarray(tensor.view(bits[extension.itemsize]).numpy()).view(extension)


def _unsupported(name: str, what: str) -> ConfigurationError:
    return ConfigurationError(f"tensor {name!r} {what}", reason="unsupported")
