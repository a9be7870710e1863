"""Reading authorities, advisory, roster and lists again, on HUP and by the clock, and telling the engine.

A file that is broken, older or not the root's changes nothing and is said. One that is authentic and leaves nothing to
work with ends the run: what was withdrawn is not gone on with because there is nothing else.
"""

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from aggregator.engine import Engine
from aggregator.refreshing import Refresher
from pqfl_transport.audit import AuditLog, EventKind
from pqfl_transport.errors import CertificateError, PolicyError, PqflError
from pqfl_transport.net.logs import EventLog
from pqfl_transport.pki.expiry import Warnings
from pqfl_transport.pki.ruling import Ruling
from pqfl_transport.policy import Policy

_SOON_SECONDS = 0.05


class Reloader:
    """Keeps the policy of one run current, and what the ``refreshers`` read.

    ``reload_seconds`` is how often files are looked at. ``require_own`` raises ``CertificateError`` where the
    aggregator's own certificate does not fit a policy.
    """

    def __init__(
        self,
        ruling: Ruling,
        require_own: Callable[[Policy], object],
        reload_seconds: float,
        refreshers: Sequence[Refresher] = (),
    ) -> None:
        self._ruling, self._require_own, self._reload_seconds = ruling, require_own, reload_seconds
        self._refreshers = tuple(refreshers)
        self._asked = asyncio.Event()
        self._failures: dict[str, str] = {}
        self._warnings = Warnings()

    def ask(self) -> None:
        """Read everything again now, and say how that went."""
        self._asked.set()

    async def run(self, engine: Engine, audit: AuditLog, log: EventLog) -> None:
        """Go on until cancelled. Raises ``CertificateError`` where the aggregator itself was revoked."""
        if (advised := self._ruling.advised) is not None:
            facts = {name: value for name, value in advised.facts().items() if value is not None}
            audit.event(EventKind.POLICY, old=advised.base.name, new=advised.policy.name, **facts)
            log.event(EventKind.POLICY.value, old=advised.base.name, new=advised.policy.name, **facts)
        while True:
            self._warn(engine, log)
            asked = await self._wait()
            # The authorities first: what comes with others is signed by them.
            found: list[tuple[str | None, tuple[str, str]]] = [("authorities", await self.reload_trust())]
            found.append((None, await self.reload(engine)))
            found += [(one.what, await one.refresh(engine)) for one in self._refreshers]
            if asked:
                self._warnings.again()
            for what, (result, detail) in found:
                if not self._is_news(what or "", result, detail, asked=asked):
                    continue
                which = {} if what is None else {"what": what}
                audit.event(EventKind.RELOAD, result=result, detail=detail, **which)
                log.event(EventKind.RELOAD.value, result=result, detail=detail or None, **which)

    def _warn(self, engine: Engine, log: EventLog) -> None:
        now = datetime.now(UTC)
        for ending in self._warnings.due(engine.endings(), now):
            log.event(ending.event, **ending.warning(now))

    def _is_news(self, what: str, result: str, detail: str, *, asked: bool) -> bool:
        # The clock comes back again and again: what it finds as before is no news.
        before, self._failures[what] = self._failures.get(what, ""), detail
        return asked or result == "ok" or (result == "failed" and detail != before)

    async def reload_trust(self) -> tuple[str, str]:
        """Read the trusted authorities again; return what `reload` returns."""
        try:
            return ("ok" if await asyncio.to_thread(self._ruling.trust.refresh) else "unchanged"), ""
        except PqflError as error:
            return "failed", str(error)

    async def reload(self, engine: Engine) -> tuple[str, str]:
        """Read the advisory again and tell the engine; return ``unchanged``, ``ok`` or ``failed``, and what failed."""
        before = self._ruling.advised
        try:
            policy = await asyncio.to_thread(self._read)
        except PqflError as error:
            if isinstance(error, PolicyError):
                engine.close(error)
            return "failed", str(error)
        advised = self._ruling.advised
        if advised is None or advised == before:
            return "unchanged", ""
        facts = {name: value for name, value in advised.facts().items() if value is not None}
        await engine.adopt(policy, **facts)
        return "ok", ""

    def _read(self) -> Policy:
        policy = self._ruling.read()
        try:
            self._require_own(policy)
        except CertificateError as error:
            if error.reason != "bad_sigalg":
                # That it expires is no effect of the advisory, and told where it is used.
                return policy
            sentence = f"the advisory withdraws what this end itself uses: {error}"
            raise PolicyError(sentence, reason="withdrawn") from error
        return policy

    async def _wait(self) -> bool:
        """Wait for the clock, the advisory's own next change, or somebody who asks; return whether it was the last."""
        change = self._ruling.seconds_to_change()
        seconds = self._reload_seconds if change is None else min(self._reload_seconds, max(change, _SOON_SECONDS))
        try:
            async with asyncio.timeout(seconds):
                await self._asked.wait()
        except TimeoutError:
            return False
        self._asked.clear()
        return True
