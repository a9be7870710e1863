"""Files with keys in them: read with suspicion, written so that a crash leaves the old file or the new one.

A secret has mode 0600. One that its group or others can read is refused rather than warned about: whoever could read it
may have.

While a file is being written it lies beside its target as ``.NAME.XXXXXXXX.part``, mode 0600, under a lock that ends
with its writer. So a torn file is told from one that somebody still writes by nothing but its lock, and the next who
writes the same target removes it.
"""

import contextlib
import fcntl
import glob
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from pqfl_transport.errors import ConfigurationError
from pqfl_transport.pki import chain

MAX_SECRET_BYTES = 64 * 1024
_SECRET_MODE = 0o600
_PUBLIC_MODE = 0o644
_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_PART_SUFFIX = ".part"


def read_secret(path: Path, *, max_bytes: int = MAX_SECRET_BYTES) -> bytes:
    """Return a private key file's bytes, at most 64 KiB unless told otherwise.

    Raises ``ConfigurationError`` naming the file: ``missing``, ``unreadable``, ``loose_permissions`` (with the command
    that mends it), ``too_large``.
    """
    with _opened(path) as descriptor:
        mode = stat.S_IMODE(os.fstat(descriptor).st_mode)
        if mode & _OTHERS:
            raise ConfigurationError(
                f"{path}: mode {mode:04o} lets others than its owner use this private key; chmod 600 {path}",
                reason="loose_permissions",
            )
        return _read(descriptor, path, max_bytes)


def read_public(path: Path, *, max_bytes: int = chain.MAX_PEM_BYTES) -> bytes:
    """Return a public file's bytes. Raises ``ConfigurationError``: ``missing``, ``unreadable``, ``too_large``."""
    with _opened(path) as descriptor:
        return _read(descriptor, path, max_bytes)


def write_secret(path: Path, data: bytes, *, overwrite: bool = False) -> None:
    """Write a file of mode 0600, whole or not at all. An existing one is refused unless ``overwrite``.

    Raises ``ConfigurationError`` naming the file: ``exists``, ``not_writable``.
    """
    _write(path, data, _SECRET_MODE, overwrite=overwrite)


def replace_secret(path: Path, data: bytes) -> None:
    """Put another content into an existing secret file, whole or not at all, and erase the old one as far as can be.

    A link is followed. The old content is overwritten in its place once the new one is safe on the disk; copies that
    a file system, a drive or a backup made of it are out of reach. Raises as ``write_secret`` does.
    """
    path = path.resolve()
    with _opened(path, os.O_RDWR) as old:
        # Overwriting a file that has a second name would destroy somebody's copy.
        only_name = os.fstat(old).st_nlink == 1
        write_secret(path, data, overwrite=True)
        if only_name:
            with contextlib.suppress(OSError):
                os.pwrite(old, bytes(os.fstat(old).st_size), 0)
                os.fsync(old)


def write_public(path: Path, data: bytes, *, overwrite: bool = True) -> None:
    """Write a file of mode 0644, whole or not at all; an existing one is replaced. Raises as ``write_secret`` does."""
    _write(path, data, _PUBLIC_MODE, overwrite=overwrite)


@contextmanager
def _opened(path: Path, access: int = os.O_RDONLY) -> Iterator[int]:
    try:
        # Opening a FIFO would block until somebody writes to it; only regular files are keys.
        descriptor = os.open(path, access | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError as error:
        raise ConfigurationError(f"{path}: no such file", reason="missing") from error
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}", reason="unreadable") from error
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ConfigurationError(f"{path}: not a regular file", reason="unreadable")
        yield descriptor
    finally:
        os.close(descriptor)


def _read(descriptor: int, path: Path, max_bytes: int) -> bytes:
    # The size as it is now, before any memory is taken for it, and then what was read: a file can grow meanwhile.
    too_large = os.fstat(descriptor).st_size > max_bytes
    data = b""
    if not too_large:
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            data = file.read(max_bytes + 1)
    if too_large or len(data) > max_bytes:
        raise ConfigurationError(f"{path}: more than {max_bytes} bytes", reason="too_large")
    return data


def _write(path: Path, data: bytes, mode: int, *, overwrite: bool) -> None:
    try:
        remove_torn(path.parent, path.name)
        file, part = locked_part(path)
    except OSError as error:
        # Told of the file that was asked for: nobody knows the temporary one.
        raise ConfigurationError(f"{path}: cannot be made: {error.strerror}", reason="not_writable") from error
    try:
        with file:
            os.fchmod(file.fileno(), mode)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            # Under its own name before the lock is given back: until then nobody may take it for a torn one.
            if overwrite:
                part.replace(path)
            else:
                _publish_new(part, path)
        sync_folder(path.parent)
    finally:
        part.unlink(missing_ok=True)


def _publish_new(part: Path, path: Path) -> None:
    # A hard link, unlike a rename, never replaces: two writers cannot both believe that they made the file.
    try:
        os.link(part, path)
    except FileExistsError as error:
        raise ConfigurationError(f"{path}: exists already and is not overwritten", reason="exists") from error


def locked_part(target: Path) -> tuple[BinaryIO, Path]:
    """Make a file of mode 0600 beside ``target`` to write it in, locked while it is open. Raises ``OSError``."""
    while True:
        descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=_PART_SUFFIX)
        output = os.fdopen(descriptor, "w+b")
        fcntl.flock(output, fcntl.LOCK_EX)
        if os.fstat(output.fileno()).st_nlink:
            return output, Path(name)
        # Another writer took it for a torn one between its making and its lock.
        output.close()


def remove_torn(folder: Path, name: str | None = None) -> list[str]:
    """Remove what killed writers left in ``folder``, of one target or of all; return the targets' names.

    What is another user's stays.
    """
    pattern = "*" if name is None else glob.escape(name)
    removed = []
    for path in folder.glob(f".{pattern}.*{_PART_SUFFIX}"):
        # Somebody else may remove it first.
        passed_over = contextlib.suppress(FileNotFoundError, PermissionError, BlockingIOError)
        with passed_over, path.open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
            removed.append(path.name[1:].removesuffix(_PART_SUFFIX).rpartition(".")[0])
    return removed


def sync_folder(folder: Path) -> None:
    """Make renames and new names in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
