"""Staged files: whole or not at all, and torn ones are found and removed."""

import stat
import subprocess
import sys
from pathlib import Path
from typing import BinaryIO

import pytest

from pqfl_transport.content.staging import remove_torn, staged
from pqfl_transport.errors import ConfigurationError, PlatformError

_KILLED = """
import os, signal, sys
from pathlib import Path
from pqfl_transport.content.staging import staged
with staged(Path(sys.argv[1])) as output:
    output.write(b"half")
    output.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""

# The system refuses to let a file of this process grow beyond a megabyte, as a full disk would.
_FULL = """
import resource, signal, sys
from pathlib import Path
from pqfl_transport.content.staging import staged
from pqfl_transport.errors import PlatformError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
try:
    with staged(Path(sys.argv[1])) as output:
        output.write(bytes(2 << 20))
except PlatformError as error:
    print(error.reason)
"""


def kill_a_writer_of(target: Path) -> None:
    done = subprocess.run([sys.executable, "-c", _KILLED, str(target)], check=False)
    assert done.returncode == -9


def test_a_staged_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    """While it is written it has another name, and after an interrupt it is gone."""

    def interrupted(output: BinaryIO) -> None:
        output.write(b"half")
        assert not (tmp_path / "target").exists()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), staged(tmp_path / "target") as output:
        interrupted(output)
    assert list(tmp_path.iterdir()) == []


def test_a_finished_file_is_private(tmp_path: Path) -> None:
    """What appears is readable by its owner alone, and replaces what was there."""
    (tmp_path / "target").write_bytes(b"old")
    with staged(tmp_path / "target") as output:
        output.write(b"new")
    assert (tmp_path / "target").read_bytes() == b"new"
    assert stat.S_IMODE((tmp_path / "target").stat().st_mode) == 0o600


def test_what_a_killed_writer_left_is_removed_by_the_next(tmp_path: Path) -> None:
    """A torn file stays until somebody writes the same target again, and no longer."""
    target = tmp_path / "we.ights.pqfl"
    kill_a_writer_of(target)
    assert len(list(tmp_path.iterdir())) == 1
    with staged(tmp_path / "another") as output:
        output.write(b"x")
    assert len(list(tmp_path.iterdir())) == 2
    with staged(target) as output:
        output.write(b"whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["another", "we.ights.pqfl"]


def test_torn_files_of_a_folder_are_named(tmp_path: Path) -> None:
    """Removing all of a folder's torn files says whose they were."""
    kill_a_writer_of(tmp_path / "a.pqfl")
    kill_a_writer_of(tmp_path / "b.pqfl")
    assert sorted(remove_torn(tmp_path)) == ["a.pqfl", "b.pqfl"]
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_still_written_is_nobodys_to_remove(tmp_path: Path) -> None:
    """Two writers of one target do not take each other's file for a torn one; the last to finish wins."""
    target = tmp_path / "target"
    with staged(target) as first:
        first.write(b"first")
        with staged(target) as second:
            second.write(b"second")
        assert remove_torn(tmp_path) == []
        assert target.read_bytes() == b"second"
    assert target.read_bytes() == b"first"


def test_a_folder_that_takes_no_file_is_said(tmp_path: Path) -> None:
    """What is no folder holds no staging file either: one clear error, before anything is written."""
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError) as caught, staged(tmp_path / "file" / "target"):
        pass
    assert caught.value.reason == "not_writable"


def test_a_disk_that_takes_no_more_leaves_the_target_as_it_was(tmp_path: Path) -> None:
    """A real write that the system refuses in the middle is the disk's error; the old file stays, the new one goes."""
    (tmp_path / "target").write_bytes(b"old")
    done = subprocess.run(
        [sys.executable, "-c", _FULL, str(tmp_path / "target")], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["disk"]
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]


def test_an_error_of_the_disk_names_the_target(tmp_path: Path) -> None:
    """Whatever the system says while the file is written is told with the name that was asked for."""
    with (
        pytest.raises(PlatformError, match="target: cannot be written: No space") as caught,
        staged(tmp_path / "target"),
    ):
        raise OSError(28, "No space left on device")
    assert caught.value.reason == "disk"
    assert list(tmp_path.iterdir()) == []
