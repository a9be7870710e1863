"""The run: opens one round after the other, closes each when its rules say so, averages, seals the new model.

Theory of operation
-------------------
Everything here happens on one event loop; signing, sealing and averaging happen in threads that it waits for. A round
is opened with a receiving key and a challenge of its own; `Engine.receive` hands uploads to `aggregator.intake`; when
`Round.due` names a move, the round is averaged, the new model is sealed to every site and stored, and the key is
forgotten. A round that misses its quorum or cannot be averaged is opened again, with a new key and challenge, as often
as the configuration says; after that the run has failed. Finished or failed, the engine goes on answering: sites have
to fetch the last model, or learn that there will be none.

Where an advisory tightens the policy, `Engine.adopt` ends at once what rests on a withdrawn suite: an open round is
opened again under the next suite, with a new key and challenge, nothing that was accepted in it is averaged, and the
current model is sealed again.

Version 0 is the initial model; round N starts from version N - 1 and makes version N.
"""

import asyncio
import math
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aggregator.config import RoundsConfig
from aggregator.intake import Accepted, Collecting, Intake, Upload
from aggregator.rounds import Move, Round, State, Terms
from aggregator.store.models import ModelStore
from pqfl_transport.aggregation.fedavg import Weights, federated_average, require_averageable
from pqfl_transport.aggregation.round_document import RoundDocument, RoundState, TensorSchema
from pqfl_transport.aggregation.round_document import sign_round_document as sign
from pqfl_transport.algorithms import ContentSuite
from pqfl_transport.audit import AuditLog, EventKind
from pqfl_transport.content.recipients import ReceivingKey, RecipientKey
from pqfl_transport.content.sealing import EnvelopeParameters, seal_weights
from pqfl_transport.content.tensors import TensorLayout, model_digest, schema
from pqfl_transport.errors import ConfigurationError, MessageError, PlatformError, PolicyError, PqflError, RoundError
from pqfl_transport.net.logs import EventLog
from pqfl_transport.pki.membership import Membership
from pqfl_transport.pki.spiffe import Role
from pqfl_transport.policy import Policy
from pqfl_transport.timing import Stopwatch

CHALLENGE_BYTES = 32
# Clocks of sites may be a little ahead, and an answer that is signed now is read a moment later.
_GRACE_SECONDS = 60
# What names and a sample count add to the model's own layout.
_METADATA_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Setup:
    """What a run is made of."""

    member: Membership
    rounds: RoundsConfig
    model: Weights
    store: ModelStore
    audit: AuditLog
    log: EventLog
    clock: Callable[[], float] = time.time


@dataclass(frozen=True, slots=True)
class _Model:
    """A global model that was sealed and stored."""

    version: int
    suite: str
    weights: Weights
    digest: bytes
    plaintext_bytes: int
    schema: tuple[TensorSchema, ...]


class Engine:
    """One run of rounds. Raises ``ConfigurationError`` for a roster or a model that cannot be worked with."""

    def __init__(self, setup: Setup) -> None:
        require_averageable(setup.model)
        _require_usable(setup)
        self._setup = setup
        self._roster = setup.member.roster
        self._policy = setup.member.policy
        sites = setup.member.parties(Role.SITE)
        self._sites = tuple(str(party.id) for party in sites)
        self._signatures = {party.signing_key.algorithm for party in sites}
        self._recipients = [RecipientKey.from_bytes(party.receiving_key) for party in sites]
        self.crypto = Stopwatch()
        self._intake = Intake(self._roster, self._policy, setup.clock, self.crypto)
        self._state = RoundState.AGGREGATING
        self._number = 1
        self._model: _Model | None = None
        self._collecting: Collecting | None = None
        self._changed = asyncio.Event()
        self._arrived = asyncio.Event()
        self._publishing = asyncio.Lock()
        self._suites: dict[int, str] = {}
        self._closed: PolicyError | None = None
        if sites:
            _ = self._round_suite, self._model_suite
        self.accepted = 0
        self.refusals: dict[str, int] = {}

    @property
    def state(self) -> RoundState:
        """Where the run stands."""
        return self._state

    async def run(self) -> None:
        """Run all rounds; return when the state is finished or failed."""
        try:
            await self._publish(self._setup.model, 0)
            for number in range(1, self._setup.rounds.count + 1):
                await self._run_round(number)
        except PqflError as error:
            self._record(EventKind.ROUND, round=self._number, move="failed", detail=str(error))
            self._enter(RoundState.FAILED)
        else:
            self._enter(RoundState.FINISHED)

    async def signed_document(self, nonce: str) -> bytes:
        """Return the round document for this nonce. Raises ``PlatformError`` (``not_ready``) before the first round."""
        self._require_policy()
        document = self._document(nonce)
        return await asyncio.to_thread(self._sign, document)

    async def receive(self, upload: Upload) -> Accepted:
        """Take an upload. Raises what `Intake.take` raises, after recording it."""
        collecting = self._collecting
        try:
            if collecting is None:
                raise RoundError(f"round {self._number} takes no updates now", reason="closed")
            accepted = await self._intake.take(upload, collecting)
        except PqflError as error:
            self.refuse(error, round=upload.round_number, envelope_id=upload.envelope_id.hex())
            raise
        if not accepted.again:
            receipt = accepted.receipt
            self.accepted += 1
            self._record(
                EventKind.UPDATE, round=receipt.round, sender=receipt.sender, samples=accepted.samples,
                envelope_id=receipt.envelope_id.hex(), prologue_sha256=receipt.prologue_digest.hex(),
            )  # fmt: skip
            self._arrived.set()
            self._notify()
        return accepted

    def refuse(self, error: PqflError, **facts: object) -> None:
        """Record that something was refused."""
        self.refusals[error.reason] = self.refusals.get(error.reason, 0) + 1
        self._record(EventKind.REFUSAL, reason=error.reason, detail=str(error), **facts)

    async def adopt(self, policy: Policy, **facts: object) -> None:
        """Work under another policy from now on; ``facts`` say why.

        What rests on a content suite that is not listed any more ends now. Where nothing is listed that the sites' keys
        fit, the run is closed (`close`).
        """
        old, self._policy = self._policy, policy
        self._intake.use(policy)
        self._record(EventKind.POLICY, old=old.name, new=policy.name, **facts)
        try:
            _ = self._round_suite, self._model_suite
            self._end_round_if_withdrawn()
            await self._seal_again_if_withdrawn()
        except PolicyError as error:
            self.close(error)

    def close(self, error: PolicyError) -> None:
        """End the run because nothing is left to work with: no round document and no model is given out any more."""
        if self._closed is None:
            self._closed = error
            self._record(EventKind.POLICY, old=self._policy.name, new="none", why=str(error))
            self._end_round_if_withdrawn()

    def model_path(self, version: int) -> Path:
        """Return the file of a sealed model.

        Raises ``MessageError`` (``unknown_model``), ``PlatformError`` (``not_ready``) while the current one is sealed
        again, ``PolicyError`` (``content_suite``) for an earlier one whose suite is not allowed any more.
        """
        self._require_policy()
        path = self._setup.store.find(version)
        suite = self._suites.get(version)
        if suite is not None and not self._allows(suite) and self._model is not None and version == self._model.version:
            raise PlatformError("the model is being sealed again; ask again", reason="not_ready")
        if suite is not None:
            self._policy.require_content_suite(suite)
        return path

    def progress(self) -> dict[str, Any]:
        """Return what watchers of a round are told: its number, its state, how many updates are in."""
        return {
            "round": self._number,
            "state": self._state.value,
            "updates": 0 if self._collecting is None else len(self._collecting.round.updates),
            "expected": len(self._sites),
        }

    def status(self) -> dict[str, Any]:
        """Return the facts of ``/v1/status``."""
        return self.progress() | {
            "federation": self._roster.federation,
            "aggregator": str(self._setup.member.identity.id),
            "rounds": self._setup.rounds.count,
            "quorum": self._setup.rounds.quorum,
            "policy": self._policy.name,
            "roster": self._roster.number,
            "model_version": None if self._model is None else self._model.version,
            "accepted": self.accepted,
            "refusals": self.refusals,
            "crypto_seconds": self.crypto.seconds,
            "cpu_seconds": time.process_time(),
        }

    async def changed(self) -> None:
        """Return when `progress` may say something new."""
        await self._changed.wait()

    def watch(self, number: int) -> None:
        """Raise ``MessageError`` (``unknown_round``) unless this round has begun."""
        if not 1 <= number <= self._number:
            raise MessageError(f"there is no round {number} yet", reason="unknown_round")

    async def _run_round(self, number: int) -> None:
        self._number = number
        attempt = 1
        while attempt <= self._setup.rounds.attempts:
            self._require_policy()
            await self._seal_again_if_withdrawn()
            collecting = await self._open(attempt)
            move = await self._collect(collecting.round)
            # From here on nothing can be opened any more: the round's private key is forgotten.
            self._collecting = None
            if move is not Move.WITHDRAWN:
                collecting.round.move(move)
            self._record(EventKind.ROUND, round=number, move=move.name.lower(), updates=len(collecting.round.updates))
            self._enter(RoundState.AGGREGATING)
            if move is Move.WITHDRAWN:
                # No attempt of the sites': they had no chance to complete it.
                continue
            attempt += 1
            if move is Move.SHORT_AT_DEADLINE:
                continue
            try:
                averaged = await asyncio.to_thread(self._average, collecting)
            except RoundError as error:
                collecting.round.move(Move.ABORTED)
                self._record(EventKind.ROUND, round=number, move="aborted", reason=error.reason, detail=str(error))
                continue
            if not await self._publish(averaged, number, under=collecting.round.terms.suite):
                collecting.round.move(Move.WITHDRAWN)
                attempt -= 1
                self._record(EventKind.ROUND, round=number, move="withdrawn", updates=len(collecting.round.updates))
                continue
            collecting.round.move(Move.AVERAGED)
            return
        raise RoundError(
            f"round {number} failed in {self._setup.rounds.attempts} attempts: no quorum, or no finite average",
            reason="failed",
        )

    async def _open(self, attempt: int) -> Collecting:
        rounds, model = self._setup.rounds, self._published()
        suite = self._round_suite
        receiving_key = await asyncio.to_thread(ReceivingKey.generate, suite.kem)
        deadline = self._setup.clock() + rounds.deadline_seconds
        terms = Terms(
            federation=self._roster.federation,
            number=self._number,
            challenge=secrets.token_bytes(CHALLENGE_BYTES),
            suite=suite.id,
            base_digest=model.digest,
            receiving_fingerprint=receiving_key.fingerprint,
            max_plaintext_bytes=model.plaintext_bytes + _METADATA_BYTES,
            expected=frozenset(self._sites),
            quorum=rounds.quorum,
            deadline=deadline,
            not_after=math.ceil(deadline) + _GRACE_SECONDS,
        )
        self._collecting = Collecting(Round(terms), receiving_key, model.weights)
        self._record(
            EventKind.ROUND, round=self._number, move="open", attempt=attempt, suite=terms.suite,
            base_model=model.digest.hex(), receiving_key=receiving_key.fingerprint.hex(),
        )  # fmt: skip
        self._enter(RoundState.COLLECTING)
        collecting = self._collecting
        # The policy may have been tightened while the key was made.
        self._end_round_if_withdrawn()
        return collecting

    async def _collect(self, round_: Round) -> Move:
        while True:
            self._arrived.clear()
            now = self._setup.clock()
            if round_.state is State.FAILED:
                return Move.WITHDRAWN
            if move := round_.due(now):
                return move
            try:
                async with asyncio.timeout(round_.terms.deadline - now):
                    await self._arrived.wait()
            except TimeoutError:
                continue

    def _average(self, collecting: Collecting) -> Weights:
        # By sender and not by arrival: floating-point sums depend on their order, and a run can so be repeated.
        updates = [update for _, update in sorted(collecting.round.updates.items())]
        return federated_average(collecting.base, updates)

    async def _publish(self, weights: Weights, version: int, *, under: str | None = None) -> bool:
        """Seal and announce a model; False, and nothing announced, where the suite it came in ``under`` has gone."""
        async with self._publishing:
            model = await asyncio.to_thread(self._seal, weights, version, self._model_suite.id)
            while not self._allows(model.suite):
                self._require_policy()
                model = await asyncio.to_thread(self._seal, weights, version, self._model_suite.id)
            if under is not None and not self._allows(under):
                return False
            self._announce(model)
            return True

    async def _seal_again_if_withdrawn(self) -> None:
        async with self._publishing:
            while self._model is not None and not self._allows(self._model.suite):
                self._require_policy()
                model = self._model
                suite = self._model_suite.id
                self._announce(await asyncio.to_thread(self._seal, model.weights, model.version, suite))

    def _announce(self, model: _Model) -> None:
        self._model = model
        self._suites[model.version] = model.suite
        version = model.version
        self._record(EventKind.MODEL, version=version, digest=model.digest.hex(), plaintext_bytes=model.plaintext_bytes)

    def _end_round_if_withdrawn(self) -> None:
        collecting = self._collecting
        if collecting is not None and not self._allows(collecting.round.terms.suite):
            # From here on every upload in flight is refused, and the private key is forgotten.
            self._collecting = None
            collecting.round.move(Move.WITHDRAWN)
            self._enter(RoundState.AGGREGATING)
            self._arrived.set()

    def _allows(self, suite: str) -> bool:
        return self._closed is None and suite in self._policy.content_suites

    def _require_policy(self) -> None:
        if self._closed is not None:
            raise self._closed

    @property
    def _round_suite(self) -> ContentSuite:
        """What updates are sealed with: the sites sign, and the key is made to fit."""
        return self._policy.suite_for(" and ".join(sorted(self._signatures)))

    @property
    def _model_suite(self) -> ContentSuite:
        """What models are sealed with: this end signs, and the keys of the sites are those of the roster."""
        kems = " and ".join(sorted({recipient.kem for recipient in self._recipients}))
        return self._policy.suite_for(self._setup.member.identity.key.algorithm, kems)

    def _seal(self, weights: Weights, version: int, suite: str) -> _Model:
        digest = model_digest(weights)
        identity = self._setup.member.identity
        parameters = EnvelopeParameters(
            suite=suite,
            federation=self._roster.federation,
            sender=str(identity.id),
            direction="model",
            round=version,
            base_model_digest=digest,
            trailer=True,
        )
        with self.crypto.running():
            envelope = seal_weights(weights, parameters, self._recipients, identity.key)
        self._setup.store.save(version, [envelope])
        rows = tuple(TensorSchema(*row) for row in schema(weights))
        return _Model(version, suite, weights, digest, TensorLayout.of(weights).total_bytes, rows)

    def _document(self, nonce: str) -> RoundDocument:
        model, collecting = self._published(), self._collecting
        now = self._setup.clock()
        terms = None if collecting is None else collecting.round.terms
        return RoundDocument(
            nonce=nonce,
            aggregator=str(self._setup.member.identity.id),
            federation=self._roster.federation,
            round=self._number,
            state=self._state,
            suite=self._round_suite.id if terms is None else terms.suite,
            challenge=b"" if terms is None else terms.challenge,
            receiving_key=b"" if collecting is None else collecting.receiving_key.public.to_bytes(),
            model_version=model.version,
            model_digest=model.digest,
            schema=model.schema,
            plaintext_bytes=model.plaintext_bytes,
            quorum=self._setup.rounds.quorum,
            deadline=int(now if terms is None else terms.deadline),
            not_after=int(now + _GRACE_SECONDS if terms is None else terms.not_after),
            roster_number=self._roster.number,
        )

    def _sign(self, document: RoundDocument) -> bytes:
        with self.crypto.running():
            return sign(document, self._setup.member.identity.key)

    def _published(self) -> _Model:
        if self._model is None:
            raise PlatformError("the initial model is still being sealed; ask again", reason="not_ready")
        return self._model

    def _enter(self, state: RoundState) -> None:
        self._state = state
        self._notify()

    def _notify(self) -> None:
        # Whoever waits on the old event wakes up; whoever comes later waits for the next one.
        self._changed.set()
        self._changed = asyncio.Event()

    def _record(self, kind: EventKind, **facts: object) -> None:
        self._setup.audit.event(kind, **facts)
        self._setup.log.event(kind.value, **facts)


def _require_usable(setup: Setup) -> None:
    roster, rounds = setup.member.roster, setup.rounds
    if rounds.level not in {None, roster.level}:
        raise ConfigurationError(
            f"rounds.level is {rounds.level}, the roster's level is {roster.level}", reason="wrong_level"
        )
    sites = len(setup.member.parties(Role.SITE))
    if sites < rounds.quorum:
        raise ConfigurationError(
            f"rounds.quorum is {rounds.quorum}, roster {roster.number} lists {sites} sites", reason="quorum"
        )
