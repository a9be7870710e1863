"""Prologues of files, which nobody has verified yet."""

import io

import pytest

from aggregator.store.reading import read_prologue
from pqfl_transport.errors import MessageError
from tests.support.envelopes import make_keys


def test_a_prologue_and_what_was_read_behind_it() -> None:
    """What is left of the file follows on."""
    data = bytes(make_keys().seal())
    file = io.BytesIO(data)
    prologue, rest = read_prologue(file)
    assert prologue.raw + rest + file.read() == data


@pytest.mark.parametrize("cut", [0, 3, 1000])
def test_a_file_that_ends_too_early(cut: int) -> None:
    """Is said to."""
    with pytest.raises(MessageError) as caught:
        read_prologue(io.BytesIO(bytes(make_keys().seal())[:cut]))
    assert caught.value.reason == "truncated"
