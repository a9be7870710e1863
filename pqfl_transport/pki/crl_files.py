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
from pqfl_transport.pki.keystore import read_public, write_public
from pqfl_transport.pki.memory import Memory, beside
from pqfl_transport.pki.revocation import MAX_CRL_BYTES, Revocations, Stale, open_crls
from pqfl_transport.pki.trust import Trust
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
    data = read_public(path, max_bytes=MAX_CRL_BYTES)
    return _remembering(path, seen_path, at_least, lambda highest: open_crls(
        data, anchors, policy=policy, now=now, at_least=highest, stale=stale
    ))  # fmt: skip


def _remembering(
    path: Path,
    seen_path: Path | None,
    at_least: Mapping[str, int] | None,
    work: Callable[[Mapping[str, int]], Revocations],
) -> Revocations:
    """Do what takes the highest numbers seen so far and returns lists; remember theirs."""
    memory = Memory(seen_path or beside(path), _TAG, {"numbers": dict}, "revocation lists")
    try:
        with memory.locked():
            remembered = _numbers(memory)
            highest = dict(at_least or {})
            for authority, number in remembered.items():
                highest[authority] = max(number, highest.get(authority, 0))
            found = work(highest)
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
    trust: Trust
    """Whose lists count. Where these are other authorities since, so are they for the next reading."""
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
            self.path, self.trust.certificates, policy=policy, now=self.clock(), at_least=at_least,
            stale=self.stale, seen_path=self.seen_path,
        )  # fmt: skip
        return self._found

    def store(self, data: bytes, policy: Policy) -> bool:
        """Put lists that were fetched in the place of the file's; return whether they say something else.

        They count from the next `read` on. Raises as `load_crls` does for lists that do not hold, and then the file is
        as it was.
        """
        known = read_public(self.path, max_bytes=MAX_CRL_BYTES) if self.path.exists() else None

        def take(highest: Mapping[str, int]) -> Revocations:
            found = open_crls(
                data, self.trust.certificates, policy=policy, now=self.clock(), at_least=highest, stale=self.stale
            )
            if data != known:
                write_public(self.path, data)
            return found

        at_least = None if self._found is None else self._found.numbers
        try:
            _remembering(self.path, self.seen_path, at_least, take)
        except OSError as error:
            sentence = f"{self.path}: cannot keep the list: {error.strerror}"
            raise ConfigurationError(sentence, reason="not_writable") from error
        return data != known
