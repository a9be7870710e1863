"""Entries: a certificate is described by its own words, and times are told and read in one form."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from certs.entry import Entry, sha256_of, to_text, to_time
from pqfl_transport.pki import chain
from pqfl_transport.pki.authority import create_issuing, create_root
from pqfl_transport.policy import SecurityLevel

NOW = datetime(2026, 7, 1, 12, 0, 0, tzinfo=UTC)
ROOT = create_root("fed", now=NOW)
ISSUING = create_issuing(ROOT, SecurityLevel.HIGH, now=NOW)


def test_an_entry_describes_its_certificate() -> None:
    """Serial number, fingerprints, algorithm and dates are the certificate's own, times in UTC."""
    east = NOW.astimezone(timezone(timedelta(hours=5)))
    entry = Entry.of(ISSUING.certificate, holder="", usage="issuing", now=east, issuer=ROOT.certificate)
    assert entry == Entry(
        issued_at="2026-07-01T12:00:00Z",
        id="",
        usage="issuing",
        algorithm="ML-DSA-65",
        serial=f"{ISSUING.certificate.serial_number:x}",
        sha256=sha256_of(ISSUING.certificate),
        not_before="2026-07-01T11:55:00Z",
        not_after="2031-06-30T12:00:00Z",
        issuer=sha256_of(ROOT.certificate),
        key_sha256=chain.verifying_key(ISSUING.certificate).fingerprint.hex(),
    )
    assert entry.is_authority
    assert Entry.of(ROOT.certificate, holder="", usage="root", now=NOW).issuer == sha256_of(ROOT.certificate)


def test_good_is_neither_revoked_nor_over() -> None:
    """A certificate is good until its end and until it is revoked."""
    entry = Entry.of(ROOT.certificate, holder="", usage="root", now=NOW)
    assert entry.is_good(NOW)
    assert not entry.is_good(NOW + timedelta(days=4000))
    assert not Entry(**entry.facts() | {"revoked_at": "2026-07-02T00:00:00Z"}).is_good(NOW)


@given(moment=st.datetimes(min_value=datetime(1000, 1, 1), timezones=st.just(UTC)))  # noqa: DTZ001 -- hypothesis adds it
def test_times_come_back(moment: datetime) -> None:
    """Any time survives to the second."""
    assert to_time(to_text(moment)) == moment.replace(microsecond=0)


@given(text=st.text(max_size=30))
def test_other_words_are_no_times(text: str) -> None:
    """Whatever `to_text` does not write is refused."""
    try:
        moment = to_time(text)
    except ValueError:
        return
    assert moment.tzinfo is not None


def test_a_time_without_its_z_is_refused() -> None:
    """A time of nobody knows which zone is no time."""
    with pytest.raises(ValueError, match="does not match"):
        to_time("2026-07-01T12:00:00")
