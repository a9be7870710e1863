"""Files with keys: secrets that others can read are refused, files are written whole or not at all."""

import os
import stat
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest

from pqfl_transport.errors import ConfigurationError
from pqfl_transport.pki import files


def refusal(path: Path, error: pytest.ExceptionInfo[ConfigurationError]) -> str:
    """The reason of an error, which names the file."""
    assert str(path) in str(error.value)
    return error.value.reason


def test_secrets_come_back_and_are_their_owners_alone(tmp_path: Path) -> None:
    """A secret is written with mode 0600 whatever the umask, and read back."""
    path = tmp_path / "a.key"
    before = os.umask(0)
    try:
        files.write_secret(path, b"secret")
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert files.read_secret(path) == b"secret"


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660, 0o620, 0o610, 0o601, 0o777], ids=oct)
def test_a_loose_key_file_is_refused_with_the_command_that_mends_it(tmp_path: Path, mode: int) -> None:
    """Any permission of group or others refuses a private key: whoever could read it may have."""
    path = tmp_path / "tls.key"
    path.write_bytes(b"secret")
    path.chmod(mode)
    with pytest.raises(ConfigurationError, match=f"chmod 600 {path}") as caught:
        files.read_secret(path)
    assert refusal(path, caught) == "loose_permissions"
    path.chmod(0o400)
    assert files.read_secret(path) == b"secret"


def test_a_link_to_a_loose_file_is_as_loose(tmp_path: Path) -> None:
    """What counts is the file that is read and not the name it is read by."""
    (tmp_path / "loose").write_bytes(b"secret")
    (tmp_path / "loose").chmod(0o644)
    (tmp_path / "tls.key").symlink_to("loose")
    with pytest.raises(ConfigurationError) as caught:
        files.read_secret(tmp_path / "tls.key")
    assert refusal(tmp_path / "tls.key", caught) == "loose_permissions"


@pytest.mark.parametrize("read", [files.read_secret, files.read_public])
def test_what_is_no_file_is_refused_at_once(tmp_path: Path, read: object) -> None:
    """A missing file, a folder, a FIFO that nobody writes to, a device and a loop of links are all refused by name."""
    assert callable(read)
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "fifo", 0o600)
    (tmp_path / "loop").symlink_to("loop")
    cases = {"none": "missing", "folder": "unreadable", "fifo": "unreadable", "loop": "unreadable"}
    for path, reason in [(tmp_path / name, reason) for name, reason in cases.items()] + [
        (Path("/dev/null"), "unreadable"),
        (tmp_path / ("x" * 300), "unreadable"),
    ]:
        with pytest.raises(ConfigurationError) as caught:
            read(path)
        assert refusal(path, caught) == reason


def test_sizes_are_capped(tmp_path: Path) -> None:
    """A file larger than anything it can be is not read into memory."""
    path = tmp_path / "large"
    files.write_secret(path, bytes(files.MAX_SECRET_BYTES))
    assert len(files.read_secret(path)) == files.MAX_SECRET_BYTES
    files.write_secret(path, bytes(files.MAX_SECRET_BYTES + 1), overwrite=True)
    for read in (lambda: files.read_secret(path), lambda: files.read_public(path, max_bytes=10)):
        with pytest.raises(ConfigurationError) as caught:
            read()
        assert refusal(path, caught) == "too_large"


def test_no_memory_is_taken_for_a_file_that_is_too_large(tmp_path: Path) -> None:
    """Its size is looked at first."""
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    tracemalloc.start()
    with pytest.raises(ConfigurationError) as caught:
        files.read_public(path, max_bytes=64 << 20)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert refusal(path, caught) == "too_large"
    assert peak_bytes < 1 << 20


def test_a_secret_is_not_overwritten_unless_told(tmp_path: Path) -> None:
    """The old key stays and no temporary file is left."""
    path = tmp_path / "a.key"
    files.write_secret(path, b"old")
    with pytest.raises(ConfigurationError) as caught:
        files.write_secret(path, b"new")
    assert refusal(path, caught) == "exists"
    assert path.read_bytes() == b"old"
    files.write_secret(path, b"new", overwrite=True)
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_dangling_link_counts_as_existing(tmp_path: Path) -> None:
    """A new key is never written through a link that somebody laid."""
    (tmp_path / "a.key").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigurationError) as caught:
        files.write_secret(tmp_path / "a.key", b"new")
    assert caught.value.reason == "exists"
    assert not (tmp_path / "elsewhere").exists()


def test_a_public_file_is_replaced_and_readable(tmp_path: Path) -> None:
    """Public files have mode 0644 and are exchanged in one step."""
    path = tmp_path / "ca.pem"
    for data in (b"one", b"two"):
        files.write_public(path, data)
        assert path.read_bytes() == data
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    with pytest.raises(ConfigurationError) as caught:
        files.write_public(path, b"three", overwrite=False)
    assert refusal(path, caught) == "exists"


@pytest.mark.parametrize("step", ["fsync", "fchmod", "replace"])
def test_a_failing_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """A full disk at any step: the old content is there, no temporary file is."""
    path = tmp_path / "roster.json"
    files.write_public(path, b"old")

    def fail(*_arguments: object) -> None:
        raise OSError(28, "No space left on device")

    if step == "replace":
        monkeypatch.setattr(Path, step, fail)
    else:
        monkeypatch.setattr(os, step, fail)
    with pytest.raises(OSError, match="No space left"):
        files.write_public(path, b"new")
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_folder_is_told_by_the_files_name(tmp_path: Path) -> None:
    """The message names the file that was asked for and not a temporary one."""
    path = tmp_path / "nowhere" / "a.key"
    with pytest.raises(ConfigurationError, match=r"a\.key: cannot be made: No such file or directory") as caught:
        files.write_secret(path, b"secret")
    assert refusal(path, caught) == "not_writable"


def test_a_secret_is_exchanged_and_its_old_bytes_are_erased(tmp_path: Path) -> None:
    """Whoever still has the old file open finds zeros; through a link the file behind it is exchanged, not the link."""
    path = tmp_path / "a.key"
    files.write_secret(path, b"old secret")
    (tmp_path / "link.key").symlink_to(path)
    with path.open("rb") as still_open:
        files.replace_secret(tmp_path / "link.key", b"new")
        assert still_open.read() == bytes(len(b"old secret"))
    assert (tmp_path / "link.key").is_symlink()
    assert (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) == (b"new", 0o600)
    assert sorted(tmp_path.iterdir()) == [path, tmp_path / "link.key"]


def test_a_second_name_of_a_secret_is_not_erased(tmp_path: Path) -> None:
    """A hard link is somebody's copy: it stays as it was."""
    path = tmp_path / "a.key"
    files.write_secret(path, b"old secret")
    os.link(path, tmp_path / "copy.key")
    files.replace_secret(path, b"new")
    assert (tmp_path / "copy.key").read_bytes() == b"old secret"


def test_a_secret_that_cannot_be_exchanged_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk leaves the old secret whole, and a missing file is not made."""
    path = tmp_path / "a.key"
    files.write_secret(path, b"old secret")

    def fail(*_arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        files.replace_secret(path, b"new")
    monkeypatch.undo()
    assert path.read_bytes() == b"old secret"
    with pytest.raises(ConfigurationError) as caught:
        files.replace_secret(tmp_path / "none", b"new")
    assert caught.value.reason == "missing"


_KILLED = """
import os, signal, sys
from pathlib import Path
from pqfl_transport.pki import files
os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)
files.write_secret(Path(sys.argv[1]), b"a secret")
"""


def test_a_secret_whose_writer_was_killed_is_found(tmp_path: Path) -> None:
    """What is torn lies beside its target, is nobody else's to read, and goes with the next writing of the target."""
    done = subprocess.run([sys.executable, "-c", _KILLED, str(tmp_path / "tls.key")], check=False)
    assert done.returncode == -9
    (torn,) = tmp_path.iterdir()
    assert stat.S_IMODE(torn.stat().st_mode) == 0o600
    files.write_secret(tmp_path / "signing.key", b"another")
    assert torn.exists()
    files.write_secret(tmp_path / "tls.key", b"whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["signing.key", "tls.key"]


def test_what_is_being_written_is_not_torn(tmp_path: Path) -> None:
    """The lock of its writer tells one from the other."""
    file, part = files.locked_part(tmp_path / "tls.key")
    assert files.remove_torn(tmp_path) == []
    file.close()
    assert files.remove_torn(tmp_path) == ["tls.key"]
    assert not part.exists()
