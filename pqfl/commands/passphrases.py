"""Passphrases on the command line: from a file, from ``PQFL_PASSPHRASE``, or typed unseen. Never an argument."""

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import click

from pqfl_transport.errors import ConfigurationError
from pqfl_transport.pki.passphrases import (
    VARIABLE,
    PassphraseSource,
    checked,
    checked_new,
    from_environment,
    from_file,
)

Command = TypeVar("Command", bound=Callable[..., Any])

_PATH = click.Path(path_type=Path)


def passphrase_option(command: Command) -> Command:
    """Add ``--passphrase-file``, for keys that are there already."""
    return click.option(
        "--passphrase-file", type=_PATH,
        help=f"File with the passphrase of encrypted keys, mode 0600. Without it: {VARIABLE}, or you are asked.",
    )(command)  # fmt: skip


def new_passphrase_option(command: Command) -> Command:
    """Add ``--new-passphrase-file``, for keys that are being made or encrypted anew."""
    return click.option(
        "--new-passphrase-file", type=_PATH,
        help="File with the passphrase for what is written, mode 0600. Without it you are asked.",
    )(command)  # fmt: skip


def passphrases_of(file: Path | None) -> PassphraseSource:
    """Return where passphrases of existing keys come from in this command."""
    return from_file(file) if file is not None else Asking()


def new_passphrase(name: str, file: Path | None, *, environment: bool) -> bytes:
    """Return the passphrase for a file that is being written, asked for twice where somebody types it.

    ``environment`` says whether ``PQFL_PASSPHRASE`` may be meant: not where it opens what is there already. Raises
    ``ConfigurationError``: ``weak_passphrase``, ``bad_passphrase``, ``no_passphrase`` where nobody can be asked.
    """
    if file is not None:
        (found,) = from_file(file)(name)
        return checked_new(found, str(file))
    if environment and VARIABLE in os.environ:
        (found,) = from_environment(name)
        return checked_new(found, VARIABLE)
    how = f"--passphrase-file or {VARIABLE}" if environment else "--new-passphrase-file"
    return checked_new(_ask(f"New passphrase for {name}", name, how, confirm=True), name)


class Asking:
    """A source that asks whoever sits at the terminal, once a file; what opened one file is tried on the next."""

    def __init__(self) -> None:
        self._known: list[bytes] = []

    def __call__(self, name: str) -> Iterable[bytes]:
        """Give passphrases for a file: the environment's, or those that were typed before, then one more."""
        return from_environment(name) if VARIABLE in os.environ else self._asked(name)

    def _asked(self, name: str) -> Iterator[bytes]:
        yield from tuple(self._known)
        self._known.append(_ask(f"Passphrase of {name}", name, f"--passphrase-file or {VARIABLE}", confirm=False))
        yield self._known[-1]


def _ask(question: str, name: str, how: str, *, confirm: bool) -> bytes:
    if not sys.stdin.isatty():
        raise ConfigurationError(
            f"{name}: a passphrase is needed and nobody can be asked here; give it with {how}",
            reason="no_passphrase",
        )
    # On standard error, so that what the command prints can go into a file or a pipe.
    text: str = click.prompt(
        question, hide_input=True, confirmation_prompt=confirm, err=True, default="", show_default=False
    )
    return checked(text.encode("utf-8", "surrogateescape"), name)
