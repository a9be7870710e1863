from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from pqfl_transport.crypto.pyca import SigningKey
from pqfl_transport.pki.authority import create_issuing, create_root, issue_tls
from pqfl_transport.pki.profiles import PROFILES
from pqfl_transport.pki.renewing import Schedule, renew_at
from pqfl_transport.pki.spiffe import Role, SpiffeId
from pqfl_transport.policy import SecurityLevel

NOW = datetime(2027, 1, 1, tzinfo=UTC)
KEY = SigningKey.generate("ML-DSA-44")
ISSUING = create_issuing(create_root("fed", now=NOW), SecurityLevel.STANDARD, now=NOW)


def certificate(seconds: int) -> x509.Certificate:
    party = SpiffeId("fed", Role.SITE, "north")
    return issue_tls(ISSUING, PROFILES["site"], party, KEY.verifying_key, now=NOW, seconds=seconds)


@pytest.mark.parametrize(("seconds", "due"), [(60, 40), (3600, 2400), (90 * 86400, 60 * 86400)])
def test_a_certificate_is_renewed_at_two_thirds_of_its_life(seconds: int, due: int) -> None:
    """What was dated back for slow clocks does not count as life, also where it is longer than the rest."""
    assert renew_at(certificate(seconds)) == NOW + timedelta(seconds=due)


@given(st.integers(60, 100 * 86400), st.floats(-1, 1))
def test_jitter_stays_small(seconds: int, jitter: float) -> None:
    """However the dice fall, a renewal comes between half and three quarters of a life."""
    part = (renew_at(certificate(seconds), jitter=jitter) - NOW) / timedelta(seconds=seconds)
    assert 0.5 < part < 0.75


@given(st.integers(60, 100 * 86400), st.floats(-1, 1))
def test_there_are_several_attempts_in_every_life(seconds: int, jitter: float) -> None:
    """A service that fails each time is asked at least five times before the certificate ends, and not in a hurry."""
    schedule = Schedule(certificate(seconds), jitter)
    moments = [schedule.due]
    while schedule.due < NOW + timedelta(seconds=seconds) and len(moments) < 50:
        schedule = schedule.failed(schedule.due)
        moments.append(schedule.due)
    assert len(moments) > 5
    gaps = [(after - before).total_seconds() for before, after in pairwise(moments)]
    assert min(gaps) >= 1
    assert max(gaps) <= 3600 * 1.05


def test_a_certificate_that_is_due_at_once_does_not_make_a_loop() -> None:
    """A service that gives certificates whose time is over already is asked every few seconds and not all the time."""
    stale, now = certificate(3600), NOW + timedelta(seconds=3000)
    assert Schedule(stale).due < now
    assert Schedule.renewed(stale, 0.0, now).due == now + timedelta(seconds=5)


def test_pauses_grow() -> None:
    """Each failure waits longer than the one before, up to an hour."""
    schedule, pauses = Schedule(certificate(90 * 86400)), []
    for _ in range(40):
        at = schedule.due
        schedule = schedule.failed(at)
        pauses.append((schedule.due - at).total_seconds())
    assert pauses[:4] == [5, 10, 20, 40]
    assert pauses[-1] == 3600
