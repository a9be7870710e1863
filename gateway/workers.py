"""Several processes for one sidecar: a supervisor that holds the listening sockets and starts, watches, asks and ends.

Every worker accepts from a socket of its own on the same address (SO_REUSEPORT), so the kernel shares connections out.
The supervisor keeps all of them open: when a worker is killed, connections that wait to be accepted are served by the
one that takes its place. It has no TLS key in use and serves the status page, the audit log and the service manager.
"""

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
from collections import deque
from dataclasses import dataclass
from typing import Any

from gateway.channel import Channel
from gateway.config import ServiceConfig, Source
from gateway.exposition import Snapshot, merge
from gateway.journal import Journal
from gateway.notify import Notifier
from gateway.renewing import Renewing
from gateway.revoking import Polling
from gateway.standalone import Signals, announce_policies, auditor_of, background, open_audit, start_status
from gateway.worker import ENVIRONMENT, Inheritance
from pqfl_transport.audit import EventKind
from pqfl_transport.errors import PlatformError, PqflError, TransportError
from pqfl_transport.net.address import Address
from pqfl_transport.net.listening import bound_address, listen
from pqfl_transport.net.logs import EventLog
from pqfl_transport.tls.engine import openssl_version

_ANSWER_SECONDS = 10.0
_MAX_DEATHS = 5
_DEATHS_WITHIN_SECONDS = 30.0


@dataclass(slots=True)
class _Worker:
    number: int
    process: subprocess.Popen[bytes]
    channel: Channel
    answers: "asyncio.Queue[dict[str, Any]]"
    ready: asyncio.Event
    listening: "asyncio.Task[None]"


class Supervisor:
    """Runs so many workers on the same listeners."""

    def __init__(self, source: Source, log: EventLog, notifier: Notifier) -> None:
        self._source, self._config, self._log, self._notifier = source, source.config, log, notifier
        self._sockets: list[dict[str, socket.socket]] = []
        self._workers: dict[int, _Worker] = {}
        self._deaths: deque[float] = deque(maxlen=_MAX_DEATHS)
        self._ending = False
        self._asking = asyncio.Lock()
        self._failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._addresses: dict[str, Address] = {}
        self._polling: Polling | None = None
        self._renewing: Renewing | None = None

    async def run(self) -> None:
        """Serve until TERM or INT. Raises ``PlatformError`` where workers cannot be started or keep dying."""
        with contextlib.ExitStack() as stack:
            audit = open_audit(self._config)
            if audit is not None:
                stack.callback(audit.close)
            self._auditor = auditor_of(audit, self._fail)
            self._journal = Journal(self._log, self._auditor)
            self._listen(stack)
            signals = Signals(self._tell_to_reload)
            status_address, runner = await start_status(self._config, self.ask)
            for number in range(self._config.workers):
                await self._start(number)
            await self._all_ready()
            self._announce(status_address)
            announce_policies(self._config, self._journal)
            self._notifier.ready()
            self._polling = Polling(self._config_of_now, self._journal, self._tell_to_reload)
            self._renewing = Renewing(self._config_of_now, self._journal, self._tell_to_reload)
            tasks = background(self._config, self._notifier, self._tell_to_reload)
            tasks += [*self._polling.start(), *self._renewing.start()]
            stopping = asyncio.ensure_future(signals.stop.wait())
            try:
                await _first(stopping, self._failure)
                if self._failure.done():
                    self._failure.result()
                self._notifier.stopping()
                await self._drain(signals)
            finally:
                for task in (*tasks, stopping):
                    task.cancel()
                self._kill_all()
                if runner is not None:
                    await runner.cleanup()
            self._journal.record(EventKind.STOP)

    async def ask(self) -> Snapshot:
        """Return one snapshot of all workers. Raises ``TransportError`` where none answers."""
        async with self._asking:
            found = [answer["snapshot"] for answer in await self._ask_all("snapshot", "snapshot")]
        if not found:
            raise TransportError("no worker answers", reason="no_worker")
        chores = [one for one in (self._polling, self._renewing) if one is not None]
        return merge(found) | {name: value for chore in chores for name, value in chore.snapshot().items()}

    def _config_of_now(self) -> ServiceConfig:
        """Return what the workers read at a reload: authorities that were exchanged sign the next lists."""
        try:
            return self._source.read_again()
        except PqflError:
            return self._config

    def _listen(self, stack: contextlib.ExitStack) -> None:
        for number in range(self._config.workers):
            sockets: dict[str, socket.socket] = {}
            for listener in self._config.listeners:
                where = self._addresses.get(listener.name, listener.listen)
                if number and (where.path is not None or where.activation is not None):
                    # One of these cannot be bound twice, but several processes can accept from it.
                    sockets[listener.name] = self._sockets[0][listener.name]
                    continue
                sockets[listener.name] = listen(where, "--listen", reuse_port=True)
                stack.callback(sockets[listener.name].close)
                self._addresses[listener.name] = bound_address(sockets[listener.name], where)
            self._sockets.append(sockets)

    async def _start(self, number: int) -> None:
        ours, theirs = socket.socketpair()
        listening = {name: listener.fileno() for name, listener in self._sockets[number].items()}
        inheritance = Inheritance(number, theirs.fileno(), listening, self._auditor is not None)
        with theirs:
            process = subprocess.Popen(  # noqa: ASYNC220, S603 -- the same program with the same arguments
                [sys.executable, "-m", "pqfl", *sys.argv[1:]],
                env=os.environ | {ENVIRONMENT: inheritance.to_text()},
                pass_fds=(theirs.fileno(), *listening.values()),
                stdin=subprocess.DEVNULL,
            )
        channel = await Channel.over(ours)
        worker = _Worker(number, process, channel, asyncio.Queue(), asyncio.Event(), asyncio.create_task(_nothing()))
        worker.listening = asyncio.create_task(self._listen_to(worker))
        self._workers[number] = worker

    async def _listen_to(self, worker: _Worker) -> None:
        while (said := await worker.channel.receive()) is not None:
            if said["kind"] == "ready":
                worker.ready.set()
            elif said["kind"] == "audit":
                self._keep(said)
            else:
                worker.answers.put_nowait(said)
        await self._gone(worker)

    def _keep(self, said: dict[str, Any]) -> None:
        assert self._auditor is not None  # noqa: S101
        self._auditor(EventKind(said["event"]), said["facts"])

    async def _gone(self, worker: _Worker) -> None:
        worker.channel.close()
        status = await asyncio.to_thread(worker.process.wait)
        worker.ready.set()
        if self._ending or self._workers.get(worker.number) is not worker:
            return
        del self._workers[worker.number]
        self._log.event("worker_died", worker=worker.number, pid=worker.process.pid, status=status)
        now = asyncio.get_running_loop().time()
        self._deaths.append(now)
        if len(self._deaths) == _MAX_DEATHS and now - self._deaths[0] < _DEATHS_WITHIN_SECONDS:
            sentence = f"{_MAX_DEATHS} workers ended within {_DEATHS_WITHIN_SECONDS:g} s; the log says why"
            self._fail(PlatformError(sentence, reason="workers"))
            return
        await self._start(worker.number)

    def _fail(self, error: PqflError) -> None:
        if not self._failure.done():
            self._failure.set_exception(error)

    async def _all_ready(self) -> None:
        for number in range(self._config.workers):
            worker = self._workers[number]
            waiting = asyncio.create_task(worker.ready.wait())
            await _first(waiting, self._failure)
            waiting.cancel()
            if self._failure.done():
                self._failure.result()
            if worker.process.poll() is not None:
                raise PlatformError(f"worker {number} did not start; what it said is above", reason="workers")

    async def _ask_all(self, kind: str, answer: str) -> list[dict[str, Any]]:
        """Ask all workers, and return what those answered that did in time."""
        workers = [worker for worker in self._workers.values() if worker.ready.is_set()]
        for worker in workers:
            worker.channel.send(kind)
        found = []
        for worker in workers:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_ANSWER_SECONDS):
                    # A worker that was too slow the last time may still have that answer to give.
                    while (said := await worker.answers.get())["kind"] != answer:
                        pass
                    found.append(said)
        return found

    def _tell_to_reload(self) -> None:
        self._reloading = asyncio.create_task(self._reload())

    async def _reload(self) -> None:
        self._notifier.reloading()
        async with self._asking:
            await self._ask_all("reload", "reloaded")
        self._notifier.ready()

    async def _drain(self, signals: Signals) -> None:
        self._ending = True
        for worker in self._workers.values():
            worker.channel.send("drain")
        over = asyncio.gather(*(worker.listening for worker in self._workers.values()))
        forced = asyncio.create_task(signals.force.wait())
        await _first(over, forced)
        if not over.done():
            for worker in self._workers.values():
                worker.channel.send("end")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(over), _ANSWER_SECONDS)
        forced.cancel()

    def _kill_all(self) -> None:
        self._ending = True
        for worker in self._workers.values():
            worker.listening.cancel()
            if worker.process.poll() is None:
                worker.process.kill()
            worker.process.wait()

    def _announce(self, status_address: str | None) -> None:
        for config in self._config.listeners:
            self._journal.record(
                EventKind.START, "listening", role=config.role.value, mode=config.mode.value,
                address=str(self._addresses[config.name]), target=",".join(map(str, config.targets)),
                policy=config.tls.policy.name, workers=self._config.workers, status=status_address,
                openssl=openssl_version(),
            )  # fmt: skip


async def _first(*futures: "asyncio.Future[Any]") -> None:
    """Wait until one of them is done."""
    await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)


async def _nothing() -> None:
    """Stand in for a task that is made a moment later."""


async def run_supervisor(source: Source, log: EventLog, notifier: Notifier) -> None:
    """Run workers until TERM or INT. Raises ``PqflError`` when they cannot be started."""
    await Supervisor(source, log, notifier).run()
