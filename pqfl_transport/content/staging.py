"""Files that appear whole or not at all, and what becomes of those whose writer was killed.

While a file is being written it lies beside its target as ``.NAME.XXXXXXXX.part``, mode 0600, under a lock that ends
with its writer. So a torn file is told from one that somebody still writes by nothing but its lock, and the next who
writes the same target removes it.
"""

import fcntl
import glob
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from pqfl_transport.errors import ConfigurationError, PlatformError
from pqfl_transport.pki.keystore import sync_folder

_SUFFIX = ".part"


@contextmanager
def staged(target: Path) -> Iterator[BinaryIO]:
    """Give a file of mode 0600 that becomes ``target`` when the block ends well, and nothing when it does not.

    Raises ``ConfigurationError`` (``not_writable``) where the folder takes no file, ``PlatformError`` (``disk``) where
    it cannot be written to its end.
    """
    try:
        remove_torn(target.parent, target.name)
        output, path = _locked(target)
    except OSError as error:
        raise ConfigurationError(f"{target}: cannot be made: {error.strerror}", reason="not_writable") from error
    try:
        with output:
            yield output
            output.flush()
            os.fsync(output.fileno())
            # Under its own name before the lock is given back: until then nobody may take it for a torn one.
            path.replace(target)
        sync_folder(target.parent)
    except OSError as error:
        raise PlatformError(f"{target}: cannot be written: {error.strerror or error}", reason="disk") from error
    finally:
        path.unlink(missing_ok=True)


def remove_torn(folder: Path, name: str | None = None) -> list[str]:
    """Remove what killed writers left in ``folder``, of one target or of all; return the targets' names."""
    pattern = "*" if name is None else glob.escape(name)
    removed = []
    for path in folder.glob(f".{pattern}.*{_SUFFIX}"):
        # Somebody else may remove it first.
        with suppress(FileNotFoundError), path.open("r+b") as file, suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
            removed.append(path.name[1:].removesuffix(_SUFFIX).rpartition(".")[0])
    return removed


def _locked(target: Path) -> tuple[BinaryIO, Path]:
    while True:
        descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=_SUFFIX)
        output = os.fdopen(descriptor, "w+b")
        fcntl.flock(output, fcntl.LOCK_EX)
        if os.fstat(output.fileno()).st_nlink:
            return output, Path(name)
        # Another writer took it for a torn one between its making and its lock.
        output.close()
