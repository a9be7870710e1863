"""Publishing a party's folder: killed at any step, there is all of it or nothing, and the same command succeeds."""

import json
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from certs.authority import Authority
from certs.entry import State, sha256_of
from certs.history import verify_history
from certs.issuing import recover
from certs.ledger import Preparation
from pqfl_transport.errors import ConfigurationError
from pqfl_transport.pki import keystore

PARTY = "spiffe://fed/site/one"

# Every step is a function that is called once or more; the process dies at the first or right behind it.
STEPS = {
    "before the ledger": "certs.ledger.Writing.enter",
    "within the transaction": "certs.ledger.Writing.prepare",
    "before the folder is written": "certs.identity.Identity.write",
    "before the folder has its name": "certs.staging._publish",
    "before the roster": "certs.issuing.publish_roster",
    "before the roster's file": "pqfl_transport.pki.keystore.write_public:roster.json",
    "before it is settled": "certs.ledger.Writing.settle",
}
PUBLISHED = {"before the roster", "before the roster's file", "before it is settled"}
SCRIPT = """
import importlib, os, signal, sys
from pathlib import Path
from certs.authority import Authority
import certs.issuing, certs.staging
name, folder, out = sys.argv[1:]
name, _, only = name.partition(":")
parts = name.split(".")
owner = importlib.import_module(".".join(parts[:-2] if parts[-2][0].isupper() else parts[:-1]))
if parts[-2][0].isupper():
    owner = getattr(owner, parts[-2])
good = getattr(owner, parts[-1])
def die(*arguments, **named):
    if not only or getattr(arguments[0], "name", "") == only:
        os.kill(os.getpid(), signal.SIGKILL)
    return good(*arguments, **named)
setattr(owner, parts[-1], die)
Authority.open(Path(folder)).issue(profile="site", name="one", out=Path(out))
"""


@pytest.fixture
def ca(tmp_path: Path) -> Authority:
    """A new authority."""
    return Authority.create(tmp_path / "ca", federation="fed")


def kill_at(step: str, ca: Authority) -> None:
    """Issue a site in a process that is killed at this step."""
    arguments = [sys.executable, "-c", SCRIPT, STEPS[step], str(ca.folder), str(ca.folder.parent / "one")]
    assert subprocess.run(arguments, check=False).returncode == -signal.SIGKILL


@pytest.mark.parametrize("step", STEPS)
def test_killed_at_any_step_the_same_command_succeeds(ca: Authority, step: str) -> None:
    """The folder's certificates are in the ledger, the roster names its keys, and nothing is left lying about."""
    out = ca.folder.parent / "one"
    kill_at(step, ca)
    assert out.exists() == (step in PUBLISHED)
    issued = ca.issue(profile="site", name="one", out=out)
    assert issued.roster_number == 2
    found = {sha256_of(keystore.load_certificate(out / name)) for name in ("tls.pem", "signing.pem")}
    assert {entry.sha256 for entry in issued.entries} == found
    entries = ca.ledger.entries(party=PARTY)
    assert {entry.sha256 for entry in entries if entry.state == State.ISSUED} == found
    assert all(entry.revoked_at for entry in entries if entry.state == State.WITHDRAWN)
    assert ca.roster().party(PARTY).signing_key == keystore.load_signing_identity(out).key.verifying_key
    assert verify_history(ca.ledger, None).lines == len(list(ca.ledger.lines()))
    assert {path.name for path in ca.folder.parent.iterdir()} == {"ca", "one"}
    assert ca.ledger.preparations() == ()


def test_another_command_finds_the_name_free_or_taken(ca: Authority) -> None:
    """What was published stays published; what was not may be issued with other words."""
    kill_at("before the folder has its name", ca)
    ca.issue(profile="site", name="one", out=ca.folder.parent / "other", weight_cap=5)
    assert ca.roster().party(PARTY).weight_cap == 5
    assert [entry.state for entry in ca.ledger.entries(party=PARTY)] == ["withdrawn"] * 2 + ["issued"] * 2


def test_a_published_folder_is_finished_by_whatever_comes_next(ca: Authority) -> None:
    """A gateway's issue does it, too; the same name with other words is refused then."""
    kill_at("before the roster", ca)
    ca.issue(profile="gateway", name="hub", out=ca.folder.parent / "hub")
    assert PARTY in ca.roster().parties
    with pytest.raises(ConfigurationError) as caught:
        ca.issue(profile="site", name="one", out=ca.folder.parent / "other")
    assert caught.value.reason == "already_issued"


def test_only_a_hidden_folder_beside_the_target_is_removed(ca: Authority, tmp_path: Path) -> None:
    """A ledger that was tampered with does not make the authority delete what it names."""
    precious = tmp_path / "precious"
    precious.mkdir()
    now = datetime.now(UTC)
    with ca.ledger.writing(now) as book:
        book.prepare(Preparation(PARTY, json.dumps({}), str(precious), str(tmp_path / "one"), None))
    assert recover(ca, now) == {}
    assert precious.is_dir()
    assert list(precious.iterdir()) == []
