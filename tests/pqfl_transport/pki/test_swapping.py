import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from pqfl_transport.errors import ConfigurationError
from pqfl_transport.pki import files, swapping
from pqfl_transport.pki.swapping import STORE, clear_up, replace_together

NAMES = ("tls.pem", "tls.key", "ca.pem")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "north"
    made.mkdir(mode=0o700)
    for name in NAMES:
        files.write_secret(made / name, f"{name} 0".encode())
    (made / "roster.json").write_bytes(b"roster")
    return made


def contents(folder: Path) -> tuple[bytes, ...]:
    return tuple((folder / name).read_bytes() for name in NAMES)


def generation(number: int) -> dict[str, bytes]:
    return {name: f"{name} {number}".encode() for name in NAMES}


def test_files_are_replaced_together(folder: Path) -> None:
    """After each replacement every name has the new content, keys have mode 0600, and one generation is kept."""
    for number in (1, 2, 3):
        replace_together(folder, generation(number))
        assert contents(folder) == tuple(generation(number).values())
        assert (folder / "tls.key").stat().st_mode & 0o777 == 0o600
    kept = [path.name for path in (folder / STORE).iterdir() if not path.is_symlink()]
    assert kept == ["0004"]
    assert (folder / "roster.json").read_bytes() == b"roster"


def test_what_is_not_named_stays(folder: Path) -> None:
    """A later replacement of fewer files keeps the others as they are."""
    replace_together(folder, generation(1))
    replace_together(folder, {"tls.pem": b"new", "tls.key": b"newer"})
    assert contents(folder) == (b"new", b"newer", b"ca.pem 1")


def test_the_folder_can_be_moved_and_copied(folder: Path) -> None:
    """Links are relative: a renewed folder works wherever it is put."""
    replace_together(folder, generation(1))
    moved = folder.with_name("moved")
    shutil.copytree(folder, moved, symlinks=True)
    shutil.rmtree(folder)
    assert contents(moved) == tuple(generation(1).values())
    replace_together(moved, generation(2))
    assert contents(moved) == tuple(generation(2).values())


class Killed(BaseException):
    """The process ends here."""


def steps(monkeypatch: pytest.MonkeyPatch, die_at: int) -> Iterator[int]:
    """Let the process die at one of the moments at which the disk changes; count them."""
    count = 0

    def counting(function):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
        def call(*arguments, **options):  # type: ignore[no-untyped-def]  # noqa: ANN002, ANN003, ANN202
            nonlocal count
            count += 1
            if count == die_at:
                raise Killed
            return function(*arguments, **options)

        return call

    for name in ("write_public", "write_secret", "sync_folder", "replace_secret"):
        monkeypatch.setattr(swapping, name, counting(getattr(swapping, name)))
    for name in ("replace", "symlink_to", "mkdir"):
        monkeypatch.setattr(Path, name, counting(getattr(Path, name)))
    yield count


@pytest.mark.parametrize("converted", [False, True], ids=["first", "later"])
def test_a_crash_at_any_moment_leaves_files_that_fit(folder: Path, converted: bool) -> None:
    """Killed before any change of the disk, all names read the old or all the new generation, and it can go on."""
    old, new = 0, 7
    if converted:
        replace_together(folder, generation(0))
    seen, die_at = set(), 0
    while die_at < 200:
        die_at += 1
        trial = folder.with_name(f"trial-{die_at}")
        shutil.copytree(folder, trial, symlinks=True)
        with pytest.MonkeyPatch.context() as monkeypatch:
            next(steps(monkeypatch, die_at))
            try:
                replace_together(trial, generation(new))
                died = False
            except Killed:
                died = True
        found = contents(trial)
        assert found in {tuple(generation(old).values()), tuple(generation(new).values())}, die_at
        seen.add(found)
        replace_together(trial, generation(9))
        assert contents(trial) == tuple(generation(9).values())
        if not died:
            break
    assert len(seen) == 2
    assert 10 < die_at < 200


def test_what_a_killed_replacement_left_is_cleared_up(folder: Path) -> None:
    """A former generation with its key, and torn files, are removed; a folder that was never renewed is left alone."""
    clear_up(folder)
    assert not (folder / STORE).exists()
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(swapping, "_discard", die)
        with pytest.raises(Killed):
            replace_together(folder, generation(1))
    torn = [folder / ".tls.key.12345678.part", folder / STORE / "0002" / ".tls.key.12345678.part"]
    for path in torn:
        files.write_secret(path, b"half a key")
    clear_up(folder)
    assert sorted(path.name for path in (folder / STORE).iterdir()) == ["0002", "current"]
    assert not any(path.exists() for path in torn)
    assert contents(folder) == tuple(generation(1).values())


def test_a_torn_key_is_never_carried_on(folder: Path) -> None:
    """A replacement copies the files that are whole and removes what a killed writer left among them."""
    replace_together(folder, generation(1))
    files.write_secret(folder / STORE / "0002" / ".tls.key.12345678.part", b"half a key")
    replace_together(folder, generation(2))
    assert sorted(path.name for path in (folder / STORE / "0003").iterdir()) == sorted(NAMES)


def die(*_: object, **__: object) -> None:
    raise Killed


def test_a_missing_file_is_named(folder: Path) -> None:
    """A file that is not there cannot be replaced, and nothing has changed."""
    (folder / "ca.pem").unlink()
    with pytest.raises(ConfigurationError, match=r"ca\.pem"):
        replace_together(folder, generation(1))
    assert (folder / "tls.pem").read_bytes() == b"tls.pem 0"


def test_a_strange_store_is_refused(folder: Path) -> None:
    """A link that this program did not make is not followed."""
    (folder / STORE).mkdir()
    (folder / STORE / "current").symlink_to("../elsewhere")
    with pytest.raises(ConfigurationError) as caught:
        replace_together(folder, generation(1))
    assert caught.value.reason == "malformed"


def exists(folder: Path) -> set[str]:
    """The files that can be opened, links that lead nowhere left out."""
    return {path.name for path in folder.iterdir() if path.is_file()}


def test_files_come_and_go_in_the_same_step(folder: Path) -> None:
    """A file that is new has to be called so; one that goes is gone, link and all."""
    with pytest.raises(ConfigurationError, match=r"next\.key"):
        replace_together(folder, {"next.key": b"a"})
    assert "next.key" not in exists(folder)
    replace_together(folder, {"next.key": b"a", "tls.pem": b"b"}, new=["next.key"])
    assert ((folder / "next.key").read_bytes(), (folder / "tls.pem").read_bytes()) == (b"a", b"b")
    assert (folder / "next.key").stat().st_mode & 0o777 == 0o600
    replace_together(folder, {"tls.key": b"c", "next.key": None, "never.there": None})
    assert (folder / "tls.key").read_bytes() == b"c"
    assert not (folder / "next.key").is_symlink()
    assert not (folder / "never.there").is_symlink()
    files.write_secret(folder / "next.key", b"a plain file, as a copy without links has")
    replace_together(folder, {"next.key": None})
    assert exists(folder) == {*NAMES, "roster.json"}


@pytest.mark.parametrize("taking_over", [False, True], ids=["making the next", "taking over"])
def test_a_crash_while_files_come_or_go_leaves_pairs(folder: Path, taking_over: bool) -> None:
    """Killed before any change of the disk, the next pair is there whole or not at all, and the ordinary one fits."""
    following: dict[str, bytes | None] = {"next.pem": b"new", "next.key": b"new"}
    over: dict[str, bytes | None] = {"tls.pem": b"new", "tls.key": b"new", "next.pem": None, "next.key": None}
    before, after = ("old", None), ("old", "new")
    replace_together(folder, {"tls.pem": b"old", "tls.key": b"old"})
    if taking_over:
        replace_together(folder, following, new=list(following))
        before, after = ("old", "new"), ("new", None)
    seen, die_at, died = set(), 0, True
    while died:
        die_at += 1
        trial = folder.with_name(f"trial-{die_at}")
        shutil.copytree(folder, trial, symlinks=True)
        with pytest.MonkeyPatch.context() as monkeypatch:
            next(steps(monkeypatch, die_at))
            try:
                replace_together(trial, over if taking_over else following, new=["next.pem", "next.key"])
                died = False
            except Killed:
                pass
        pairs = tuple(
            tuple((trial / f"{name}.{end}").read_text() if (trial / f"{name}.{end}").exists() else None
                  for end in ("pem", "key"))
            for name in ("tls", "next")
        )  # fmt: skip
        assert all(pem == key for pem, key in pairs), die_at
        seen.add((pairs[0][0], pairs[1][0]))
        replace_together(trial, over if taking_over else following, new=["next.pem", "next.key"])
        assert (trial / "tls.key").read_text() == after[0]
        assert (trial / "next.key").exists() is (after[1] is not None)
    assert seen == {before, after}
    assert 10 < die_at < 200


def test_a_key_that_was_replaced_is_erased(folder: Path) -> None:
    """Its old bytes are nowhere in the folder."""
    replace_together(folder, {"tls.key": b"the former key", "tls.pem": b"x"})
    replace_together(folder, {"tls.key": b"the new key"})
    assert all(b"former key" not in path.read_bytes() for path in folder.rglob("*") if path.is_file())
