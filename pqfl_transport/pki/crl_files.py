"""Revocation lists as a file that is replaced again and again, read so that its numbers never go down.

The highest numbers seen are kept beside the file, with ``.seen`` behind its name (`pki.memory`), so a restart does not
bring a revoked party back. Where lists are fetched, the file is also where the last good ones are kept.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography import x509

from pqfl_transport.errors import ConfigurationError
from pqfl_transport.pki.keystore import read_public
from pqfl_transport.pki.memory import Memory, beside
from pqfl_transport.pki.revocation import MAX_CRL_BYTES, Revocations, Stale, open_crls
from pqfl_transport.policy import Policy

_TAG = "crl-seen/v1"
_MAX_REMEMBERED = 256


def load_crls(
    path: Path,
    anchors: Sequence[x509.Certificate],
    *,
    policy: Policy,
    now: datetime,
    at_least: Mapping[str, int] | None = None,
    stale: Stale = Stale.REFUSE,
    seen_path: Path | None = None,
) -> Revocations:
    """Read and verify a file of lists, and remember their numbers in ``seen_path``, beside the file unless given.

    ``at_least`` is what this process remembers itself; the higher number counts. Raises ``ConfigurationError`` for the
    files, and what `open_crls` raises, naming the file.
    """
    memory = Memory(seen_path or beside(path), _TAG, {"numbers": dict}, "revocation lists")
    data = read_public(path, max_bytes=MAX_CRL_BYTES)
    try:
        with memory.locked():
            remembered = _numbers(memory)
            highest = dict(at_least or {})
            for authority, number in remembered.items():
                highest[authority] = max(number, highest.get(authority, 0))
            found = open_crls(data, anchors, policy=policy, now=now, at_least=highest, stale=stale)
            highest |= found.numbers
            if highest != remembered:
                # What is beyond the limit are authorities that are long gone; the newest come last.
                memory.write({"numbers": dict(list(highest.items())[-_MAX_REMEMBERED:])})
            return found
    except ConfigurationError as error:
        if str(path) in str(error):
            raise
        raise ConfigurationError(f"{path}: {error}", reason=error.reason) from error


def _numbers(memory: Memory) -> dict[str, int]:
    facts = memory.read()
    numbers: dict[str, Any] = {} if facts is None else facts["numbers"]
    if not all(type(number) is int and number >= 0 for number in numbers.values()):
        raise memory.malformed("a number is none")
    return numbers


def _system_clock() -> datetime:
    return datetime.now(UTC)


@dataclass(slots=True)
class CrlFile:
    """The lists of one process, read again whenever it asks. Nothing is read before `read` is called."""

    path: Path
    anchors: Sequence[x509.Certificate]
    stale: Stale = Stale.REFUSE
    seen_path: Path | None = None
    clock: Callable[[], datetime] = _system_clock
    _found: Revocations | None = field(default=None, init=False)

    @property
    def revocations(self) -> Revocations | None:
        """The lists as they were read last; ``None`` before."""
        return self._found

    def read(self, policy: Policy) -> Revocations:
        """Read the file again. Raises as `load_crls` does, and then nothing has changed."""
        at_least = None if self._found is None else self._found.numbers
        self._found = load_crls(
            self.path, self.anchors, policy=policy, now=self.clock(), at_least=at_least, stale=self.stale,
            seen_path=self.seen_path,
        )  # fmt: skip
        return self._found
