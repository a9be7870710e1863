"""What a reader of signed, numbered files has seen, kept across restarts so that no earlier one comes back.

It is a small JSON file that holds numbers and digests and nothing secret. Who can write it can bring an earlier file
back, so it belongs to the user the process runs as. Several processes may share one: each remembers under a lock.
"""

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pqfl_transport.errors import ConfigurationError, MessageError
from pqfl_transport.pki.documents import parse_object, require_fields
from pqfl_transport.pki.keystore import read_public, write_public

MAX_MEMORY_BYTES = 64 * 1024


def beside(path: Path) -> Path:
    """Return where it is remembered what was seen of this file, unless another place is given."""
    return path.with_name(f"{path.name}.seen")


@dataclass(frozen=True, slots=True)
class Memory:
    """One such file."""

    path: Path
    tag: str
    """Kind and version: what the file says under ``pqfl``."""
    fields: Mapping[str, type] = field(repr=False)
    """What else it says."""
    what: str
    """What was seen, for sentences: ``advisory``."""

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Let one process at a time look and remember. Raises ``ConfigurationError`` (``not_writable``)."""
        try:
            descriptor = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            raise self._cannot_remember(error.strerror) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def read(self) -> dict[str, Any] | None:
        """Return the fields, ``None`` where nothing was remembered yet. Raises ``ConfigurationError``."""
        try:
            data = read_public(self.path, max_bytes=MAX_MEMORY_BYTES)
        except ConfigurationError as error:
            if error.reason == "missing":
                return None
            raise
        try:
            facts = require_fields(parse_object(data, str(self.path)), {"pqfl": str, **self.fields}, str(self.path))
        except MessageError as error:
            raise self.malformed(str(error)) from error
        if facts.pop("pqfl") != self.tag:
            raise self.malformed("is of another kind or version")
        return facts

    def write(self, facts: Mapping[str, Any]) -> None:
        """Remember these fields. Raises ``ConfigurationError`` (``not_writable``)."""
        try:
            write_public(self.path, json.dumps({"pqfl": self.tag, **facts}).encode() + b"\n")
        except ConfigurationError as error:
            raise self._cannot_remember(str(error)) from error
        except OSError as error:
            raise self._cannot_remember(error.strerror) from error

    def malformed(self, why: str) -> ConfigurationError:
        """Return the error for a file that says something else."""
        return ConfigurationError(f"{self.path}: not what was seen of the {self.what}: {why}", reason="malformed")

    def _cannot_remember(self, why: str | None) -> ConfigurationError:
        return ConfigurationError(
            f"{self.path}: cannot remember which {self.what} was seen, and without that an earlier one could come back"
            f" after a restart: {why}. Name a file that this user can write",
            reason="not_writable",
        )
