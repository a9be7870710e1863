"""Files that belong together, replaced together: a certificate, its key and the authorities.

Two files cannot be renamed in one step, one link can. So the files of a folder become links through another one::

    tls.pem -> .renewed/current/tls.pem        .renewed/current -> 0002        .renewed/0002/tls.pem …

and a replacement is written whole as the next number, after which `current` is renamed over. Whoever opens the files
by their names before or after that reads a pair that fits, also when the power goes in the middle. A folder with
plain files is converted in steps that each leave the same content at every name. A file that is new gets its link
first, and one that is to go loses its link last: a link that leads nowhere is no file. One process at a time does this
to a folder, and first removes what a killed one left.
"""

import fcntl
import os
import re
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from pqfl_transport.errors import ConfigurationError
from pqfl_transport.pki.files import (
    read_public,
    read_secret,
    remove_torn,
    replace_secret,
    sync_folder,
    write_public,
    write_secret,
)

STORE = ".renewed"
_CURRENT = "current"
_FIRST = "0001"
_NUMBER = re.compile(r"[0-9]{4,9}", re.ASCII)


def replace_together(folder: Path, files: Mapping[str, bytes | None], *, new: Collection[str] = ()) -> None:
    """Put new contents into files of a folder in one step; names that end in ``.key`` are secrets.

    ``None`` takes a file away, if it is there. Only those named in ``new`` may be missing before. The old keys are
    erased as far as can be. Raises ``ConfigurationError`` naming the file: what `pki.files` raises.
    """
    gone = [name for name, data in files.items() if data is None]
    try:
        with _locked(store_of(folder)) as store:
            _prepare(folder, store, tuple(files), absent=frozenset((*new, *gone)))
            before = _current(store)
            number = f"{int(before) + 1:04}"
            shutil.rmtree(store / number, ignore_errors=True)
            (store / number).mkdir(mode=0o700)
            kept = {path.name: path for path in (store / before).iterdir() if path.name not in files}
            contents: dict[str, bytes | None] = {name: _read(path) for name, path in kept.items()}
            contents |= files
            for name, data in contents.items():
                if data is not None:
                    _write(store / number / name, data)
            sync_folder(store / number)
            _point(store / _CURRENT, number)
            for name in gone:
                (folder / name).unlink(missing_ok=True)
            _discard(store, keep=number)
    except OSError as error:
        raise ConfigurationError(f"{folder}: cannot be renewed: {error.strerror}", reason="not_writable") from error


def clear_up(folder: Path) -> None:
    """Remove what a replacement left that was killed after its one step: the former files, and torn ones.

    The next replacement would as well, but that may be far away, and the former key is a secret without a use. Raises
    ``ConfigurationError`` as `replace_together` does.
    """
    store = folder / STORE
    if not (store / _CURRENT).is_symlink():
        return
    try:
        with _locked(store):
            current = _current(store)
            _remove_torn(folder, store, store / current)
            _discard(store, keep=current)
    except OSError as error:
        raise ConfigurationError(f"{folder}: cannot be cleared up: {error.strerror}", reason="not_writable") from error


def store_of(folder: Path) -> Path:
    """Return the folder, made where it is missing, in which what is being renewed can be kept meanwhile."""
    store = folder / STORE
    store.mkdir(mode=0o700, exist_ok=True)
    return store


@contextmanager
def _locked(store: Path) -> Iterator[Path]:
    descriptor = os.open(store, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield store
    finally:
        os.close(descriptor)


def _prepare(folder: Path, store: Path, names: tuple[str, ...], *, absent: frozenset[str]) -> None:
    """Make every one of these names a link through the store, without changing what is read at any.

    Those that may be absent, and are, get a link that leads nowhere yet.
    """
    if not (store / _CURRENT).is_symlink():
        shutil.rmtree(store / _FIRST, ignore_errors=True)
        (store / _FIRST).mkdir(mode=0o700)
        _point(store / _CURRENT, _FIRST)
    current = store / _current(store)
    _remove_torn(folder, store, current)
    for name in names:
        link = f"{STORE}/{_CURRENT}/{name}"
        if (folder / name).is_symlink() and (folder / name).readlink() == Path(link):
            continue
        if name not in absent or (folder / name).exists():
            _write(current / name, _read(folder / name))
            sync_folder(current)
        _point(folder / name, link)


def _remove_torn(*folders: Path) -> None:
    # What is torn may be a key, and would be carried on with the files that are whole.
    for folder in folders:
        remove_torn(folder)


def _current(store: Path) -> str:
    target = (store / _CURRENT).readlink().name
    if not _NUMBER.fullmatch(target):
        raise ConfigurationError(f"{store / _CURRENT}: points to {target!r}, which is no number", reason="malformed")
    return target


def _point(link: Path, target: str) -> None:
    """Make a link, or make it point elsewhere, in one step."""
    # Always by this name, so that one which a killed process left is found by whoever does its work.
    staged = link.with_name(f".{link.name}.link")
    staged.unlink(missing_ok=True)
    staged.symlink_to(target)
    staged.replace(link)
    sync_folder(link.parent)


def _discard(store: Path, *, keep: str) -> None:
    for path in store.iterdir():
        if _NUMBER.fullmatch(path.name) and path.name != keep:
            for key in path.glob("*.key"):
                replace_secret(key, b"")
            shutil.rmtree(path, ignore_errors=True)


def _is_secret(path: Path) -> bool:
    return path.suffix == ".key"


def _read(path: Path) -> bytes:
    return read_secret(path) if _is_secret(path) else read_public(path)


def _write(path: Path, data: bytes) -> None:
    if _is_secret(path):
        write_secret(path, data, overwrite=True)
    else:
        write_public(path, data)
