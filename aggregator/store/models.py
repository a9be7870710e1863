"""Sealed global models as files of a state folder, each written whole or not at all.

What is kept are envelopes: nobody who reads the folder learns a model, the aggregator's own operator included.
"""

from collections.abc import Iterable
from pathlib import Path

from aggregator.store.reading import read_prologue
from pqfl_transport.content.staging import remove_torn, staged
from pqfl_transport.crypto.pyca import Buffer
from pqfl_transport.errors import ConfigurationError, MessageError, PlatformError, PqflError

_SUFFIX = ".pqfl"
_DIGITS = 8


class ModelStore:
    """The sealed models of one run, by version. Version 0 is the initial model, version N what round N made."""

    def __init__(self, folder: Path) -> None:
        """Use ``folder``, made with mode 0700 when it is missing. Raises ``ConfigurationError`` (``not_writable``)."""
        self._folder = folder / "models"
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            remove_torn(self._folder)
        except OSError as error:
            raise ConfigurationError(
                f"{self._folder}: cannot use the state folder: {error.strerror}", reason="not_writable"
            ) from error

    def versions(self) -> list[int]:
        """Return the versions that are there, in order."""
        return sorted(int(path.stem) for path in self._folder.glob(f"{'[0-9]' * _DIGITS}{_SUFFIX}"))

    def save(self, version: int, envelope: Iterable[Buffer]) -> Path:
        """Write the parts of a sealed envelope. Raises ``PlatformError``; then nothing is left behind."""
        path = self._path(version)
        try:
            with staged(path) as file:
                file.writelines(envelope)
        except PqflError as error:
            raise PlatformError(f"cannot store the model: {error}", reason="disk") from error
        return path

    def find(self, version: int) -> Path:
        """Return the file of a version. Raises ``MessageError`` (reason ``unknown_model``) when there is none."""
        path = self._path(version)
        if version < 0 or not path.exists():
            raise MessageError(f"there is no model version {version}", reason="unknown_model")
        return path

    def suite(self, version: int) -> str:
        """Return the content suite of a version.

        Raises ``MessageError`` (``unknown_model``), ``PlatformError`` (``disk``) where the file is damaged.
        """
        path = self.find(version)
        try:
            with path.open("rb") as file:
                return read_prologue(file)[0].header.suite
        except (OSError, MessageError) as error:
            raise PlatformError(f"{path}: the model cannot be read: {error}", reason="disk") from error

    def _path(self, version: int) -> Path:
        return self._folder / f"{version:0{_DIGITS}d}{_SUFFIX}"
