"""A second implementation, in Go, written from ENVELOPE.md alone, and this one agree on every recorded envelope."""

import base64
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.go import build_go
from tests.support.vectors import FOLDER, files, load

READER = FOLDER.parents[1] / "independent_reader"


@pytest.fixture(scope="session")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reader, built once."""
    return build_go(READER, tmp_path_factory.mktemp("reader"))


def read(reader: Path, path: Path) -> list[dict[str, Any]]:
    """Return what the reader makes of a file's vectors."""
    done = subprocess.run([str(reader), str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("path", files(), ids=lambda path: path.stem)
def test_the_reader_opens_and_refuses_what_this_implementation_does(reader: Path, path: Path) -> None:
    """Tensors and metadata are the same, refusals have the same reasons, contributions are left out for the same."""
    differences = []
    for vector, found in zip(load(path), read(reader, path), strict=True):
        entry = vector.entry
        expected = (entry.get("error"), vector.tensors or [], entry.get("metadata", {}))
        got = (found.get("error"), found.get("tensors", []), found.get("metadata", {}))
        if got != expected or ("refused" in entry and found.get("refused") != entry["refused"]):
            differences.append((entry["name"], entry.get("error", "opens"), found.get("detail", "opened")))
    assert differences == []


def test_the_reader_derives_the_keys_of_a_pre_shared_one(reader: Path) -> None:
    """What this implementation mixed in, the other derives from the pre-shared key and the id."""
    path = FOLDER / "extra-keys.json"
    derived: dict[str, str] = {}
    for vector, found in zip(load(path), read(reader, path), strict=True):
        derived |= found.get("derived", {})
        assert found.get("derived", {}).items() <= vector.entry.get("extra", {}).items()
    assert derived


def test_the_reader_stops_at_a_file_it_cannot_read(reader: Path, tmp_path: Path) -> None:
    """A vector file that is not there, or none, is an error and no success without results."""
    (tmp_path / "none.json").write_text("[]")
    for path in (tmp_path / "missing.json", tmp_path / "none.json"):
        assert subprocess.run([str(reader), str(path)], capture_output=True, check=False).returncode == 1


def test_the_reader_refuses_every_changed_byte(reader: Path, tmp_path: Path) -> None:
    """It is no parrot: one bit changed anywhere in a good envelope with a trailer, and it refuses."""
    (source,) = (v for v in load(FOLDER / "bodies.json") if v.entry["name"] == "one recipient and a trailer")
    envelope = source.envelope
    changed = []
    for position in range(0, len(envelope), 97):
        damaged = bytearray(envelope)
        damaged[position] ^= 1 << position % 8
        changed.append({"name": str(position), "key": 0, "envelope": base64.b64encode(damaged).decode()})
    path = tmp_path / "changed.json"
    path.write_text(json.dumps(source.facts | {"vectors": changed}))
    assert [one["name"] for one in read(reader, path) if "error" not in one] == []
