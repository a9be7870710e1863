"""Who may take part: the roster and the lists of the moment, asked together."""

import time
from dataclasses import replace
from pathlib import Path

import pytest

from pqfl_transport.errors import CertificateError, MessageError
from pqfl_transport.pki.revocation import Revocations
from pqfl_transport.pki.spiffe import Role
from pqfl_transport.pki.standing import Standing
from tests.support.pki import Federation, make_federation
from tests.support.rekeying import name_next, prepare_next
from tests.support.revoking import SIGNING, as_read, crl, revocations, revoking
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


def test_a_former_key_that_was_revoked_counts_no_more(tmp_path: Path) -> None:
    """Alone, its party stays a member with the present key; with the party, both are out."""
    made = make_federation(tmp_path / "federation", sites=("bank-a",))
    folder, uri = made.site("bank-a"), made.site_uri("bank-a")
    prepare_next(made, folder)
    name_next(made)
    member = membership(made, made.aggregator, Role.AGGREGATOR)
    party = member.roster.party(uri)
    assert party.former is not None
    assert party.former.certificate is not None
    assert party.certificate is not None
    present, former = party.signing_key.fingerprint, party.former.key.fingerprint

    def under(*revoked: int) -> Standing:
        return Standing(member, time.time, revoking(made, *revoked))

    assert under().party(uri) == party
    alone = under(party.former.certificate.serial)
    assert alone.party(uri).signing_keys(time.time()) == (party.signing_key,)
    assert alone.outage(party) is alone.outage(party, present) is None
    outage = alone.outage(party, former)
    assert outage is not None
    assert outage.reason == "revoked"
    assert "the former key of" in str(outage)
    for serials in ((party.certificate.serial,), (party.certificate.serial, party.former.certificate.serial)):
        whole = under(*serials)
        with pytest.raises(CertificateError):
            whole.party(uri)
        assert whole.outage(party, former) is not None
        assert whole.parties(Role.SITE) == []


def test_one_s_own_former_key_is_asked_about_while_it_signs(tmp_path: Path) -> None:
    """By the certificate that the roster names, which may be another than the one in the folder."""
    made = make_federation(tmp_path / "federation", sites=())
    prepare_next(made, made.aggregator)
    name_next(made)
    member = membership(made, made.aggregator, Role.AGGREGATOR)
    former = member.party.former
    assert former is not None
    assert former.certificate is not None
    assert member.signs_with_former
    assert member.identity.certificate.serial_number != former.certificate.serial
    Standing(member, time.time, revoking(made)).require_own()
    with pytest.raises(CertificateError, match="this aggregator itself") as caught:
        Standing(member, time.time, revoking(made, former.certificate.serial)).require_own()
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
