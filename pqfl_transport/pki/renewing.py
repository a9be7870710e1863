"""When a certificate is renewed, and when it is tried again; clock and randomness come in.

At two thirds of its life, a little earlier or later so that a federation's sites do not all come at once; after a
failure again and again, at longer and longer distances, but always within what is left of the life.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509

from pqfl_transport.pki.profiles import BACKDATE_SECONDS

_DUE = 2 / 3
_JITTER = 0.05
"""Of the whole life, both ways."""
_FIRST_PAUSE_SECONDS = 5.0
_LONGEST_PAUSE_SECONDS = 3600.0
_MOST_DOUBLINGS = 20
_LEAST_ATTEMPTS = 8
"""So many attempts fit at least into what is left of the life, however short it is."""


def renew_at(certificate: x509.Certificate, *, jitter: float = 0.0) -> datetime:
    """Return when to renew; ``jitter`` is -1 to 1."""
    begin, end = _life(certificate)
    return begin + (end - begin) * (_DUE + _JITTER * jitter)


@dataclass(frozen=True, slots=True)
class Schedule:
    """The plan for one certificate; ``jitter``, -1 to 1, is drawn once for it."""

    certificate: x509.Certificate
    jitter: float = 0.0
    attempts: int = 0
    """In a row, that did not end the need to renew."""
    attempted_at: datetime | None = None

    @property
    def due(self) -> datetime:
        """When to renew, or to try again."""
        at = renew_at(self.certificate, jitter=self.jitter)
        if self.attempted_at is None:
            return at
        return max(at, self.attempted_at + timedelta(seconds=self._pause_seconds))

    def failed(self, now: datetime) -> "Schedule":
        """Return the plan after an attempt that did not work."""
        return Schedule(self.certificate, self.jitter, self.attempts + 1, now)

    @classmethod
    def renewed(cls, certificate: x509.Certificate, jitter: float, now: datetime) -> "Schedule":
        """Return the plan for a certificate that has just come: also one that is due at once is not renewed at once."""
        return cls(certificate, jitter, 1, now)

    @property
    def _pause_seconds(self) -> float:
        begin, end = _life(self.certificate)
        longest = min(_LONGEST_PAUSE_SECONDS, (end - begin).total_seconds() * (1 - _DUE) / _LEAST_ATTEMPTS)
        growing = _FIRST_PAUSE_SECONDS * 2.0 ** min(self.attempts - 1, _MOST_DOUBLINGS)
        return float(min(growing, longest)) * (1 + _JITTER * self.jitter)


def _life(certificate: x509.Certificate) -> tuple[datetime, datetime]:
    """Return when a certificate was made and when it ends; ours are dated back (`profiles.BACKDATE_SECONDS`)."""
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return begin + min(timedelta(seconds=BACKDATE_SECONDS), (end - begin) / 3), end
