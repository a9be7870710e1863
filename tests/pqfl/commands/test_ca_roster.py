"""`pqfl ca roster`: the root signs what was shown, and nothing else."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from certs.authority import Authority
from pqfl.commands.ca import ca_group
from pqfl_transport.errors import ConfigurationError
from tests.certs.test_rosters import request
from tests.pqfl.commands.test_ca import facts, run


@pytest.fixture
def ca(tmp_path: Path) -> Path:
    """An authority with a member and two candidates."""
    made = Authority.create(tmp_path / "ca", federation="fed")
    made.issue(profile="site", name="member", out=tmp_path / "member")
    made.certify(request("one"))
    made.certify(request("two"))
    return made.folder


def test_what_changes_is_shown_and_asked_for(ca: Path) -> None:
    """No is no; yes signs it, with the keys' words to compare."""
    command = ["roster", "sign", "--dir", str(ca)]
    refused = CliRunner().invoke(ca_group, command, input="n\n")
    assert refused.exit_code == 1
    assert Authority.open(ca).roster().number == 2
    done = CliRunner().invoke(ca_group, command, input="y\n")
    assert done.exit_code == 0
    for words in ("+ spiffe://fed/site/one", "signing key", "Roster number 3"):
        assert words in done.output
    assert set(Authority.open(ca).roster().parties) == {
        f"spiffe://fed/site/{name}" for name in ("member", "one", "two")
    }


def test_only_who_is_named_is_admitted(ca: Path) -> None:
    """With a cap of its own; nobody else changes."""
    value = facts("roster", "sign", "--dir", ca, "--admit", "site/one", "--weight-cap", "site/one=5", "--yes")
    assert value["changes"]["admitted"] == ["spiffe://fed/site/one"]
    assert Authority.open(ca).roster().party("spiffe://fed/site/one").weight_cap == 5
    assert facts("roster", "sign", "--dir", ca, "--admit-nobody", "--yes")["changes"]["admitted"] == []


def test_show_tells_the_present_and_the_next(ca: Path) -> None:
    """Who is in it, and who waits."""
    value = facts("roster", "show", "--dir", ca)
    assert [party["id"] for party in value["roster"]["parties"]] == ["spiffe://fed/site/member"]
    assert value["next"]["admitted"] == ["spiffe://fed/site/one", "spiffe://fed/site/two"]
    assert "+ spiffe://fed/site/two" in run("roster", "show", "--dir", ca).output


def test_without_the_roots_key_nothing_is_signed(ca: Path) -> None:
    """The message says where it has to be brought."""
    (ca / "root.key").unlink()
    error = run("roster", "sign", "--dir", ca, "--yes").exception
    assert isinstance(error, ConfigurationError)
    assert error.reason == "missing"
    assert Authority.open(ca).roster().number == 2


@pytest.mark.parametrize(
    "flags", [["--admit", "site/nobody"], ["--weight-cap", "site/one"], ["--weight-cap", "site/one=-1"]]
)
def test_a_wrong_word_signs_nothing(ca: Path, flags: list[str]) -> None:
    """The flag is named."""
    error = run("roster", "sign", "--dir", ca, "--yes", *flags).exception
    assert isinstance(error, ConfigurationError)
    assert str(error).startswith("--")
    assert Authority.open(ca).roster().number == 2


def test_a_revocation_between_showing_and_signing_is_noticed(ca: Path) -> None:
    """What is signed is what was shown, or nothing."""
    authority = Authority.open(ca)
    plan = authority.plan_roster()
    authority.revoke("site/one", "keyCompromise")
    with pytest.raises(ConfigurationError) as caught:
        authority.sign_roster(plan)
    assert caught.value.reason == "stale_plan"
