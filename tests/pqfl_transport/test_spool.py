"""The spool: what was sealed stays as it is until it has arrived."""

import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pqfl_transport.errors import ConfigurationError, PlatformError
from pqfl_transport.spool import Spool

_KILLED = """
import os, signal, sys
from pathlib import Path
from pqfl_transport.spool import Spool
def pieces():
    yield b"x" * (1 << 20)
    os.kill(os.getpid(), signal.SIGKILL)
Spool(Path(sys.argv[1])).keep(bytes(16), pieces())
"""


def test_what_is_kept_is_there_after_a_restart(tmp_path: Path) -> None:
    """Another process finds the same bytes under the same id, in a private file of a private folder."""
    folder = tmp_path / "new" / "spool"
    kept = Spool(folder).keep(b"i" * 16, [b"one", memoryview(b"two")])
    assert kept == b"onetwo"
    assert [(envelope_id, bytes(data)) for envelope_id, data in Spool(folder).stored()] == [(b"i" * 16, b"onetwo")]
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert [stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()] == [0o600]


def test_what_arrived_is_forgotten(tmp_path: Path) -> None:
    """Forgetting removes the file, and doing it twice is harmless."""
    spool = Spool(tmp_path)
    kept = spool.keep(b"i" * 16, [b"data"])
    spool.forget(b"i" * 16)
    spool.forget(b"i" * 16)
    assert list(spool.stored()) == []
    assert kept == b"data"


def test_a_half_written_update_is_removed_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A process that was killed while it sealed leaves nothing that anybody takes for an update."""
    done = subprocess.run([sys.executable, "-c", _KILLED, str(tmp_path)], check=False)
    assert done.returncode == -9
    assert len(list(tmp_path.iterdir())) == 1
    spool = Spool(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert list(spool.stored()) == []
    assert "removed a half-written update" in caplog.text


def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    """An update that cannot be stored is one clear error."""

    def pieces() -> Iterator[bytes]:
        yield b"half"
        raise OSError(28, "No space left on device")

    with pytest.raises(PlatformError, match="No space"):
        Spool(tmp_path).keep(b"i" * 16, pieces())
    assert list(tmp_path.iterdir()) == []


def test_foreign_and_empty_files_do_no_harm(tmp_path: Path) -> None:
    """What has not the name of an update is nobody's; an empty one is empty."""
    (tmp_path / "notes.txt").write_text("keep")
    (tmp_path / ("0" * 32 + ".pqfl")).touch()
    assert [(envelope_id, bytes(data)) for envelope_id, data in Spool(tmp_path).stored()] == [(bytes(16), b"")]
    assert (tmp_path / "notes.txt").exists()


def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    """A path that is a file cannot be the spool."""
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ConfigurationError, match="file") as caught:
        Spool(tmp_path / "file")
    assert caught.value.reason == "not_writable"
