"""`new-federation.sh`: one command makes everything a small federation starts with, or nothing."""

import stat
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pqfl_transport.pki import chain, keystore
from pqfl_transport.pki.profiles import PROFILES
from pqfl_transport.policy import for_level
from tests.support.scripts import run_script

SITES = ("bank-a", "bank-b")


def run(*arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the script with this interpreter's `pqfl`, or with another command."""
    return run_script("new-federation.sh", *arguments, **variables)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a federation that the script made."""
    folder = tmp_path_factory.mktemp("new") / "ring"
    done = run(folder, "bank-ring", *SITES)
    assert done.returncode == 0, done.stderr
    assert "root.key" in done.stdout
    return folder


def test_every_party_has_an_identity_that_verifies(made: Path) -> None:
    """All certificates lead to the root that everybody has and name the party whose folder they are in."""
    parties = [("gateway", "hub", made / "gateway"), ("aggregator", "main", made / "aggregator")]
    parties += [("site", name, made / "sites" / name) for name in SITES]
    anchors = keystore.load_anchors(made / "ca" / "ca.pem")
    for profile, name, folder in parties:
        assert (folder / "ca.pem").read_bytes() == (made / "ca" / "ca.pem").read_bytes()
        (leaf,) = chain.load_certificates((folder / "tls.pem").read_bytes())
        party = chain.verify_chain(
            leaf, anchors, policy=for_level("high"), usage=PROFILES[profile].tls_usage, now=datetime.now(UTC)
        )
        assert str(party) == f"spiffe://bank-ring/{profile}/{name}"


def test_the_roster_names_all_who_sign(made: Path) -> None:
    """The copy of the roster is the last one: aggregator and sites are in it, under the keys of their folders."""
    roots = keystore.root_keys(keystore.load_anchors(made / "gateway" / "ca.pem"))
    roster = keystore.load_roster(made / "roster.json", roots, federation="bank-ring")
    identities = [
        keystore.load_signing_identity(folder)
        for folder in (made / "aggregator", *(made / "sites" / name for name in SITES))
    ]
    assert set(roster.parties) == {str(identity.id) for identity in identities}
    for identity in identities:
        assert roster.party(str(identity.id)).signing_key == identity.key.verifying_key


def test_every_private_key_is_its_owners_alone(made: Path) -> None:
    """Whatever is called *.key has mode 0600 and lies in a folder of mode 0700."""
    keys = list(made.rglob("*.key"))
    assert len(keys) == 3 + 1 + 3 * 3
    for key in keys:
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
        assert stat.S_IMODE(key.parent.stat().st_mode) == 0o700


def test_an_existing_folder_is_refused_untouched(tmp_path: Path) -> None:
    """The script never writes into something that is there already."""
    (tmp_path / "precious").write_text("do not touch")
    for target in (tmp_path, tmp_path / "precious"):
        done = run(target, "bank-ring", "bank-a")
        assert done.returncode == 2
        assert done.stderr == f"new-federation.sh: {target}: exists already\n"
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]


def test_a_failure_in_the_middle_leaves_nothing(tmp_path: Path) -> None:
    """A site's name outside the grammar is refused after authority and gateway were made; the folder is gone."""
    done = run(tmp_path / "ring", "bank-ring", "bank-a", "Bank B")
    assert done.returncode == 2
    assert "'Bank B'" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_missing_command_leaves_nothing(tmp_path: Path) -> None:
    """Without `pqfl` the script says so and leaves no folder."""
    done = run(tmp_path / "ring", "bank-ring", "bank-a", PQFL="pqfl-is-not-installed")
    assert done.returncode != 0
    assert "pqfl-is-not-installed" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("arguments", "status"), [(("--help",), 0), ((), 2), (("ring", "bank-ring"), 2)])
def test_usage(arguments: tuple[str, ...], status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked for help, or called with too little, the script shows how it is called and makes nothing."""
    monkeypatch.chdir(tmp_path)
    done = run(*arguments)
    assert done.returncode == status
    assert "Usage: new-federation.sh DIR FEDERATION SITE..." in (done.stderr if status else done.stdout)
    assert list(tmp_path.iterdir()) == []
