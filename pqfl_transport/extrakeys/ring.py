"""All extra keys of one party: keys for what it seals, and the `KeySource` for what it opens.

Theory of operation. Sealing: the rule for the recipients says which sources give a key; each key is recorded as used
before it is handed out, under an owner that no envelope has, so that a key manager that repeats itself or a peer that
sends our ids back is refused. Opening: the rule for the sender judges the ids, each is bound to this one prologue in
the record, and then its material is fetched. A key manager gives a key away once, while an upload may break and be
tried again, or come a second time as a copy with garbage behind it; so what was fetched is held in memory, for this
prologue, until the envelope was opened to its end or an hour has passed.
"""

import logging
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from pqfl_transport.content.envelope import Prologue
from pqfl_transport.content.keysource import PSK, ExtraKey, KeyId
from pqfl_transport.content.psk import PreSharedKey
from pqfl_transport.errors import ConfigurationError, MessageError, PolicyError, PqflError, TransportError
from pqfl_transport.extrakeys.config import load_keys_config
from pqfl_transport.extrakeys.record import UsedKeys
from pqfl_transport.extrakeys.rules import Mode, Rules, judge
from pqfl_transport.pki.keystore import read_secret
from pqfl_transport.qkd.client import Link

HOLD_SECONDS = 3600.0
MAX_HELD = 256
_OWNER_BYTES = 32

_log = logging.getLogger(__name__)

Report = Callable[[str, Mapping[str, object]], None]
"""Is told what an operator has to know: an event, and its facts. None of them is secret."""


class LinkEnd(Protocol):
    """One end of a QKD link, as `qkd.Link` is; its methods may wait."""

    def new_key(self) -> ExtraKey:
        """Return a new key shared with the other end."""

    def key(self, key_id: str) -> bytes:
        """Return the material of a key that the other end was given. ``MessageError`` for an id without one."""


@dataclass(slots=True)
class _Held:
    """Material that is being fetched or was; whoever comes for it meanwhile waits for the first."""

    owner: bytes
    since: float
    material: Future[bytes] = field(default_factory=Future, repr=False)


def log_report(event: str, facts: Mapping[str, object]) -> None:
    """Report through Python's logging, as a warning."""
    _log.warning("%s: %s", event, " ".join(f"{name}={value}" for name, value in facts.items()))


class KeyRing:
    """The extra keys of one party. Its methods may wait for key managers; no event loop calls them."""

    def __init__(
        self,
        rules: Rules,
        psk: Mapping[str, PreSharedKey],
        links: Mapping[str, LinkEnd],
        used: UsedKeys,
        *,
        report: Report = log_report,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._rules, self._psk, self._links, self._used = rules, psk, links, used
        self._report, self._clock = report, clock
        self._held: dict[str, _Held] = {}
        self._lock = threading.Lock()

    def keys_for(self, peers: Sequence[str], direction: str) -> tuple[ExtraKey, ...]:
        """Return the keys to mix into an envelope that these peers open, as their rule says.

        Raises ``PolicyError`` (``no_extra_key``) where a required key cannot be had, ``ConfigurationError`` where the
        peers have no rule in common (`Rules.common`). Where the rule prefers keys, those that cannot be had are left
        out and reported (``extra_key_missing``).
        """
        rule = self._rules.common(peers, direction)
        keys = []
        for source in rule.sources:
            try:
                keys.append(self._new_key(source))
            except PqflError as error:
                who = peers[0] if len(peers) == 1 else f"{len(peers)} peers"
                if rule.mode is Mode.REQUIRE:
                    raise PolicyError(
                        f"nothing is sealed to {who} without a key of {source}, and there is none: {error}",
                        reason="no_extra_key",
                    ) from error
                self._say_missing(source, direction, who, detail=str(error), reason=error.reason)
        return tuple(keys)

    def fetch(self, prologue: Prologue) -> tuple[bytes, ...]:
        """See `KeySource.fetch`."""
        header = prologue.header
        rule = self._rules.find(header.sender, header.direction)
        ids, missing = judge(rule, header)
        for source in missing:
            self._say_missing(source, header.direction, header.sender, envelope_id=header.envelope_id.hex())
        owner = prologue.digest
        for key_id in ids:
            self._used.claim(key_id.canonical, owner)
        return tuple(self._material(key_id, owner) for key_id in ids)

    def settle(self, prologue: Prologue) -> None:
        """See `KeySource.settle`."""
        for text in prologue.header.extra_key_ids:
            with self._lock:
                self._held.pop(KeyId.parse(text).canonical, None)

    def _new_key(self, source: str) -> ExtraKey:
        kind, _, name = source.partition(":")
        key = self._psk[name].new_key() if kind == PSK else self._links[name].new_key()
        self._used.claim(KeyId.parse(key.id).canonical, secrets.token_bytes(_OWNER_BYTES))
        return key

    def _material(self, key_id: KeyId, owner: bytes) -> bytes:
        kind, _, name = key_id.source.partition(":")
        if kind == PSK:
            return self._psk[name].key(key_id.serial).material
        held, is_first = self._hold(key_id.canonical, owner)
        if is_first:
            try:
                held.material.set_result(self._from_link(self._links[name], key_id))
            except BaseException as error:
                with self._lock:
                    self._held.pop(key_id.canonical, None)
                held.material.set_exception(error)
                raise
        return held.material.result()

    def _from_link(self, link: LinkEnd, key_id: KeyId) -> bytes:
        try:
            return link.key(key_id.serial)
        except PqflError as error:
            # What the manager said is for its operator: a sender who is told of the refusal needs to know less.
            self._report("extra_key_failed", {"key": str(key_id), "reason": error.reason, "detail": str(error)})
            if isinstance(error, MessageError):
                raise MessageError(
                    f"our key manager has no key {key_id} for us, or not any more", reason="extra_key"
                ) from error
            # Whatever else it is, it is between us and our key manager: the sender may try again.
            raise TransportError(f"the extra key {key_id} cannot be had now", reason="key_manager_down") from error

    def _hold(self, name: str, owner: bytes) -> tuple[_Held, bool]:
        now = self._clock()
        with self._lock:
            for old in [old for old, held in self._held.items() if now - held.since > HOLD_SECONDS]:
                del self._held[old]
            held = self._held.get(name)
            if held is not None and held.owner == owner:
                return held, False
            while len(self._held) >= MAX_HELD:
                del self._held[next(iter(self._held))]
            self._held[name] = _Held(owner, now)
            return self._held[name], True

    def _say_missing(self, source: str, direction: str, peer: str, **facts: object) -> None:
        self._report("extra_key_missing", {"source": source, "peer": peer, "direction": direction} | facts)


def load_ring(path: Path, *, report: Report = log_report) -> KeyRing:
    """Read a file of key sources and everything that it names; no key manager is asked anything yet.

    Raises ``ConfigurationError`` naming the file that is wrong.
    """
    config = load_keys_config(path)
    psk = {name: load_psk(file, name) for name, file in config.psk.items()}
    links = {name: Link(link) for name, link in config.links.items()}
    used = UsedKeys(config.used, retain_days=config.retain_days)
    return KeyRing(Rules(dict(config.rules)), psk, links, used, report=report)


def load_psk(path: Path, name: str) -> PreSharedKey:
    """Read a pre-shared key of mode 0600 that has this name. Raises ``ConfigurationError`` naming the file."""
    try:
        key = PreSharedKey.from_pem(read_secret(path))
    except ConfigurationError as error:
        if str(path) in str(error):
            raise
        raise ConfigurationError(f"{path}: {error}", reason=error.reason) from error
    if key.name != name:
        raise ConfigurationError(
            f"{path}: is the pre-shared key {key.name}, and [psk.{name}] names it: both ends have to call it the same",
            reason="wrong_key",
        )
    return key
