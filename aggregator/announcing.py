"""What a round promises when it is opened, its terms, and the document that tells a site of them."""

import math
import secrets
from dataclasses import dataclass

from aggregator.intake import Collecting
from aggregator.publishing import Model
from aggregator.rounds import Terms
from pqfl_transport.aggregation.round_document import RoundDocument, RoundState
from pqfl_transport.content.header import CHALLENGE_BYTES
from pqfl_transport.pki.membership import Membership

# Clocks of sites may be a little ahead, and an answer that is signed now is read a moment later.
_GRACE_SECONDS = 60
# What names and a sample count add to the model's own layout.
_METADATA_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Announced:
    """What all rounds of a moment have in common."""

    member: Membership
    model: Model
    """The base model."""
    number: int
    """Of the round."""
    suite: str
    """What updates are sealed with."""
    quorum: int

    def new_terms(self, receiving_fingerprint: bytes, expected: frozenset[str], deadline: float) -> Terms:
        """Return the terms of an opening, under a challenge that is new; ``deadline`` is in Unix seconds."""
        return Terms(
            federation=self.member.roster.federation,
            number=self.number,
            challenge=secrets.token_bytes(CHALLENGE_BYTES),
            suite=self.suite,
            base_digest=self.model.digest,
            receiving_fingerprint=receiving_fingerprint,
            max_plaintext_bytes=self.model.plaintext_bytes + _METADATA_BYTES,
            expected=expected,
            quorum=self.quorum,
            deadline=deadline,
            not_after=math.ceil(deadline) + _GRACE_SECONDS,
        )

    def document(self, nonce: str, state: RoundState, collecting: Collecting | None, now: float) -> RoundDocument:
        """Return the document for this nonce; ``collecting`` is the round that takes updates, if one does."""
        model, roster = self.model, self.member.roster
        terms = None if collecting is None else collecting.round.terms
        return RoundDocument(
            nonce=nonce,
            aggregator=str(self.member.identity.id),
            federation=roster.federation,
            round=self.number,
            state=state,
            suite=self.suite if terms is None else terms.suite,
            challenge=b"" if terms is None else terms.challenge,
            receiving_key=b"" if collecting is None else collecting.announced_key,
            model_version=model.version,
            model_digest=model.digest,
            schema=model.schema,
            plaintext_bytes=model.plaintext_bytes,
            quorum=self.quorum,
            deadline=int(now if terms is None else terms.deadline),
            not_after=int(now + _GRACE_SECONDS if terms is None else terms.not_after),
            roster_number=roster.number,
        )
