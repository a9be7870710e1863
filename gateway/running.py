"""How a sidecar runs: as one process, as a supervisor with workers, or as one of those workers."""

import asyncio
import gc
import os

from gateway.config import Source
from gateway.notify import Notifier
from gateway.standalone import run_alone
from gateway.worker import Inheritance, run_worker
from gateway.workers import run_supervisor
from pqfl_transport.net.logs import EventLog


def serve(source: Source) -> None:
    """Run until told to end. Raises ``PqflError`` when it cannot start."""
    config = source.config
    log = EventLog(config.log_format, quiet=config.quiet)
    # What was made up to here stays until the end: the collector need not look at it again and again.
    gc.freeze()
    inheritance = Inheritance.take()
    if inheritance is not None:
        asyncio.run(run_worker(source, log, inheritance))
        return
    notifier = Notifier.from_environment(os.environ)
    # What the service manager gave to this process is not for those it starts.
    for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"):
        os.environ.pop(name, None)
    run = run_alone if config.workers == 1 else run_supervisor
    asyncio.run(run(source, log, notifier))
