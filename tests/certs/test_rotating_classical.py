"""Replacing the classical issuer: twins of either are good while both are trusted, and none of the one that is gone."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from certs.authority import Authority
from certs.history import verify_history
from pqfl_transport.errors import CertificateError, ConfigurationError
from pqfl_transport.pki import chain, keystore
from pqfl_transport.pki.classical import verify_classical
from pqfl_transport.pki.constraints import permitted_hosts
from pqfl_transport.pki.passphrases import fixed
from pqfl_transport.pki.profiles import Usage
from pqfl_transport.pki.revocation import open_crls
from pqfl_transport.pki.spiffe import Role, SpiffeId
from pqfl_transport.policy import for_name

NOW = datetime(2026, 7, 1, 12, 0, 0, tzinfo=UTC)
HUB = SpiffeId("fed", Role.GATEWAY, "hub")
POLICY = for_name("pq-prefer-2026")


@pytest.fixture
def ca(tmp_path: Path) -> Authority:
    """An authority with a classical issuer and a gateway with a twin."""
    made = Authority.create(tmp_path / "ca", federation="fed", now=NOW)
    made.create_classical(now=NOW)
    made.issue(profile="gateway", name="hub", out=tmp_path / "hub", twin=True, now=NOW)
    return made


def twin(ca: Authority, name: str, now: datetime = NOW) -> Path:
    """Another twin of the gateway."""
    out = ca.folder.parent / name
    ca.issue_twin(HUB, out=out, now=now)
    return out


def trusts(anchors: tuple[x509.Certificate, ...], folder: Path, now: datetime = NOW) -> bool:
    """Whether a classical peer with these issuers accepts the folder's twin."""
    leaf = keystore.load_certificate(folder / "classical.pem", now=now)
    assert POLICY.classical is not None
    try:
        verify_classical(leaf, [], anchors, classical=POLICY.classical, usage=Usage.SERVER, now=now)
    except CertificateError as error:
        if error.reason != "untrusted":
            raise
        return False
    return True


def handed_out(folder: Path) -> tuple[x509.Certificate, ...]:
    return tuple(chain.load_certificates((folder / "classical-ca.pem").read_bytes()))


def test_the_next_issuer_is_announced_used_and_the_former_retired(ca: Authority) -> None:
    """Nobody meets a twin that he cannot verify, at any step; no key of the root is needed."""
    (ca.folder / "root.key").unlink()
    old, before = ca.folder.parent / "hub", ca.classical_anchors()
    announced = ca.rotate_classical(announce=True, now=NOW)
    assert not announced.in_use
    early = ca.classical_anchors()
    assert len(early) == 2
    assert trusts(before, twin(ca, "still-old"))
    with pytest.raises(ConfigurationError) as caught:
        ca.rotate_classical(announce=True, now=NOW)
    assert caught.value.reason == "already_announced"
    assert ca.rotate_classical(now=NOW).entry.sha256 == announced.entry.sha256
    new = twin(ca, "new")
    assert handed_out(new) == ca.classical_anchors() == (early[1], early[0])
    assert trusts(early, new)
    assert trusts(early, old)
    assert not trusts(before, new)
    assert not (ca.folder / "announced-classical").exists()
    assert len(ca.retire(classical=True, now=NOW)) == 1
    assert ca.classical_anchors() == (early[1],)
    assert not trusts(ca.classical_anchors(), old)
    assert trusts(ca.classical_anchors(), new)
    assert verify_history(ca.ledger, None).lines > 0


def test_without_announcing_both_are_trusted_at_once(ca: Authority) -> None:
    """For a leak, where there is no time; subjects differ, so that peers can tell the two apart."""
    ca.rotate_classical(now=NOW)
    first, second = ca.classical_anchors()
    assert first.subject != second.subject
    assert trusts(ca.classical_anchors(), twin(ca, "new"))


def test_a_party_that_was_not_renewed_holds_the_former_issuer(ca: Authority) -> None:
    """It is named; ``force`` does not wait, and with the end of its twin nobody has to."""
    with pytest.raises(ConfigurationError) as caught:
        ca.retire(classical=True, now=NOW)
    assert caught.value.reason == "nothing_to_retire"
    ca.rotate_classical(now=NOW)
    with pytest.raises(ConfigurationError, match=r"spiffe://fed/gateway/hub \(classical-server\)") as caught:
        ca.retire(classical=True, now=NOW)
    assert caught.value.reason == "still_needed"
    assert len(ca.classical_anchors()) == 2
    assert len(ca.retire(classical=True, now=NOW + timedelta(days=91))) == 1


def test_post_quantum_certificates_hold_no_classical_issuer_and_the_other_way_round(ca: Authority) -> None:
    """Each kind is retired by itself."""
    ca.rotate_classical(now=NOW)
    ca.rotate_issuing(now=NOW)
    twin(ca, "new")
    ca.retire(classical=True, now=NOW)
    with pytest.raises(ConfigurationError, match=r"hub \(server\): not renewed"):
        ca.retire(now=NOW)


def test_lists_of_both_issuers_go_together(ca: Authority) -> None:
    """Whoever was issued by the former one is revoked in its list; an announced one has none yet."""
    ca.rotate_classical(announce=True, now=NOW)
    assert len(ca.make_crl(now=NOW)) == 2
    ca.rotate_classical(now=NOW)
    ca.revoke("hub", "keyCompromise", now=NOW)
    made = ca.make_crl(now=NOW)
    assert sorted(one.revoked for one in made) == [0, 1, 1]
    anchors = [*keystore.load_anchors(ca.ca_path), *ca.classical_anchors()]
    lists = open_crls((ca.folder / "crl-dual.pem").read_bytes(), anchors, policy=POLICY, now=NOW)
    with pytest.raises(CertificateError) as caught:
        lists.check(keystore.load_certificate(ca.folder.parent / "hub" / "classical.pem", now=NOW), NOW)
    assert caught.value.reason == "revoked"
    ca.retire(classical=True, now=NOW)
    assert len(ca.make_crl(now=NOW)) == 2


def test_the_end_of_a_migration_ends_an_announced_issuer_too(ca: Authority) -> None:
    """Its files are removed by hand; what was to follow them goes with the next command."""
    ca.rotate_classical(announce=True, now=NOW)
    for name in ("classical.pem", "classical.key"):
        (ca.folder / name).unlink()
    assert ca.classical_anchors() == ()
    for action in (ca.rotate_classical, lambda **options: ca.retire(classical=True, **options)):
        with pytest.raises(ConfigurationError) as caught:
            action(now=NOW)
        assert caught.value.reason == "no_classical_issuer"
    assert not (ca.folder / "announced-classical").exists()
    ca.create_classical(now=NOW)
    assert len(ca.classical_anchors()) == 1


def test_an_encrypted_key_stays_one(ca: Authority) -> None:
    """The new key is under the passphrase from the start, and signs with it."""
    ca.rotate_classical(announce=True, passphrase=b"correct horse battery", now=NOW)
    ca.rotate_classical(now=NOW)
    assert b"ENCRYPTED" in (ca.folder / "classical.key").read_bytes()
    opened = Authority.open(ca.folder, fixed("correct horse battery"))
    assert trusts(opened.classical_anchors(), twin(opened, "new"))


def test_a_folder_of_before_has_its_one_issuer(ca: Authority) -> None:
    """A migration that began before issuers were replaced with overlap goes on."""
    (ca.folder / "classical-ca.pem").unlink()
    assert len(ca.classical_anchors()) == 1
    ca.rotate_classical(announce=True, now=NOW)
    assert len(ca.classical_anchors()) == 2


def test_the_next_issuer_permits_the_hosts_of_the_issuing_authority(ca: Authority) -> None:
    """As the first one does; those of the moment, which may be others since."""
    ca.rotate_issuing(hosts=("example.org",), now=NOW)
    assert permitted_hosts(keystore.read_certificate_file(ca.classical_path)) is None
    Authority.open(ca.folder).rotate_classical(now=NOW)
    assert permitted_hosts(keystore.read_certificate_file(ca.classical_path)) == ("example.org",)
