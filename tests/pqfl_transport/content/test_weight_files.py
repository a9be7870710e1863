"""Files of weights: never pickle, and what is damaged or something else is refused by its name."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pqfl_transport.content.files import seal_file
from pqfl_transport.content.weight_files import load_weights
from pqfl_transport.errors import ConfigurationError
from tests.support.envelopes import make_keys

KEYS = make_keys()


def seal(source: Path, target: Path, **options: Any) -> None:
    facts = {
        "parameters": KEYS.parameters, "recipients": [KEYS.receiving.public], "signing_key": KEYS.signing
    } | options  # fmt: skip
    seal_file(source, target, **facts)


def test_pickled_arrays_are_refused(tmp_path: Path) -> None:
    """Objects would need pickle, which runs code; they are named and nothing is written."""
    np.savez(tmp_path / "w.npz", a=np.zeros(2), evil=np.array([{}], dtype=object))
    for use in (lambda: seal(tmp_path / "w.npz", tmp_path / "w.pqfl"), lambda: load_weights(tmp_path / "w.npz")):
        with pytest.raises(ConfigurationError, match=r"evil\.npy.*pickle") as caught:
            use()
        assert caught.value.reason == "pickle"
    assert [path.name for path in tmp_path.iterdir()] == ["w.npz"]


def broken_npz(path: Path, name: str, data: bytes) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, data)


NPY = b"\x93NUMPY\x01\x00v\x00"


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.txt", b"text"),
        ("a.npy", b""),
        ("a.npy", b"\x93NUMPY"),
        ("a.npy", b"\x93NUMPY\x09\x00" + bytes(200)),
        ("a.npy", NPY + b"{'descr': '<f8', 'fortran_order': False, 'shape': (4,), }".ljust(117) + b"\n" + bytes(31)),
        ("a.npy", NPY + b"{'descr': '<f8', 'fortran_order': True, 'shape': (2, 2), }".ljust(117) + b"\n" + bytes(31)),
        ("a.npy", NPY + b"{'descr': '<f8', 'fortran_order': False, 'shape': (1 << 60,), }".ljust(117) + b"\n"),
        ("a.npy", NPY + b"{'descr': '<f8', 'fortran_order': False, 'shape': (%d,), }".ljust(113) % (1 << 50) + b"\n"),
        ("a.npy", NPY + b"{'descr': '<U4', 'fortran_order': False, 'shape': (1,), }".ljust(117) + b"\n" + bytes(16)),
    ],
)
def test_damaged_npz_files_are_refused_by_name(tmp_path: Path, name: str, data: bytes) -> None:
    """Something else inside, cut arrays, impossible shapes, text: the file and the member are named."""
    broken_npz(tmp_path / "w.npz", name, data)
    with pytest.raises(ConfigurationError, match=r"w\.npz"):
        seal(tmp_path / "w.npz", tmp_path / "w.pqfl")
    assert not (tmp_path / "w.pqfl").exists()


@pytest.mark.parametrize("ending", [".npz", ".safetensors"])
def test_files_that_are_something_else(tmp_path: Path, ending: str) -> None:
    """A text with the right ending, a file that is not there, an empty one."""
    (tmp_path / f"text{ending}").write_text("not weights at all, but long enough to look at")
    (tmp_path / f"empty{ending}").touch()
    for name in ("text", "empty", "nowhere"):
        with pytest.raises(ConfigurationError, match=name):
            seal(tmp_path / f"{name}{ending}", tmp_path / "w.pqfl")
        with pytest.raises(ConfigurationError, match=name):
            load_weights(tmp_path / f"{name}{ending}")
    assert not (tmp_path / "w.pqfl").exists()
