"""Passphrases: from a file, one variable, or what a program gives; never weak when new, never in a message."""

from collections.abc import Iterable
from pathlib import Path

import pytest

from pqfl_transport.errors import ConfigurationError
from pqfl_transport.pki.files import write_secret
from pqfl_transport.pki.passphrases import (
    VARIABLE,
    PassphraseSource,
    checked_new,
    chosen,
    fixed,
    from_environment,
    from_file,
    unlocked,
)

SECRET = "correct horse battery"


def only(source: PassphraseSource) -> bytes:
    (found,) = source("a.key")
    return found


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_a_file_says_it_in_one_line(tmp_path: Path, end: str) -> None:
    """The end of the line does not count; blanks around the passphrase do, and the file is read each time."""
    path = tmp_path / "pass"
    write_secret(path, f" {SECRET} {end}".encode())
    source = from_file(path)
    assert only(source) == f" {SECRET} ".encode()
    write_secret(path, b"changed", overwrite=True)
    assert only(source) == b"changed"


def test_a_passphrase_file_is_a_secret(tmp_path: Path) -> None:
    """One that others can read is refused like a key."""
    path = tmp_path / "pass"
    path.write_text(SECRET)
    path.chmod(0o644)
    with pytest.raises(ConfigurationError, match="chmod 600") as caught:
        only(from_file(path))
    assert caught.value.reason == "loose_permissions"


def test_one_variable_counts_and_no_other(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A file that is named goes before it; without either the error says what to do and which file it is about."""
    monkeypatch.setenv(VARIABLE, SECRET)
    assert only(from_environment) == only(chosen(None)) == SECRET.encode()
    write_secret(tmp_path / "pass", b"of the file")
    assert only(chosen(tmp_path / "pass")) == b"of the file"
    monkeypatch.delenv(VARIABLE)
    monkeypatch.setenv("PASSPHRASE", SECRET)
    with pytest.raises(ConfigurationError, match=rf"a\.key.*passphrase.file.*{VARIABLE}") as caught:
        only(chosen(None))
    assert caught.value.reason == "no_passphrase"


@pytest.mark.parametrize("passphrase", [b"", b"x" * 1025, b"a\0b"])
def test_what_can_be_none_is_refused(passphrase: bytes) -> None:
    """Nothing, more than anybody types, a zero byte; the message does not repeat it."""
    with pytest.raises(ConfigurationError) as caught:
        fixed(passphrase)
    assert caught.value.reason == "bad_passphrase"
    assert passphrase.decode()[:20] not in str(caught.value) or not passphrase


def test_a_new_one_has_to_be_long() -> None:
    """Fifteen characters, counted as a person does; what exists already is only held to being one at all."""
    assert checked_new("ä".encode() * 15, "x") == "ä".encode() * 15
    with pytest.raises(ConfigurationError, match="at least 15") as caught:
        checked_new("ä".encode() * 14, "x")
    assert caught.value.reason == "weak_passphrase"
    assert only(fixed("short")) == b"short"


def test_passphrases_are_tried_in_order() -> None:
    """The first that opens wins; the last error counts; anything but a wrong passphrase ends it at once."""
    asked: list[bytes] = []

    def opener(passphrase: bytes) -> int:
        asked.append(passphrase)
        if passphrase == b"broken":
            raise ConfigurationError("no key at all", reason="bad_key")
        if passphrase != b"right":
            raise ConfigurationError("does not open", reason="wrong_passphrase")
        return 7

    def several(*passphrases: bytes) -> PassphraseSource:
        def source(_name: str) -> Iterable[bytes]:
            return passphrases

        return source

    assert unlocked("a.key", several(b"one", b"right", b"two"), opener) == 7
    assert asked == [b"one", b"right"]
    for passphrases, reason in (
        ((b"one", b"two"), "wrong_passphrase"),
        ((b"broken", b"right"), "bad_key"),
        ((), "no_passphrase"),
    ):
        with pytest.raises(ConfigurationError, match=r"^a\.key: ") as caught:
            unlocked("a.key", several(*passphrases), opener)
        assert caught.value.reason == reason
        assert "two" not in str(caught.value)
