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


def test_versions_are_listed_in_order_and_nothing_else_is(tmp_path: Path) -> None:
    """Whatever else lies in the folder is no model."""
    store = ModelStore(tmp_path)
    for version in (10, 2):
        store.save(version, [b"model"])
    (tmp_path / "models" / "notes.pqfl").write_bytes(b"")
    assert store.versions() == [2, 10]


@pytest.mark.parametrize("damaged", [b"", b"\0\0\0\5abc", b"\xff" * 100])
def test_the_suite_of_a_damaged_model_is_an_error(tmp_path: Path, damaged: bytes) -> None:
    """The file is named, and nobody is told that the fault is theirs."""
    store = ModelStore(tmp_path)
    store.save(4, [damaged])
    with pytest.raises(PlatformError, match=r"00000004\.pqfl") as caught:
        store.suite(4)
    assert caught.value.reason == "disk"


def test_an_unusable_folder_is_named(tmp_path: Path) -> None:
    """A path that is a file cannot be the state folder."""
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ConfigurationError, match="file"):
        ModelStore(tmp_path / "file")
