"""Files that appear whole or not at all, written piece by piece; `pki.files` says what becomes of torn ones."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from pqfl_transport.errors import ConfigurationError, PlatformError
from pqfl_transport.pki.files import locked_part, remove_torn, sync_folder

__all__ = ["remove_torn", "staged"]


@contextmanager
def staged(target: Path) -> Iterator[BinaryIO]:
    """Give a file of mode 0600 that becomes ``target`` when the block ends well, and nothing when it does not.

    Raises ``ConfigurationError`` (``not_writable``) where the folder takes no file, ``PlatformError`` (``disk``) where
    it cannot be written to its end.
    """
    try:
        remove_torn(target.parent, target.name)
        output, path = locked_part(target)
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
