"""What was seen, in a file: it is there after a restart, and a broken one is never taken for none."""

from pathlib import Path

import pytest

from pqfl_transport.errors import ConfigurationError
from pqfl_transport.pki.memory import Memory, beside


def memory(path: Path) -> Memory:
    return Memory(path, "thing-seen/v1", {"number": int}, "thing")


def test_what_was_written_is_read(tmp_path: Path) -> None:
    """Nothing is remembered at first, then what was written last."""
    kept = memory(beside(tmp_path / "thing"))
    assert kept.path == tmp_path / "thing.seen"
    with kept.locked():
        assert kept.read() is None
        kept.write({"number": 1})
        kept.write({"number": 2})
        assert kept.read() == {"number": 2}


@pytest.mark.parametrize(
    "text", ["", "{}", '{"pqfl": "other/v1", "number": 1}', '{"pqfl": "thing-seen/v1", "number": "1"}', "[1]"]
)
def test_a_broken_one_is_an_error(tmp_path: Path, text: str) -> None:
    """Whoever can garble the file cannot bring an earlier state back by it."""
    (tmp_path / "kept").write_text(text)
    with pytest.raises(ConfigurationError, match="not what was seen of the thing") as caught:
        memory(tmp_path / "kept").read()
    assert caught.value.reason == "malformed"


def test_a_place_that_cannot_be_written_says_why_it_matters(tmp_path: Path) -> None:
    """The sentence says what could happen and what to do."""
    with pytest.raises(ConfigurationError, match=r"an earlier one could come back.*Name a file") as caught:
        memory(tmp_path / "nowhere" / "kept").write({"number": 1})
    assert caught.value.reason == "not_writable"
    with (
        pytest.raises(ConfigurationError, match="an earlier one could come back"),
        memory(tmp_path / "no" / "x").locked(),
    ):
        pass
