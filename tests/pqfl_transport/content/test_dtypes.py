"""Words and dtypes: each stands for the other, and what has no word is refused with a sentence."""

import sys
from types import ModuleType

import numpy as np
import pytest

from pqfl_transport.content.dtypes import (
    DTYPES,
    EXTENSION_NAMES,
    dtype_word,
    extension_dtype,
    item_bytes,
    numpy_dtype,
)
from pqfl_transport.errors import ConfigurationError, MessageError, PlatformError


@pytest.mark.parametrize("word", [*DTYPES, *EXTENSION_NAMES])
def test_word_and_dtype_stand_for_each_other(word: str) -> None:
    """In either byte order, and the size is known without the package."""
    dtype = numpy_dtype(word, "a")
    assert dtype_word(dtype, "a") == word
    assert dtype_word(dtype.newbyteorder(">"), "a") == word
    assert item_bytes(word, "a") == dtype.itemsize


@pytest.mark.parametrize("dtype", ["O", "U3", "S3", "V1", "V2", "M8[s]", "m8[s]", "c16", "g", "f4,f4"])
def test_a_dtype_without_a_word_is_refused_by_name(dtype: str) -> None:
    """Objects, text, opaque bytes, dates, long doubles, records."""
    with pytest.raises(ConfigurationError, match="'layer'") as caught:
        dtype_word(np.dtype(dtype), "layer")
    assert caught.value.reason == "unsupported"


def test_an_extension_type_outside_the_format_is_refused() -> None:
    """Of the package's types only those that the format names can be sent."""
    with pytest.raises(ConfigurationError, match="float8_e3m4"):
        dtype_word(extension_dtype("float8_e3m4"), "a")


@pytest.mark.parametrize("word", ["F7", "F4", "", None, 3, ["F32"]])
def test_an_unknown_word_is_refused(word: object) -> None:
    """Whatever JSON can hold in its place."""
    with pytest.raises(MessageError, match="unknown type") as caught:
        item_bytes(word, "a")
    assert caught.value.reason == "unsupported"
    if isinstance(word, str):
        with pytest.raises(MessageError):
            numpy_dtype(word, "a")


def test_without_the_package_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same sentence for one who sends and one who receives, each by their own error."""
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(PlatformError, match=r"pip install 'pqfl\[ml-dtypes\]'") as caught:
        extension_dtype("bfloat16")
    assert caught.value.reason == "no_ml_dtypes"
    with pytest.raises(MessageError, match=r"pip install 'pqfl\[ml-dtypes\]'"):
        numpy_dtype("BF16", "a")


def test_a_package_too_old_for_a_type_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """An early ml_dtypes has no e8m0."""
    monkeypatch.setitem(sys.modules, "ml_dtypes", ModuleType("ml_dtypes"))
    with pytest.raises(PlatformError, match="later version"):
        extension_dtype("float8_e8m0fnu")
