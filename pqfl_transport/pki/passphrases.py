"""Where the passphrase of an encrypted key file comes from: a file, one environment variable, or whoever can be asked.

A source is a function from the name of a key file to the passphrases worth trying on it, most likely first. It is asked
only when a file turns out to be encrypted. Passphrases never come from a command line, which every process can read.
"""

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from pqfl_transport.errors import ConfigurationError
from pqfl_transport.pki.files import read_secret

VARIABLE = "PQFL_PASSPHRASE"
MAX_PASSPHRASE_BYTES = 1024
MIN_NEW_CHARACTERS = 15
"""What a new passphrase has to have: where nothing else protects a secret, SP 800-63B-4 §3.1.1.2 asks for 15."""

PassphraseSource = Callable[[str], Iterable[bytes]]
"""From the name of an encrypted key file to passphrases to try. Raises ``ConfigurationError`` (``no_passphrase``)."""

T = TypeVar("T")


def from_environment(name: str) -> Iterable[bytes]:
    """Give the passphrase in ``PQFL_PASSPHRASE``. Raises ``ConfigurationError`` (``no_passphrase``) without one."""
    text = os.environ.get(VARIABLE)
    if text is None:
        raise ConfigurationError(
            f"{name}: is encrypted; name a file with its passphrase (--passphrase-file, passphrase_file) or set"
            f" {VARIABLE}",
            reason="no_passphrase",
        )
    return (checked(os.fsencode(text), VARIABLE),)


def from_file(path: Path) -> PassphraseSource:
    """Return a source that reads a file of mode 0600, each time it is asked; a line end at its end does not count."""

    def read(_name: str) -> Iterable[bytes]:
        return (checked(read_secret(path).removesuffix(b"\n").removesuffix(b"\r"), str(path)),)

    return read


def fixed(passphrase: str | bytes) -> PassphraseSource:
    """Return a source that gives this one."""
    data = checked(passphrase.encode() if isinstance(passphrase, str) else passphrase, "the passphrase")
    return lambda _name: (data,)


def chosen(file: Path | None) -> PassphraseSource:
    """Return the source that a program without anybody to ask has: the file if one is named, or the environment."""
    return from_environment if file is None else from_file(file)


def checked(passphrase: bytes, where: str) -> bytes:
    """Return a passphrase that can be one. Raises ``ConfigurationError`` (``bad_passphrase``), never quoting it."""
    if not 0 < len(passphrase) <= MAX_PASSPHRASE_BYTES or b"\0" in passphrase:
        raise ConfigurationError(
            f"{where}: a passphrase has 1 to {MAX_PASSPHRASE_BYTES} bytes, none of them zero", reason="bad_passphrase"
        )
    return passphrase


def checked_new(passphrase: bytes, where: str) -> bytes:
    """Return a passphrase that is good enough for a new file. Raises ``ConfigurationError`` (``weak_passphrase``)."""
    if len(checked(passphrase, where).decode("utf-8", "replace")) < MIN_NEW_CHARACTERS:
        raise ConfigurationError(
            f"{where}: a new passphrase has at least {MIN_NEW_CHARACTERS} characters; a few random words are easy to"
            " keep in mind",
            reason="weak_passphrase",
        )
    return passphrase


def unlocked(name: str, passphrases: PassphraseSource, opener: Callable[[bytes], T]) -> T:
    """Return what ``opener`` gives for the first passphrase that opens.

    Raises ``ConfigurationError`` naming the file: ``no_passphrase``, ``wrong_passphrase`` after the last one, and what
    ``opener`` raises else.
    """
    wrong: ConfigurationError | None = None
    for passphrase in passphrases(name):
        try:
            return opener(passphrase)
        except ConfigurationError as error:
            wrong = ConfigurationError(f"{name}: {error}", reason=error.reason)
            wrong.__cause__ = error
            if error.reason != "wrong_passphrase":
                break
    raise wrong or ConfigurationError(f"{name}: is encrypted and there is no passphrase", reason="no_passphrase")
