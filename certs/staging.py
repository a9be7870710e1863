"""Folders that appear whole or not at all, and files that go back to what they were when something fails."""

import contextlib
import glob
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pqfl_transport.errors import ConfigurationError
from pqfl_transport.pki.keystore import sync_folder, write_public


@contextmanager
def staged_folder(target: Path) -> Iterator[Path]:
    """Give a new folder of mode 0700 to fill; it becomes ``target`` when the block ends without an error.

    The folder is made beside the target, so becoming it is one rename. Raises ``ConfigurationError`` (``exists``) where
    the target exists already and is anything but an empty folder.
    """
    target = target.absolute()
    _require_free(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        for left in target.parent.glob(f".{glob.escape(target.name)}.partial-*"):
            # Of a process that was killed before it wrote anything; one with something in it is `recover`'s.
            with contextlib.suppress(OSError):
                left.rmdir()
        stage = Path(tempfile.mkdtemp(prefix=f".{target.name}.partial-", dir=target.parent))
    except OSError as error:
        raise ConfigurationError(f"{target}: cannot be made: {error.strerror}", reason="not_writable") from error
    try:
        yield stage
        sync_folder(stage)
        _publish(stage, target)
        sync_folder(target.parent)
    finally:
        shutil.rmtree(stage, ignore_errors=True)


@contextmanager
def restored_on_failure(*paths: Path) -> Iterator[None]:
    """Put the present content of these files back when the block fails."""
    before = {path: path.read_bytes() for path in paths}
    try:
        yield
    except BaseException:
        for path, data in before.items():
            write_public(path, data)
        raise


def _require_free(target: Path) -> None:
    if not os.path.lexists(target):
        return
    if not target.is_dir() or target.is_symlink():
        raise ConfigurationError(f"{target}: exists already and is not a folder", reason="exists")
    if any(target.iterdir()):
        raise ConfigurationError(f"{target}: exists already and is not empty", reason="exists")


def _publish(stage: Path, target: Path) -> None:
    # POSIX rename replaces an empty folder and no other, so somebody who filled it meanwhile loses nothing.
    try:
        stage.rename(target)
    except OSError as error:
        raise ConfigurationError(f"{target}: cannot be made: {error.strerror}", reason="exists") from error
