"""A site's side of a round without I/O: judge the round document, open the model, seal the update.

Theory of operation. `Participant.judge` accepts a document only from the one aggregator of the roster, for our nonce,
not past its end, and never of a round lower than one accepted before. Everything after that refers to the accepted
document: the model has to be the one whose digest it names, and the update is sealed to its key and its challenge.
"""

import operator
from dataclasses import dataclass, field

import numpy as np

from pqfl_transport.aggregation.fedavg import Weights, check_update, subtract
from pqfl_transport.aggregation.round_document import RoundDocument, RoundState, open_round_document
from pqfl_transport.content.envelope import Prologue, decode_prologue
from pqfl_transport.content.header import LOSSLESS
from pqfl_transport.content.opening import open_weights
from pqfl_transport.content.recipients import ReceivingKey, RecipientKey
from pqfl_transport.content.sealing import EnvelopeParameters, seal_weights
from pqfl_transport.content.tensors import SAMPLES, model_digest
from pqfl_transport.crypto.pyca import Buffer, body_bytes
from pqfl_transport.errors import ConfigurationError, MessageError, RoundError
from pqfl_transport.pki.membership import Membership
from pqfl_transport.pki.roster import Party
from pqfl_transport.pki.spiffe import Role

_MAX_PROLOGUE_BYTES = 8 << 20


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

    round_number: int
    envelope_id: bytes
    envelope: memoryview = field(repr=False)
    prologue_digest: bytes


class Participant:
    """One site of a federation. Raises ``ConfigurationError`` where its keys are not those that the roster lists."""

    def __init__(
        self,
        member: Membership,
        receiving_key: ReceivingKey,
        *,
        aggregator: str | None = None,
        seen_round: int = 0,
        codec: str = LOSSLESS,
    ) -> None:
        if receiving_key.fingerprint != member.party.receiving_fingerprint:
            raise ConfigurationError(
                f"roster {member.roster.number} lists another receiving key of {member.identity.id}",
                reason="key_mismatch",
            )
        self.member = member
        self.seen_round = seen_round
        """The highest round of a document accepted so far."""
        self._receiving_key = receiving_key
        self._codec = codec
        self._aggregator = _aggregator(member, aggregator)

    def judge(self, data: bytes, nonce: str, now: float) -> RoundInfo:
        """Return the round that a document describes.

        Raises ``MessageError``: what `open_round_document` raises, ``wrong_aggregator``, ``wrong_federation``;
        ``PolicyError`` (``content_suite``); ``RoundError``: ``expired``, ``stale`` for a round lower than one seen.
        """
        document = open_round_document(data, [self._aggregator.signing_key], nonce=nonce)
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
        return RoundInfo(document.round, document.state, document.model_version, document.deadline, document)

    def max_model_bytes(self, info: RoundInfo) -> int:
        """Return the most that the sealed model of this round can take on the wire."""
        return body_bytes(info.document.plaintext_bytes) + _MAX_PROLOGUE_BYTES

    def open_model(self, envelope: Buffer, info: RoundInfo) -> Weights:
        """Open the global model that the round starts from.

        Raises ``MessageError``: what `open_weights` raises, ``wrong_sender``, ``wrong_direction``, ``wrong_version``,
        ``wrong_model`` where the digest is not the round document's.
        """
        self._check_model_header(decode_prologue(memoryview(envelope)[:_MAX_PROLOGUE_BYTES])[0], info)
        opened = open_weights(
            envelope,
            receiving_key=self._receiving_key,
            sender_key=self._aggregator.signing_key,
            policy=self.member.policy,
            max_plaintext_bytes=info.document.plaintext_bytes,
        )
        if model_digest(opened.weights) != info.document.model_digest:
            raise MessageError("the model is not the one that the round document names", reason="wrong_model")
        return opened.weights

    def seal_update(self, info: RoundInfo, base: Weights, new: Weights, samples: int) -> SealedUpdate:
        """Seal the change from ``base`` to ``new``, trained on ``samples``, for this round alone.

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
        )
        recipient = RecipientKey.from_bytes(document.receiving_key)
        envelope = seal_weights(delta, parameters, [recipient], identity.key, {SAMPLES: str(count)})
        prologue, _ = decode_prologue(memoryview(envelope)[:_MAX_PROLOGUE_BYTES])
        return SealedUpdate(info.number, prologue.header.envelope_id, envelope, prologue.digest)

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


def _as_arrays(weights: Weights) -> Weights:
    if isinstance(weights, list):
        return [np.asarray(array) for array in weights]
    return {name: np.asarray(array) for name, array in weights.items()}


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
