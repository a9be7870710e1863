"""The aggregator as a service: everything is read and checked, then it listens, runs its rounds, and ends on TERM."""

import asyncio
import signal
from contextlib import suppress

from aiohttp import web

from aggregator.app import make_app, make_runner
from aggregator.config import AggregatorConfig
from aggregator.engine import Engine, Setup
from aggregator.store.models import ModelStore
from pqfl_transport.aggregation.round_document import RoundState
from pqfl_transport.audit import AuditLog, EventKind
from pqfl_transport.content.weight_files import load_weights
from pqfl_transport.crypto.selftest import run_self_test
from pqfl_transport.errors import RoundError
from pqfl_transport.extrakeys import load_ring
from pqfl_transport.hardening import forbid_core_dumps
from pqfl_transport.net.listening import bound_address, listen
from pqfl_transport.net.logs import EventLog
from pqfl_transport.pki.membership import load_membership
from pqfl_transport.pki.passphrases import chosen
from pqfl_transport.pki.spiffe import Role


def serve(config: AggregatorConfig, log: EventLog) -> None:
    """Serve until TERM or INT. Raises ``PqflError`` when it cannot start, ``RoundError`` when the rounds had failed."""
    forbid_core_dumps()
    run_self_test()
    member = load_membership(
        config.identity, config.cacert, config.roster, role=Role.AGGREGATOR, passphrases=chosen(config.passphrase_file)
    )
    model = load_weights(config.initial_model)
    with AuditLog(config.audit, signing_key=member.identity.key) as audit:
        keys = (
            None
            if config.keys is None
            else load_ring(config.keys, report=lambda event, facts: log.event(event, **facts))
        )
        setup = Setup(member, config.rounds, model, ModelStore(config.state), audit, log, keys=keys)
        state = asyncio.run(_serve(config, setup))
    if state is RoundState.FAILED:
        raise RoundError("the rounds failed; the log and the audit log say why", reason="failed")


async def _serve(config: AggregatorConfig, setup: Setup) -> RoundState:
    stop, roster = asyncio.Event(), setup.member.roster
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    engine = Engine(setup)
    runner = make_runner(make_app(engine, upload_idle_seconds=config.rounds.upload_idle_seconds))
    listener = listen(config.listen, "aggregator.listen")
    await runner.setup()
    try:
        await web.SockSite(runner, listener).start()
        address = str(bound_address(listener, config.listen))
        setup.audit.event(EventKind.START, address=address, roster=roster.number)
        setup.log.event("listening", address=address, federation=roster.federation, roster=roster.number)
        await _run_until(engine, stop)
    finally:
        await runner.cleanup()
    setup.audit.event(EventKind.STOP, state=engine.state.value)
    setup.log.event("stop", state=engine.state.value)
    return engine.state


async def _run_until(engine: Engine, stop: asyncio.Event) -> None:
    """Run the rounds and go on answering until told to end. What the engine did not expect ends the service."""
    running, stopping = asyncio.create_task(engine.run()), asyncio.create_task(stop.wait())
    await asyncio.wait({running, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if running.done():
        running.result()
        await stopping
    else:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
