"""Rounds for tests: an aggregator in this process on a real port, sites, and updates with exactly one thing wrong."""

import asyncio
import io
import json
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import aiohttp
import numpy as np
from aiohttp import web

from aggregator.app import ENVELOPE_TYPE, make_app, make_runner
from aggregator.config import RoundsConfig
from aggregator.engine import Engine, Setup
from aggregator.keeping import Keeper, Secrets
from aggregator.store.records import KeptUpdate
from aggregator.store.updates import KeptUpdates
from pqfl_transport.aggregation.round_document import RoundState
from pqfl_transport.audit import AuditLog
from pqfl_transport.content.psk import PreSharedKey
from pqfl_transport.content.receiving_keys import ReceivingKeys
from pqfl_transport.content.recipients import ReceivingKey, RecipientKey
from pqfl_transport.content.sealing import EnvelopeParameters, seal_weights
from pqfl_transport.crypto.pyca import SigningKey
from pqfl_transport.extrakeys import KeyRing
from pqfl_transport.net.logs import EventLog
from pqfl_transport.participant import Participant, RoundInfo
from pqfl_transport.pki.membership import Membership, load_membership
from pqfl_transport.pki.revocation import Revocations
from pqfl_transport.pki.spiffe import Role
from tests.support.pki import Federation

Array = np.ndarray[Any, np.dtype[Any]]
MODEL: dict[str, Array] = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.zeros(3, np.float64)}
"""A small model for rounds whose numbers do not matter."""


class Clock:
    """The system's time, and an hour more whenever a test says so."""

    def __init__(self) -> None:
        self.ahead_seconds = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead_seconds


@dataclass(slots=True)
class Hub:
    """An aggregator that listens on a loopback port of this process."""

    engine: Engine
    url: str
    log: io.StringIO
    audit_path: Path
    clock: Clock

    def pass_deadline(self) -> None:
        """Let the deadline of the round that is open be over now."""
        self.clock.ahead_seconds += 3600
        self.engine._arrived.set()

    def expect_first_only(self) -> None:
        """Wait in every round for the first site of the roster alone."""
        sites = self.engine._sites()[:1]
        self.engine._sites = lambda: sites  # type: ignore[method-assign]

    def close(self) -> None:
        """Give back what belongs to one process at a time."""
        self.engine._setup.audit.close()
        self.engine._setup.keeper.close()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until something about the run is so."""
        while not condition():
            await self.engine.changed()

    def events(self, kind: str) -> list[dict[str, Any]]:
        """All log lines of one kind so far."""
        lines = [json.loads(line) for line in self.log.getvalue().splitlines()]
        return [line for line in lines if line["event"] == kind]


@asynccontextmanager
async def aggregator(
    federation: Federation,
    folder: Path,
    *,
    model: Any = None,
    upload_idle_seconds: float = 20.0,
    run: bool = True,
    keys: KeyRing | None = None,
    revocations: Revocations | None = None,
    restart: PreSharedKey | None = None,
    **rounds: Any,
) -> AsyncIterator[Hub]:
    """Run an aggregator for one block; ``rounds`` are fields of `RoundsConfig`."""
    hub = make_hub(federation, folder, model=model, keys=keys, revocations=revocations, restart=restart, **rounds)
    runner = make_runner(make_app(hub.engine, upload_idle_seconds=upload_idle_seconds))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    hub.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    task = asyncio.create_task(hub.engine.run() if run else asyncio.sleep(0))
    try:
        yield hub
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        await runner.cleanup()
        hub.close()


def make_hub(
    federation: Federation,
    folder: Path,
    *,
    model: Any = None,
    keys: KeyRing | None = None,
    revocations: Revocations | None = None,
    restart: PreSharedKey | None = None,
    **rounds: Any,
) -> Hub:
    """Make an engine that does not run and does not listen yet."""
    log = io.StringIO()
    folder.mkdir(parents=True, exist_ok=True)
    member = membership(federation, federation.aggregator, Role.AGGREGATOR)
    config = RoundsConfig(**{"count": 1, "quorum": 1, "deadline_seconds": 60.0, "attempts": 1} | rounds)
    audit_path, clock = folder / "audit.jsonl", Clock()
    setup = Setup(
        member, config, make_keeper(federation, folder, model=model, count=config.count, restart=restart),
        AuditLog(audit_path, signing_key=member.identity.key), EventLog("json", stream=log), clock, keys,
        revocations,
    )  # fmt: skip
    return Hub(Engine(setup), "", log, audit_path, clock)


class Willing:
    """A database that takes every update, and remembers which."""

    def __init__(self) -> None:
        self.accepted: list[KeptUpdate] = []

    def accept(self, _challenge: bytes, update: KeptUpdate) -> None:
        self.accepted.append(update)


def kept_updates(federation: Federation) -> KeptUpdates:
    """Return where the updates of one round can be kept."""
    return KeptUpdates(Path(mkdtemp(dir=federation.aggregator.parent)), Willing())


def make_keeper(
    federation: Federation, folder: Path, *, model: Any = None, count: int = 1, restart: PreSharedKey | None = None
) -> Keeper:
    """Begin a run in ``folder``, or go on with the one there."""
    keys = Secrets(ReceivingKeys.from_pem((federation.aggregator / "receiving.key").read_bytes()), restart)
    model = MODEL if model is None else model
    return Keeper(folder / "state", keys, federation="fed", model=model, count=count)


def membership(federation: Federation, folder: Path, role: Role = Role.SITE) -> Membership:
    """Load a party's membership."""
    return load_membership(folder, federation.ca_pem, federation.roster, role=role)


def participant(federation: Federation, name: str) -> Participant:
    """A site as the library sees it."""
    folder = federation.site(name)
    key = ReceivingKey.from_pem((folder / "receiving.key").read_bytes())
    return Participant(membership(federation, folder), key)


async def current_round(url: str, site: Participant) -> RoundInfo:
    """Fetch and judge the round document, as soon as the round takes updates or all is over."""
    nonce = secrets.token_hex(16)
    async with aiohttp.ClientSession() as session:
        while True:
            async with session.get(f"{url}/v1/rounds/current?nonce={nonce}") as answer:
                data = await answer.read()
            if answer.status != 200:
                assert json.loads(data)["reason"] == "not_ready"
            elif (info := site.judge(data, nonce, time.time())).state is not RoundState.AGGREGATING:
                return info
            await asyncio.sleep(0)


@dataclass(frozen=True, slots=True)
class Envelope:
    """An update on the wire, and the address it is sent to."""

    round_number: int
    envelope_id: bytes
    data: bytes


def make_update(
    info: RoundInfo,
    site: Participant,
    *,
    delta: Any = None,
    metadata: Mapping[str, str] | None = None,
    key: SigningKey | None = None,
    recipient: RecipientKey | None = None,
    **changes: Any,
) -> Envelope:
    """Seal an update for a round, good but for what is given; ``changes`` are fields of `EnvelopeParameters`."""
    document, identity = info.document, site.member.identity
    parameters = replace(
        EnvelopeParameters(
            suite=document.suite, federation=document.federation, sender=str(identity.id), direction="update",
            round=document.round, challenge=document.challenge, not_after=document.not_after,
            base_model_digest=document.model_digest,
        ),
        **changes,
    )  # fmt: skip
    recipient = recipient or RecipientKey.from_bytes(document.receiving_key)
    delta = {name: np.ones_like(array) for name, array in MODEL.items()} if delta is None else delta
    metadata = {"samples": "10"} if metadata is None else metadata
    data = bytes(seal_weights(delta, parameters, [recipient], key or identity.key, metadata))
    return Envelope(parameters.round, envelope_id(data), data)


def envelope_id(data: bytes) -> bytes:
    """Read the id out of a header, as a stranger on the way could."""
    at, item = 4, b""
    for _ in range(10):
        length = int.from_bytes(data[at : at + 4], "big")
        item = data[at + 4 : at + 4 + length]
        at += 4 + length
    return item


async def put(url: str, update: Envelope, **headers: str) -> tuple[int, dict[str, Any]]:
    """Send an update; return the status and the answer."""
    path = f"{url}/v1/rounds/{update.round_number}/updates/{update.envelope_id.hex()}"
    async with (
        aiohttp.ClientSession() as session,
        session.put(path, data=io.BytesIO(update.data), headers={"Content-Type": ENVELOPE_TYPE} | headers) as answer,
    ):
        return answer.status, await answer.json(content_type=None)
