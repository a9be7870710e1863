"""The next roster: candidates enter by the root's signature only, and whoever was revoked leaves."""

import hashlib
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from certs.authority import Authority
from certs.certifying import CertificationRequest, Renewal
from certs.rosters import DEFAULT_WEIGHT_CAP, plan_roster, publish_roster, revoked_parties, sign_planned
from pqfl_transport.content.recipients import ReceivingKey
from pqfl_transport.crypto.pyca import SigningKey
from pqfl_transport.errors import ConfigurationError
from pqfl_transport.pki.spiffe import Role, SpiffeId

NOW = datetime(2026, 7, 1, 12, 0, 0, tzinfo=UTC)
RECEIVING = ReceivingKey.generate("ML-KEM-768+X25519").public


def request(name: str, role: Role = Role.SITE) -> CertificationRequest:
    """A request with new keys."""
    tls, signing = (SigningKey.generate("ML-DSA-65").verifying_key for _ in range(2))
    return CertificationRequest(SpiffeId("fed", role, name), role.value, tls, signing, RECEIVING.to_bytes())


def uri(name: str) -> str:
    """The SPIFFE ID of a site."""
    return f"spiffe://fed/site/{name}"


@pytest.fixture
def ca(tmp_path: Path) -> Authority:
    """An authority with one member and two candidates."""
    made = Authority.create(tmp_path / "ca", federation="fed", now=NOW)
    made.issue(profile="site", name="member", out=tmp_path / "member", weight_cap=7, now=NOW)
    made.certify(request("one"), now=NOW)
    made.certify(request("main", Role.AGGREGATOR), now=NOW)
    return made


def test_candidates_are_admitted_with_the_caps_of_their_roles(ca: Authority) -> None:
    """All of them unless some are named; a site's cap is the default unless told, an aggregator's 0."""
    plan = plan_roster(ca, now=NOW)
    assert plan.admitted == ("spiffe://fed/aggregator/main", uri("one"))
    assert (plan.removed, plan.rekeyed, plan.recapped) == ((), (), ())
    assert (plan.present.number, plan.following.number) == (2, 3)
    assert plan.following.party(uri("one")).weight_cap == DEFAULT_WEIGHT_CAP
    assert plan.following.party("spiffe://fed/aggregator/main").weight_cap == 0
    assert plan_roster(ca, now=NOW, only=[uri("one")]).admitted == (uri("one"),)
    capped = plan_roster(ca, now=NOW, only=[], weight_caps={uri("member"): 9})
    assert (capped.admitted, capped.recapped) == ((), (uri("member"),))
    assert plan_roster(ca, now=NOW, only=[]).is_empty


def test_nobody_who_is_no_candidate_is_admitted(ca: Authority) -> None:
    """A typo is not an empty ceremony."""
    for named in ({"only": [uri("two")]}, {"weight_caps": {uri("two"): 5}}):
        with pytest.raises(ConfigurationError, match=uri("two")) as caught:
            plan_roster(ca, now=NOW, **named)  # type: ignore[arg-type]
        assert caught.value.reason == "no_candidate"


def test_a_candidate_whose_certificate_is_over_is_none(ca: Authority) -> None:
    """A year later its key is certified by nobody."""
    assert plan_roster(ca, now=NOW + timedelta(days=91)).admitted == ()


def test_publishing_is_an_event_and_settles_the_candidates(ca: Authority) -> None:
    """The roster that is out is in the chain by its digest; the same one again is no news."""
    data = sign_planned(ca, plan_roster(ca, now=NOW).following, NOW)
    assert publish_roster(ca, data, NOW) == publish_roster(ca, data, NOW) == 3
    assert ca.roster_path.read_bytes() == data
    events = [json.loads(line) for line in ca.ledger.lines()]
    assert [event["facts"]["sha256"] for event in events if event["kind"] == "roster"][1:] == [
        hashlib.sha256(data).hexdigest()
    ]
    assert ca.ledger.candidates() == ()
    assert plan_roster(ca, now=NOW).is_empty


def test_a_renewed_signing_key_is_in_the_next_roster(ca: Authority) -> None:
    """Cap and receiving key stay."""
    first = request("two")
    made = ca.certify(first, now=NOW)
    publish_roster(ca, sign_planned(ca, plan_roster(ca, now=NOW).following, NOW), NOW)
    again = replace(request("two"), receiving_key=None)
    ca.certify(again, now=NOW, renews=Renewal(made.tls_certificate, made.signing_certificate))
    plan = plan_roster(ca, now=NOW)
    assert (plan.admitted, plan.rekeyed) == ((), (uri("two"),))
    assert plan.following.party(uri("two")).signing_key == again.signing_key
    assert plan.following.party(uri("two")).receiving_key == first.receiving_key


def test_whoever_was_revoked_leaves(ca: Authority) -> None:
    """A member of which every signing certificate was revoked is in no later roster, whoever else is admitted."""
    with ca.ledger.writing(NOW) as book:
        for entry in ca.ledger.entries(party=uri("member")):
            book.revoke(entry, "key_compromise")
    assert revoked_parties(ca.ledger.entries(), ca.roster()) == {uri("member")}
    assert plan_roster(ca, now=NOW, only=[]).removed == (uri("member"),)
    ca.issue(profile="site", name="next", out=ca.folder.parent / "next", now=NOW)
    assert set(ca.roster().parties) == {uri("next")}


def test_every_member_s_certificate_is_named(ca: Authority) -> None:
    """By it a revocation list finds the key; a member of an earlier roster gets the name with the next one."""
    plan = plan_roster(ca, now=NOW)
    for name in (uri("member"), uri("one"), "spiffe://fed/aggregator/main"):
        reference = plan.following.party(name).certificate
        assert reference is not None
        (entry,) = [one for one in ca.ledger.entries(party=name) if one.usage == "signing"]
        assert reference.serial == int(entry.serial, 16)
    present = ca.roster()
    bare = replace(present.party(uri("member")), certificate=None)
    earlier = replace(present, number=present.number + 1, parties={uri("member"): bare})
    publish_roster(ca, sign_planned(ca, earlier, NOW), NOW)
    plan = plan_roster(ca, now=NOW, only=[])
    assert plan.following.party(uri("member")).certificate is not None
    assert not plan.is_empty
