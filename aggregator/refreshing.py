"""What else an aggregator reads again beside its advisory: the roster with its own signing key, and revocation lists.

A file that is broken, older or not its signer's changes nothing and is said. A list that revokes the aggregator itself
ends it: no site would take a round of it any more.
"""

import asyncio
import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from aggregator.config import AggregatorConfig
from aggregator.engine import Engine
from pqfl_transport.crl_source import asking, require_first
from pqfl_transport.errors import ConfigurationError, PqflError
from pqfl_transport.net.crl_fetch import WAIT_SECONDS, CrlPoller, Report
from pqfl_transport.pki.crl_files import CrlFile
from pqfl_transport.pki.keystore import read_public
from pqfl_transport.pki.membership import Membership
from pqfl_transport.pki.roster import MAX_ROSTER_BYTES
from pqfl_transport.pki.trust import Trust
from pqfl_transport.policy import Policy

Load = Callable[[int], Membership]
"""Reads the membership again; takes the lowest number that the roster may have."""


class Refresher(Protocol):
    """Something that is read again."""

    what: str
    """Its name in log and audit log."""

    async def refresh(self, engine: Engine) -> tuple[str, str]:
        """Read it and tell the engine; return ``unchanged``, ``ok`` or ``failed``, and what failed.

        Raises ``CertificateError`` where the aggregator itself was revoked.
        """


class RosterRefresher:
    """Takes a later roster on between rounds, and signs with the key that it names when the former one's time is over.

    ``clock`` is in Unix seconds.
    """

    what = "roster"

    def __init__(self, path: Path, load: Load, clock: Callable[[], float] = time.time) -> None:
        self._path, self._load, self._clock = path, load, clock
        self._seen = b""

    async def refresh(self, engine: Engine) -> tuple[str, str]:
        """See `Refresher`."""
        standing = engine.standing
        current = standing.member.roster
        try:
            digest = await asyncio.to_thread(self._digest)
            if digest == self._seen and not standing.member.has_to_switch(self._clock()):
                return "unchanged", ""
            member = await asyncio.to_thread(self._load, current.number)
            if member.roster.level is not current.level:
                raise ConfigurationError(f"{self._path}: the level changes by a restart", reason="needs_restart")
            if member.roster.number > current.number:
                await engine.adopt_roster(member)
            elif member.identity.key.verifying_key != standing.member.identity.key.verifying_key:
                await engine.adopt_key(member)
        except PqflError as error:
            return "failed", str(error)
        self._seen = digest
        return ("ok", "") if member.roster.number > current.number else ("unchanged", "")

    def _digest(self) -> bytes:
        return hashlib.sha256(read_public(self._path, max_bytes=MAX_ROSTER_BYTES)).digest()


class CrlRefresher:
    """Asks the lists of now from the moment they are read."""

    what = "revocations"

    def __init__(self, file: CrlFile) -> None:
        self._file = file

    async def refresh(self, engine: Engine) -> tuple[str, str]:
        """See `Refresher`."""
        standing = engine.standing
        try:
            found = await asyncio.to_thread(self._file.read, engine.policy)
        except PqflError as error:
            return "failed", str(error)
        if found == standing.revocations:
            # The roster may name another certificate of ours since.
            standing.require_own()
            return "unchanged", ""
        engine.adopt_revocations(found)
        standing.require_own()
        return "ok", ""


def crl_file(config: AggregatorConfig, trust: Trust) -> CrlFile | None:
    """Return where the lists are, where there are any."""
    if config.crl is None:
        return None
    return CrlFile(config.crl, trust, config.crl_stale, config.state / "crl.seen")


def crl_poller(
    config: AggregatorConfig, file: CrlFile, policy: Policy, federation: str, report: Report
) -> CrlPoller | None:
    """Return what keeps the file current, where there is a source."""
    if not config.crl_urls:
        return None

    fetch = asking(lambda: (file.trust.pem, policy, federation))

    def store(data: bytes) -> bool:
        return file.store(data, policy)

    return CrlPoller(
        config.crl_urls, fetch, store, lambda: file.revocations, report, config.crl_poll_seconds, WAIT_SECONDS
    )


def fetch_first(poller: CrlPoller, file: CrlFile) -> None:
    """Fetch lists where none were kept yet. Raises ``TransportError`` (``crl_unavailable``) where that fails."""
    if file.path.exists():
        return
    asyncio.run(poller.poll())
    require_first(poller, file.path)
