"""Passphrases on the command line: files, one variable, a terminal; wrong ones and missing ones in one line."""

from pathlib import Path

import pytest

from pqfl.commands.passphrases import Asking, new_passphrase, passphrases_of
from pqfl_transport.errors import ConfigurationError
from pqfl_transport.pki.files import write_secret
from tests.support.commands import VARIABLE, at_terminal, good, refused

PASSPHRASE = "correct horse battery staple"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file with the passphrase."""
    write_secret(tmp_path / "pass", f"{PASSPHRASE}\n".encode())
    return tmp_path / "pass"


def test_somebody_at_a_terminal_is_asked_twice_for_a_new_one(tmp_path: Path) -> None:
    """Nothing that is typed is shown, and the facts on standard output are not mixed with questions."""
    done = at_terminal("key", "new", "--encrypt", "--json", "--out", tmp_path / "k", typed=(PASSPHRASE, PASSPHRASE))
    assert done.status == 0, done.screen
    assert PASSPHRASE not in done.screen + done.printed
    assert done.screen.count(": ") == 2
    assert done.printed.startswith("{")
    opened = at_terminal("key", "decrypt", tmp_path / "k", typed=(PASSPHRASE,))
    assert opened.status == 0, opened.screen
    assert f"Passphrase of {tmp_path / 'k'}: " in opened.screen


def test_mistakes_at_a_terminal(tmp_path: Path) -> None:
    """Two that differ are asked for again; a wrong one, a short one and an empty one end it and write nothing."""
    done = at_terminal(
        "key", "new", "--encrypt", "--out", tmp_path / "k", typed=(PASSPHRASE, "another", PASSPHRASE, PASSPHRASE)
    )
    assert done.status == 0, done.screen
    before = (tmp_path / "k").read_bytes()
    wrong = at_terminal("key", "decrypt", tmp_path / "k", typed=("wrong",))
    assert (wrong.status, "does not open with this passphrase" in wrong.screen) == (2, True)
    assert (tmp_path / "k").read_bytes() == before
    for typed in (("short", "short"), ("", "")):
        weak = at_terminal("key", "new", "--encrypt", "--out", tmp_path / "w", typed=typed)
        assert weak.status in {2, 130}, weak.screen
        assert not (tmp_path / "w").exists()
    interrupted = at_terminal("key", "decrypt", tmp_path / "k", typed=())
    assert interrupted.status == 130


def test_without_a_terminal_there_is_one_clear_line(tmp_path: Path, file: Path) -> None:
    """It names the key and both ways to say the passphrase."""
    good("key", "new", "--encrypt", "--passphrase-file", file, "--out", tmp_path / "k")
    line = refused("key", "decrypt", tmp_path / "k")
    assert all(word in line for word in (str(tmp_path / "k"), "--passphrase-file", VARIABLE))
    assert "--new-passphrase-file" in refused("key", "passwd", "--passphrase-file", file, tmp_path / "k")


def test_the_variable_is_taken_and_a_file_goes_before_it(tmp_path: Path, file: Path) -> None:
    """PQFL_PASSPHRASE alone; with a file that is named, the file."""
    environment = {VARIABLE: PASSPHRASE}
    good("key", "new", "--encrypt", "--out", tmp_path / "k", environment=environment)
    good("key", "decrypt", tmp_path / "k", environment=environment)
    good("key", "encrypt", "--passphrase-file", file, tmp_path / "k", environment={VARIABLE: "something else entirely"})
    line = refused("key", "decrypt", tmp_path / "k", environment={VARIABLE: "something else entirely"})
    assert "does not open" in line
    assert "something" not in line
    good("key", "decrypt", "--passphrase-file", file, tmp_path / "k")


def test_what_opened_one_file_is_tried_on_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody types one passphrase twice in a command; another file may have another one."""
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    answers = iter(["first", "second"])
    monkeypatch.setattr("click.prompt", lambda *_words, **_options: next(answers))
    source = Asking()
    assert next(iter(source("a"))) == b"first"
    assert list(source("b")) == [b"first", b"second"]


def test_a_file_is_the_source_when_it_is_named(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Existing and new passphrases come from it; weak ones are refused only for what is new."""
    monkeypatch.setenv(VARIABLE, "of the environment!")
    assert list(passphrases_of(file)("a")) == [PASSPHRASE.encode()]
    assert new_passphrase("a", file, environment=True) == PASSPHRASE.encode()
    assert new_passphrase("a", None, environment=True) == b"of the environment!"
    write_secret(file, b"short", overwrite=True)
    assert list(passphrases_of(file)("a")) == [b"short"]
    with pytest.raises(ConfigurationError, match=str(file)) as caught:
        new_passphrase("a", file, environment=True)
    assert caught.value.reason == "weak_passphrase"
