"""Lists that are always current: signed at half of their life, when an authority comes or goes, and not otherwise."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from certs.authority import Authority
from certs.fresh_lists import keep_fresh
from pqfl_transport.errors import ConfigurationError
from pqfl_transport.pki import keystore
from pqfl_transport.pki.revocation import open_crls

NOW = datetime(2026, 7, 1, 12, 0, 0, tzinfo=UTC)


@pytest.fixture
def ca(tmp_path: Path) -> Authority:
    return Authority.create(tmp_path / "ca", federation="fed", now=NOW)


def numbers(ca: Authority, now: datetime) -> list[int]:
    """Of the lists that a reader with the present authorities has."""
    anchors = keystore.load_anchors(ca.ca_path)
    found = open_crls(ca.crl_path.read_bytes(), anchors, policy=ca.policy, now=now)
    return sorted(one.number for one in found.lists)


def test_the_first_one_is_made_and_the_next_at_half_of_its_life(ca: Authority) -> None:
    """In between nothing is signed; a list of somebody else's making counts as well."""
    assert [one.number for one in keep_fresh(ca, NOW)] == [1]
    assert keep_fresh(ca, NOW + timedelta(days=3)) == ()
    later = NOW + timedelta(days=3, hours=13)
    (made,) = keep_fresh(ca, later)
    assert (made.number, made.next_update) == (2, later + timedelta(days=7))
    ca.make_crl(days=30, now=later)
    assert keep_fresh(ca, later + timedelta(days=26)) == ()
    assert [one.number for one in keep_fresh(ca, later + timedelta(days=27))] == [4]


def test_an_authority_that_comes_or_goes_changes_the_file(ca: Authority) -> None:
    """Two of them have a list each; a reader that trusts one alone would refuse a file with both."""
    keep_fresh(ca, NOW)
    ca.rotate_issuing(announce=True, now=NOW)
    assert keep_fresh(ca, NOW) == ()
    ca.rotate_issuing(now=NOW)
    assert len(keep_fresh(ca, NOW)) == 2
    assert numbers(ca, NOW) == [1, 2]
    ca.retire(now=NOW)
    assert len(keep_fresh(ca, NOW)) == 1
    assert numbers(ca, NOW) == [2]
    assert keep_fresh(ca, NOW) == ()


def test_a_file_that_was_lost_is_made_again_with_a_higher_number(ca: Authority) -> None:
    """The ledger has the numbers."""
    keep_fresh(ca, NOW)
    ca.crl_path.unlink()
    assert [one.number for one in keep_fresh(ca, NOW)] == [2]


def test_classical_lists_are_kept_as_well(ca: Authority) -> None:
    """From the moment that there is a classical issuer."""
    keep_fresh(ca, NOW)
    ca.create_classical(now=NOW)
    assert len(keep_fresh(ca, NOW)) == 2
    assert ca.dual_crl_path.exists()
    assert keep_fresh(ca, NOW) == ()


def test_without_the_issuing_key_the_lists_stay_as_they_are(ca: Authority) -> None:
    """It is an error to be told, and nothing was written."""
    keep_fresh(ca, NOW)
    before = ca.crl_path.read_bytes()
    (ca.folder / "issuing.key").unlink()
    with pytest.raises(ConfigurationError) as caught:
        keep_fresh(ca, NOW + timedelta(days=5))
    assert caught.value.reason == "missing"
    assert ca.crl_path.read_bytes() == before
