"""The rules of one round: who may submit what, when, and what follows. No I/O; ``now`` comes in as Unix seconds.

Theory of operation
-------------------
A round collects updates until every site has one in, or until its deadline. Then it aggregates, and it ends closed or
failed. The moves are the table `_MOVES`; a missing entry is an error in the program that drives it.

An update passes three gates. `Round.admit` looks at the prologue alone and refuses whatever this round cannot take.
`Round.reserve` is for an upload whose prologue is signed by its sender; `Round.commit` is for one that was opened and
found good, body and all. One update per sender is accepted, by the first commit and not by the first reservation:
a prologue is not secret, and somebody who copied it can send garbage behind it, or a dribble that never ends. So a
sender may have `MAX_RESERVATIONS` uploads in flight, none of which takes anything away from the others.

An accepted update is remembered by the digest of its prologue. The same envelope sent again (its answer was lost) is
no error: `Round.receipt_for` gives the same receipt. Another body or header under an accepted envelope id is a
``replay``, another envelope of the same sender a ``duplicate``.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType

from pqfl_transport.aggregation.fedavg import Update
from pqfl_transport.content.envelope import Prologue
from pqfl_transport.content.header import Header
from pqfl_transport.errors import MessageError, RoundError
from pqfl_transport.pki.roster import Party
from pqfl_transport.pki.spiffe import Role

MAX_RESERVATIONS = 4
DIRECTION_UPDATE = "update"


class State(StrEnum):
    """Where a round stands."""

    COLLECTING = "collecting"
    AGGREGATING = "aggregating"
    CLOSED = "closed"
    FAILED = "failed"


class Move(StrEnum):
    """What happens to a round."""

    ALL_IN = "the update of every site that is waited for is in"
    QUORUM_AT_DEADLINE = "the deadline passed with the quorum"
    SHORT_AT_DEADLINE = "the deadline passed without the quorum"
    AVERAGED = "the new model is published"
    ABORTED = "the aggregation failed"
    WITHDRAWN = "its content suite is not allowed any more"


_MOVES = MappingProxyType(
    {
        (State.COLLECTING, Move.ALL_IN): State.AGGREGATING,
        (State.COLLECTING, Move.QUORUM_AT_DEADLINE): State.AGGREGATING,
        (State.COLLECTING, Move.SHORT_AT_DEADLINE): State.FAILED,
        (State.COLLECTING, Move.WITHDRAWN): State.FAILED,
        (State.AGGREGATING, Move.WITHDRAWN): State.FAILED,
        (State.AGGREGATING, Move.AVERAGED): State.CLOSED,
        (State.AGGREGATING, Move.ABORTED): State.FAILED,
    }
)


@dataclass(frozen=True, slots=True)
class Terms:
    """What is fixed when a round opens."""

    federation: str
    number: int
    challenge: bytes
    suite: str
    base_digest: bytes
    receiving_fingerprint: bytes
    max_plaintext_bytes: int
    expected: frozenset[str]
    """SPIFFE IDs of the sites whose updates complete the round."""
    quorum: int
    deadline: float
    not_after: float


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a sender gets for an accepted update; nothing in it comes from inside the envelope."""

    round: int
    sender: str
    envelope_id: bytes
    prologue_digest: bytes
    signer: bytes
    """The fingerprint of the key that the sender signed it with."""


@dataclass(frozen=True, slots=True, eq=False)
class Reservation:
    """One upload in flight."""

    receipt: Receipt


@dataclass(slots=True)
class Round:
    """One attempt at one round."""

    terms: Terms
    state: State = State.COLLECTING
    updates: dict[str, Update] = field(default_factory=dict)
    """Accepted updates by sender, in the order of their acceptance."""
    struck: set[str] = field(default_factory=set)
    """Sites that are not waited for any more."""
    _receipts: dict[str, Receipt] = field(default_factory=dict)
    _reservations: dict[str, list[Reservation]] = field(default_factory=dict)

    def admit(self, prologue: Prologue, sender: Party, now: float) -> None:
        """Raise unless an update with this prologue can be taken from this roster entry now.

        ``MessageError``: ``wrong_role``, ``wrong_federation``, ``wrong_direction``, ``wrong_suite``, ``misaddressed``,
        ``too_large``. ``RoundError``: ``stale``, ``wrong_round``, ``closed``, ``wrong_challenge``, ``expired``,
        ``wrong_base_model``, ``replay``, ``duplicate``. The signature is somebody else's to check.
        """
        self._admit_form(prologue.header, sender)
        self._admit_time(prologue.header, now)
        self._admit_content(prologue.header)
        self._admit_once(prologue, str(sender.id))

    def receipt_for(self, prologue: Prologue) -> Receipt | None:
        """Return the receipt if exactly this envelope was accepted before."""
        receipt = self._receipts.get(prologue.header.sender)
        return receipt if receipt is not None and receipt.prologue_digest == prologue.digest else None

    def signer(self, sender: str) -> bytes | None:
        """Return the fingerprint of the key that the accepted update of a site is signed with, if there is one."""
        receipt = self._receipts.get(sender)
        return None if receipt is None else receipt.signer

    def reserve(self, prologue: Prologue) -> Reservation:
        """Hold a place for an upload that was admitted and whose signature holds.

        Raises ``RoundError``: ``busy`` when the sender has `MAX_RESERVATIONS` uploads in flight, ``closed``.
        """
        self._require_collecting()
        sender = prologue.header.sender
        in_flight = self._reservations.setdefault(sender, [])
        if len(in_flight) >= MAX_RESERVATIONS:
            raise RoundError(f"{sender} has {len(in_flight)} uploads in flight already", reason="busy")
        header = prologue.header
        receipt = Receipt(
            self.terms.number, sender, header.envelope_id, prologue.digest, header.sender_fingerprint
        )  # fmt: skip
        reservation = Reservation(receipt)
        in_flight.append(reservation)
        return reservation

    def commit(self, reservation: Reservation, update: Update) -> Receipt:
        """Accept an opened and checked update; the first one of a sender wins.

        The same envelope committed twice gives the same receipt and counts once. Raises ``RoundError``:
        ``closed``, ``duplicate``.
        """
        sender = reservation.receipt.sender
        accepted = self._receipts.get(sender)
        if accepted is not None:
            if accepted == reservation.receipt:
                return accepted
            raise RoundError(f"an update of {sender} was accepted before", reason="duplicate")
        self._require_collecting()
        self._receipts[sender] = reservation.receipt
        self.updates[sender] = update
        return reservation.receipt

    def release(self, reservation: Reservation) -> None:
        """Give the place back, whether the upload was committed or failed. Releasing twice is harmless."""
        in_flight = self._reservations.get(reservation.receipt.sender, [])
        if reservation in in_flight:
            in_flight.remove(reservation)

    def strike(self, sender: str) -> bool:
        """Wait for a site no more, and drop its update; return whether there was one.

        That nothing else of it is taken is for the driver to see to.
        """
        self.struck.add(sender)
        return self.updates.pop(sender, None) is not None

    def due(self, now: float) -> Move | None:
        """Return the move that ends collecting, if there is one by now."""
        if self.state is not State.COLLECTING:
            return None
        if len(self.updates) >= self.terms.quorum and self.updates.keys() >= self.terms.expected - self.struck:
            return Move.ALL_IN
        if now < self.terms.deadline:
            return None
        return Move.QUORUM_AT_DEADLINE if len(self.updates) >= self.terms.quorum else Move.SHORT_AT_DEADLINE

    def move(self, move: Move) -> None:
        """Make a move. Raises ``KeyError`` for one that is not in the table: the driver is wrong."""
        self.state = _MOVES[self.state, move]

    def _admit_form(self, header: Header, sender: Party) -> None:
        terms = self.terms
        if sender.id.role is not Role.SITE:
            raise MessageError(f"{sender.id} is no site; only sites send updates", reason="wrong_role")
        if header.federation != terms.federation or sender.id.federation != terms.federation:
            raise MessageError(
                f"the envelope is for federation {header.federation!r}, this is {terms.federation!r}",
                reason="wrong_federation",
            )
        if header.direction != DIRECTION_UPDATE:
            raise MessageError(f"the envelope is a {header.direction}, not an update", reason="wrong_direction")
        if header.suite != terms.suite:
            raise MessageError(f"the round is sealed with {terms.suite}, not {header.suite}", reason="wrong_suite")

    def _admit_time(self, header: Header, now: float) -> None:
        number = self.terms.number
        if header.round < number:
            raise RoundError(f"round {header.round} is over, this is round {number}", reason="stale")
        if header.round > number:
            raise RoundError(f"round {header.round} has not begun, this is round {number}", reason="wrong_round")
        if header.challenge != self.terms.challenge:
            raise RoundError(f"not the challenge of round {number}", reason="wrong_challenge")
        # Zero means "no end", which an update must not claim: its round always has one.
        if not header.not_after or header.not_after > self.terms.not_after or now > header.not_after:
            raise RoundError(f"the update is not valid at this time of round {number}", reason="expired")

    def _admit_content(self, header: Header) -> None:
        if header.recipients != (self.terms.receiving_fingerprint,):
            raise MessageError("the envelope is sealed to another key than this round's", reason="misaddressed")
        if header.base_model_digest != self.terms.base_digest:
            raise RoundError("the update was trained on another base model", reason="wrong_base_model")
        if header.plaintext_bytes > self.terms.max_plaintext_bytes:
            raise MessageError(
                f"an update of {header.plaintext_bytes} bytes, this model takes {self.terms.max_plaintext_bytes}",
                reason="too_large",
            )

    def _admit_once(self, prologue: Prologue, sender: str) -> None:
        accepted = self._receipts.get(sender)
        if accepted is not None and accepted.prologue_digest != prologue.digest:
            if accepted.envelope_id == prologue.header.envelope_id:
                raise RoundError("this envelope id was accepted with another prologue", reason="replay")
            raise RoundError(f"an update of {sender} was accepted before", reason="duplicate")
        self._require_collecting()

    def _require_collecting(self) -> None:
        if self.state is not State.COLLECTING:
            raise RoundError(f"round {self.terms.number} takes no more updates", reason="closed")
