"""Who may take part: the roster and the lists of the moment, asked together."""

import time
from dataclasses import replace

import pytest

from pqfl_transport.errors import CertificateError, MessageError
from pqfl_transport.pki.revocation import Revocations
from pqfl_transport.pki.spiffe import Role
from pqfl_transport.pki.standing import Standing
from tests.support.pki import Federation, make_federation
from tests.support.revoking import SIGNING, as_read, crl, revocations
from tests.support.rounds import membership


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return make_federation(tmp_path_factory.mktemp("federation"), sites=("bank-a", "bank-b"))


def standing(federation: Federation, lists: Revocations | None) -> Standing:
    return Standing(membership(federation, federation.aggregator, Role.AGGREGATOR), time.time, lists)


def test_without_lists_the_roster_decides(federation: Federation) -> None:
    """Members are in, others are not."""
    found = standing(federation, None)
    assert found.party(federation.site_uri("bank-a")).id.name == "bank-a"
    found.require_own()
    with pytest.raises(MessageError):
        found.party(federation.site_uri("bank-c"))


def test_a_revoked_member_is_out(federation: Federation) -> None:
    """It is refused by name, and not among the parties any more; the others are."""
    found = standing(federation, revocations(federation, "bank-a", certificates=[SIGNING]))
    with pytest.raises(CertificateError, match=r"site/bank-a was revoked") as caught:
        found.party(federation.site_uri("bank-a"))
    assert caught.value.reason == "revoked"
    assert [party.id.name for party in found.parties(Role.SITE)] == ["bank-b"]


def test_a_stale_list_refuses_and_strikes_nobody_off(federation: Federation) -> None:
    """Nothing is taken from anybody, and everybody is waited for until a list comes."""
    found = standing(federation, revocations(federation, age_seconds=86400, seconds_left=-600))
    with pytest.raises(CertificateError) as caught:
        found.party(federation.site_uri("bank-a"))
    assert caught.value.reason == "stale_crl"
    assert len(found.parties(Role.SITE)) == 2
    found.require_own()


def test_one_s_own_revocation_is_said(federation: Federation) -> None:
    """Whoever goes on after that would be refused by everybody else."""
    found = standing(federation, as_read(federation, crl(federation, [federation.aggregator])))
    with pytest.raises(CertificateError, match="the certificate of this aggregator itself") as caught:
        found.require_own()
    assert caught.value.reason == "revoked"


def test_a_later_roster_says_already_how_a_key_was_certified(federation: Federation) -> None:
    """A member was renewed by another authority, and the one before is trusted no more: the same key counts on."""
    found = standing(federation, revocations(federation))
    uri, roster = federation.site_uri("bank-a"), found.member.roster
    party = roster.party(uri)
    assert party.certificate is not None
    elsewhere = replace(party, certificate=replace(party.certificate, issuer=b"another"))
    found.member = replace(found.member, roster=replace(roster, parties={**roster.parties, uri: elsewhere}))
    with pytest.raises(CertificateError) as caught:
        found.party(uri)
    assert caught.value.reason == "untrusted"
    found.following = roster
    assert found.party(uri) == elsewhere
    # Of another key it says nothing.
    other = replace(party, signing_key=roster.party(federation.site_uri("bank-b")).signing_key)
    found.following = replace(roster, parties={uri: other})
    assert found.outage(elsewhere) is not None
