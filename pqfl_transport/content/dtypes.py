"""The layout's words for types of numbers, and the NumPy dtypes they stand for.

bfloat16 and the 8-bit floats are no types of NumPy: the package ``ml_dtypes`` adds them. It is imported only when such
a tensor arrives; one that leaves is recognised by its dtype, which nobody can have without that package.
"""

import importlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from pqfl_transport.errors import ConfigurationError, MessageError, PlatformError

DTYPES: Mapping[str, np.dtype[Any]] = MappingProxyType(
    {
        "BOOL": np.dtype("?"),
        "U8": np.dtype("u1"),
        "I8": np.dtype("i1"),
        "U16": np.dtype("<u2"),
        "I16": np.dtype("<i2"),
        "F16": np.dtype("<f2"),
        "U32": np.dtype("<u4"),
        "I32": np.dtype("<i4"),
        "F32": np.dtype("<f4"),
        "U64": np.dtype("<u8"),
        "I64": np.dtype("<i8"),
        "F64": np.dtype("<f8"),
        "C64": np.dtype("<c8"),
    }
)
"""The layout's words that NumPy has a type of its own for."""

EXTENSION_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "BF16": "bfloat16",
        "F8_E4M3": "float8_e4m3fn",
        "F8_E5M2": "float8_e5m2",
        "F8_E8M0": "float8_e8m0fnu",
        "F8_E4M3FNUZ": "float8_e4m3fnuz",
        "F8_E5M2FNUZ": "float8_e5m2fnuz",
    }
)
"""The layout's words for what ``ml_dtypes`` (and PyTorch, under the same names) adds."""

_PACKAGE = "ml_dtypes"
_HOW_TO_INSTALL = "install it with: pip install 'pqfl[ml-dtypes]'"
_WORDS = MappingProxyType({dtype: word for word, dtype in DTYPES.items()})
_EXTENSION_WORDS = MappingProxyType({name: word for word, name in EXTENSION_NAMES.items()})
_EXTENSION_BYTES = MappingProxyType({word: 2 if word == "BF16" else 1 for word in EXTENSION_NAMES})


def dtype_word(dtype: np.dtype[Any], name: str) -> str:
    """Return the layout's word for a dtype in either byte order. Raises ``ConfigurationError`` naming the tensor."""
    if dtype.type.__module__ == _PACKAGE:
        word = _EXTENSION_WORDS.get(dtype.type.__name__)
    else:
        word = _WORDS.get(dtype.newbyteorder("<"))
    if word is None:
        known = ", ".join([*DTYPES, *EXTENSION_NAMES])
        raise ConfigurationError(
            f"tensor {name!r} is of dtype {dtype}, which cannot be sent; known are {known}", reason="unsupported"
        )
    return word


def numpy_dtype(word: str, name: str) -> np.dtype[Any]:
    """Return the dtype, little-endian, of a received tensor. Raises ``MessageError`` (``unsupported``) without one."""
    if word in DTYPES:
        return DTYPES[word]
    if word not in EXTENSION_NAMES:
        raise _unknown(word, name)
    try:
        return extension_dtype(EXTENSION_NAMES[word])
    except PlatformError as error:
        raise MessageError(f"tensor {name!r} is of type {word}: {error}", reason="unsupported") from error


def extension_dtype(name: str) -> np.dtype[Any]:
    """Return the dtype that ``ml_dtypes`` calls ``name``. Raises ``PlatformError`` (``no_ml_dtypes``) without it."""
    try:
        package = importlib.import_module(_PACKAGE)
        dtype: np.dtype[Any] = np.dtype(getattr(package, name))
    except ImportError:
        raise PlatformError(
            f"{name} needs the package {_PACKAGE}, which is not here; {_HOW_TO_INSTALL}", reason="no_ml_dtypes"
        ) from None
    except AttributeError:
        raise PlatformError(
            f"{name} needs a later version of the package {_PACKAGE}; {_HOW_TO_INSTALL}", reason="no_ml_dtypes"
        ) from None
    return dtype


def item_bytes(word: object, name: str) -> int:
    """Return how many bytes one number takes; no package is needed. Raises ``MessageError`` (``unsupported``)."""
    if isinstance(word, str):
        if word in DTYPES:
            return DTYPES[word].itemsize
        if word in _EXTENSION_BYTES:
            return _EXTENSION_BYTES[word]
    raise _unknown(word, name)


def _unknown(word: object, name: str) -> MessageError:
    return MessageError(f"tensor {name!r} is of an unknown type {word!r}", reason="unsupported")
