"""Replacing authorities: whoever holds the old anchors and whoever holds the new ones both go on."""

import json
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from certs.authority import Authority
from certs.certifying import CertificationRequest, Renewal
from certs.history import verify_history
from certs.rotating import CROSS
from pqfl_transport.crypto.pyca import SigningKey
from pqfl_transport.errors import CertificateError, ConfigurationError, MessageError
from pqfl_transport.pki import chain, keystore
from pqfl_transport.pki.profiles import Usage
from pqfl_transport.pki.revocation import open_crls
from pqfl_transport.pki.spiffe import Role, SpiffeId
from pqfl_transport.policy import SecurityLevel, for_level

NOW = datetime(2026, 7, 1, 12, 0, 0, tzinfo=UTC)


@pytest.fixture
def ca(tmp_path: Path) -> Authority:
    """An authority with a gateway and a site; the anchors of that time are kept as old.pem."""
    made = Authority.create(tmp_path / "ca", federation="fed", now=NOW)
    made.issue(profile="gateway", name="old", out=tmp_path / "old", now=NOW)
    made.issue(profile="site", name="bank", out=tmp_path / "bank", now=NOW)
    shutil.copy(made.ca_path, tmp_path / "old.pem")
    return made


def trusts(anchors: Path, folder: Path, level: str = "high") -> bool:
    """Whether a gateway's certificate is accepted under these anchors."""
    leaf = keystore.load_certificate(folder / "tls.pem", now=NOW)
    try:
        chain.verify_chain(leaf, keystore.load_anchors(anchors), policy=for_level(level), usage=Usage.SERVER, now=NOW)
    except CertificateError as error:
        if error.reason != "untrusted":
            raise
        return False
    return True


def issue(ca: Authority, name: str) -> Path:
    """A new gateway's folder."""
    out = ca.folder.parent / name
    Authority.open(ca.folder).issue(profile="gateway", name=name, out=out, now=NOW)
    return out


def test_the_new_issuing_authority_is_beside_the_old_one(ca: Authority) -> None:
    """Old and new certificates are good under the new anchors; the root and the roster are the same."""
    roster = ca.roster_path.read_bytes()
    made = ca.rotate_issuing(now=NOW)
    assert made.in_use
    new = issue(ca, "new")
    assert len(keystore.load_anchors(ca.ca_path)) == 3
    assert trusts(ca.ca_path, ca.folder.parent / "old")
    assert trusts(ca.ca_path, new)
    assert not trusts(ca.folder.parent / "old.pem", new)
    assert ca.roster_path.read_bytes() == roster
    assert "CN=issuing-2" in keystore.load_anchors(ca.ca_path)[1].subject.rfc4514_string()
    assert verify_history(ca.ledger, None).lines > 0


def test_an_announced_one_is_trusted_before_it_signs(ca: Authority) -> None:
    """Nobody meets a certificate that his anchors do not know; taking it into use needs no root."""
    announced = ca.rotate_issuing(announce=True, now=NOW)
    assert not announced.in_use
    early = ca.folder.parent / "early.pem"
    shutil.copy(ca.ca_path, early)
    assert trusts(ca.folder.parent / "old.pem", issue(ca, "still-old"))
    with pytest.raises(ConfigurationError) as caught:
        ca.rotate_issuing(announce=True, now=NOW)
    assert caught.value.reason == "already_announced"
    (ca.folder / "root.key").unlink()
    assert ca.rotate_issuing(now=NOW).entry.sha256 == announced.entry.sha256
    assert trusts(early, issue(ca, "new"))
    assert not (ca.folder / "announced").exists()


def test_every_issuing_authority_goes_on_with_its_list(ca: Authority) -> None:
    """Who was issued by the old one is revoked in the old one's list, whose numbers rise."""
    ca.make_crl(now=NOW)
    ca.rotate_issuing(now=NOW)
    ca.revoke("old", "superseded", now=NOW)
    assert [(one.number, one.revoked) for one in ca.make_crl(now=NOW)] == [(1, 0), (2, 1)]
    found = open_crls(ca.crl_path.read_bytes(), keystore.load_anchors(ca.ca_path), policy=ca.policy, now=NOW)
    with pytest.raises(CertificateError) as caught:
        found.check(keystore.load_certificate(ca.folder.parent / "old" / "tls.pem", now=NOW), NOW)
    assert caught.value.reason == "revoked"


def test_a_new_root_leaves_all_certificates_good(ca: Authority) -> None:
    """Under old anchors and new ones, for what was issued before and after; the new root signs rosters."""
    ca.rotate_root(now=NOW)
    old_anchors, folder = ca.folder.parent / "old.pem", ca.folder.parent
    new = issue(ca, "new")
    for anchors in (old_anchors, ca.ca_path):
        assert trusts(anchors, folder / "old")
        assert trusts(anchors, new)
    ca.sign_roster(ca.plan_roster(now=NOW), now=NOW)
    assert ca.roster().number == 3
    with pytest.raises(MessageError) as caught:
        keystore.load_roster(ca.roster_path, keystore.root_keys(keystore.load_anchors(old_anchors)))
    assert caught.value.reason == "unknown_signer"
    (one,) = ca.make_crl(now=NOW)
    for anchors in (old_anchors, ca.ca_path):
        found = open_crls(ca.crl_path.read_bytes(), keystore.load_anchors(anchors), policy=ca.policy, now=NOW)
        assert [single.number for single in found.lists] == [one.number]


def test_the_old_root_vouches_for_the_new_one(ca: Authority) -> None:
    """Whoever has only the old root can check the new root's key by it."""
    old = keystore.load_anchors(ca.ca_path)[0]
    ca.rotate_root(now=NOW)
    cross = keystore.load_certificate(ca.folder / CROSS, now=NOW)
    new = keystore.load_anchors(ca.ca_path)[0]
    assert chain.is_signed_by(cross, old)
    assert chain.is_self_signed(new)
    assert (cross.subject, chain.verifying_key(cross)) == (new.subject, chain.verifying_key(new))
    assert cross not in keystore.load_anchors(ca.ca_path)


def test_a_replaced_authority_is_retired_when_nobody_needs_it(ca: Authority) -> None:
    """Good certificates and the roster hold it; renewed and signed anew, it goes."""
    with pytest.raises(ConfigurationError) as caught:
        ca.retire(now=NOW)
    assert caught.value.reason == "nothing_to_retire"
    ca.rotate_root(now=NOW)
    ca.rotate_issuing(now=NOW)
    with pytest.raises(ConfigurationError, match="pqfl ca roster sign") as caught:
        ca.retire(force=True, now=NOW)
    ca.sign_roster(ca.plan_roster(now=NOW), now=NOW)
    with pytest.raises(
        ConfigurationError, match=r"gateway/old \(server\), .*bank \(client\), .*bank \(signing\)"
    ) as caught:
        ca.retire(now=NOW)
    assert caught.value.reason == "still_needed"
    late = NOW + timedelta(days=91)
    assert len(ca.retire(now=late)) == 3
    assert len(keystore.load_anchors(ca.ca_path)) == 2
    assert len(ca.make_crl(now=late)) == 1


def test_whoever_has_renewed_does_not_hold_the_former_authority(ca: Authority) -> None:
    """Superseded certificates are good until their end and hold nothing; each use has to have its successor."""
    ca.rotate_issuing(now=NOW)
    bank = SpiffeId("fed", Role.SITE, "bank")
    folder = ca.folder.parent / "bank"
    present = Renewal(
        keystore.load_certificate(folder / "tls.pem", now=NOW),
        keystore.load_certificate(folder / "signing.pem", now=NOW),
    )
    ca.revoke("old", "superseded", now=NOW)
    later = NOW + timedelta(days=1)

    def renew(signing: bool) -> None:
        key = keystore.load_signing_key(folder / "signing.key").verifying_key if signing else None
        tls = SigningKey.generate("ML-DSA-65").verifying_key
        ca.certify(CertificationRequest(bank, "site", tls, key), renews=present, now=later)

    renew(signing=False)
    with pytest.raises(ConfigurationError) as caught:
        ca.retire(now=later)
    assert "spiffe://fed/site/bank (signing): not renewed" in str(caught.value)
    assert "client" not in str(caught.value)
    renew(signing=True)
    ca.sign_roster(ca.plan_roster(now=later), now=later)
    assert len(ca.retire(now=later)) == 1


def test_an_authority_that_the_roster_still_names_is_not_retired(ca: Authority) -> None:
    """A member has renewed, and whoever trusts the new authority alone could not ask about it by the present roster."""
    ca.rotate_issuing(now=NOW)
    key, uri = SigningKey.generate("ML-DSA-65"), "spiffe://fed/site/bank"
    folder = ca.folder.parent / "bank"
    request = CertificationRequest(
        SpiffeId.parse(uri),
        "site",
        key.verifying_key,
        keystore.load_signing_identity(folder, now=NOW).key.verifying_key,
    )
    present = [keystore.load_certificate(folder / name, now=NOW) for name in ("tls.pem", "signing.pem")]
    ca.certify(request, now=NOW, renews=Renewal(*present))
    with pytest.raises(ConfigurationError, match="newer ones of spiffe://fed/site/bank: sign the next one") as caught:
        ca.retire(force=True, now=NOW)
    assert caught.value.reason == "still_needed"
    ca.sign_roster(ca.plan_roster(now=NOW), now=NOW)
    assert len(ca.retire(force=True, now=NOW)) == 1


def test_a_new_root_alone_is_retired_without_renewing_anybody(ca: Authority) -> None:
    """The issuing authority's key has a certificate under the new root already."""
    ca.rotate_root(now=NOW)
    ca.sign_roster(ca.plan_roster(now=NOW), now=NOW)
    assert len(ca.retire(now=NOW)) == 2
    assert trusts(ca.ca_path, ca.folder.parent / "old")


def test_a_federation_moves_to_another_level(tmp_path: Path) -> None:
    """New keys are of the new level; the roster names both kinds until it says that all have moved."""
    low = Authority.create(tmp_path / "ca", federation="fed", level="standard", now=NOW)
    low.issue(profile="site", name="one", out=tmp_path / "one", now=NOW)
    low.rotate_issuing(level=SecurityLevel.HIGH, now=NOW)
    ca = Authority.open(low.folder)
    assert ca.level is SecurityLevel.HIGH
    ca.issue(profile="site", name="two", out=tmp_path / "two", now=NOW)
    keys = {name: party.signing_key.algorithm for name, party in ca.roster().parties.items()}
    assert keys == {"spiffe://fed/site/one": "ML-DSA-44", "spiffe://fed/site/two": "ML-DSA-65"}
    assert ca.roster().level is SecurityLevel.STANDARD
    with pytest.raises(MessageError):
        ca.sign_roster(ca.plan_roster(level=SecurityLevel.HIGH, now=NOW), now=NOW)
    ca.revoke("one", "superseded", now=NOW)
    ca.sign_roster(ca.plan_roster(level=SecurityLevel.HIGH, now=NOW), now=NOW)
    assert ca.roster().level is SecurityLevel.HIGH


SCRIPT = """
import os, signal, sys
from datetime import UTC, datetime
from pathlib import Path
from certs.authority import Authority
from certs import rotating
step, folder = sys.argv[1:]
left = int(step)
good = Path.replace
def replace(self, target):
    global left
    if self.parent.name == "next":
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1
    return good(self, target)
Path.replace = replace
Authority.open(Path(folder)).rotate_root(now=datetime(2026, 7, 1, 12, 0, 0, tzinfo=UTC))
"""


@pytest.mark.parametrize("moved", range(5))
def test_killed_in_the_middle_it_is_finished_by_the_next_command(ca: Authority, moved: int) -> None:
    """However many files had been moved, keys and certificates fit in the end, and the rest is there."""
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(moved), str(ca.folder)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert trusts(ca.folder.parent / "old.pem", issue(ca, "new"))
    assert not (ca.folder / "next").exists()
    assert ca.issuer("root", NOW).certificate == keystore.load_anchors(ca.ca_path)[0]
    assert len(keystore.load_anchors(ca.ca_path)) == 4
    assert json.loads((ca.folder / "federation.json").read_text())["level"] == replace(ca).level
