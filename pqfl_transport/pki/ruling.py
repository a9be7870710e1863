"""Which policy is in force, from what an operator names: a policy by name or file, and an advisory as a file.

What a reader has seen of advisories is kept in a small file (`pki.memory`): beside the advisory, with ``.seen`` behind
its name, unless another place is given.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from pqfl_transport.crypto.pyca import VerifyingKey
from pqfl_transport.errors import MessageError
from pqfl_transport.pki.advisory import MAX_ADVISORY_BYTES, Seen, digest_of, open_advisory
from pqfl_transport.pki.keystore import read_public
from pqfl_transport.pki.memory import Memory, beside
from pqfl_transport.pki.trust import Trust
from pqfl_transport.policy import Advised, Advisory, Policy, advise, for_name, parse_policy
from pqfl_transport.policy.files import MAX_POLICY_BYTES

_SEEN_TAG = "advisory-seen/v1"
_SEEN_FIELDS = {"number": int, "sha256": str}
_DIGEST_HEX = 64


def load_policy(word: str, *, folder: Path | None = None) -> Policy:
    """Return the policy of a name, or of a file where ``word`` is a path: with a slash in it or ending in ``.toml``.

    A relative path starts at ``folder`` where one is given. Raises ``ConfigurationError`` and ``PolicyError`` naming
    the file, or listing the names there are.
    """
    if "/" not in word and not word.endswith(".toml"):
        return for_name(word)
    path = Path(word) if folder is None else folder / word
    return parse_policy(read_public(path, max_bytes=MAX_POLICY_BYTES), str(path))


def load_advisory(
    path: Path,
    roots: Iterable[VerifyingKey],
    *,
    federation: str | None,
    now: float,
    seen: Seen | None = None,
    seen_path: Path | None = None,
) -> Advisory:
    """Read and verify an advisory, and remember it in ``seen_path`` where that is given.

    ``seen`` is what this process remembers itself; the higher one counts. Raises ``ConfigurationError`` for the files,
    ``MessageError`` for the content, as `open_advisory` does.
    """
    data = read_public(path, max_bytes=MAX_ADVISORY_BYTES)
    try:
        if seen_path is None:
            return open_advisory(data, roots, now=now, federation=federation, seen=seen)
        memory = _memory(seen_path)
        with memory.locked():
            remembered = _read_seen(memory)
            highest = max((one for one in (seen, remembered) if one is not None), key=_number, default=None)
            advisory = open_advisory(data, roots, now=now, federation=federation, seen=highest)
            found = Seen(advisory.number, digest_of(advisory))
            if found != remembered:
                memory.write({"number": found.number, "sha256": found.digest.hex()})
            return advisory
    except MessageError as error:
        raise MessageError(f"{path}: {error}", reason=error.reason) from error


@dataclass(slots=True)
class Ruling:
    """The policy of one process: what its operator chose, and what an advisory file leaves of it each time it is read.

    One of the roots of ``trust`` signs the advisory. Nothing is read before `read` is called.
    """

    base: Policy
    trust: Trust
    federation: str
    advisory_path: Path | None = None
    seen_path: Path | None = None
    """Where the highest number is remembered across restarts; beside the advisory unless given."""
    clock: Callable[[], float] = time.time
    _seen: Seen | None = field(default=None, init=False)
    _advised: Advised | None = field(default=None, init=False)

    @property
    def advised(self) -> Advised | None:
        """What the advisory that counts leaves; ``None`` where there is none."""
        return self._advised

    @property
    def policy(self) -> Policy:
        """The policy as it was read last."""
        return self.base if self._advised is None else self._advised.policy

    def read(self) -> Policy:
        """Read the advisory, where there is one, and return the policy that is left now.

        Raises as `load_advisory` does, and then nothing has changed; ``PolicyError`` (``withdrawn``) where an authentic
        advisory leaves nothing, and then it counts all the same: every later call raises it again until the file has
        a higher number.
        """
        if self.advisory_path is None:
            return self.base
        advisory = load_advisory(
            self.advisory_path, self.trust.roots, federation=self.federation, now=self.clock(), seen=self._seen,
            seen_path=self.seen_path or beside(self.advisory_path),
        )  # fmt: skip
        self._seen = Seen(advisory.number, digest_of(advisory))
        self._advised = advise(self.base, advisory, self.clock())
        return self._advised.policy

    def seconds_to_change(self) -> float | None:
        """Return in how many seconds the advisory that counts says something else, ``None`` where it never will."""
        if self._advised is None:
            return None
        now = self.clock()
        moment = self._advised.advisory.next_change(now)
        return None if moment is None else moment - now


def _number(seen: Seen) -> int:
    return seen.number


def _memory(path: Path) -> Memory:
    return Memory(path, _SEEN_TAG, _SEEN_FIELDS, "advisory")


def _read_seen(memory: Memory) -> Seen | None:
    facts = memory.read()
    if facts is None:
        return None
    try:
        digest = bytes.fromhex(facts["sha256"])
    except ValueError as error:
        raise memory.malformed(str(error)) from error
    if len(facts["sha256"]) != _DIGEST_HEX or facts["number"] < 1:
        raise memory.malformed("there is no such advisory")
    return Seen(facts["number"], digest)
