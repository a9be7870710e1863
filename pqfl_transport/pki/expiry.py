"""What ends soon, and when to say so: certificates before their end, revocation lists when a new one is overdue.

A certificate is spoken of from one third of its lifetime before its end on, or two weeks, whichever is later; once a
day, and whenever the configuration was read again. No I/O; ``now`` comes in.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from pqfl_transport.pki.revocation import Revocations

AT_MOST_BEFORE = timedelta(days=14)
_AGAIN = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Ending:
    """Something that ends."""

    event: str
    """What a log calls the warning."""
    name: str
    ends: datetime
    warn_from: datetime
    facts: tuple[tuple[str, Any], ...] = ()

    @classmethod
    def of_certificate(cls, name: str, algorithm: str, not_before: datetime, not_after: datetime) -> "Ending":
        """Return the end of a certificate."""
        before = min((not_after - not_before) / 3, AT_MOST_BEFORE)
        return cls("certificate_expiring", name, not_after, not_after - before, (("algorithm", algorithm),))

    def warning(self, now: datetime) -> dict[str, Any]:
        """Return the facts of a log line: whose end, when, and in how many days, negative where it is over."""
        days = round((self.ends - now) / timedelta(days=1), 2)
        return {"name": self.name, "ends": f"{self.ends:%Y-%m-%dT%H:%M:%SZ}", "days_left": days} | dict(self.facts)


def list_endings(revocations: Revocations | None) -> Iterator[Ending]:
    """Yield the end of each list: that its next one is overdue is the warning."""
    for one in () if revocations is None else revocations.lists:
        name = one.issuer.subject.rfc4514_string()
        yield Ending("crl_overdue", name, one.next_update, one.next_update, (("number", one.number),))


@dataclass(slots=True)
class Warnings:
    """Remembers what was said when."""

    _said: dict[tuple[str, str, datetime], datetime] = field(default_factory=dict)

    def again(self) -> None:
        """Say everything again, because the configuration was read again."""
        self._said.clear()

    def due(self, endings: Iterable[Ending], now: datetime) -> list[Ending]:
        """Return what is to be said now, and take it for said."""
        found = []
        for ending in endings:
            key = ending.event, ending.name, ending.ends
            said = self._said.get(key)
            if now >= ending.warn_from and (said is None or now - said >= _AGAIN):
                self._said[key] = now
                found.append(ending)
        return found
