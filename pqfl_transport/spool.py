"""Sealed updates that are on their way, kept as files so that a restart goes on with them.

What is kept is ciphertext, under the name of its envelope id. It is sent again as it is, and never sealed again under
the keys it has (ENVELOPE.md §4). A file that a killed process left half-written never gets its name; whether one that
has its name is whole, and of use, is for `Participant.recall_update` to say.
"""

import logging
import mmap
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from pqfl_transport.content.staging import remove_torn, staged
from pqfl_transport.crypto.pyca import Buffer
from pqfl_transport.errors import ConfigurationError, PlatformError

_log = logging.getLogger(__name__)
_NAME = re.compile(r"([0-9a-f]{32})\.pqfl", re.ASCII)


class Spool:
    """A folder of this site's own, made with mode 0700 where it is missing.

    Raises ``ConfigurationError`` (``not_writable``) where it cannot be used.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            torn = remove_torn(folder)
        except OSError as error:
            raise ConfigurationError(
                f"{folder}: cannot keep updates: {error.strerror}", reason="not_writable"
            ) from error
        for name in torn:
            _log.warning("%s: removed a half-written update, %s", folder, name)

    def keep(self, envelope_id: bytes, pieces: Iterable[Buffer]) -> memoryview:
        """Store an envelope and return it, mapped from its file.

        Raises ``PlatformError`` (``disk``) where it cannot be written; then nothing of it stays.
        """
        path = self._path(envelope_id)
        with staged(path) as file:
            file.writelines(pieces)
        return _mapped(path)

    def stored(self) -> Iterator[tuple[bytes, memoryview]]:
        """Yield the id and the bytes of every envelope that is kept."""
        for path in sorted(self._folder.iterdir()):
            if match := _NAME.fullmatch(path.name):
                yield bytes.fromhex(match[1]), _mapped(path)

    def forget(self, envelope_id: bytes) -> None:
        """Remove an envelope that arrived, or that nobody takes any more."""
        self._path(envelope_id).unlink(missing_ok=True)

    def _path(self, envelope_id: bytes) -> Path:
        return self._folder / f"{envelope_id.hex()}.pqfl"


def _mapped(path: Path) -> memoryview:
    try:
        with path.open("rb") as file:
            if not path.stat().st_size:
                return memoryview(b"")
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except OSError as error:
        raise PlatformError(f"{path}: cannot be read: {error.strerror}", reason="disk") from error
