"""`pqfl seal --threshold`, `share-open`, `combine`, `verify` as trustees type them."""

import json
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from tests.support.pki import Federation, make_federation

TRUSTEES = ("bank-a", "bank-b", "bank-c")


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return make_federation(tmp_path_factory.mktemp("federation"), sites=TRUSTEES)


def pqfl(*words: object) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "pqfl", *map(str, words)], capture_output=True, text=True, check=False, timeout=60
    )
    assert "Traceback" not in done.stderr
    return done


def good(*words: object) -> subprocess.CompletedProcess[str]:
    done = pqfl(*words)
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def vault(federation: Federation, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an envelope for two of three banks, and a combiner's key."""
    folder = tmp_path_factory.mktemp("vault")
    np.savez(folder / "w.npz", a=np.arange(12.0))
    recipients = [word for name in TRUSTEES for word in ("--to", federation.site(name) / "receiving.pub")]
    good(
        "seal", *recipients, "--threshold", "2", "--identity", federation.aggregator, folder / "w.npz",
        folder / "w.pqfl",
    )  # fmt: skip
    good("key", "new", "--out", folder / "combiner")
    for name in TRUSTEES:
        share_open(federation, folder, name)
    return folder


def share_open(federation: Federation, folder: Path, name: str) -> None:
    site = federation.site(name)
    done = good(
        "share-open", "--key", site / "receiving.key", "--identity", site, "--for", folder / "combiner.pub",
        "--from", federation.aggregator / "signing.pem", "--json", folder / "w.pqfl", folder / f"{name}.share",
    )  # fmt: skip
    assert json.loads(done.stdout)["trustee"] == federation.site_uri(name)


def combine(federation: Federation, folder: Path, *words: object) -> subprocess.CompletedProcess[str]:
    return pqfl(
        "combine", "--key", folder / "combiner", "--from", federation.aggregator / "signing.pem", *words, "--json",
        folder / "w.pqfl", folder / "o.npz",
    )  # fmt: skip


def test_two_of_three_open(federation: Federation, vault: Path) -> None:
    """Two contributions open the file, with names proven by the federation's anchors."""
    shares = ["--share", vault / "bank-a.share", "--share", vault / "bank-c.share"]
    done = combine(federation, vault, *shares, "--cacert", federation.ca_pem)
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert facts["trustees"] == [federation.site_uri("bank-a"), federation.site_uri("bank-c")]
    assert facts["trustees_proven"]
    with np.load(vault / "o.npz") as found:
        assert (found["a"] == np.arange(12.0)).all()


def test_without_anchors_the_names_are_said_to_be_claims(federation: Federation, vault: Path) -> None:
    """It opens, because shares are held to the sender's hashes, and says what is not proven."""
    done = combine(federation, vault, "--share", vault / "bank-a.share", "--share", vault / "bank-b.share")
    assert done.returncode == 0, done.stderr
    assert "as they claim" in done.stderr
    assert not json.loads(done.stdout)["trustees_proven"]


def test_trustees_can_be_named_one_by_one(federation: Federation, vault: Path) -> None:
    """With --trustee only those count, and a contribution of somebody else is left out by name."""
    trustees = [word for name in ("bank-a", "bank-b") for word in ("--trustee", federation.site(name) / "signing.pem")]
    shares = [word for name in TRUSTEES for word in ("--share", vault / f"{name}.share")]
    done = combine(federation, vault, *trustees, *shares)
    assert done.returncode == 0, done.stderr
    (refused,) = json.loads(done.stdout)["refused"]
    assert refused["trustee"] == federation.site_uri("bank-c")
    assert "bank-c" in done.stderr


def test_one_alone_and_another_federation_open_nothing(
    federation: Federation, vault: Path, tmp_path: Path
) -> None:  # fmt: skip
    """Too few, the same one twice, anchors that do not know the trustees: refused, with nothing written."""
    stranger = make_federation(tmp_path, sites=("bank-a",))
    both = ["--share", vault / "bank-a.share", "--share", vault / "bank-b.share"]
    (vault / "o.npz").unlink(missing_ok=True)
    for words in (both[:2], [*both[:2], *both[:2]], [*both, "--cacert", stranger.ca_pem]):
        done = combine(federation, vault, *words)
        assert done.returncode == 1
        assert "2 trustees have to contribute" in done.stderr
        assert not (vault / "o.npz").exists()
    site = federation.site("bank-a")
    done = pqfl(
        "open", "--key", site / "receiving.key", "--from", federation.aggregator / "signing.pem", vault / "w.pqfl",
        vault / "o.npz",
    )  # fmt: skip
    assert done.returncode == 1
    assert "2 of its 3 recipients together" in done.stderr


def test_a_damaged_contribution_is_named(federation: Federation, vault: Path, tmp_path: Path) -> None:
    """A flipped bit in one contribution is left out by the name of its file; the others open."""
    data = bytearray((vault / "bank-b.share").read_bytes())
    data[300] ^= 1
    damaged = tmp_path / "damaged.share"
    damaged.write_bytes(data)
    shares = ["--share", vault / "bank-a.share", "--share", damaged, "--share", vault / "bank-c.share"]
    done = combine(federation, vault, *shares, "--cacert", federation.ca_pem)
    assert done.returncode == 0, done.stderr
    assert "damaged.share" in done.stderr


def test_verify_needs_no_secret(federation: Federation, vault: Path, tmp_path: Path) -> None:
    """The trailer is checked by whoever has the sender's certificate; a changed byte is found."""
    sender = federation.aggregator / "signing.pem"
    facts = json.loads(good("verify", "--from", sender, "--json", vault / "w.pqfl").stdout)
    assert (facts["trailer"], facts["threshold"], len(facts["recipients"])) == (True, 2, 3)
    assert "prologue and body" in good("verify", "--from", sender, vault / "w.pqfl").stdout
    data = bytearray((vault / "w.pqfl").read_bytes())
    data[-4000] ^= 1
    (tmp_path / "changed.pqfl").write_bytes(data)
    done = pqfl("verify", "--from", sender, tmp_path / "changed.pqfl")
    assert done.returncode == 1
    assert "changed.pqfl" in done.stderr
    done = pqfl("verify", "--from", federation.site("bank-a") / "signing.pem", vault / "w.pqfl")
    assert done.returncode == 1


def test_verify_says_what_no_trailer_means(federation: Federation, tmp_path: Path) -> None:
    """Without a trailer the body is not vouched for, and the output says so."""
    site = federation.site("bank-a")
    np.savez(tmp_path / "w.npz", a=np.arange(3.0))
    good("seal", "--to", site / "receiving.pub", "--identity", site, tmp_path / "w.npz", tmp_path / "w.pqfl")
    assert "no trailer" in good("verify", "--from", site / "signing.pem", tmp_path / "w.pqfl").stdout


@pytest.mark.parametrize("threshold", ["1", "4", "-2"])
def test_senseless_thresholds_are_wrong_usage(federation: Federation, vault: Path, threshold: str) -> None:
    """At least two, at most all; exit status 2."""
    recipients = [word for name in TRUSTEES for word in ("--to", federation.site(name) / "receiving.pub")]
    done = pqfl(
        "seal", *recipients, "--threshold", threshold, "--identity", federation.aggregator, vault / "w.npz",
        vault / "x.pqfl",
    )  # fmt: skip
    assert done.returncode == 2
    assert not (vault / "x.pqfl").exists()


def test_trustees_open_what_needs_an_extra_key(federation: Federation, tmp_path: Path) -> None:
    """The one who combines has to have it; contributions need none of it, and too few of them use no key up."""
    good("key", "psk", "--name", "vault", "--out", tmp_path / "psk")
    keys = tmp_path / "keys.toml"
    keys.write_text(
        '[used]\nfile = "used.db"\n[psk.vault]\nfile = "psk"\n'
        '[[peer]]\nid = "*"\nenvelopes = ["file"]\nmode = "require"\nkeys = ["psk:vault"]\n'
    )
    np.savez(tmp_path / "w.npz", a=np.arange(3.0))
    recipients = [word for name in TRUSTEES for word in ("--to", federation.site(name) / "receiving.pub")]
    peers = [word for name in TRUSTEES for word in ("--peer", federation.site_uri(name))]
    sender = tmp_path / "sender.toml"
    sender.write_text(keys.read_text().replace("used.db", "sender-used.db"))
    good(
        "seal", *recipients, "--threshold", "2", "--identity", federation.aggregator, "--keys", sender, *peers,
        tmp_path / "w.npz", tmp_path / "w.pqfl",
    )  # fmt: skip
    good("key", "new", "--out", tmp_path / "combiner")
    for name in TRUSTEES[:2]:
        share_open(federation, tmp_path, name)
    shares = [word for name in TRUSTEES[:2] for word in ("--share", tmp_path / f"{name}.share")]
    assert combine(federation, tmp_path, *shares[:2], "--keys", keys).returncode == 1
    with closing(sqlite3.connect(tmp_path / "used.db")) as record:
        assert record.execute("SELECT count(*) FROM used").fetchone() == (0,)
    done = combine(federation, tmp_path, *shares)
    assert (done.returncode, "needs the extra key" in done.stderr) == (1, True)
    assert combine(federation, tmp_path, *shares, "--keys", keys).returncode == 0
