"""`pqfl key new|encrypt|decrypt|passwd` as a user types them, and the commands that work with encrypted keys."""

import json
import stat
from pathlib import Path

import numpy as np
import pytest

from pqfl_transport.content.key_files import load_key_ring, load_recipient
from pqfl_transport.pki.files import write_secret
from tests.support.commands import good, pqfl, refused
from tests.support.liboqs import needs_liboqs
from tests.support.pki import Federation, make_federation

PASSPHRASE, OTHER = "correct horse battery staple", "another one of that length"


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return make_federation(tmp_path_factory.mktemp("federation"), sites=("bank-a",))


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with two passphrases in files, and weights."""
    write_secret(tmp_path / "pass", PASSPHRASE.encode())
    write_secret(tmp_path / "other", OTHER.encode())
    np.savez(tmp_path / "w.npz", a=np.arange(12.0))
    return tmp_path


def test_a_key_is_born_under_a_passphrase(files: Path) -> None:
    """Mode 0600, no seed in the file; the facts say so, and the public half is in plain sight."""
    key = files / "k"
    facts = json.loads(good("key", "new", "--json", "--encrypt", "--passphrase-file", files / "pass", "--out", key))
    assert (facts["encrypted"], facts["kem"]) == (True, "ML-KEM-768+X25519")
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    entry = load_key_ring(key).newest
    assert (entry.is_encrypted, entry.key, entry.fingerprint.hex()) == (True, None, facts["fingerprint"])
    assert entry.made > 0
    assert load_recipient(files / "k.pub").fingerprint == entry.fingerprint
    assert "--encrypt" in refused_usage("key", "new", "--passphrase-file", files / "pass", "--out", files / "n")


def refused_usage(*words: object) -> str:
    done = pqfl(*words)
    assert done.returncode == 2
    return done.stderr


def test_any_kem_that_makes_receiving_keys_can_be_named(files: Path) -> None:
    """By its name or an alias; together with a level, or one that makes none, it is refused."""
    facts = json.loads(good("key", "new", "--json", "--kem", "ML-KEM-1024", "--out", files / "k"))
    assert facts["kem"] == "ML-KEM-1024"
    assert "--level" in refused_usage("key", "new", "--kem", "ML-KEM-1024", "--level", "high", "--out", files / "n")
    for kem in ("X25519", "ML-KEM-768", "nonsense"):
        assert kem in refused_usage("key", "new", "--kem", kem, "--out", files / "n")
    line = refused_usage("key", "new", "--kem", "Classic-McEliece-348864", "--out", files / "n")
    assert "Classic-McEliece-348864+X25519 does" in line
    assert not (files / "n").exists()


def test_a_file_goes_to_a_reader_with_an_encrypted_key(federation: Federation, files: Path) -> None:
    """Signing and receiving keys under passphrases: with the file it works, with a wrong one nothing is written."""
    key, site = files / "k", files / "site"
    good("key", "new", "--encrypt", "--passphrase-file", files / "pass", "--out", key)
    site.mkdir()
    for name in ("signing.pem", "ca.pem"):
        (site / name).write_bytes((federation.site("bank-a") / name).read_bytes())
    write_secret(site / "signing.key", (federation.site("bank-a") / "signing.key").read_bytes())
    good("key", "encrypt", "--passphrase-file", files / "other", site / "signing.key")
    assert b"ENCRYPTED PRIVATE KEY" in (site / "signing.key").read_bytes()
    seal = ("seal", "--to", f"{key}.pub", "--identity", site, files / "w.npz", files / "w.pqfl")
    assert "signing.key" in refused(*seal)
    good(*seal[:1], "--passphrase-file", files / "other", *seal[1:])
    opening = ("open", "--key", key, "--from", site / "signing.pem", files / "w.pqfl", files / "o.npz")
    for line in (refused(*opening), refused(*opening, "--passphrase-file", files / "other")):
        assert line.startswith(f"pqfl: {key}: ")
        assert not (files / "o.npz").exists()
    good(*opening, "--passphrase-file", files / "pass")
    with np.load(files / "o.npz") as found:
        assert (found["a"] == np.arange(12.0)).all()


@pytest.mark.parametrize("name", ["signing.key", "tls.key", "receiving.key"])
def test_a_key_goes_under_a_passphrase_and_out_again(federation: Federation, files: Path, name: str) -> None:
    """In its place, of mode 0600; afterwards it is the same key, byte for byte."""
    path = files / name
    before = (federation.site("bank-a") / name).read_bytes()
    write_secret(path, before)
    assert "not encrypted" in refused("key", "decrypt", path)
    assert "not encrypted" in refused("key", "passwd", path)
    good("key", "encrypt", "--passphrase-file", files / "pass", path)
    encrypted = path.read_bytes()
    assert "encrypted already" in refused("key", "encrypt", "--passphrase-file", files / "pass", path)
    good("key", "passwd", "--passphrase-file", files / "pass", "--new-passphrase-file", files / "other", path)
    assert path.read_bytes() not in {before, encrypted}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert "does not open" in refused("key", "decrypt", "--passphrase-file", files / "pass", path)
    good("key", "decrypt", "--passphrase-file", files / "other", path)
    assert path.read_bytes() == before
    assert {one.name for one in files.iterdir()} == {"pass", "other", "w.npz", name}


def test_what_is_no_key_stays_as_it_is(files: Path) -> None:
    """A public key, a certificate and rubbish are refused by name; a weak passphrase changes nothing."""
    good("key", "new", "--out", files / "k")
    before = (files / "k").read_bytes()
    write_secret(files / "rubbish", b"rubbish")
    write_secret(files / "public", (files / "k.pub").read_bytes())
    write_secret(files / "cut", before[:-30])
    for name in ("rubbish", "public", "cut", "none"):
        assert name in refused("key", "encrypt", "--passphrase-file", files / "pass", files / name)
    write_secret(files / "weak", b"short")
    assert "at least 15" in refused("key", "encrypt", "--passphrase-file", files / "weak", files / "k")
    assert (files / "k").read_bytes() == before


@needs_liboqs
def test_a_key_of_a_megabyte_works_from_the_command_line(files: Path) -> None:
    """Classic McEliece: made, encrypted, sealed to and opened where it is asked for, refused where not."""
    make_federation(files / "fed", level="standard", sites=("bank-a",))
    site, key = files / "fed" / "sites" / "bank-a", files / "k"
    good("key", "new", "--kem", "Classic-McEliece-348864+X25519", "--out", key)
    good("key", "encrypt", "--passphrase-file", files / "pass", key)
    assert key.stat().st_size > 300_000
    seal = ("seal", "--to", f"{key}.pub", "--identity", site, files / "w.npz", files / "w.pqfl")
    assert "--allow-experimental" in refused(*seal, status=3)
    good(*seal, "--allow-experimental")
    signer = ("--from", site / "signing.pem")
    opening = ("open", "--key", key, "--passphrase-file", files / "pass", *signer, files / "w.pqfl", files / "o.npz")
    assert "--allow-experimental" in refused(*opening, status=3)
    good(*opening, "--allow-experimental")
    assert "x-classic" in refused("verify", *signer, files / "w.pqfl", status=3)
    good("verify", "--allow-experimental", *signer, files / "w.pqfl")
