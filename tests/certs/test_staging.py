"""Staging: folders appear whole or not at all, and files go back to what they were."""

import stat
from pathlib import Path

import pytest

from certs import staging
from certs.staging import restored_on_failure, staged_folder
from pqfl_transport.errors import ConfigurationError


class _Crash(BaseException):
    """Something that no code of ours catches, like an interrupt."""


def test_a_folder_appears_when_all_is_in_it(tmp_path: Path) -> None:
    """Until the block ends there is no target; then it is there with its content, for its owner alone."""
    target = tmp_path / "new" / "identity"
    with staged_folder(target) as stage:
        (stage / "tls.key").write_text("secret")
        assert not target.exists()
        assert stage.parent == target.parent
        assert stat.S_IMODE(stage.stat().st_mode) == 0o700
    assert (target / "tls.key").read_text() == "secret"
    assert stat.S_IMODE(target.stat().st_mode) == 0o700
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("error", [ConfigurationError("no"), OSError("no"), KeyboardInterrupt(), _Crash()], ids=repr)
def test_a_failing_block_leaves_nothing(tmp_path: Path, error: BaseException) -> None:
    """Whatever ends the block early, half an identity is gone and the error is the caller's own."""

    def fill() -> None:
        with staged_folder(tmp_path / "identity") as stage:
            (stage / "tls.key").write_text("secret")
            raise error

    with pytest.raises(type(error)):
        fill()
    assert list(tmp_path.iterdir()) == []


def test_an_empty_folder_may_be_the_target(tmp_path: Path) -> None:
    """An operator may have made the folder, and its mode becomes that of secrets."""
    (tmp_path / "identity").mkdir(mode=0o755)
    with staged_folder(tmp_path / "identity") as stage:
        (stage / "file").touch()
    assert (tmp_path / "identity" / "file").exists()
    assert stat.S_IMODE((tmp_path / "identity").stat().st_mode) == 0o700


def test_nothing_is_made_over_something(tmp_path: Path) -> None:
    """A file, a folder that holds something and a link, dangling or not, are refused before anything is written."""
    (tmp_path / "file").touch()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("empty")
    (tmp_path / "dangling").symlink_to("nowhere")
    before = sorted(tmp_path.rglob("*"))
    for name in ("file", "full", "link", "dangling"):
        with pytest.raises(ConfigurationError, match=name) as caught, staged_folder(tmp_path / name):
            pytest.fail("the block must not run")
        assert caught.value.reason == "exists"
    assert sorted(tmp_path.rglob("*")) == before


def test_who_fills_the_target_meanwhile_loses_nothing(tmp_path: Path) -> None:
    """The last step replaces an empty folder and no other."""
    target = tmp_path / "identity"

    def somebody_else() -> None:
        target.mkdir()
        (target / "precious").touch()

    with pytest.raises(ConfigurationError) as caught, staged_folder(target):
        somebody_else()
    assert caught.value.reason == "exists"
    assert list(tmp_path.rglob("*")) == [target, target / "precious"]


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    """Below a file there is no folder; the message names the target."""
    (tmp_path / "file").touch()
    target = tmp_path / "file" / "identity"
    with pytest.raises(ConfigurationError, match=f"{target}: cannot be made") as caught, staged_folder(target):
        pytest.fail("the block must not run")
    assert caught.value.reason == "not_writable"


def test_a_relative_target_is_made_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The working directory counts when the block begins, not when it ends."""
    monkeypatch.chdir(tmp_path)
    with staged_folder(Path("identity")):
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
    assert (tmp_path / "identity").is_dir()


def test_the_folder_is_on_disk_before_and_after_it_appears(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A power cut does not leave the new name without the content behind it."""
    synced: list[tuple[str, bool]] = []
    target = tmp_path / "identity"
    monkeypatch.setattr(staging, "sync_folder", lambda folder: synced.append((folder.name, target.exists())))
    with staged_folder(target) as stage:
        name = stage.name
    assert synced == [(name, False), (tmp_path.name, True)]


def test_files_go_back_when_the_block_fails(tmp_path: Path) -> None:
    """Changed, grown and removed files are as they were, after an error and after an interrupt."""
    names = ("changed", "grown", "removed")
    for name in names:
        (tmp_path / name).write_text("before")

    def change(error: BaseException) -> None:
        with restored_on_failure(*(tmp_path / name for name in names)):
            (tmp_path / "changed").write_text("after")
            with (tmp_path / "grown").open("a") as file:
                file.write("more")
            (tmp_path / "removed").unlink()
            raise error

    for error in (ConfigurationError("no"), KeyboardInterrupt()):
        with pytest.raises(type(error)):
            change(error)
        assert [(tmp_path / name).read_text() for name in names] == ["before"] * 3
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)


def test_files_stay_changed_when_the_block_succeeds(tmp_path: Path) -> None:
    """Without a failure nothing is put back."""
    path = tmp_path / "ledger"
    path.write_text("before")
    with restored_on_failure(path):
        path.write_text("after")
    assert path.read_text() == "after"


def test_an_empty_stage_of_a_killed_process_goes(tmp_path: Path) -> None:
    """One with something in it is a preparation's, which the ledger knows of."""
    empty, full = tmp_path / ".out.partial-aaaa", tmp_path / ".out.partial-bbbb"
    empty.mkdir()
    full.mkdir()
    (full / "tls.key").write_bytes(b"a key")
    with staged_folder(tmp_path / "out") as stage:
        (stage / "file").write_bytes(b"")
    assert sorted(path.name for path in tmp_path.iterdir()) == [full.name, "out"]
