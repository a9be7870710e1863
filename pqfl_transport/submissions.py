"""Updates of one site on their way: sealed, sent, gone on with after a restart, and what became of them.

A round takes one update of a site. What was sealed is sent as it is until somebody took or refused it; with a spool
it outlives the process. A round that went on without an update is no error: the next one takes another.
"""

import logging

from pqfl_transport.aggregation.fedavg import Weights
from pqfl_transport.content.keysource import ExtraKey
from pqfl_transport.content.streams import sealed
from pqfl_transport.errors import MessageError, PolicyError, PqflError, RoundError, TransportError
from pqfl_transport.exchange import Exchange
from pqfl_transport.participant import Participant, RoundInfo, SealedUpdate
from pqfl_transport.spool import Spool

_log = logging.getLogger(__name__)

# The round went on without this update: nothing is wrong with it, and the next round takes another.
_TOO_LATE = frozenset({"stale", "closed", "wrong_challenge", "expired", "wrong_base_model", "duplicate"})
# It was opened again because an advisory took its suite away; what it is sealed with next is judged on joining.
_WITHDRAWN = frozenset({"content_suite", "wrong_suite"})


class Submissions:
    """The updates of one run of rounds. `seal` and `recall` take their time: off the event loop."""

    def __init__(self, participant: Participant, exchange: Exchange, spool: Spool | None) -> None:
        self._participant, self._exchange, self._spool = participant, exchange, spool
        self._served: set[bytes] = set()
        self.missed = 0
        """Rounds that had closed before the update arrived."""

    @property
    def submitted(self) -> int:
        """Rounds that took an update."""
        return len(self._served) - self.missed

    def wants(self, info: RoundInfo) -> bool:
        """Whether this round still is to be given an update of ours."""
        return info.document.challenge not in self._served

    def seal(
        self, info: RoundInfo, base: Weights, weights: Weights, samples: int, extra: tuple[ExtraKey, ...]
    ) -> SealedUpdate:
        """Seal the change from ``base`` to ``weights``, into the spool if there is one, else into memory.

        Raises what `Participant.update_sealer` and `Spool.keep` raise.
        """
        if self._spool is None:
            return self._participant.seal_update(info, base, weights, samples, extra)
        sealer, layout = self._participant.update_sealer(info, base, weights, samples, extra)
        return SealedUpdate.of(self._spool.keep(sealer.prologue.header.envelope_id, sealed(sealer, layout.buffers())))

    async def send(self, update: SealedUpdate, *, begun: bool = False) -> bool:
        """Bring an update to the aggregator. False: the round closed before it arrived. Raises every other refusal."""
        self._served.add(update.challenge)
        try:
            await self._exchange.send_update(update, begun=begun)
        except TransportError:
            # Nobody took it, so the round is still to be served: from the spool, or by the caller.
            self._served.discard(update.challenge)
            raise
        except PqflError as error:
            self._forget(update.envelope_id)
            return self.missed_or_raise(error, update.address.round_number, update.challenge)
        self._forget(update.envelope_id)
        return True

    def missed_or_raise(self, error: PqflError, round_number: int, challenge: bytes) -> bool:
        """Return False where the round went on, or its suite went, without this update; else raise the error."""
        late = isinstance(error, RoundError) and error.reason in _TOO_LATE
        withdrawn = isinstance(error, RoundError | PolicyError | MessageError) and error.reason in _WITHDRAWN
        if not late and not withdrawn:
            raise error
        self._served.add(challenge)
        self.missed += 1
        _log.warning("round %d went on without this update: %s", round_number, error)
        return False

    def recall(self, info: RoundInfo) -> SealedUpdate | None:
        """Return the update for this round that an earlier process of this site sealed; remove what is of no use."""
        for envelope_id, envelope in () if self._spool is None else self._spool.stored():
            try:
                return self._participant.recall_update(envelope, info)
            except RoundError:
                self._forget(envelope_id)
            except PqflError as error:
                self._forget(envelope_id)
                _log.warning("removed a stored update that is damaged or not ours: %s", error)
        return None

    async def send_stored(self, update: SealedUpdate) -> bool:
        """Go on with an update that was recalled. False: it was refused, and another one has to be made."""
        _log.info("round %d: going on with a stored update", update.address.round_number)
        try:
            await self.send(update, begun=True)
        except (MessageError, RoundError) as error:
            self._served.discard(update.challenge)
            _log.warning("the stored update was refused, so another is made: %s", error)
            return False
        return True

    def _forget(self, envelope_id: bytes) -> None:
        if self._spool is not None:
            self._spool.forget(envelope_id)
