"""The aggregator as a service: everything is read and checked, then it listens, runs its rounds, and ends on TERM."""

import asyncio
import signal
import time
from collections.abc import Sequence
from contextlib import closing, suppress
from datetime import UTC, datetime

from aiohttp import web

from aggregator.app import make_app, make_runner
from aggregator.config import AggregatorConfig
from aggregator.engine import Engine, Setup
from aggregator.keeping import Keeper, Secrets
from aggregator.refreshing import (
    CrlRefresher,
    Refresher,
    RosterRefresher,
    crl_file,
    crl_poller,
    fetch_first,
)
from aggregator.reloading import Reloader
from pqfl_transport.aggregation.round_document import RoundState
from pqfl_transport.audit import AuditLog, EventKind
from pqfl_transport.content.key_files import load_psk, load_receiving_keys
from pqfl_transport.content.weight_files import load_weights
from pqfl_transport.crypto.selftest import run_self_test
from pqfl_transport.errors import CertificateError, PolicyError, PqflError, RoundError
from pqfl_transport.extrakeys import load_ring
from pqfl_transport.hardening import forbid_core_dumps
from pqfl_transport.net.crl_fetch import CrlPoller, Report
from pqfl_transport.net.listening import bound_address, listen
from pqfl_transport.net.logs import EventLog
from pqfl_transport.pki.crl_files import CrlFile
from pqfl_transport.pki.membership import Membership, load_membership, under_policy
from pqfl_transport.pki.memory import beside
from pqfl_transport.pki.passphrases import chosen
from pqfl_transport.pki.revocation import Revocations
from pqfl_transport.pki.ruling import Ruling
from pqfl_transport.pki.spiffe import Role
from pqfl_transport.pki.standing import Standing
from pqfl_transport.pki.trust import Trust
from pqfl_transport.policy import Constraints, Policy, prefer


def serve(config: AggregatorConfig, log: EventLog) -> None:
    """Serve until TERM or INT. Raises ``PqflError`` when it cannot start, ``RoundError`` when the rounds had failed."""
    forbid_core_dumps()
    run_self_test()
    rounds = config.rounds

    def load(at_least_number: int) -> Membership:
        return load_membership(
            config.identity, config.cacert, config.roster, role=Role.AGGREGATOR, policy=rounds.policy,
            passphrases=chosen(config.passphrase_file), at_least_number=at_least_number,
            seen_path=config.roster_state or beside(config.roster),
        )  # fmt: skip

    member = load(0)
    keeper = _keeper(config, member)
    trust = Trust.load(config.cacert)
    base, _ = prefer(member.policy, Constraints(aes_hardware=not rounds.no_aes))
    ruling = Ruling(base, trust, member.roster.federation, config.advisory, config.state / "advisory.seen")

    def under(policy: Policy) -> Membership:
        return under_policy(member, trust.certificates, policy, now=datetime.now(UTC))

    try:
        member = under(ruling.read())
    except CertificateError as error:
        # It was verified a moment ago under the policy without the advisory.
        sentence = f"{config.advisory}: withdraws what this end itself uses: {error}"
        raise PolicyError(sentence, reason="withdrawn") from error
    file = crl_file(config, trust)
    poller = None if file is None else crl_poller(config, file, member.policy, member.roster.federation, reporter(log))
    revocations = None if file is None else _first_lists(file, poller, member)
    refreshers: list[Refresher] = [RosterRefresher(config.roster, load)]
    if file is not None:
        refreshers.append(CrlRefresher(file))
    with closing(keeper), AuditLog(config.audit, signing_key=member.identity.key) as audit:
        keys = (
            None
            if config.keys is None
            else load_ring(config.keys, report=lambda event, facts: log.event(event, **facts))
        )
        setup = Setup(member, rounds, keeper, audit, log, keys=keys, revocations=revocations)
        reloader = Reloader(ruling, under, config.reload_seconds, refreshers)
        state = asyncio.run(_serve(config, setup, reloader, poller))
    if state is RoundState.FAILED:
        raise RoundError("the rounds failed; the log and the audit log say why", reason="failed")


def _keeper(config: AggregatorConfig, member: Membership) -> Keeper:
    model = load_weights(config.initial_model)
    receiving = load_receiving_keys(config.identity / "receiving.key", time.time(), chosen(config.passphrase_file))
    keys = Secrets(receiving, None if config.restart_key is None else load_psk(config.restart_key))
    return Keeper(config.state, keys, federation=member.roster.federation, model=model, count=config.rounds.count)


def _first_lists(file: CrlFile, poller: CrlPoller | None, member: Membership) -> Revocations:
    """Return the revocation lists to begin with. Raises ``CertificateError`` where they revoke the aggregator."""
    if poller is not None:
        fetch_first(poller, file)
    revocations = file.read(member.policy)
    Standing(member, time.time, revocations).require_own()
    return revocations


async def _serve(config: AggregatorConfig, setup: Setup, reloader: Reloader, poller: CrlPoller | None) -> RoundState:
    stop, roster = asyncio.Event(), setup.member.roster
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    for number in (signal.SIGHUP, signal.SIGUSR1):
        loop.add_signal_handler(number, reloader.ask)
    engine = Engine(setup)
    runner = make_runner(make_app(engine, upload_idle_seconds=config.rounds.upload_idle_seconds))
    listener = listen(config.listen, "aggregator.listen")
    await runner.setup()
    beside: list[asyncio.Task[None]] = []
    try:
        await web.SockSite(runner, listener).start()
        address = str(bound_address(listener, config.listen))
        facts = {"address": address, "roster": roster.number, **config.rounds.promise}
        setup.audit.event(EventKind.START, **facts)
        setup.log.event("listening", federation=roster.federation, **facts)
        beside.append(asyncio.create_task(reloader.run(engine, setup.audit, setup.log)))
        if poller is not None:
            beside.append(asyncio.create_task(poller.run(reloader.ask)))
        await _run_until(engine, stop, beside)
    except CertificateError as error:
        setup.audit.event(EventKind.STOP, state=engine.state.value, reason=error.reason, detail=str(error))
        setup.log.event("stop", state=engine.state.value, reason=error.reason, detail=str(error))
        raise
    finally:
        for task in beside:
            task.cancel()
        await runner.cleanup()
    setup.audit.event(EventKind.STOP, state=engine.state.value)
    setup.log.event("stop", state=engine.state.value)
    return engine.state


async def _run_until(engine: Engine, stop: asyncio.Event, beside: Sequence["asyncio.Task[None]"]) -> None:
    """Run the rounds and answer until told to end. What nobody expected ends the service, whoever raised it."""
    running, stopping = asyncio.create_task(engine.run()), asyncio.create_task(stop.wait())
    try:
        waiting = {running, stopping, *beside}
        while not stopping.done():
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
    finally:
        for task in (running, stopping):
            task.cancel()
        with suppress(asyncio.CancelledError, PqflError):
            await running


def reporter(log: EventLog) -> Report:
    """Return what says how fetching went, and that it goes on failing only once."""

    def report(event: str, facts: dict[str, object]) -> None:
        if facts.pop("is_news", event == "crl_fetched"):
            log.event(event, **facts)

    return report
