"""The roster as a file that is replaced again and again, read so that its number never goes down.

The highest number seen is kept beside the file, with ``.seen`` behind its name (`pki.memory`), so a restart does not
bring back who has left.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pqfl_transport.crypto.pyca import VerifyingKey
from pqfl_transport.errors import MessageError
from pqfl_transport.pki.keystore import read_public
from pqfl_transport.pki.memory import Memory, beside
from pqfl_transport.pki.roster import MAX_ROSTER_BYTES, Roster, open_roster

_TAG = "roster-seen/v1"


def load_remembered_roster(
    path: Path,
    roots: Sequence[VerifyingKey],
    *,
    federation: str | None = None,
    at_least_number: int = 0,
    seen_path: Path | None = None,
) -> Roster:
    """Read and verify a roster file, and remember its number in ``seen_path``, beside the file unless given.

    ``at_least_number`` is what this process remembers itself; the higher one counts. Raises what
    `keystore.load_roster` raises, ``MessageError`` (``stale_roster``) also for a number below the remembered one, and
    ``ConfigurationError`` (``malformed``, ``not_writable``) for the memory.
    """
    data = read_public(path, max_bytes=MAX_ROSTER_BYTES)
    return _open(path, data, roots, federation, at_least_number, seen_path)


@dataclass(slots=True)
class RosterReader:
    """What one process reads again and again: a file that did not change is not verified again."""

    _found: Roster | None = field(default=None, init=False)
    _basis: object = field(default=None, init=False)

    def read(
        self, path: Path, roots: Sequence[VerifyingKey], *, federation: str | None, seen_path: Path | None = None
    ) -> Roster:
        """Read the file. Raises as `load_remembered_roster` does, and then nothing has changed."""
        data = read_public(path, max_bytes=MAX_ROSTER_BYTES)
        basis = hashlib.sha256(data).digest(), tuple(key.fingerprint for key in roots), federation, path, seen_path
        if self._found is None or basis != self._basis:
            number = 0 if self._found is None else self._found.number
            self._found = _open(path, data, roots, federation, number, seen_path)
            self._basis = basis
        return self._found


def _open(
    path: Path,
    data: bytes,
    roots: Sequence[VerifyingKey],
    federation: str | None,
    at_least_number: int,
    seen_path: Path | None,
) -> Roster:
    memory = Memory(seen_path or beside(path), _TAG, {"number": int}, "roster")
    try:
        roster = open_roster(data, roots, at_least_number=at_least_number, federation=federation)
        # Verifying takes long for large rosters, and processes that share the memory need not wait for each other's.
        with memory.locked():
            _remember(memory, roster)
    except MessageError as error:
        raise MessageError(f"{path}: {error}", reason=error.reason) from error
    return roster


def _remember(memory: Memory, roster: Roster) -> None:
    facts = memory.read()
    remembered: int = 0 if facts is None else facts["number"]
    if facts is not None and remembered < 1:
        raise memory.malformed("there is no such roster")
    if roster.number < remembered:
        raise MessageError(
            f"roster number {roster.number} is older than number {remembered}, which was seen before ({memory.path})",
            reason="stale_roster",
        )
    if roster.number > remembered:
        memory.write({"number": roster.number})
