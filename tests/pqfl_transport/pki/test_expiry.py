"""Warnings before an end: early enough, not every second, and again after a reload."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pqfl_transport.pki.expiry import Ending, Warnings, list_endings
from tests.support.pki import make_federation
from tests.support.revoking import revocations

NOW = datetime(2026, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.mark.parametrize(("lifetime", "before"), [(365, 14), (90, 14), (30, 10), (3, 1)])
def test_the_warning_begins_with_a_third_of_the_lifetime_left_or_two_weeks(lifetime: int, before: int) -> None:
    """Whichever is less."""
    ending = Ending.of_certificate("spiffe://fed/site/a", "ML-DSA-65", NOW, NOW + lifetime * DAY)
    assert ending.warn_from == ending.ends - before * DAY
    early, late = ending.warn_from - timedelta(seconds=1), ending.warn_from
    assert not Warnings().due([ending], early)
    assert Warnings().due([ending], late) == [ending]


def test_it_is_said_once_a_day_and_after_a_reload() -> None:
    """A log is read by people; a new certificate has warnings of its own."""
    ending = Ending.of_certificate("a", "ML-DSA-65", NOW, NOW + 30 * DAY)
    warnings, at = Warnings(), NOW + 25 * DAY
    said = [bool(warnings.due([ending], at + hours * timedelta(hours=1))) for hours in (0, 1, 23, 24, 25)]
    assert said == [True, False, False, True, False]
    warnings.again()
    assert warnings.due([ending], at + 25 * timedelta(hours=1))
    assert not warnings.due([Ending.of_certificate("a", "ML-DSA-65", at, at + 30 * DAY)], at)


def test_the_line_says_whose_end_and_when() -> None:
    """Over is negative."""
    ending = Ending.of_certificate("a", "ML-DSA-65", NOW, NOW + 30 * DAY)
    assert ending.warning(NOW + 28 * DAY) == {
        "name": "a", "ends": "2026-01-31T00:00:00Z", "days_left": 2.0, "algorithm": "ML-DSA-65",
    }  # fmt: skip
    assert ending.warning(NOW + 31 * DAY)["days_left"] == -1.0


def test_a_list_that_is_overdue_is_said_whatever_the_policy(tmp_path: Path) -> None:
    """Also where stale lists are allowed, nobody goes on without a word."""
    federation = make_federation(tmp_path, sites=())
    now = datetime.now(UTC)
    (good,) = list_endings(revocations(federation))
    (late,) = list_endings(revocations(federation, number=4, age_seconds=86400, seconds_left=-600))
    assert Warnings().due([good, late], now) == [late]
    assert (late.event, late.warning(now)["number"]) == ("crl_overdue", 4)
    assert not list(list_endings(None))
