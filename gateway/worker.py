"""One of several processes that share the work of a sidecar: it has its own sockets, and a supervisor to answer to.

The supervisor starts the same command again with the variable `ENVIRONMENT` in its environment, which says where the
inherited descriptors are. A worker reads the configuration itself, so no secret goes through a pipe.
"""

import asyncio
import json
import os
import signal
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from gateway.channel import Channel
from gateway.config import Source
from gateway.journal import Journal
from gateway.service import Sidecar
from pqfl_transport.audit import EventKind
from pqfl_transport.errors import ConfigurationError
from pqfl_transport.net.logs import EventLog

ENVIRONMENT = "PQFL_WORKER"


@dataclass(frozen=True, slots=True)
class Inheritance:
    """What a worker got from its supervisor: numbers of descriptors."""

    number: int
    channel: int
    listening: Mapping[str, int]
    """By the name of the listener."""
    audited: bool

    @classmethod
    def take(cls) -> Self | None:
        """Return what was left to this process, ``None`` where it is no worker. Raises ``ConfigurationError``."""
        text = os.environ.pop(ENVIRONMENT, None)
        if text is None:
            return None
        try:
            return cls(**json.loads(text))
        except (ValueError, TypeError) as error:
            raise ConfigurationError(f"{ENVIRONMENT} is set by the supervisor only: {error}") from error

    def to_text(self) -> str:
        """Return it as the environment carries it."""
        return json.dumps(
            {
                "number": self.number,
                "channel": self.channel,
                "listening": dict(self.listening),
                "audited": self.audited,
            }
        )


async def run_worker(source: Source, log: EventLog, inheritance: Inheritance) -> None:
    """Serve until the supervisor says that it is over, or is gone. Raises ``PqflError`` when it cannot start."""
    loop = asyncio.get_running_loop()
    # A terminal's interrupt goes to the whole group; only the supervisor decides what it means.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        loop.add_signal_handler(number, lambda: None)
    channel = await Channel.over(socket.socket(fileno=inheritance.channel))

    def audit(kind: EventKind, facts: dict[str, object]) -> None:
        channel.send("audit", event=kind.value, facts=facts)

    journal = Journal(log, audit if inheritance.audited else None)
    listening = {name: socket.socket(fileno=number) for name, number in inheritance.listening.items()}
    sidecar = Sidecar(source, listening, journal, warns=inheritance.number == 0)
    sidecar.start()
    channel.send("ready", number=inheritance.number)
    await _obey(channel, sidecar)


async def _obey(channel: Channel, sidecar: Sidecar) -> None:
    force = asyncio.Event()
    draining: asyncio.Task[None] | None = None
    listening = asyncio.create_task(channel.receive())
    try:
        while True:
            waiting: set[asyncio.Task[Any]] = {listening, *([draining] if draining else [])}
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if draining is not None and draining.done():
                return
            if not listening.done():
                continue
            order = listening.result()
            if order is None:
                # The supervisor is gone: nobody would restart, reload or watch this process.
                force.set()
            else:
                await _answer(channel, sidecar, order)
            if order is None or order["kind"] in {"drain", "end"}:
                if order is not None and order["kind"] == "end":
                    force.set()
                draining = draining or asyncio.create_task(sidecar.drain(force))
            if order is None:
                await draining if draining else None
                return
            listening = asyncio.create_task(channel.receive())
    finally:
        listening.cancel()
        channel.close()


async def _answer(channel: Channel, sidecar: Sidecar, order: Mapping[str, Any]) -> None:
    if order["kind"] == "snapshot":
        channel.send("snapshot", snapshot=await sidecar.snapshot())
    elif order["kind"] == "reload":
        reloaded = await sidecar.reload()
        channel.send("reloaded", result=reloaded.result, detail=reloaded.detail)
