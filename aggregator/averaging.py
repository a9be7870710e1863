"""From the updates of a round to their average, of those alone whose senders count when it is published.

An update was checked when it came. Its sender may have been revoked since, so it is asked again before the average is
made and again after it: averaging takes its time too. What is dropped is said in log and audit log.
"""

import asyncio
from collections.abc import Callable

from aggregator.intake import Collecting
from aggregator.rounds import Round
from pqfl_transport.aggregation.fedavg import Weights, federated_average
from pqfl_transport.errors import CertificateError, PqflError, RoundError
from pqfl_transport.pki.standing import Standing

Refuse = Callable[..., None]
"""Takes an error and the facts that go with it, for log, audit log and counters."""


class Averager:
    """Averages rounds. ``refuse`` is told of each update that is dropped."""

    def __init__(self, standing: Standing, refuse: Refuse) -> None:
        self._standing, self._refuse = standing, refuse

    async def average(self, collecting: Collecting) -> Weights:
        """Return the new weights.

        Raises ``RoundError``: ``quorum`` where too few updates are left, the reason for which no sender can be looked
        up (``stale_crl``), and what `federated_average` raises.
        """
        round_ = collecting.round
        while True:
            self.strike_off(round_)
            self._require_current(round_)
            included = frozenset(round_.updates)
            averaged = await asyncio.to_thread(self._average, collecting)
            self.strike_off(round_)
            if included == round_.updates.keys():
                return averaged

    def strike_off(self, round_: Round) -> None:
        """Drop what was accepted of sites that are out by now, and wait for them no more."""
        for site in sorted(round_.terms.expected - round_.struck):
            party = self._standing.member.roster.parties.get(site)
            error = None if party is None else self._standing.outage(party, round_.signer(site))
            if error is not None and round_.strike(site):
                sentence = f"its update was accepted before and is dropped from the average: {error}"
                self._refuse(CertificateError(sentence, reason=error.reason), round=round_.terms.number, sender=site)

    def _require_current(self, round_: Round) -> None:
        updates, quorum = len(round_.updates), round_.terms.quorum
        if updates < quorum:
            raise RoundError(f"{updates} updates are left of {quorum} that the quorum asks for", reason="quorum")
        for site in round_.updates:
            try:
                self._standing.party(site)
            except PqflError as error:
                raise RoundError(f"nothing can be averaged: {error}", reason=error.reason) from error

    def _average(self, collecting: Collecting) -> Weights:
        # By sender and not by arrival: floating-point sums depend on their order, and a run can so be repeated.
        updates = [update for _, update in sorted(collecting.round.updates.items())]
        return federated_average(collecting.base, updates)
