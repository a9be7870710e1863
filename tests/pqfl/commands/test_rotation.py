"""`pqfl key rotate|announce|prune` as a reader and as a site type them, from the old key to its end."""

import json
import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pqfl_transport.content.key_files import load_key_ring, load_recipient, replace_key_ring
from pqfl_transport.content.receiving_keys import ReceivingKeys
from pqfl_transport.pki.files import write_secret
from tests.support.commands import good, pqfl, refused
from tests.support.pki import Federation, make_federation

DAY = 24 * 3600
PASSPHRASE = "correct horse battery staple"


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return make_federation(tmp_path_factory.mktemp("federation"), sites=("bank-a", "bank-b"))


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    np.savez(tmp_path / "w.npz", a=np.arange(12.0))
    return tmp_path / "w.npz"


def end_now(path: Path) -> None:
    """Let the time of all former keys be over."""
    ring = load_key_ring(path)
    ended = tuple(replace(entry, not_after=int(time.time()) - 1) for entry in ring.entries[1:])
    replace_key_ring(path, ReceivingKeys((ring.newest, *ended)))


def test_what_was_sealed_to_the_old_key_opens_until_its_end(
    federation: Federation, tmp_path: Path, weights: Path
) -> None:
    """Both envelopes open during the overlap; afterwards the old one is refused with the day, and pruned away."""
    key, site = tmp_path / "k", federation.site("bank-a")
    good("key", "new", "--out", key)
    before = load_recipient(tmp_path / "k.pub")
    good("seal", "--to", f"{key}.pub", "--identity", site, weights, tmp_path / "old.pqfl")
    facts = json.loads(good("key", "rotate", "--key", key, "--overlap", "2d", "--json"))
    assert load_recipient(tmp_path / "k.pub").fingerprint.hex() == facts["fingerprint"] != before.fingerprint.hex()
    (former,) = facts["former"]
    assert former["fingerprint"] == before.fingerprint.hex()
    assert abs(former["not_after"] - time.time() - 2 * DAY) < 100
    assert (facts["statement"], len(facts["words"])) == (None, 32)
    good("seal", "--to", f"{key}.pub", "--identity", site, weights, tmp_path / "new.pqfl")
    opening = [("open", "--key", key, "--from", site / "signing.pem", tmp_path / f"{name}.pqfl", tmp_path / "o.npz")
               for name in ("new", "old")]  # fmt: skip
    for words in opening:
        good(*words)
    assert json.loads(good("key", "prune", "--key", key, "--json"))["removed"] == []
    end_now(key)
    (tmp_path / "o.npz").unlink()
    line = refused(*opening[1])
    assert "was kept until" in line
    assert former["fingerprint"][:16] in line
    assert not (tmp_path / "o.npz").exists()
    good(*opening[0])
    assert json.loads(good("key", "prune", "--key", key, "--json"))["removed"] == [former["fingerprint"]]
    assert len(load_key_ring(key).entries) == 1
    assert "not sealed to this receiving key" in refused(*opening[1], status=1)


def test_an_encrypted_key_stays_encrypted(tmp_path: Path) -> None:
    """New and old ones under the passphrase that opened them; a wrong one changes nothing."""
    write_secret(tmp_path / "pass", PASSPHRASE.encode())
    write_secret(tmp_path / "wrong", b"not the right one")
    key = tmp_path / "k"
    good("key", "new", "--encrypt", "--passphrase-file", tmp_path / "pass", "--out", key)
    before = key.read_bytes(), (tmp_path / "k.pub").read_bytes()
    assert "does not open" in refused("key", "rotate", "--key", key, "--passphrase-file", tmp_path / "wrong")
    assert before == (key.read_bytes(), (tmp_path / "k.pub").read_bytes())
    good("key", "rotate", "--key", key, "--passphrase-file", tmp_path / "pass")
    ring = load_key_ring(key)
    assert [entry.is_encrypted for entry in ring.entries] == [True, True]
    opened = ring.mapped(lambda entry: entry.unlocked(PASSPHRASE.encode()))
    assert load_recipient(tmp_path / "k.pub") == opened.newest.opened.public
    good("key", "prune", "--key", key, "--all")
    assert len(load_key_ring(key).entries) == 1


def test_a_key_may_change_its_kem_and_its_end(tmp_path: Path) -> None:
    """Another KEM for the new key; hours, weeks or no end for the old; nonsense is refused before anything changes."""
    key = tmp_path / "k"
    good("key", "new", "--out", key)
    good("key", "rotate", "--key", key, "--kem", "ML-KEM-1024", "--overlap", "forever")
    assert [(entry.kem, entry.not_after) for entry in load_key_ring(key).entries] == [
        ("ML-KEM-1024", 0), ("ML-KEM-768+X25519", 0),
    ]  # fmt: skip
    before = key.read_bytes()
    for overlap in ("0d", "3", "-1d", "1y", "", "1000000d"):
        assert "--overlap" in refused("key", "rotate", "--key", key, "--overlap", overlap)
    assert "X25519" in refused("key", "rotate", "--key", key, "--kem", "X25519")
    assert key.read_bytes() == before
    good("key", "rotate", "--key", key, "--overlap", "12h")
    assert abs(load_key_ring(key).entries[1].not_after - time.time() - DAY / 2) < 100


def test_a_file_keeps_so_many_keys_and_no_more(tmp_path: Path) -> None:
    """The ninth is refused with what to do, and nothing is lost."""
    key = tmp_path / "k"
    good("key", "new", "--out", key)
    for _ in range(7):
        good("key", "rotate", "--key", key)
    before = key.read_bytes()
    assert "prune" in refused("key", "rotate", "--key", key)
    assert key.read_bytes() == before


def test_a_site_announces_its_new_key_and_the_roster_takes_it(federation: Federation, tmp_path: Path) -> None:
    """The statement becomes a roster with the new key; used again, or an older one after it, it is refused."""
    ca = Path(shutil.copytree(federation.ca, tmp_path / "ca"))
    site = Path(shutil.copytree(federation.site("bank-a"), tmp_path / "site"))
    assert "was issued with" in refused("key", "announce", "--identity", site)
    facts = json.loads(good("key", "rotate", "--identity", site, "--json"))
    statement = Path(facts["statement"])
    first = statement.read_bytes()
    taken = json.loads(good("ca", "rekey", "--dir", ca, "--statement", statement, "--json"))
    assert (taken["after"], taken["id"]) == (facts["fingerprint"], federation.site_uri("bank-a"))
    assert (taken["before"], taken["words"]) == (facts["former"][0]["fingerprint"], facts["words"])
    assert "already" in refused("ca", "rekey", "--dir", ca, "--statement", statement, status=1)
    later = json.loads(good("key", "rotate", "--identity", site, "--json"))
    good("ca", "rekey", "--dir", ca, "--statement", statement)
    (tmp_path / "old.json").write_bytes(first)
    assert "old one" in refused("ca", "rekey", "--dir", ca, "--statement", tmp_path / "old.json", status=1)
    roster = json.loads(good("key", "show", "--json", "--cacert", ca / "ca.pem", ca / "roster.json"))
    mine = [row for row in roster if row["owner"] == federation.site_uri("bank-a") and "receiving" in row["kind"]]
    assert [row["fingerprint"] for row in mine] == [later["fingerprint"]]
    statement.unlink()
    again = json.loads(good("key", "announce", "--identity", site, "--json"))
    assert (again["fingerprint"], statement.exists()) == (later["fingerprint"], True)


def test_a_statement_of_somebody_else_is_refused(federation: Federation, tmp_path: Path) -> None:
    """A changed one, one of another federation, and rubbish leave the roster as it was."""
    ca = Path(shutil.copytree(federation.ca, tmp_path / "ca"))
    roster = (ca / "roster.json").read_bytes()
    other = make_federation(tmp_path / "other", sites=("bank-a",))
    good("key", "rotate", "--identity", other.site("bank-a"))
    foreign = other.site("bank-a") / "receiving-key.json"
    (tmp_path / "changed.json").write_bytes(foreign.read_bytes().replace(b"bank-a", b"bank-b"))
    (tmp_path / "rubbish.json").write_bytes(b"{}")
    for path in (foreign, tmp_path / "changed.json", tmp_path / "rubbish.json"):
        assert str(path) in refused("ca", "rekey", "--dir", ca, "--statement", path, status=1)
    assert (ca / "roster.json").read_bytes() == roster
    (ca / "root.key").unlink()
    site = Path(shutil.copytree(federation.site("bank-b"), tmp_path / "site"))
    good("key", "rotate", "--identity", site)
    statement = ("ca", "rekey", "--dir", ca, "--statement", site / "receiving-key.json")
    assert "root.key" in refused(*statement)
    shutil.copy2(federation.ca / "root.key", ca / "root.key")
    good(*statement)


def test_one_place_is_named(tmp_path: Path) -> None:
    """Either a file or an identity; the federation decides an identity's KEM."""
    both, kem = ("--key", tmp_path / "k", "--identity", tmp_path), ("--identity", tmp_path, "--kem", "ML-KEM-1024")
    for words in ((), both, kem):
        done = pqfl("key", "rotate", *words)
        assert (done.returncode, "Usage" in done.stderr) == (2, True)
