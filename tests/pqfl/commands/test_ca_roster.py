"""`pqfl ca roster`: the root signs what was shown, and nothing else."""

import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner

from certs.authority import Authority
from pqfl.commands.ca import ca_group
from pqfl_transport.errors import ConfigurationError
from pqfl_transport.pki.words import to_lines
from tests.certs.test_rosters import request
from tests.pqfl.commands.test_ca import facts, run
from tests.support.pki import Federation, make_federation
from tests.support.rekeying import prepare_next


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


@pytest.fixture
def rekeyed(tmp_path: Path) -> Federation:
    """A federation whose site has a next signing key."""
    made = make_federation(tmp_path / "federation", sites=("north",))
    prepare_next(made, made.site("north"))
    return made


@pytest.mark.parametrize(("words", "days"), [((), 14), (("--former-until", "2d"), 2), (("--former-until", "30d"), 30)])
def test_a_new_signing_key_is_shown_with_the_end_of_the_one_before(
    rekeyed: Federation, words: tuple[str, ...], days: int
) -> None:
    """As words to compare, before it is signed and after."""
    party = rekeyed.authority.roster().party(rekeyed.site_uri("north"))
    done = CliRunner().invoke(ca_group, ["roster", "sign", "--dir", str(rekeyed.ca), *words], input="y\n")
    assert done.exit_code == 0
    present = rekeyed.authority.roster().party(rekeyed.site_uri("north"))
    assert f"~ {rekeyed.site_uri('north')}" in done.output
    assert all(line in done.output for line in to_lines(present.signing_key.fingerprint))
    former = facts("roster", "show", "--dir", rekeyed.ca)["roster"]["parties"][1]["former"]
    assert former["signing_fingerprint"] == party.signing_key.fingerprint.hex()
    assert abs(former["until"] - time.time() - days * 86_400) < 60
    until = datetime.fromtimestamp(former["until"], UTC)
    line = f"the key before, {former['signing_fingerprint'][:16]}…, counts until {until:%Y-%m-%d %H:%M} UTC"
    assert line in done.output
    assert line in run("roster", "show", "--dir", rekeyed.ca).output


@pytest.mark.parametrize("word", ["now", "0"])
def test_a_new_signing_key_replaces_the_one_before_at_once(rekeyed: Federation, word: str) -> None:
    """Where the operator says so, and also an overlap that had begun."""
    good = ("roster", "sign", "--dir", rekeyed.ca, "--yes")
    assert facts(*good)["changes"]["ended"] == []
    assert facts(*good, "--former-until", word)["changes"]["ended"] == [rekeyed.site_uri("north")]
    assert facts("roster", "show", "--dir", rekeyed.ca)["roster"]["parties"][1]["former"] is None


def test_an_end_that_is_no_time_is_refused(rekeyed: Federation) -> None:
    """The flag is named."""
    done = CliRunner().invoke(ca_group, ["roster", "sign", "--dir", str(rekeyed.ca), "--former-until", "soon", "--yes"])
    assert done.exit_code == 2
    assert "--former-until" in done.output
