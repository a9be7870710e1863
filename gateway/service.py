"""The sidecar in one process: its listeners, what it says of itself, and how it takes on a new configuration.

Who calls it, and when, is decided elsewhere: by signals where there is one process (`gateway.standalone`), by the
supervisor where there are several (`gateway.workers`).
"""

import asyncio
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from gateway.advising import WITHDRAWN, advisory_facts, at_moment, next_change, policy_events
from gateway.config import ListenerConfig, ServiceConfig, Source
from gateway.dialing import watch
from gateway.journal import Journal
from gateway.listener import Listener
from gateway.metrics import Metrics
from gateway.relay import Close
from gateway.revoking import crl_facts
from gateway.tcp import Scratch
from pqfl_transport.audit import EventKind
from pqfl_transport.crypto.selftest import run_self_test
from pqfl_transport.errors import ConfigurationError, PolicyError, PqflError
from pqfl_transport.pki.expiry import Ending, Warnings, list_endings
from pqfl_transport.tls.config import Role
from pqfl_transport.tls.engine import openssl_version

_SWEEP_SECONDS = 1.0
_LOOK_SECONDS = 5.0
_WARN_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Reloaded:
    """How a reload went: ``unchanged``, ``ok``, or ``failed`` with the reason in a sentence."""

    result: str
    detail: str = ""


class Sidecar:
    """All listeners of one process. Made inside a running event loop."""

    def __init__(
        self,
        source: Source,
        listening: Mapping[str, socket.socket],
        journal: Journal,
        *,
        clock: Callable[[], float] = time.time,
        warns: bool = True,
    ) -> None:
        """``warns`` says whether it is this process that speaks of what ends soon: one of several workers does."""
        run_self_test()
        self._source, self._clock = source, clock
        self._config = source.config
        self._journal = journal
        self._metrics = Metrics()
        self._scratch = Scratch()
        self._loop = asyncio.get_running_loop()
        self.listeners = {
            config.name: Listener(config, listening[config.name], self._scratch, self._metrics, journal)
            for config in self._config.listeners
        }
        self._warnings = Warnings() if warns else None
        self._warn_at = 0.0
        self._suspended: str | None = None
        self._policy_changes_at = next_change(self._config, clock())
        self._reloading = asyncio.Lock()
        self._sweeping: asyncio.TimerHandle | None = None
        self._looking: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Accept connections from now on."""
        for listener in self.listeners.values():
            listener.start()
            if len(listener.config.targets) > 1 and listener.config.role is Role.SERVER:
                # With one target a connection finds out; with several, the one to use should be known before.
                looking = watch(listener.targets, interval_seconds=_LOOK_SECONDS, clock=self._loop.time)
                self._looking.append(self._loop.create_task(looking))
        self._sweep()

    async def reload(self) -> Reloaded:
        """Read the configuration again and use it; what is broken or cannot change changes nothing at all.

        Files are read and verified in a thread, one reload after the other: connections go on meanwhile. There is one
        exception to changing nothing: an advisory that leaves nothing to work with suspends every listener, until a
        reload brings a configuration that works.
        """
        async with self._reloading:
            return await self._reload()

    async def _reload(self) -> Reloaded:
        try:
            config = await asyncio.to_thread(self._source.read_again)
            # An advisory may have had its effect while the files were read.
            config = at_moment(config, self._clock())
            if config == self._config and self._suspended is None:
                reloaded = Reloaded("unchanged")
            else:
                self._take_on(config)
                reloaded = Reloaded("ok")
        except PqflError as error:
            reloaded = Reloaded("failed", str(error))
            self._suspend_if_withdrawn(error)
            await self._revoke_all_the_same()
        self._metrics.reloads[reloaded.result] += 1
        if reloaded.result != "unchanged":
            self._journal.record(
                EventKind.RELOAD, "reload", result=reloaded.result, detail=reloaded.detail or None,
                policies=[listener.tls.policy.name for listener in self._config.listeners],
            )  # fmt: skip
        return reloaded

    def stop_accepting(self) -> None:
        """Accept no more connections; those that are open go on."""
        for listener in self.listeners.values():
            listener.close()

    async def drain(self, force: asyncio.Event) -> None:
        """Wait until all connections have ended, the shutdown timeout is over, or ``force`` is set; then end them."""
        self.stop_accepting()
        until = self._loop.time() + self._config.shutdown_timeout_seconds
        if self.connections:
            self._journal.say("draining", connections=self.connections)
        while self.connections and not force.is_set() and (left := until - self._loop.time()) > 0:
            try:
                async with asyncio.timeout(min(left, _DRAIN_LOOK_SECONDS)):
                    await force.wait()
            except TimeoutError:
                continue
        for listener in self.listeners.values():
            listener.close_connections(Close.SHUTDOWN)
        await self._end_tasks()

    @property
    def config(self) -> ServiceConfig:
        """The configuration in force."""
        return self._config

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return sum(listener.connections for listener in self.listeners.values())

    async def snapshot(self) -> dict[str, Any]:
        """Everything that is known, as JSON values."""
        found = self._metrics.snapshot()
        for name, listener in self.listeners.items():
            config = listener.config
            found["listeners"][name] |= {
                "address": str(listener.address),
                "mode": config.mode.value,
                "policy": config.tls.policy.name,
                "backends": await listener.backends(),
            }
        if self._suspended is not None:
            found["suspended"] = self._suspended
        return found | {
            "advisories": advisory_facts(self._config),
            "crls": crl_facts(self._config),
            "version": version("pqfl"),
            "openssl": openssl_version(),
            "crypto_seconds": self._scratch.crypto_seconds,
            "cpu_seconds": time.process_time(),
            "certificates": _certificates(self._config),
            "workers": 1,
        }

    def _take_on(self, config: ServiceConfig) -> None:
        before = {listener.name: listener for listener in self._config.listeners}
        after = {listener.name: listener for listener in config.listeners}
        if before.keys() != after.keys():
            raise ConfigurationError("listeners are added and removed by a restart", reason="needs_restart")
        for name, listener in after.items():
            _require_same_place(before[name], listener)
        # All of them are made before one of them is used: a broken one leaves everything as it was.
        prepared = [(self.listeners[name], self.listeners[name].prepare(listener)) for name, listener in after.items()]
        former, self._config, self._suspended = self._config, config, None
        # Said first: connections that it closes are in the log behind the reason.
        for name, facts in policy_events(former, config):
            self._metrics.listener(name, after[name].role.value).policy_changes += 1
            self._journal.record(EventKind.POLICY, "policy", listener=name, **facts)
        for running, ready in prepared:
            running.reconfigure(ready)
        self._warn_at = 0.0
        if self._warnings is not None:
            self._warnings.again()
        self._policy_changes_at = next_change(config, self._clock())

    async def _revoke_all_the_same(self) -> None:
        """Take on new revocation lists where the rest of the configuration is broken: they must not wait for it."""
        if self._suspended is not None:
            return
        try:
            config = await asyncio.to_thread(self._source.read_crls, self._config)
            config = at_moment(config, self._clock())
            if config != self._config:
                self._take_on(config)
        except PqflError as error:
            self._journal.say("revocations", result="failed", detail=str(error))

    def _suspend_if_withdrawn(self, error: PqflError) -> None:
        if not isinstance(error, PolicyError) or error.reason != WITHDRAWN:
            return
        self._suspended = str(error)
        self._policy_changes_at = None
        for listener in self._config.listeners:
            self._journal.record(
                EventKind.POLICY, "policy", listener=listener.name, old=listener.tls.policy.name, new="none",
                why=str(error),
            )  # fmt: skip
        for running in self.listeners.values():
            running.suspend(str(error))

    def _advance(self) -> None:
        """Let the advisory that is in force have its effect of this moment, whatever state the files are in."""
        self._policy_changes_at = None
        try:
            self._take_on(at_moment(self._config, self._clock()))
        except PqflError as error:
            self._journal.say("advisory", result="failed", detail=str(error))
            self._suspend_if_withdrawn(error)

    def _sweep(self) -> None:
        if self._policy_changes_at is not None and self._clock() >= self._policy_changes_at:
            self._advance()
        for listener in self.listeners.values():
            listener.sweep()
        self._warn()
        self._sweeping = self._loop.call_later(_SWEEP_SECONDS, self._sweep)

    def _warn(self) -> None:
        """Say what ends soon, from time to time."""
        now = self._clock()
        if self._warnings is None or now < self._warn_at:
            return
        self._warn_at = now + _WARN_SECONDS
        moment = datetime.fromtimestamp(now, UTC)
        for ending in self._warnings.due(_endings(self._config), moment):
            self._journal.say(ending.event, **ending.warning(moment))

    async def _end_tasks(self) -> None:
        if self._sweeping is not None:
            self._sweeping.cancel()
        for looking in self._looking:
            looking.cancel()
        await asyncio.gather(*self._looking, return_exceptions=True)
        # Connections whose task was cancelled report in their last step.
        for _ in range(_LAST_STEPS):
            await asyncio.sleep(0)


_DRAIN_LOOK_SECONDS = 0.1
_LAST_STEPS = 10


def _require_same_place(before: ListenerConfig, after: ListenerConfig) -> None:
    for what in ("listen", "role", "mode"):
        if getattr(before, what) != getattr(after, what):
            raise ConfigurationError(f"listener {after.name}: {what} changes by a restart", reason="needs_restart")


def _endings(config: ServiceConfig) -> Iterable[Ending]:
    """Give what ends of all listeners, once each: own certificates, authorities, revocation lists."""
    found: dict[Ending, None] = {}
    for tls in (listener.tls for listener in config.listeners):
        for one in tls.certificates():
            found[Ending.of_certificate(one.name, one.algorithm, one.not_before, one.not_after)] = None
        found |= dict.fromkeys(list_endings(tls.revocations))
    return found


def _certificates(config: ServiceConfig) -> list[dict[str, Any]]:
    """Own certificates and authorities, each with the time of its end."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for listener in config.listeners:
        for certificate in listener.tls.certificates():
            entry = {
                "name": certificate.name,
                "algorithm": certificate.algorithm,
                "not_after": int(certificate.not_after.timestamp()),
            }
            found[certificate.name, certificate.algorithm] = entry
    return list(found.values())
