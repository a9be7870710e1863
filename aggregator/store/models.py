"""Sealed global models as files of a state folder, each written whole or not at all.

What is kept are envelopes: nobody who reads the folder learns a model, the aggregator's own operator included.
"""

from collections.abc import Iterable
from pathlib import Path

from pqfl_transport.content.staging import remove_torn, staged
from pqfl_transport.crypto.pyca import Buffer
from pqfl_transport.errors import ConfigurationError, MessageError, PlatformError, PqflError

_SUFFIX = ".pqfl"


class ModelStore:
    """The sealed models of one run, by version. Version 0 is the initial model, version N what round N made."""

    def __init__(self, folder: Path) -> None:
        """Use ``folder``, made with mode 0700 when it is missing.

        Raises ``ConfigurationError`` when it cannot be used or already holds the models of an earlier run: a run
        starts at round 1, and sites refuse to go back to a round lower than they have seen.
        """
        self._folder = folder / "models"
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            remove_torn(self._folder)
            earlier = sorted(self._folder.glob(f"*{_SUFFIX}"))
        except OSError as error:
            raise ConfigurationError(f"{self._folder}: cannot use the state folder: {error.strerror}") from error
        if earlier:
            raise ConfigurationError(f"{self._folder} holds {earlier[-1].name} of an earlier run; name another folder")

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

    def _path(self, version: int) -> Path:
        return self._folder / f"{version:08d}{_SUFFIX}"
