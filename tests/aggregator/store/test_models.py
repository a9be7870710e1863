"""Sealed models in the state folder: whole or not at all."""

import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from aggregator.store.models import ModelStore
from pqfl_transport.errors import ConfigurationError, MessageError, PlatformError


def test_a_saved_model_is_found(tmp_path: Path) -> None:
    """The parts of an envelope come back as one private file in a private folder."""
    store = ModelStore(tmp_path / "state")
    store.save(3, [b"prologue", bytearray(b"body"), memoryview(b"trailer")])
    path = store.find(3)
    assert path.read_bytes() == b"prologuebodytrailer"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize("version", [1, -1])
def test_an_unknown_version_is_refused(tmp_path: Path, version: int) -> None:
    """A version nobody saved is an error that says so."""
    with pytest.raises(MessageError) as caught:
        ModelStore(tmp_path).find(version)
    assert caught.value.reason == "unknown_model"


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    """When writing fails half-way, neither the model nor a staging file stays."""
    store = ModelStore(tmp_path)

    def parts() -> Iterator[bytes]:
        yield b"half"
        raise OSError(28, "No space left on device")

    with pytest.raises(PlatformError, match="No space"):
        store.save(0, parts())
    assert list((tmp_path / "models").iterdir()) == []


def test_an_earlier_run_is_not_overwritten(tmp_path: Path) -> None:
    """A folder with models of an earlier run is refused by name."""
    ModelStore(tmp_path).save(0, [b"model"])
    with pytest.raises(ConfigurationError, match=r"00000000\.pqfl"):
        ModelStore(tmp_path)


def test_an_unusable_folder_is_named(tmp_path: Path) -> None:
    """A path that is a file cannot be the state folder."""
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ConfigurationError, match="file"):
        ModelStore(tmp_path / "file")
