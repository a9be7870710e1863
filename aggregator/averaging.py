"""From the updates of a round to their average, of those alone whose senders count when it is published.

An update was checked when it came. Its sender may have been revoked since, so it is asked again before the average is
made and again after it: averaging takes its time too. What is dropped is said in log and audit log.

So is what a robust rule did to whose update. Sites see `Averager.status`, which has numbers and names nobody: how one
site's update compares with the others' is for the aggregator alone to know.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from aggregator.intake import Collecting
from aggregator.reception import Record
from aggregator.rounds import Round
from pqfl_transport.aggregation.fedavg import Weights
from pqfl_transport.aggregation.robust import FEDAVG, Aggregation, Outcome
from pqfl_transport.audit import EventKind
from pqfl_transport.errors import CertificateError, PqflError, RoundError
from pqfl_transport.pki.standing import Standing

Refuse = Callable[..., None]
"""Takes an error and the facts that go with it, for log, audit log and counters."""


class Averager:
    """Averages rounds. ``refuse`` is told of each update that is dropped, ``record`` of what a robust rule did."""

    def __init__(self, standing: Standing, refuse: Refuse, aggregation: Aggregation, record: Record) -> None:
        self._standing, self._refuse, self._aggregation, self._record = standing, refuse, aggregation, record
        self.status: dict[str, Any] = {"name": aggregation.rule.name}
        """The rule, and how many updates of the last round it did what to."""

    async def average(self, collecting: Collecting) -> Weights:
        """Return the new weights.

        Raises ``RoundError``: ``quorum`` where too few updates are left, the reason for which no sender can be looked
        up (``stale_crl``), and what `Aggregation.apply` raises.
        """
        round_ = collecting.round
        while True:
            self.strike_off(round_)
            self._require_current(round_)
            included = frozenset(round_.updates)
            averaged, outcome = await asyncio.to_thread(self._average, collecting)
            self.strike_off(round_)
            if included == round_.updates.keys():
                self._tell(round_, outcome)
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

    def _average(self, collecting: Collecting) -> tuple[Weights, Outcome]:
        # By sender and not by arrival: floating-point sums depend on their order, and a run can so be repeated.
        updates = [update for _, update in sorted(collecting.round.updates.items())]
        return self._aggregation.apply(collecting.base, updates)

    def _tell(self, round_: Round, outcome: Outcome) -> None:
        rule, senders = self._aggregation.rule, sorted(round_.updates)
        if rule is FEDAVG:
            return
        facts: dict[str, Any] = {"updates": len(senders)}
        counts = facts.copy()
        for name, places in (("left_out", outcome.left_out), ("clipped", outcome.clipped)):
            if places is not None:
                facts[name], counts[name] = [senders[place] for place in places], len(places)
        if outcome.cut is not None:
            facts["cut"] = counts["cut"] = outcome.cut
        if outcome.bound is not None:
            facts["bound"] = outcome.bound
        if outcome.shares is not None:
            facts["shares"] = {sender: round(share, 4) for sender, share in zip(senders, outcome.shares, strict=True)}
        number = round_.terms.number
        self._record(EventKind.ROUND, round=number, move="combined", rule=rule.name, **facts)
        self.status = {"name": rule.name, "round": number} | counts
