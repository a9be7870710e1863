"""`pqfl key`, `pqfl seal`, `pqfl open` as a user types them."""

import json
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.pqfl_transport.policy.test_files import GOOD
from tests.support.advisories import publish
from tests.support.liboqs import needs_liboqs
from tests.support.pki import Federation, make_federation


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return make_federation(tmp_path_factory.mktemp("federation"), sites=("bank-a", "bank-b"))


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    np.savez(tmp_path / "w.npz", a=np.arange(12.0).reshape(3, 4))
    return tmp_path / "w.npz"


def pqfl(*words: object) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "pqfl", *map(str, words)], capture_output=True, text=True, check=False, timeout=60
    )
    assert "Traceback" not in done.stderr
    return done


def good(*words: object) -> str:
    done = pqfl(*words)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_file_goes_from_one_party_to_another(federation: Federation, tmp_path: Path, weights: Path) -> None:
    """The four lines of the README, and the same numbers at the end."""
    key, sealed, opened = tmp_path / "reader.key", tmp_path / "w.pqfl", tmp_path / "o.npz"
    good("key", "new", "--out", key)
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert "PUBLIC" in (tmp_path / "reader.key.pub").read_text()
    site = federation.site("bank-a")
    facts = json.loads(good("seal", "--json", "--to", f"{key}.pub", "--identity", site, weights, sealed))
    assert facts["sender"] == federation.site_uri("bank-a")
    facts = json.loads(good("open", "--json", "--key", key, "--from", site / "signing.pem", sealed, opened))
    assert facts["suite"] == "pqfl/v1/mlkem768x25519-mldsa65"
    with np.load(opened) as found:
        assert (found["a"] == np.arange(12.0).reshape(3, 4)).all()


def test_several_readers_open_one_file(federation: Federation, tmp_path: Path, weights: Path) -> None:
    """``--to`` can be repeated; each of them opens it."""
    for name in ("one", "two"):
        good("key", "new", "--out", tmp_path / name)
    recipients = ["--to", tmp_path / "one.pub", "--to", tmp_path / "two.pub"]
    site = federation.site("bank-a")
    good("seal", *recipients, "--identity", site, weights, tmp_path / "w.pqfl")
    for name in ("one", "two"):
        good("open", "--key", tmp_path / name, "--from", site / "signing.pem", tmp_path / "w.pqfl", tmp_path / "o.npz")


def test_a_key_is_never_written_over(tmp_path: Path) -> None:
    """Losing a receiving key loses everything sealed to it."""
    good("key", "new", "--out", tmp_path / "reader.key")
    before = (tmp_path / "reader.key").read_bytes()
    done = pqfl("key", "new", "--out", tmp_path / "reader.key")
    assert done.returncode == 2
    assert "--out" in done.stderr
    assert (tmp_path / "reader.key").read_bytes() == before


@pytest.mark.parametrize("level", ["standard", "maximum", "cnsa2"])
def test_levels_have_keys_of_their_own(tmp_path: Path, level: str) -> None:
    """The level decides the KEM of the new key."""
    assert good("key", "new", "--out", tmp_path / "reader.key", "--level", level)


def test_a_key_of_another_level_is_refused(federation: Federation, tmp_path: Path, weights: Path) -> None:
    """A sender of level high does not seal to a key of level cnsa2, and says which algorithms do not go together."""
    good("key", "new", "--out", tmp_path / "reader.key", "--level", "cnsa2")
    done = pqfl(
        "seal", "--to", tmp_path / "reader.key.pub", "--identity", federation.site("bank-a"), weights, tmp_path / "x"
    )
    assert done.returncode == 2
    assert "ML-KEM-1024" in done.stderr
    assert not (tmp_path / "x").exists()


def test_what_open_refuses(federation: Federation, tmp_path: Path, weights: Path) -> None:
    """Another sender, another key, a TLS certificate in place of a signing one, a damaged file: one line, no output."""
    good("key", "new", "--out", tmp_path / "k")
    good("key", "new", "--out", tmp_path / "other")
    site, sealed, out = federation.site("bank-a"), tmp_path / "w.pqfl", tmp_path / "o.npz"
    good("seal", "--to", tmp_path / "k.pub", "--identity", site, weights, sealed)
    (tmp_path / "cut.pqfl").write_bytes(sealed.read_bytes()[:-1])
    (tmp_path / "loose.key").write_bytes((tmp_path / "k").read_bytes())
    (tmp_path / "loose.key").chmod(0o644)
    another = federation.site("bank-b") / "signing.pem"
    cases = [
        (tmp_path / "k", another, sealed, 1, "bank-a"),
        (tmp_path / "other", site / "signing.pem", sealed, 1, "not sealed to this receiving key"),
        (tmp_path / "k", site / "tls.pem", sealed, 1, "tls.pem"),
        (tmp_path / "k", site / "signing.pem", tmp_path / "cut.pqfl", 1, "short"),
        (tmp_path / "k", site / "signing.pem", weights, 1, "w.npz"),
        (tmp_path / "k", site / "signing.pem", tmp_path / "nowhere", 2, "nowhere"),
        (tmp_path / "loose.key", site / "signing.pem", sealed, 2, "chmod 600"),
        (tmp_path / "k.pub", site / "signing.pem", sealed, 2, "k.pub"),
    ]
    for key, sender, source, status, named in cases:
        done = pqfl("open", "--key", key, "--from", sender, source, out)
        assert (done.returncode, named in done.stderr) == (status, True), (named, done.stderr)
        assert len(done.stderr.splitlines()) == 1
        assert not out.exists()


def test_what_seal_refuses(federation: Federation, tmp_path: Path, weights: Path) -> None:
    """A missing file, a pickled one, an identity without a signing key: one line with the name."""
    good("key", "new", "--out", tmp_path / "k")
    np.savez(tmp_path / "pickled.npz", a=np.array([{}], dtype=object))
    site = federation.site("bank-a")
    for identity, source, named in (
        (site, tmp_path / "nowhere.npz", "nowhere.npz"),
        (site, tmp_path / "pickled.npz", "pickle"),
        (federation.gateway, weights, "signing.pem"),
    ):
        done = pqfl("seal", "--to", tmp_path / "k.pub", "--identity", identity, source, tmp_path / "w.pqfl")
        assert (done.returncode, named in done.stderr) == (2, True), done.stderr
        assert not (tmp_path / "w.pqfl").exists()


def keys_file(folder: Path, psk: Path, peer: str, mode: str = "require") -> Path:
    path = folder / "keys.toml"
    path.write_text(
        f'[used]\nfile = "used.db"\n[psk.spring]\nfile = "{psk}"\n'
        f'[[peer]]\nid = "{peer}"\nenvelopes = ["file"]\nmode = "{mode}"\nkeys = ["psk:spring"]\n'
    )
    return path


def test_a_file_with_a_pre_shared_key(federation: Federation, tmp_path: Path, weights: Path) -> None:
    """Made once, held by both ends, required by the reader: without it the receiving key alone opens nothing."""
    psk, sealed, out = tmp_path / "spring.psk", tmp_path / "w.pqfl", tmp_path / "o.npz"
    good("key", "psk", "--name", "spring", "--out", psk)
    assert stat.S_IMODE(psk.stat().st_mode) == 0o600
    good("key", "new", "--out", tmp_path / "k")
    for name in ("ours", "theirs"):
        (tmp_path / name).mkdir()
    site, reader = federation.site("bank-a"), "spiffe://fed/site/bank-b"
    ours = keys_file(tmp_path / "ours", psk, reader)
    theirs = keys_file(tmp_path / "theirs", psk, federation.site_uri("bank-a"))
    sealing = ["seal", "--json", "--to", tmp_path / "k.pub", "--identity", site]
    opening = ["open", "--key", tmp_path / "k", "--from", site / "signing.pem"]
    facts = json.loads(good(*sealing, "--keys", ours, "--peer", reader, weights, sealed))
    assert facts["extra_keys"][0].startswith("psk:spring:")
    assert facts["extra_keys"][0] in good("verify", "--json", "--from", site / "signing.pem", sealed)
    assert facts["extra_keys"][0] in good(*opening, "--keys", theirs, sealed, out)
    out.unlink()
    done = pqfl(*opening, sealed, out)
    assert (done.returncode, "needs the extra key" in done.stderr) == (1, True)
    good(*sealing, weights, sealed)
    done = pqfl(*opening, "--keys", theirs, sealed, out)
    assert (done.returncode, "has to have a key of psk:spring" in done.stderr) == (3, True)
    assert not out.exists()


def test_keys_and_peers_go_together(federation: Federation, tmp_path: Path, weights: Path) -> None:
    """A rule is for a peer, and a peer means nothing without rules; a pre-shared key is never written over."""
    good("key", "new", "--out", tmp_path / "k")
    good("key", "psk", "--name", "spring", "--out", tmp_path / "psk")
    assert pqfl("key", "psk", "--name", "spring", "--out", tmp_path / "psk").returncode == 2
    assert pqfl("key", "psk", "--name", "Spring", "--out", tmp_path / "psk2").returncode == 2
    keys = keys_file(tmp_path, tmp_path / "psk", "*")
    for words in (["--keys", keys], ["--peer", "spiffe://fed/site/bank-b"]):
        done = pqfl(
            "seal", "--to", tmp_path / "k.pub", "--identity", federation.site("bank-a"), *words, weights,
            tmp_path / "x.pqfl",
        )  # fmt: skip
        assert (done.returncode, "--keys and --peer go together" in done.stderr) == (2, True)


GCM = "pqfl/v1/mlkem768x25519-mldsa65"


def test_an_advisory_decides_what_is_sealed_and_opened(federation: Federation, tmp_path: Path, weights: Path) -> None:
    """The next suite seals; an envelope under a withdrawn one is neither verified nor opened, with status 3."""
    key, site = tmp_path / "reader.key", federation.site("bank-a")
    good("key", "new", "--out", key)
    seal = ("seal", "--json", "--to", f"{key}.pub", "--identity", site)
    good(*seal, weights, tmp_path / "old.pqfl")
    advisory = ("--advisory", publish(federation, tmp_path / "a.json", GCM))
    facts = json.loads(good(*seal, *advisory, weights, tmp_path / "new.pqfl"))
    assert facts["suite"] == "pqfl/v1/mlkem768x25519-chacha-mldsa65"
    signer = ("--from", site / "signing.pem")
    trusted = ("--cacert", federation.ca_pem)
    good("open", "--key", key, *signer, *advisory, *trusted, tmp_path / "new.pqfl", tmp_path / "o.npz")
    for command in (("open", "--key", key, *signer), ("verify", *signer)):
        out = (tmp_path / "x.npz",) if command[0] == "open" else ()
        done = pqfl(*command, *advisory, *trusted, tmp_path / "old.pqfl", *out)
        assert (done.returncode, "high-2026+advisory-1" in done.stderr) == (3, True), done.stderr
    assert not (tmp_path / "x.npz").exists()
    done = pqfl("open", "--key", key, *signer, *advisory, tmp_path / "new.pqfl", tmp_path / "x.npz")
    assert (done.returncode, "--advisory needs --cacert" in done.stderr) == (2, True)


def test_a_policy_can_be_named(federation: Federation, tmp_path: Path, weights: Path) -> None:
    """By name or file; one that lists no suite for the keys at hand refuses, and nothing is sealed otherwise."""
    (tmp_path / "own.toml").write_text(GOOD.replace("x25519-mldsa65", "x25519-chacha-mldsa65"))
    key, site = tmp_path / "reader.key", federation.site("bank-a")
    good("key", "new", "--out", key, "--policy", tmp_path / "own.toml")
    seal = ("seal", "--json", "--to", f"{key}.pub", "--identity", site, "--policy")
    facts = json.loads(good(*seal, tmp_path / "own.toml", weights, tmp_path / "w.pqfl"))
    assert facts["suite"] == "pqfl/v1/mlkem768x25519-chacha-mldsa65"
    done = pqfl(*seal, "cnsa2-2026", weights, tmp_path / "x.pqfl")
    assert (done.returncode, "lists no content suite with ML-DSA-65" in done.stderr) == (3, True)
    assert pqfl("key", "new", "--out", tmp_path / "k", "--policy", "cnsa2-2026", "--level", "high").returncode == 2


@needs_liboqs
def test_an_experimental_suite_works_where_a_policy_file_names_it(
    federation: Federation, tmp_path: Path, weights: Path
) -> None:
    """Off otherwise: the same envelope is refused under the policy that the keys belong to."""
    suite = "pqfl/v1/x-hqc3-x25519-mldsa65"
    (tmp_path / "own.toml").write_text(GOOD.replace(GCM, suite))
    policy = ("--policy", tmp_path / "own.toml")
    key, site = tmp_path / "reader.key", federation.site("bank-a")
    good("key", "new", "--out", key, *policy)
    sealed, opened = tmp_path / "w.pqfl", tmp_path / "o.npz"
    good("seal", "--to", f"{key}.pub", "--identity", site, *policy, weights, sealed)
    reading = ("open", "--json", "--key", key, "--from", site / "signing.pem")
    assert json.loads(good(*reading, *policy, sealed, opened))["suite"] == suite
    assert pqfl(*reading, sealed, tmp_path / "x.npz").returncode != 0
    assert pqfl(*reading, "--policy", "high-2026", sealed, tmp_path / "x.npz").returncode == 3
