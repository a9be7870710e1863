"""The next roster: candidates enter by the root's signature only, and whoever was revoked leaves."""

import hashlib
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from certs.authority import Authority
from certs.certifying import CertificationRequest, Renewal
from certs.rosters import (
    DEFAULT_WEIGHT_CAP,
    OVERLAP_SECONDS,
    RosterPlan,
    plan_roster,
    publish_roster,
    revoked_keys,
    revoked_parties,
    sign_planned,
    without_revoked_former,
)
from pqfl_transport.content.recipients import ReceivingKey
from pqfl_transport.crypto.pyca import SigningKey, VerifyingKey
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


@pytest.fixture
def rekeyed(ca: Authority) -> tuple[Authority, CertificationRequest, CertificationRequest]:
    """The authority, a member's first request, and its request with a next signing key."""
    first = request("two")
    made = ca.certify(first, now=NOW)
    publish_roster(ca, sign_planned(ca, plan_roster(ca, now=NOW).following, NOW), NOW)
    again = replace(first, receiving_key=None, next_signing_key=SigningKey.generate("ML-DSA-65").verifying_key)
    ca.certify(again, now=NOW, renews=Renewal(made.tls_certificate, made.signing_certificate))
    return ca, first, again


Rekeying = tuple[Authority, CertificationRequest, CertificationRequest]


def sign(ca: Authority, now: datetime = NOW, **options: Any) -> RosterPlan:
    """Sign the next roster, and return what it changed."""
    plan = plan_roster(ca, now=now, **options)
    publish_roster(ca, sign_planned(ca, plan.following, now), now)
    return plan


def test_the_next_signing_key_is_in_the_next_roster(rekeyed: Rekeying) -> None:
    """The one before stays for 14 days, by its latest certificate; cap and receiving key stay."""
    ca, first, again = rekeyed
    plan = sign(ca)
    assert (plan.admitted, plan.rekeyed, plan.ended) == ((), (uri("two"),), ())
    party = ca.roster().party(uri("two"))
    assert party.signing_key == again.next_signing_key
    assert party.receiving_key == first.receiving_key
    assert party.former is not None
    assert party.former.key == first.signing_key
    assert party.former.until == int(NOW.timestamp()) + OVERLAP_SECONDS
    latest = {one.key_sha256: int(one.serial, 16) for one in ca.ledger.entries(party=uri("two"))}
    for key, reference in ((party.signing_key, party.certificate), (party.former.key, party.former.certificate)):
        assert reference is not None
        assert reference.serial == latest[key.fingerprint.hex()]
    assert all(one.former is None for name, one in ca.roster().parties.items() if name != uri("two"))


def test_a_former_key_stays_until_its_time_is_over(rekeyed: Rekeying) -> None:
    """Rosters in between carry it on, also those that are signed for another reason; a later one drops it."""
    ca, _, _ = rekeyed
    sign(ca)
    party = ca.roster().party(uri("two"))
    ca.issue(profile="site", name="next", out=ca.folder.parent / "next", now=NOW + timedelta(days=3))
    assert ca.roster().party(uri("two")).former == party.former
    assert party.former is not None
    end = datetime.fromtimestamp(party.former.until, UTC)
    assert plan_roster(ca, now=end - timedelta(seconds=1)).is_empty
    plan = sign(ca, now=end)
    assert (plan.rekeyed, plan.ended) == ((), (uri("two"),))
    assert ca.roster().party(uri("two")) == replace(party, former=None)


def test_the_end_of_a_former_key_is_the_operator_s_to_say(rekeyed: Rekeying) -> None:
    """At once, later, and for one that is in the roster already never later than it was."""
    ca, first, _ = rekeyed
    now = int(NOW.timestamp())
    for until in (0, now):
        assert plan_roster(ca, now=NOW, former_until=until).following.party(uri("two")).former is None
    sign(ca, former_until=now + 1000)
    for until, end in ((now + 2000, now + 1000), (now + 500, now + 500), (None, now + 1000)):
        former = plan_roster(ca, now=NOW, former_until=until).following.party(uri("two")).former
        assert former is not None
        assert (former.key, former.until) == (first.signing_key, end)
    assert plan_roster(ca, now=NOW, former_until=now).ended == (uri("two"),)


def revoke(ca: Authority, key: VerifyingKey | None) -> None:
    """Revoke one certificate of a key, by its serial number, as somebody does who knows that it leaked."""
    assert key is not None
    (*_, entry) = ca.ledger.entries_of_key(key.fingerprint.hex())
    ca.revoke(entry.serial, "keyCompromise", now=NOW)


def test_a_revoked_key_is_never_a_former_one(rekeyed: Rekeying) -> None:
    """Revoked before the next key is named, the next one is named all the same; revoked after, it is dropped."""
    ca, first, again = rekeyed
    early = plan_roster(ca, now=NOW).following.party(uri("two"))
    assert early.former is not None
    revoke(ca, first.signing_key)
    plan = sign(ca)
    assert (plan.rekeyed, plan.removed) == ((uri("two"),), ())
    assert ca.roster().party(uri("two")).former is None
    assert ca.roster().party(uri("two")).signing_key == again.next_signing_key


def test_a_former_key_that_is_revoked_later_is_dropped(rekeyed: Rekeying) -> None:
    """From the next roster, and it speaks for its party to the authority no more."""
    ca, first, _ = rekeyed
    sign(ca)
    planned = ca.plan_roster(now=NOW, weight_caps={uri("two"): 9})
    revoke(ca, first.signing_key)
    with pytest.raises(ConfigurationError) as caught:
        ca.sign_roster(planned, now=NOW)
    assert caught.value.reason == "stale_plan"
    assert without_revoked_former(ca.roster(), ca.ledger.entries()).party(uri("two")).former is None
    assert sign(ca).ended == (uri("two"),)
    assert ca.roster().party(uri("two")).former is None


def test_the_next_key_goes_with_its_party(rekeyed: Rekeying) -> None:
    """Revoking a party takes both keys."""
    ca, _, _ = rekeyed
    sign(ca)
    ca.revoke("site/two", "keyCompromise", now=NOW)
    assert plan_roster(ca, now=NOW, only=[]).removed == (uri("two"),)
    keys = {entry.key_sha256 for entry in ca.ledger.entries(party=uri("two")) if entry.usage == "signing"}
    assert revoked_keys(ca.ledger.entries()) == keys
    assert len(keys) == 2


def test_a_key_of_another_level_has_no_overlap(tmp_path: Path) -> None:
    """Content suites go by the algorithm, so all members change to it by one roster."""
    ca = Authority.create(tmp_path / "ca", federation="fed", level="standard", now=NOW)
    ca.issue(profile="site", name="two", out=tmp_path / "two", now=NOW)
    before = ca.roster().party(uri("two"))
    for algorithm, kept in (("ML-DSA-44", True), ("ML-DSA-65", False)):
        new = replace(before, signing_key=SigningKey.generate(algorithm).verifying_key)
        planned = plan_roster(ca, now=NOW, parties=[new]).following.party(uri("two"))
        assert (planned.former is not None) is kept


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
