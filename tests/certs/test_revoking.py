"""Revoking: who is meant is unmistakable, lists are numbered and only rise, and the root speaks where it has to."""

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from certs.authority import Authority
from certs.certifying import CertificationRequest, Renewal
from certs.entry import sha256_of
from certs.history import verify_history
from certs.revoking import ROOT_LIST, find_entries
from pqfl_transport.crypto.pyca import SigningKey
from pqfl_transport.errors import CertificateError, ConfigurationError
from pqfl_transport.pki import chain, keystore
from pqfl_transport.pki.revocation import Revocations, open_crls
from pqfl_transport.pki.spiffe import Role, SpiffeId

NOW = datetime(2026, 7, 1, 12, 0, 0, tzinfo=UTC)


@pytest.fixture
def ca(tmp_path: Path) -> Authority:
    """An authority with a gateway and two sites, one of the gateway's name."""
    made = Authority.create(tmp_path / "ca", federation="fed", now=NOW)
    made.issue(profile="gateway", name="hub", out=tmp_path / "gateway", now=NOW)
    for name in ("hub", "bank"):
        made.issue(profile="site", name=name, out=tmp_path / name, now=NOW)
    return made


def read(ca: Authority, before: Revocations | None = None, now: datetime = NOW) -> Revocations:
    """The lists as a sidecar reads them."""
    anchors = keystore.load_anchors(ca.ca_path)
    return open_crls(
        ca.crl_path.read_bytes(),
        anchors,
        policy=ca.policy,
        now=now,
        at_least=None if before is None else before.numbers,
    )


def verdict(found: Revocations, folder: Path, name: str = "tls.pem", now: datetime = NOW) -> str:
    """What the lists say about a certificate of an identity."""
    try:
        found.check(keystore.load_certificate(folder / name, now=now), now)
    except CertificateError as error:
        return error.reason
    return "good"


def test_both_certificates_of_a_party_are_revoked_and_nobody_elses(ca: Authority) -> None:
    """TLS and signing at once; others are good, and the next roster leaves the party out."""
    entries = ca.revoke("bank", "keyCompromise", now=NOW)
    assert [entry.usage for entry in entries] == ["client", "signing"]
    (made,) = ca.make_crl(now=NOW)
    assert (made.number, made.revoked, made.next_update) == (1, 2, NOW + timedelta(days=7))
    found, folder = read(ca), ca.folder.parent
    assert verdict(found, folder / "bank") == verdict(found, folder / "bank", "signing.pem") == "revoked"
    assert verdict(found, folder / "hub") == verdict(found, folder / "gateway") == "good"
    assert ca.plan_roster(now=NOW).removed == ("spiffe://fed/site/bank",)
    assert verify_history(ca.ledger, None).lines > 0


@pytest.mark.parametrize("word", ["site/hub", "spiffe://fed/site/hub"])
def test_a_name_of_two_parties_has_to_be_told_with_its_role(ca: Authority, word: str) -> None:
    """The bare name is refused with both."""
    with pytest.raises(ConfigurationError, match="gateway/hub and spiffe://fed/site/hub") as caught:
        ca.revoke("hub", "superseded", now=NOW)
    assert caught.value.reason == "ambiguous_name"
    assert {entry.id for entry in ca.revoke(word, "superseded", now=NOW)} == {"spiffe://fed/site/hub"}


def test_a_serial_number_is_one_certificate(ca: Authority) -> None:
    """In either case; the party's other one stays good."""
    (first, _) = find_entries(ca, "bank")
    assert ca.revoke(first.serial.upper(), "superseded", now=NOW)[0].sha256 == first.sha256
    ca.make_crl(now=NOW)
    assert verdict(read(ca), ca.folder.parent / "bank", "signing.pem") == "good"


def test_what_cannot_be_revoked_is_told(ca: Authority) -> None:
    """An unknown name, a party that was revoked, and the root."""
    ca.revoke("bank", "superseded", now=NOW)
    (root,) = [entry for entry in ca.ledger.entries() if entry.usage == "root"]
    for word, reason in (("nobody", "unknown_name"), ("bank", "already_revoked"), (root.serial, "is_root")):
        with pytest.raises(ConfigurationError) as caught:
            ca.revoke(word, "superseded", now=NOW)
        assert caught.value.reason == reason


def test_numbers_only_rise(ca: Authority) -> None:
    """Also for a ledger that was restored, which is told what peers have seen."""
    saved = ca.ledger.path.read_bytes()
    for number in (1, 2, 3):
        assert ca.make_crl(now=NOW)[0].number == number
    before = read(ca)
    ca.ledger.path.write_bytes(saved)
    ca.make_crl(now=NOW)
    with pytest.raises(ConfigurationError) as caught:
        read(ca, before)
    assert caught.value.reason == "stale_crl"
    assert ca.make_crl(now=NOW, at_least_number=4)[0].number == 4
    read(ca, before)


def test_a_revoked_issuing_authority_is_in_the_roots_list(ca: Authority) -> None:
    """It takes the root's key; after that the root's list stays, without its key, and all leaves are refused."""
    (issuing,) = [entry for entry in ca.ledger.entries() if entry.usage == "issuing"]
    key = ca.folder / "root.key"
    shutil.move(key, ca.folder.parent / "safe")
    ca.revoke(issuing.serial, "cACompromise", now=NOW)
    with pytest.raises(ConfigurationError, match="offline"):
        ca.make_crl(now=NOW)
    shutil.move(ca.folder.parent / "safe", key)
    assert [one.number for one in ca.make_crl(now=NOW)] == [2, 1]
    key.unlink()
    assert [one.number for one in ca.make_crl(now=NOW)] == [3]
    assert (ca.folder / ROOT_LIST).read_bytes() in ca.crl_path.read_bytes()
    assert verdict(read(ca), ca.folder.parent / "gateway") == "revoked"


def test_an_expired_certificate_leaves_the_list_in_the_end(ca: Authority) -> None:
    """A month after its end nobody asks about it any more; a roster may go on naming the one for signing."""
    ca.revoke("bank", "superseded", now=NOW)
    end = NOW + timedelta(days=90)
    assert [ca.make_crl(now=end + timedelta(days=days))[0].revoked for days in (29, 31)] == [2, 1]
    assert sha256_of(keystore.load_anchors(ca.ca_path)[0]) in ca.anchor_fingerprints()


def test_a_key_that_leaked_is_replaced_by_the_next_one(ca: Authority) -> None:
    """Revoking its certificates leaves the next key a candidate; revoking that one's, or the party, does not."""
    folder, party = ca.folder.parent / "bank", SpiffeId("fed", Role.SITE, "bank")
    tls, signing = (keystore.load_certificate(folder / name, now=NOW) for name in ("tls.pem", "signing.pem"))
    following = SigningKey.generate("ML-DSA-65").verifying_key
    request = CertificationRequest(
        party, "site", chain.verifying_key(tls), chain.verifying_key(signing), next_signing_key=following
    )
    made = ca.certify(request, now=NOW, renews=Renewal(tls, signing))
    assert made.signing_certificate is not None
    assert made.next_certificate is not None
    for certificate in (signing, made.signing_certificate):
        ca.revoke(f"{certificate.serial_number:x}", "keyCompromise", now=NOW)
    (candidate,) = ca.ledger.candidates()
    assert candidate.signing_key == following.spki
    plan = ca.plan_roster(now=NOW)
    assert (plan.removed, plan.rekeyed) == ((), (str(party),))
    assert plan.following.party(str(party)).former is None
    ca.revoke(f"{made.next_certificate.serial_number:x}", "keyCompromise", now=NOW)
    assert ca.ledger.candidates() == ()
    assert ca.plan_roster(now=NOW).removed == (str(party),)
