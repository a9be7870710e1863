"""A sidecar that is one process: signals, the status page, the service manager."""

import asyncio
import contextlib
import signal
import socket
from collections.abc import Awaitable, Callable

from aiohttp import web

from gateway.advising import policy_events
from gateway.config import ServiceConfig, Source
from gateway.exposition import Snapshot
from gateway.journal import Auditor, Journal
from gateway.notify import Notifier
from gateway.renewing import Renewing
from gateway.revoking import Polling
from gateway.service import Sidecar
from gateway.status import serve_status
from pqfl_transport.audit import AuditLog, EventKind
from pqfl_transport.errors import PqflError
from pqfl_transport.net.listening import bound_address, listen
from pqfl_transport.net.logs import EventLog
from pqfl_transport.pki.keystore import load_signing_key
from pqfl_transport.pki.passphrases import chosen
from pqfl_transport.tls.engine import openssl_version


async def run_alone(source: Source, log: EventLog, notifier: Notifier) -> None:
    """Serve until TERM or INT; then let connections end, for as long as the shutdown timeout; a second one ends.

    HUP and USR1 read the configuration again. Raises ``PqflError`` when it cannot start.
    """
    config = source.config
    listening = {listener.name: listen(listener.listen, "--listen", reuse_port=True) for listener in config.listeners}
    with contextlib.ExitStack() as stack:
        for listener in listening.values():
            stack.callback(listener.close)
        audit = open_audit(config)
        if audit is not None:
            stack.callback(audit.close)
        failures: list[PqflError] = []

        def audit_failed(error: PqflError) -> None:
            # What cannot be audited must not go on unnoticed: the service ends, and says why.
            if not failures:
                failures.append(error)
                log.event("audit_failed", detail=str(error))
                signals.end_now()

        journal = Journal(log, auditor_of(audit, audit_failed))
        sidecar = Sidecar(source, listening, journal)
        ask_to_reload = Reloading(sidecar, notifier).ask
        signals = Signals(ask_to_reload)
        polling = Polling(lambda: sidecar.config, journal, ask_to_reload)
        renewing = Renewing(lambda: sidecar.config, journal, ask_to_reload)

        async def ask() -> Snapshot:
            return await sidecar.snapshot() | polling.snapshot() | renewing.snapshot()

        status_address, runner = await start_status(config, ask)
        sidecar.start()
        announce(sidecar, journal, status_address)
        announce_policies(config, journal)
        notifier.ready()
        tasks = background(config, notifier, ask_to_reload)
        tasks += [*polling.start(), *renewing.start()]
        await signals.stop.wait()
        notifier.stopping()
        await sidecar.drain(signals.force)
        for task in tasks:
            task.cancel()
        if runner is not None:
            await runner.cleanup()
        journal.record(EventKind.STOP)
        if failures:
            raise failures[0]


class Signals:
    """The first TERM or INT sets ``stop``, the second ``force``; HUP and USR1 call ``reload``."""

    def __init__(self, reload: Callable[[], object]) -> None:
        self.stop, self.force = asyncio.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._end)
        for number in (signal.SIGHUP, signal.SIGUSR1):
            loop.add_signal_handler(number, reload)

    def end_now(self) -> None:
        """End without waiting for connections."""
        self.stop.set()
        self.force.set()

    def _end(self) -> None:
        (self.force if self.stop.is_set() else self.stop).set()


class Reloading:
    """Takes on the configuration as it is when somebody asks, and tells the service manager."""

    def __init__(self, sidecar: Sidecar, notifier: Notifier) -> None:
        self._sidecar, self._notifier = sidecar, notifier
        self._tasks: set[asyncio.Task[None]] = set()

    def ask(self) -> None:
        """Begin, or begin once more when the one that is under way is over."""
        task = asyncio.get_running_loop().create_task(self._reload())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _reload(self) -> None:
        self._notifier.reloading()
        reloaded = await self._sidecar.reload()
        self._notifier.ready()
        if reloaded.detail:
            self._notifier.status(f"reload failed, the former configuration goes on: {reloaded.detail}")


def background(config: ServiceConfig, notifier: Notifier, reload: Callable[[], object]) -> list[asyncio.Task[None]]:
    """Start what happens again and again: reloads by the clock, and signs of life for the watchdog."""
    loop = asyncio.get_running_loop()

    async def again(seconds: float, what: Callable[[], object]) -> None:
        while True:
            await asyncio.sleep(seconds)
            what()

    tasks = []
    if config.timed_reload_seconds:
        tasks.append(loop.create_task(again(config.timed_reload_seconds, reload)))
    if notifier.watchdog_interval_seconds:
        tasks.append(loop.create_task(again(notifier.watchdog_interval_seconds, notifier.watchdog)))
    return tasks


async def start_status(
    config: ServiceConfig, ask: Callable[[], Awaitable[Snapshot]]
) -> tuple[str | None, web.AppRunner | None]:
    """Serve the status page where one is asked for; return its address."""
    if config.status is None:
        return None, None
    listening: socket.socket = listen(config.status, "--status", reuse_port=True)
    return str(bound_address(listening, config.status)), await serve_status(listening, ask)


def announce(sidecar: Sidecar, journal: Journal, status_address: str | None) -> None:
    """Say where every listener listens, and under which policy."""
    for listener in sidecar.listeners.values():
        config = listener.config
        facts: dict[str, object] = {
            "role": config.role.value, "mode": config.mode.value, "address": str(listener.address),
            "target": ",".join(map(str, config.targets)), "policy": config.tls.policy.name,
        }  # fmt: skip
        journal.record(EventKind.START, "listening", **facts, status=status_address, openssl=openssl_version())


def announce_policies(config: ServiceConfig, journal: Journal) -> None:
    """Say of every listener under an advisory what it took away."""
    for name, facts in policy_events(None, config):
        journal.record(EventKind.POLICY, "policy", listener=name, **facts)


def open_audit(config: ServiceConfig) -> AuditLog | None:
    """Open the audit log, with the key that signs its heads if there is one."""
    if config.audit is None:
        return None
    key = None if config.audit_key is None else load_signing_key(config.audit_key, chosen(config.passphrase_file))
    return AuditLog(config.audit, signing_key=key)


def auditor_of(audit: AuditLog | None, failed: Callable[[PqflError], None]) -> Auditor | None:
    """Return what takes events into an audit log, and tells ``failed`` of those that it could not keep."""
    if audit is None:
        return None

    def take(kind: EventKind, facts: dict[str, object]) -> None:
        try:
            audit.event(kind, **facts)
        except PqflError as error:
            failed(error)

    return take
