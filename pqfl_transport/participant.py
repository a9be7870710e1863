"""A site's side of a round without I/O: judge the round document, open the model, seal the update.

Theory of operation. `Participant.judge` accepts a document only from the one aggregator of the roster, for our nonce,
not past its end, and never of a round lower than one accepted before. Everything after that refers to the accepted
document: the model has to be the one whose digest it names, and the update is sealed to its key and its challenge.

A site that changes its receiving key has two for a while: models are sealed to the one that the aggregator's roster
lists, which may be the one before or the one after. An aggregator that changes its signing key has two likewise, and so
has this site: whichever of the roster's keys signed counts as long as the roster says.
"""

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np

from pqfl_transport.aggregation.fedavg import Weights, check_update, subtract
from pqfl_transport.aggregation.round_document import RoundDocument, RoundState, open_round_document
from pqfl_transport.content.envelope import (
    MAX_PROLOGUE_BYTES,
    Prologue,
    PrologueReader,
    decode_prologue,
    envelope_bytes,
    verify_prologue,
)
from pqfl_transport.content.header import LOSSLESS
from pqfl_transport.content.keysource import ExtraKey, KeySource, extra_material, settle
from pqfl_transport.content.opening import MemoryOpening, Opener, content_key, read_weights
from pqfl_transport.content.receiving_keys import ReceivingKeys
from pqfl_transport.content.recipients import ReceivingKey, RecipientKey
from pqfl_transport.content.sealing import EnvelopeParameters, Sealer, seal_layout, sealer_of, slices
from pqfl_transport.content.tensors import SAMPLES, TensorLayout, model_digest
from pqfl_transport.crypto.pyca import Buffer
from pqfl_transport.errors import ConfigurationError, MessageError, RoundError, TransportError
from pqfl_transport.net.resumable import UploadAddress
from pqfl_transport.pki.membership import Membership
from pqfl_transport.pki.roster import Party
from pqfl_transport.pki.spiffe import Role, SpiffeId


@dataclass(frozen=True, slots=True)
class RoundInfo:
    """A round whose document was verified."""

    number: int
    state: RoundState
    model_version: int
    deadline: int
    """Unix seconds."""
    document: RoundDocument = field(repr=False)

    @property
    def is_finished(self) -> bool:
        """Whether there will be no more rounds; the model is the final one."""
        return self.state is RoundState.FINISHED


@dataclass(frozen=True, slots=True)
class SealedUpdate:
    """An update ready to be sent, and sent again as it is if need be."""

    address: UploadAddress
    """Where it can be resumed."""
    envelope_id: bytes
    challenge: bytes
    """Of the round it is for."""
    envelope: memoryview = field(repr=False)

    @property
    def path(self) -> str:
        """Where it is sent to."""
        return f"/v1/rounds/{self.address.round_number}/updates/{self.envelope_id.hex()}"

    @classmethod
    def of(cls, envelope: memoryview) -> Self:
        """Return an envelope that this site sealed."""
        prologue, _ = decode_prologue(envelope[:MAX_PROLOGUE_BYTES])
        header = prologue.header
        address = UploadAddress(header.round, SpiffeId.parse(header.sender).name, prologue.digest)
        return cls(address, header.envelope_id, header.challenge, envelope)


class ModelReceiver:
    """The global model as it comes, opened piece by piece into the arrays it will be."""

    def __init__(
        self, begin: Callable[[Prologue], MemoryOpening], finish: Callable[[Prologue, memoryview], Weights]
    ) -> None:
        self._begin, self._finish = begin, finish
        self.restart()

    def restart(self) -> None:
        """Forget what came: it comes again from its first byte."""
        self.received_bytes = 0
        self._reader = PrologueReader()
        self._prologue: Prologue | None = None
        self._opening: MemoryOpening | None = None

    @property
    def may_wait(self) -> bool:
        """Whether the next bytes may take a while, because keys are still to be found: not for an event loop."""
        return self._opening is None

    def feed(self, data: Buffer) -> None:
        """Take the next bytes. Raises what `Participant.receive_model` names."""
        self.received_bytes += len(data)
        if self._opening is None:
            prologue = self._reader.feed(data)
            if prologue is None:
                return
            data = self._reader.rest
            try:
                self._opening = self._begin(prologue)
            except TransportError:
                # An extra key cannot be had now: where the model is asked for again, it begins again.
                self.restart()
                raise
            self._prologue = prologue
        self._opening.feed(data)

    def finish(self) -> Weights:
        """Return the model, once all of it has come and all of it holds."""
        if self._opening is None or self._prologue is None:
            self._reader.finish()
            raise MessageError("the envelope is empty", reason="truncated")
        return self._finish(self._prologue, self._opening.finalize())


class Participant:
    """One site of a federation. Raises ``ConfigurationError`` where the roster lists none of its receiving keys."""

    def __init__(
        self,
        member: Membership,
        receiving_key: ReceivingKey | ReceivingKeys,
        *,
        aggregator: str | None = None,
        seen_round: int = 0,
        codec: str = LOSSLESS,
    ) -> None:
        self.seen_round = seen_round
        """The highest round of a document accepted so far."""
        self._keys = ReceivingKeys.of(receiving_key) if isinstance(receiving_key, ReceivingKey) else receiving_key
        self._judged_at = 0.0
        self._codec = codec
        self._named = aggregator
        self.take_on(member)

    def take_on(self, member: Membership) -> None:
        """Work as this member from now on, whose roster may be a later one. Raises as making a `Participant` does."""
        _require_held(member, self._keys)
        self._aggregator, self.member = _aggregator(member, self._named), member

    def hold(self, keys: ReceivingKeys) -> None:
        """Open models with these keys from now on. Raises as `take_on`, and then those before are kept."""
        _require_held(self.member, keys)
        self._keys = keys

    @property
    def aggregator(self) -> str:
        """SPIFFE ID of the aggregator that this site works with."""
        return str(self._aggregator.id)

    def know(self, aggregator: Party) -> None:
        """Take these keys of the aggregator, and no others of the roster: what revocation lists leave of its entry."""
        self._aggregator = aggregator

    def judge(self, data: bytes, nonce: str, now: float) -> RoundInfo:
        """Return the round that a document describes.

        Raises ``MessageError``: what `open_round_document` raises, ``wrong_aggregator``, ``wrong_federation``;
        ``PolicyError`` (``content_suite``); ``RoundError``: ``expired``, ``stale`` for a round lower than one seen.
        """
        document = open_round_document(data, self._aggregator.signing_keys(now), nonce=nonce)
        if document.aggregator != str(self._aggregator.id):
            raise MessageError(
                f"the round document speaks for {document.aggregator[:200]!r} and is signed by {self._aggregator.id}",
                reason="wrong_aggregator",
            )
        if document.federation != self.member.roster.federation:
            raise MessageError("the round document is of another federation", reason="wrong_federation")
        self.member.policy.require_content_suite(document.suite)
        if now > document.not_after:
            raise RoundError(f"the document of round {document.round} is past its end", reason="expired")
        if document.round < self.seen_round:
            raise RoundError(
                f"the aggregator offers round {document.round}, and round {self.seen_round} was seen before",
                reason="stale",
            )
        self.seen_round = document.round
        self._judged_at = now
        return RoundInfo(document.round, document.state, document.model_version, document.deadline, document)

    def open_model(self, envelope: Buffer, info: RoundInfo, key_source: KeySource | None = None) -> Weights:
        """Open a global model that is in memory. Raises as `receive_model`."""
        receiver = self.receive_model(info, key_source)
        for part in slices(envelope):
            receiver.feed(part)
        return receiver.finish()

    def receive_model(self, info: RoundInfo, key_source: KeySource | None = None) -> ModelReceiver:
        """Return what takes the global model that the round starts from, in memory of the size that it has.

        ``key_source`` has the extra keys of the aggregator and us; the piece that completes the prologue waits for it.
        It raises ``MessageError``: what `Opener` raises, ``wrong_sender``, ``wrong_direction``, ``wrong_version``,
        ``too_large``, ``wrong_model`` where the digest is not the round document's; ``ConfigurationError``
        (``key_expired``) where it is sealed to a key past its end.
        """

        def begin(prologue: Prologue) -> MemoryOpening:
            self._check_model_header(prologue, info)
            key = self._aggregator.key_for(prologue.header.sender_fingerprint, self._judged_at)
            verify_prologue(prologue, sender_key=key, policy=self.member.policy)
            unwrapped = content_key(prologue, self._keys.find(prologue.header.recipients, self._judged_at).opened)
            extra = extra_material(prologue, key_source)
            return MemoryOpening(Opener(prologue, unwrapped, sender_key=key, extra=extra))

        def finish(prologue: Prologue, plaintext: memoryview) -> Weights:
            header = prologue.header
            settle(prologue, key_source)
            weights = read_weights(header, plaintext, max_bytes=info.document.plaintext_bytes).weights
            if model_digest(weights) != info.document.model_digest:
                raise MessageError("the model is not the one that the round document names", reason="wrong_model")
            return weights

        return ModelReceiver(begin, finish)

    def seal_update(
        self, info: RoundInfo, base: Weights, new: Weights, samples: int, extra_keys: Sequence[ExtraKey] = ()
    ) -> SealedUpdate:
        """Seal the change from ``base`` to ``new``, trained on ``samples``, for this round alone, in memory.

        Raises as `update_sealer`.
        """
        return SealedUpdate.of(seal_layout(*self.update_sealer(info, base, new, samples, extra_keys)))

    def update_sealer(
        self, info: RoundInfo, base: Weights, new: Weights, samples: int, extra_keys: Sequence[ExtraKey] = ()
    ) -> tuple[Sealer, TensorLayout]:
        """Return what seals the change from ``base`` to ``new``, and the plaintext it seals.

        Raises ``RoundError`` where ``new`` does not fit the model or is not finite (`fedavg`), and ``bad_samples``
        for a number below 1 or above this site's cap in the roster; ``PolicyError`` (``content_suite``) where the
        round's suite is not allowed any more.
        """
        # An advisory may have taken the suite away while the model was trained.
        self.member.policy.require_content_suite(info.document.suite)
        count = self._checked_samples(samples)
        delta = subtract(_as_arrays(new), base)
        check_update(delta, base)
        document, identity = info.document, self.member.identity
        parameters = EnvelopeParameters(
            suite=document.suite,
            federation=document.federation,
            sender=str(identity.id),
            direction="update",
            round=document.round,
            challenge=document.challenge,
            not_after=document.not_after,
            base_model_digest=document.model_digest,
            codec=self._codec,
            extra_keys=tuple(extra_keys),
            policy=self.member.policy,
        )
        recipient = RecipientKey.from_bytes(document.receiving_key)
        return sealer_of(delta, parameters, [recipient], identity.key, {SAMPLES: str(count)})

    def recall_update(self, envelope: memoryview, info: RoundInfo) -> SealedUpdate:
        """Return an envelope that was stored, if it is whole, this site's own, and for this round.

        Raises ``MessageError`` for one that is damaged (``malformed``, ``truncated``, ``excess``, ``bad_signature``) or
        signed with a key that counts no more (``wrong_sender_key``), ``RoundError`` (``wrong_challenge``) for one of
        another round.
        """
        prologue, _ = decode_prologue(envelope[:MAX_PROLOGUE_BYTES])
        missing = envelope_bytes(prologue) - len(envelope)
        if missing:
            reason = "truncated" if missing > 0 else "excess"
            raise MessageError(f"the stored envelope is {abs(missing)} bytes off its length", reason=reason)
        key = self.member.party.key_for(prologue.header.sender_fingerprint, self._judged_at)
        verify_prologue(prologue, sender_key=key, policy=self.member.policy)
        if prologue.header.challenge != info.document.challenge:
            raise RoundError("the stored update is of another round", reason="wrong_challenge")
        return SealedUpdate.of(envelope)

    def _checked_samples(self, samples: int) -> int:
        try:
            count = operator.index(samples)
        except TypeError:
            raise RoundError(
                f"train has to return (weights, samples); samples is {samples!r}", reason="bad_samples"
            ) from None
        cap = self.member.party.weight_cap
        if not 1 <= count <= cap:
            raise RoundError(f"{count} samples: at least 1, and the roster allows {cap}", reason="bad_samples")
        return count

    def _check_model_header(self, prologue: Prologue, info: RoundInfo) -> None:
        header = prologue.header
        expected = (
            ("wrong_sender", header.sender, str(self._aggregator.id)),
            ("wrong_direction", header.direction, "model"),
            ("wrong_federation", header.federation, info.document.federation),
            ("wrong_version", header.round, info.model_version),
        )
        for reason, found, wanted in expected:
            if found != wanted:
                raise MessageError(f"the model's envelope says {found!r} and not {wanted!r}", reason=reason)
        if header.plaintext_bytes > info.document.plaintext_bytes:
            raise MessageError(f"a plaintext of {header.plaintext_bytes} bytes is too large here", reason="too_large")


def _as_arrays(weights: Weights) -> Weights:
    if isinstance(weights, list):
        return [np.asarray(array) for array in weights]
    return {name: np.asarray(array) for name, array in weights.items()}


def _require_held(member: Membership, keys: ReceivingKeys) -> None:
    listed = member.party.receiving_fingerprint
    if listed not in {entry.fingerprint for entry in keys.entries}:
        raise ConfigurationError(
            f"roster {member.roster.number} lists the receiving key {listed.hex()[:16]}… of {member.identity.id},"
            " which is none of those in use here",
            reason="key_mismatch",
        )


def _aggregator(member: Membership, uri: str | None) -> Party:
    if uri is not None:
        return member.roster.party(uri)
    aggregators = member.parties(Role.AGGREGATOR)
    if len(aggregators) != 1:
        names = ", ".join(str(party.id) for party in aggregators) or "none"
        raise ConfigurationError(
            f"roster {member.roster.number} lists as aggregators: {names}; name the one to work with",
            reason="which_aggregator",
        )
    return aggregators[0]
