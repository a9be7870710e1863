"""Twins in the authority's books: under their own issuer, beside their party, gone with it, and never half-issued."""

import stat
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from certs.authority import Authority
from certs.entry import State, sha256_of
from certs.history import verify_history
from certs.listing import Standing, list_rows
from certs.twins import load_issuer
from pqfl_transport.errors import CertificateError, ConfigurationError
from pqfl_transport.pki import chain, keystore
from pqfl_transport.pki.passphrases import fixed
from pqfl_transport.pki.revocation import open_crls
from pqfl_transport.pki.spiffe import Role, SpiffeId
from pqfl_transport.pki.twins import key_from_pem
from pqfl_transport.policy import for_name

NOW = datetime.now(UTC).replace(microsecond=0)
HUB, BANK = SpiffeId("fed", Role.GATEWAY, "hub"), SpiffeId("fed", Role.SITE, "bank")

# Dies by SIGKILL where a step of publishing begins.
KILLED = """
import importlib, os, signal, sys
from pathlib import Path
from certs.authority import Authority
from pqfl_transport.pki.spiffe import SpiffeId
name, folder, out = sys.argv[1:]
module, kind, method = name.split(":")
where = getattr(importlib.import_module(module), kind) if kind else importlib.import_module(module)
setattr(where, method, lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))
Authority.open(Path(folder)).issue_twin(SpiffeId.parse("spiffe://fed/site/bank"), out=Path(out))
"""


@pytest.fixture
def ca(tmp_path: Path) -> Authority:
    """An authority with a classical issuer, a gateway with a twin and a site without."""
    made = Authority.create(tmp_path / "ca", federation="fed", now=NOW)
    made.create_classical(now=NOW)
    made.issue(profile="gateway", name="hub", out=tmp_path / "hub", hosts=("localhost",), twin=True, now=NOW)
    made.issue(profile="site", name="bank", out=tmp_path / "bank", now=NOW)
    return made


def reason(action: object) -> str:
    """The reason for which it is refused."""
    with pytest.raises(ConfigurationError) as caught:
        action()  # type: ignore[operator]
    return caught.value.reason


def certificate(path: Path) -> x509.Certificate:
    return keystore.load_certificate(path, now=NOW)


def test_a_twin_comes_with_its_party(ca: Authority, tmp_path: Path) -> None:
    """Same name, same hosts, a key of its own, mode 0600; the party's own certificates are as without it."""
    twin, tls = certificate(tmp_path / "hub" / "classical.pem"), certificate(tmp_path / "hub" / "tls.pem")
    assert chain.spiffe_id(twin) == chain.spiffe_id(tls) == HUB
    names = [one.extensions.get_extension_for_class(x509.SubjectAlternativeName).value for one in (twin, tls)]
    assert names[0] == names[1]
    key = tmp_path / "hub" / "classical.key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert key_from_pem(key.read_bytes()).public_key() == twin.public_key()
    assert chain.key_algorithm_name(tls) == "ML-DSA-65"
    (classical,) = chain.load_certificates((tmp_path / "hub" / "classical-ca.pem").read_bytes())
    twin.verify_directly_issued_by(classical)
    assert classical not in keystore.load_anchors(ca.ca_path)


def test_a_party_that_exists_gets_one_later(ca: Authority, tmp_path: Path) -> None:
    """With the hosts of its present certificate; a second one has a folder of its own."""
    for party, entry_usage in ((HUB, "classical-server"), (BANK, "classical-client")):
        issued = ca.issue_twin(party, out=tmp_path / f"{party.name}-twin", now=NOW)
        assert [entry.usage for entry in issued.entries] == [entry_usage]
        assert issued.roster_number is None
    names = certificate(tmp_path / "hub-twin" / "classical.pem").extensions
    hosts = names.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(x509.DNSName)
    assert hosts == ["localhost"]
    assert sorted(path.name for path in (tmp_path / "bank-twin").iterdir()) == [
        "ca.pem", "classical-ca.pem", "classical.key", "classical.pem",
    ]  # fmt: skip
    assert reason(lambda: ca.issue_twin(BANK, out=tmp_path / "bank-twin", now=NOW)) == "exists"
    assert verify_history(ca.ledger, None).lines


def test_keys_are_encrypted_where_asked(ca: Authority, tmp_path: Path) -> None:
    """The twin's key like every other, and the issuer's."""
    ca.issue_twin(BANK, out=tmp_path / "twin", passphrase=b"a party's", now=NOW)
    pem = keystore.load_private_pem(tmp_path / "twin" / "classical.key", fixed(b"a party's"))
    assert b"ENCRYPTED" in (tmp_path / "twin" / "classical.key").read_bytes()
    assert key_from_pem(pem).public_key() == certificate(tmp_path / "twin" / "classical.pem").public_key()
    other = Authority.create(tmp_path / "other", federation="fed", passphrase=b"an authority's", now=NOW)
    other.create_classical(passphrase=b"an authority's", now=NOW)
    opened = Authority.open(tmp_path / "other", fixed(b"an authority's"))
    assert load_issuer(opened, NOW).certificate == certificate(opened.classical_path)


def test_who_gets_no_twin(ca: Authority, tmp_path: Path) -> None:
    """Strangers, revoked parties, and roles that meet no classical peers; nothing is left of the attempt."""
    out, before = tmp_path / "out", len(ca.ledger.entries())
    assert reason(lambda: ca.issue_twin(SpiffeId("fed", Role.SITE, "who"), out=out, now=NOW)) == "not_issued"
    assert reason(lambda: ca.issue(profile="aggregator", name="main", out=out, twin=True, now=NOW)) == "no_twin"
    assert reason(lambda: ca.issue_twin(BANK, out=out, days=6 * 365, now=NOW)) == "bad_validity"
    ca.revoke("bank", "superseded", now=NOW)
    assert reason(lambda: ca.issue_twin(BANK, out=out, now=NOW)) == "not_issued"
    assert not out.exists()
    assert len(ca.ledger.entries()) == before


def test_the_issuer_is_made_once_and_has_to_be_there(ca: Authority, tmp_path: Path) -> None:
    """A second one would leave the first one's twins without a revocation list."""
    assert reason(lambda: ca.create_classical(now=NOW)) == "exists"
    plain = Authority.create(tmp_path / "plain", federation="fed", now=NOW)
    make = lambda: plain.issue(profile="site", name="a", out=tmp_path / "a", twin=True, now=NOW)  # noqa: E731 -- tried twice
    assert reason(make) == "no_classical_issuer"
    plain.create_classical(now=NOW)
    key = plain.folder / "classical.key"
    key.write_bytes((ca.folder / "classical.key").read_bytes())
    assert reason(make) == "key_mismatch"
    key.write_bytes((ca.folder / "issuing.key").read_bytes())
    assert reason(make) == "bad_key"
    assert not (tmp_path / "a").exists()


def test_a_revoked_party_loses_its_twins(ca: Authority, tmp_path: Path) -> None:
    """All of them, in a list that only listeners of both kinds take; the lists of the others are as without twins."""
    ca.issue_twin(BANK, out=tmp_path / "one", now=NOW)
    ca.issue_twin(BANK, out=tmp_path / "two", now=NOW)
    revoked = ca.revoke("bank", "keyCompromise", now=NOW)
    assert [entry.usage for entry in revoked] == ["client", "signing", "classical-client", "classical-client"]
    made = ca.make_crl(now=NOW)
    assert [(one.number, one.revoked) for one in made] == [(1, 2), (1, 2)]
    anchors, policy = keystore.load_anchors(ca.ca_path), for_name("pq-prefer-2026")
    assert len(open_crls(ca.crl_path.read_bytes(), anchors, policy=policy, now=NOW).lists) == 1
    dual = ca.dual_crl_path.read_bytes()
    assert reason(lambda: open_crls(dual, anchors, policy=policy, now=NOW)) == "untrusted"
    classical = certificate(ca.classical_path)
    found = open_crls(dual, (*anchors, classical), policy=policy, now=NOW)
    for gone in ("one", "two"):
        with pytest.raises(CertificateError, match="keyCompromise"):
            found.check(certificate(tmp_path / gone / "classical.pem"), NOW)
    found.check(certificate(tmp_path / "hub" / "classical.pem"), NOW)
    # The next list of either has a higher number.
    assert {one.number for one in ca.make_crl(now=NOW)} == {2}


def test_one_twin_is_revoked_by_its_serial_number(ca: Authority, tmp_path: Path) -> None:
    """Its party stays, in the list of parties and in the roster."""
    twin = certificate(tmp_path / "hub" / "classical.pem")
    (entry,) = ca.revoke(f"{twin.serial_number:x}", "superseded", now=NOW)
    assert entry.sha256 == sha256_of(twin)
    row = next(one for one in rows(ca) if one.name == str(HUB))
    assert (row.standing, row.algorithms) == (Standing.GOOD, "ML-DSA-65")


def test_the_issuer_itself_cannot_be_revoked(ca: Authority) -> None:
    """It is a root: whoever trusts it has to stop doing so."""
    serial = f"{certificate(ca.classical_path).serial_number:x}"
    assert reason(lambda: ca.revoke(serial, "keyCompromise", now=NOW)) == "is_root"


def rows(ca: Authority, now: datetime = NOW):  # type: ignore[no-untyped-def]  # noqa: ANN201
    """What `pqfl ca list` shows."""
    return list_rows(ca.ledger.entries(), ca.roster(), ca.ledger.candidates(), now, uses=ca.uses())


def test_twins_are_listed_and_their_end_ends_nothing_else(ca: Authority, tmp_path: Path) -> None:
    """Shown while they are good; a party that is classical no longer is not called expired."""
    ca.issue_twin(BANK, out=tmp_path / "twin", days=1, now=NOW)
    shown = {row.name: row.algorithms for row in rows(ca)}
    assert shown["classical"] == "ECDSA-P256"
    assert shown[str(BANK)] == "ML-DSA-65 + ECDSA-P256"
    later = next(row for row in rows(ca, NOW + timedelta(days=2)) if row.name == str(BANK))
    assert (later.standing, later.algorithms) == (Standing.GOOD, "ML-DSA-65")


def test_a_migration_ends_by_removing_the_issuer(ca: Authority) -> None:
    """Then there is one file of lists again; where only the key is gone, post-quantum peers do not feel the mistake."""
    ca.make_crl(now=NOW)
    (ca.folder / "classical.key").unlink()
    assert reason(lambda: ca.make_crl(now=NOW)) == "missing"
    found = open_crls(ca.crl_path.read_bytes(), keystore.load_anchors(ca.ca_path), policy=ca.policy, now=NOW)
    assert [one.number for one in found.lists] == [2]
    ca.classical_path.unlink()
    assert len(ca.make_crl(now=NOW)) == 1
    assert not ca.dual_crl_path.exists()


def test_a_making_that_was_cut_off_is_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its certificate an issuer is not there: the same command again makes one, and only that one signs."""
    ca = Authority.create(tmp_path / "ca", federation="fed", now=NOW)
    with monkeypatch.context() as patched:
        patched.setattr("pqfl_transport.pki.keystore.write_public", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            ca.create_classical(now=NOW)
    assert reason(lambda: load_issuer(ca, NOW)) == "no_classical_issuer"
    entry = ca.create_classical(now=NOW)
    assert sha256_of(load_issuer(ca, NOW).certificate) == entry.sha256
    assert [one.sha256 for one in ca.ledger.entries() if one.sha256 in ca.trusted_fingerprints()][2:] == [entry.sha256]
    verify_history(ca.ledger, None)


def test_another_issuer_has_another_name(ca: Authority, tmp_path: Path) -> None:
    """Where one leaked it is removed and the next one made: twins, lists and `pqfl ca list` are the new one's."""
    for path in (ca.classical_path, ca.folder / "classical.key"):
        path.unlink()
    ca.create_classical(now=NOW)
    ca.issue_twin(HUB, out=tmp_path / "new", now=NOW)
    twin = certificate(tmp_path / "new" / "classical.pem")
    assert twin.issuer.rfc4514_string() == "CN=classical-2,OU=authority,O=fed"
    assert [one.authority for one in ca.make_crl(now=NOW)][1:] == [twin.issuer.rfc4514_string()]
    assert sha256_of(certificate(ca.classical_path)) in ca.trusted_fingerprints()
    verify_history(ca.ledger, None)


def test_twins_do_not_hold_up_a_rotation(ca: Authority) -> None:
    """They lead to none of the authorities that are replaced."""
    ca.rotate_issuing(now=NOW)
    ca.revoke("bank", "superseded", now=NOW)
    tls = next(one for one in ca.ledger.entries(party=str(HUB)) if one.usage == "server")
    ca.revoke(tls.serial, "superseded", now=NOW)
    assert ca.retire(now=NOW)
    assert [one.authority.partition(",")[0] for one in ca.make_crl(now=NOW)] == ["CN=issuing-2", "CN=classical"]


@pytest.mark.parametrize(
    ("step", "published"),
    [
        ("certs.ledger:Writing:prepare", False),
        ("certs.twins:TwinFolder:write", False),
        ("certs.staging::_publish", False),
        ("certs.ledger:Writing:settle", True),
    ],
)
def test_killed_at_any_step_there_is_all_or_nothing(ca: Authority, tmp_path: Path, step: str, published: bool) -> None:
    """The same command succeeds after it, and the ledger has one good twin."""
    out = tmp_path / "twin"
    done = subprocess.run([sys.executable, "-c", KILLED, step, ca.folder, out], capture_output=True, check=False)
    assert done.returncode == -9, done.stderr
    assert (out / "classical.pem").exists() == published
    issued = ca.issue_twin(BANK, out=out)
    assert issued.entries[-1].sha256 == sha256_of(keystore.load_certificate(out / "classical.pem"))
    good = [one for one in ca.ledger.entries(party=str(BANK)) if one.is_twin and one.state == State.ISSUED]
    assert [one.sha256 for one in good] == [issued.entries[-1].sha256]
    verify_history(ca.ledger, None)
