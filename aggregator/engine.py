"""The run: opens one round after the other, closes each when its rules say so, averages, seals the new model.

Theory of operation
-------------------
Everything here happens on one event loop; signing, sealing and averaging happen in threads that it waits for. A round
is opened with a receiving key and a challenge of its own; uploads meet it in `aggregator.reception`; when
`Round.due` names a move, the round is averaged, the new model is sealed to every site and stored, and the key is
forgotten. A round that misses its quorum or cannot be averaged is opened again, with a new key and challenge, as often
as the configuration says; after that the run has failed. Finished or failed, the engine goes on answering: sites have
to fetch the last model, or learn that there will be none.

Where an advisory tightens the policy, `Engine.adopt` ends at once what rests on a withdrawn suite: an open round is
opened again under the next suite, with a new key and challenge, nothing that was accepted in it is averaged, and the
current model is sealed again.

Where a list revokes a site, `Engine.adopt_revocations` takes its update out of the open round and waits for it no more;
whoever was revoked before the average is published is not in it. A later roster counts from the next opening on, and
after the last round at once. Where the key that signs is exchanged for another one of ours (`pki.signing_files`), the
current model is sealed again, so that whoever takes the new key alone can verify it.

Version 0 is the initial model; round N starts from version N - 1 and makes version N.
"""

import asyncio
import math
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from aggregator.averaging import Averager
from aggregator.config import RoundsConfig
from aggregator.intake import Collecting, Intake
from aggregator.publishing import Model, Publisher
from aggregator.reception import Reception
from aggregator.rounds import Move, Round, State, Terms
from aggregator.store.models import ModelStore
from aggregator.suites import Suites, kinds_of
from pqfl_transport.aggregation.fedavg import Weights, require_averageable
from pqfl_transport.aggregation.round_document import RoundDocument, RoundState
from pqfl_transport.aggregation.round_document import sign_round_document as sign
from pqfl_transport.audit import AuditLog, EventKind
from pqfl_transport.content.keysource import ExtraKey
from pqfl_transport.content.recipients import ReceivingKey, RecipientKey
from pqfl_transport.errors import MessageError, PolicyError, PqflError, RoundError
from pqfl_transport.extrakeys import KeyRing
from pqfl_transport.net.logs import EventLog
from pqfl_transport.pki.expiry import Ending, list_endings
from pqfl_transport.pki.membership import Membership
from pqfl_transport.pki.revocation import Revocations
from pqfl_transport.pki.spiffe import Role
from pqfl_transport.pki.standing import Standing
from pqfl_transport.policy import Policy
from pqfl_transport.timing import Stopwatch

CHALLENGE_BYTES = 32
# Clocks of sites may be a little ahead, and an answer that is signed now is read a moment later.
_GRACE_SECONDS = 60
# What names and a sample count add to the model's own layout.
_METADATA_BYTES = 4096
_OVER = frozenset({RoundState.FINISHED, RoundState.FAILED})


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
    keys: KeyRing | None = None
    """Extra keys that are mixed into models and have to be in updates."""
    revocations: Revocations | None = None
    """Whom the authorities revoked, as it was known at the start; ``None`` where no list is configured."""


class Engine:
    """One run of rounds. Raises ``ConfigurationError`` for a roster or a model that cannot be worked with."""

    def __init__(self, setup: Setup) -> None:
        require_averageable(setup.model)
        setup.rounds.require_usable(setup.member.roster)
        self._setup = setup
        self.standing = Standing(setup.member, setup.clock, setup.revocations)
        self._next_member: Membership | None = None
        self._suites = Suites(setup.member, kinds_of(setup.member))
        self.crypto = Stopwatch()
        self._models = Publisher(
            lambda: self.standing.member, self._recipients, self._suites, setup.store, self.crypto, self._announced,
            self._extra_keys,
        )  # fmt: skip
        self._intake = Intake(self.standing, self._suites.policy, setup.clock, self.crypto, setup.keys)
        self.reception = Reception(self._intake, setup.clock, self._record, self._update_arrived)
        self._averager = Averager(self.standing, self.reception.refuse)
        self._state = RoundState.AGGREGATING
        self._number = 1
        self._changed = asyncio.Event()
        self._arrived = asyncio.Event()

    @property
    def state(self) -> RoundState:
        """Where the run stands."""
        return self._state

    @property
    def policy(self) -> Policy:
        """The policy of the moment."""
        return self._suites.policy

    async def run(self) -> None:
        """Run all rounds; return when the state is finished or failed."""
        try:
            await self._models.publish(self._setup.model, 0)
            for number in range(1, self._setup.rounds.count + 1):
                await self._run_round(number)
        except PqflError as error:
            self._record(EventKind.ROUND, round=self._number, move="failed", detail=str(error))
            self._enter(RoundState.FAILED)
        else:
            self._enter(RoundState.FINISHED)

    async def signed_document(self, nonce: str) -> bytes:
        """Return the round document for this nonce. Raises ``PlatformError`` (``not_ready``) before the first round."""
        self._suites.require_any()
        document = self._document(nonce)
        return await asyncio.to_thread(self._sign, document)

    async def adopt(self, policy: Policy, **facts: object) -> None:
        """Work under another policy from now on; ``facts`` say why.

        What rests on a content suite that is not listed any more ends now. Where nothing is listed that the sites' keys
        fit, the run is closed (`close`).
        """
        old, self._suites.policy = self._suites.policy, policy
        self._intake.use(policy)
        self._record(EventKind.POLICY, old=old.name, new=policy.name, **facts)
        try:
            self._suites.require_fitting()
            self._end_round_if_withdrawn()
            await self._models.seal_again_if_needed()
        except PolicyError as error:
            self.close(error)

    async def adopt_roster(self, member: Membership) -> None:
        """Work with a later roster from the next round on, from the next attempt at this one, or where all is over.

        Where it names the key no more that signs now, another one does at once. Raises ``ConfigurationError`` for one
        that cannot be worked with, and then nothing has changed.
        """
        self._setup.rounds.require_usable(member.roster)
        self._next_member = member
        self.standing.following = member.roster
        key, following = self.standing.member.identity.key.verifying_key, member.identity.key.verifying_key
        over = key not in member.party.signing_keys(self._setup.clock())
        # A key of another algorithm takes other suites, which change between rounds.
        if over and key.algorithm == following.algorithm:
            await self.adopt_key(member)
        if self._state in _OVER:
            self._take_on_roster()
            await self._seal_again()

    async def adopt_key(self, member: Membership) -> None:
        """Sign with another key that the present roster names, from now on; this membership has it."""
        before, key = self.standing.member.identity.key.verifying_key, member.identity.key.verifying_key
        self._use(replace(self.standing.member, identity=member.identity))
        self._record(
            EventKind.RELOAD, what="signing_key", result="ok", fingerprint=key.fingerprint.hex(),
            former=before.fingerprint.hex(),
        )  # fmt: skip
        await self._seal_again()

    def adopt_revocations(self, revocations: Revocations) -> None:
        """Ask these lists from now on: who is on them is waited for no more, and its update is dropped."""
        self.standing.revocations = revocations
        collecting = self.reception.collecting
        if collecting is not None:
            self._averager.strike_off(collecting.round)
            self._arrived.set()
        self._notify()

    def close(self, error: PolicyError) -> None:
        """End the run because nothing is left to work with: no round document and no model is given out any more."""
        if self._suites.withdrawn is None:
            self._suites.withdrawn = error
            self._record(EventKind.POLICY, old=self._suites.policy.name, new="none", why=str(error))
            self._end_round_if_withdrawn()

    def model_path(self, version: int) -> Path:
        """Return the file of a sealed model. Raises as `Publisher.path` does."""
        return self._models.path(version)

    def progress(self) -> dict[str, Any]:
        """Return what watchers of a round are told: its number, its state, how many updates are in."""
        return {
            "round": self._number,
            "state": self._state.value,
            "updates": 0 if self.reception.collecting is None else len(self.reception.collecting.round.updates),
            "expected": len(self._sites()),
        }

    def status(self) -> dict[str, Any]:
        """Return the facts of ``/v1/status``."""
        return self.progress() | {
            "federation": self.standing.member.roster.federation,
            "aggregator": str(self.standing.member.identity.id),
            "rounds": self._setup.rounds.count,
            "quorum": self._setup.rounds.quorum,
            "policy": self._suites.policy.name,
            "roster": self.standing.member.roster.number,
            "model_version": self._models.version,
            "endings": {one.name: int(one.ends.timestamp()) for one in self.endings()},
            "accepted": self.reception.accepted,
            "refusals": self.reception.refusals,
            "crypto_seconds": self.crypto.seconds,
            "cpu_seconds": time.process_time(),
        }

    def endings(self) -> list[Ending]:
        """Return what ends some day: the certificate that rounds and models are signed under, revocation lists."""
        identity = self.standing.member.identity
        own = Ending.of_certificate(
            str(identity.id), identity.key.algorithm, identity.certificate.not_valid_before_utc,
            identity.certificate.not_valid_after_utc,
        )  # fmt: skip
        return [own, *list_endings(self.standing.revocations)]

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
            self._suites.require_any()
            self._take_on_roster()
            await self._models.seal_again_if_needed()
            collecting = await self._open(attempt)
            move = await self._collect(collecting.round)
            # From here on nothing can be opened any more: the round's private key is forgotten.
            collecting.forget_key()
            self.reception.collecting = None
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
                averaged = await self._averager.average(collecting)
            except RoundError as error:
                collecting.round.move(Move.ABORTED)
                self._record(EventKind.ROUND, round=number, move="aborted", reason=error.reason, detail=str(error))
                continue
            if not await self._models.publish(averaged, number, under=collecting.round.terms.suite):
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
        rounds, model = self._setup.rounds, self._models.model
        suite = self._suites.of_updates
        receiving_key = await asyncio.to_thread(ReceivingKey.generate, suite.kem)
        deadline = self._setup.clock() + rounds.deadline_seconds
        terms = Terms(
            federation=self.standing.member.roster.federation,
            number=self._number,
            challenge=secrets.token_bytes(CHALLENGE_BYTES),
            suite=suite.id,
            base_digest=model.digest,
            receiving_fingerprint=receiving_key.fingerprint,
            max_plaintext_bytes=model.plaintext_bytes + _METADATA_BYTES,
            expected=frozenset(self._sites()),
            quorum=rounds.quorum,
            deadline=deadline,
            not_after=math.ceil(deadline) + _GRACE_SECONDS,
        )
        collecting = self.reception.collecting = Collecting(Round(terms), receiving_key, model.weights)
        self._record(
            EventKind.ROUND, round=self._number, move="open", attempt=attempt, suite=terms.suite,
            base_model=model.digest.hex(), receiving_key=receiving_key.fingerprint.hex(),
        )  # fmt: skip
        self._enter(RoundState.COLLECTING)
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

    def _take_on_roster(self) -> None:
        member, self._next_member = self._next_member, None
        if member is None:
            return
        former = self.standing.member.roster.number
        try:
            self._suites.fit(member, kinds_of(member))
        except PolicyError as error:
            self._record(EventKind.RELOAD, what="roster", result="failed", detail=str(error))
            return
        self._use(member)
        self._record(EventKind.RELOAD, what="roster", result="ok", number=member.roster.number, former=former)

    def _use(self, member: Membership) -> None:
        self.standing.member = member
        self._setup.audit.sign_with(member.identity.key)

    async def _seal_again(self) -> None:
        try:
            await self._models.seal_again_if_needed()
        except PolicyError as error:
            self.close(error)

    def _sites(self) -> tuple[str, ...]:
        return tuple(str(party.id) for party in self.standing.parties(Role.SITE))

    def _recipients(self) -> list[RecipientKey]:
        return [RecipientKey.from_bytes(party.receiving_key) for party in self.standing.parties(Role.SITE)]

    def _extra_keys(self) -> tuple[ExtraKey, ...]:
        keys = self._setup.keys
        return () if keys is None else keys.keys_for(self._sites(), "model")

    def _announced(self, model: Model) -> None:
        self._record(EventKind.MODEL, version=model.version, digest=model.digest.hex(),
                     plaintext_bytes=model.plaintext_bytes, suite=model.suite)  # fmt: skip

    def _end_round_if_withdrawn(self) -> None:
        collecting = self.reception.collecting
        if collecting is not None and not self._suites.allows(collecting.round.terms.suite):
            # From here on every upload in flight is refused, and the private key is forgotten.
            self.reception.collecting = None
            collecting.round.move(Move.WITHDRAWN)
            self._enter(RoundState.AGGREGATING)
            self._arrived.set()

    def _document(self, nonce: str) -> RoundDocument:
        model, collecting = self._models.model, self.reception.collecting
        now = self._setup.clock()
        terms = None if collecting is None else collecting.round.terms
        return RoundDocument(
            nonce=nonce,
            aggregator=str(self.standing.member.identity.id),
            federation=self.standing.member.roster.federation,
            round=self._number,
            state=self._state,
            suite=self._suites.of_updates.id if terms is None else terms.suite,
            challenge=b"" if terms is None else terms.challenge,
            receiving_key=b"" if collecting is None else collecting.announced_key,
            model_version=model.version,
            model_digest=model.digest,
            schema=model.schema,
            plaintext_bytes=model.plaintext_bytes,
            quorum=self._setup.rounds.quorum,
            deadline=int(now if terms is None else terms.deadline),
            not_after=int(now + _GRACE_SECONDS if terms is None else terms.not_after),
            roster_number=self.standing.member.roster.number,
        )

    def _sign(self, document: RoundDocument) -> bytes:
        with self.crypto.running():
            return sign(document, self.standing.member.identity.key)

    def _enter(self, state: RoundState) -> None:
        self._state = state
        self._notify()

    def _update_arrived(self) -> None:
        self._arrived.set()
        self._notify()

    def _notify(self) -> None:
        # Whoever waits on the old event wakes up; whoever comes later waits for the next one.
        self._changed.set()
        self._changed = asyncio.Event()

    def _record(self, kind: EventKind, **facts: object) -> None:
        self._setup.audit.event(kind, **facts)
        self._setup.log.event(kind.value, **facts)
