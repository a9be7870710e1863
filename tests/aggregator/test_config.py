"""The aggregator's configuration: parsed once, refused with file, key and what was expected."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from aggregator.config import RoundsConfig, load_config
from pqfl_transport.errors import ConfigurationError
from pqfl_transport.pki.revocation import Stale
from pqfl_transport.policy import SecurityLevel
from tests.pqfl_transport.policy.test_files import GOOD as OWN_POLICY
from tests.support.pki import make_federation

GOOD = """
[aggregator]
listen = "127.0.0.1:0"
identity = "identity"
roster = "/abs/roster.json"
state = "state"
audit = "audit.jsonl"
[model]
initial = "model.npz"
[rounds]
count = 3
quorum = 2
deadline_seconds = 1.5
level = "high"
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "aggregator.toml"
    path.write_text(text)
    return path


def test_a_good_file(tmp_path: Path) -> None:
    """Every key arrives, relative paths count from the file, and the rest has its default."""
    config = load_config(write(tmp_path, GOOD))
    assert str(config.listen) == "127.0.0.1:0"
    assert config.identity == tmp_path / "identity"
    assert config.cacert == tmp_path / "identity" / "ca.pem"
    assert config.roster == Path("/abs/roster.json")
    assert config.rounds.level is SecurityLevel.HIGH
    assert (config.rounds.count, config.rounds.quorum, config.rounds.attempts) == (3, 2, 3)
    assert config.rounds.deadline_seconds == 1.5
    assert (config.advisory, config.rounds.policy, config.rounds.no_aes) == (None, None, False)


def test_policy_and_advisory_are_files_beside_it(tmp_path: Path) -> None:
    """A policy may be a name too."""
    (tmp_path / "own.toml").write_text(OWN_POLICY)
    text = GOOD.replace("audit = ", 'advisory = "a.json"\nreload_seconds = 5\naudit = ')
    config = load_config(write(tmp_path, text + 'policy = "own.toml"\nno_aes = true\n'))
    assert (config.advisory, config.reload_seconds) == (tmp_path / "a.json", 5)
    assert config.rounds.policy is not None
    assert (config.rounds.policy.name, config.rounds.no_aes) == ("cardio-2027", True)
    named = load_config(write(tmp_path, GOOD + 'policy = "cnsa2-2026"\n')).rounds.policy
    assert named is not None
    assert named.name == "cnsa2-2026"


def test_extra_keys_are_a_file_of_their_own(tmp_path: Path) -> None:
    """Its path counts from this file; a section without one is refused, no section is fine."""
    assert load_config(write(tmp_path, GOOD)).keys is None
    assert load_config(write(tmp_path, f'{GOOD}[keys]\nfile = "k.toml"')).keys == tmp_path / "k.toml"
    for section in ("[keys]", '[keys]\nfile = "k.toml"\nmode = "require"'):
        with pytest.raises(ConfigurationError, match=r"aggregator\.toml: keys\."):
            load_config(write(tmp_path, GOOD + section))


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ('listen = "127.0.0.1:0"\n', "", "aggregator.listen is missing"),
        ('"127.0.0.1:0"', '"127.0.0.1"', "aggregator.listen"),
        ('"127.0.0.1:0"', "7", "aggregator.listen"),
        ('"state"', '""', "aggregator.state"),
        ("count = 3", "count = 0", "rounds.count is 0; expected a whole number of at least 1"),
        ("count = 3", "count = true", "rounds.count"),
        ("count = 3", "count = 1.5", "rounds.count"),
        ("quorum = 2\n", "", "rounds.quorum is missing"),
        ("1.5", "inf", "rounds.deadline_seconds"),
        ("1.5", "nan", "rounds.deadline_seconds"),
        ("1.5", '"soon"', "rounds.deadline_seconds"),
        ('"high"', '"higher"', "rounds.level"),
        ("count = 3", "count = 3\nrounds = 4", "rounds.rounds is not a key"),
        ("[model]", "[modell]", r"\[modell\]"),
        ('[model]\ninitial = "model.npz"\n', "", r"\[model\] is missing"),
        ("[model]", "model", "not TOML"),
        ("count = 3", 'count = 3\npolicy = "paranoid"', "rounds.policy: unknown policy"),
        ("count = 3", 'count = 3\npolicy = "./own.toml"', "rounds.policy: .*own.toml: no such file"),
        ("count = 3", "count = 3\nno_aes = 1", "rounds.no_aes is 1; expected true or false"),
        ('"state"', '"state"\nreload_seconds = 0.1', "aggregator.reload_seconds"),
        ('"state"', '"state"\ncrl_url = "gopher://h"', "aggregator.crl_url 'gopher://h'"),
        ('"state"', '"state"\ncrl_url = ["https://h/x", "gopher://h"]', "aggregator.crl_url 'gopher://h'"),
        ('"state"', '"state"\ncrl_url = []', r"aggregator.crl_url is \[\]"),
        ('"state"', '"state"\ncrl_url = 3', "aggregator.crl_url is 3"),
        ('"state"', '"state"\ncrl_stale = "maybe"', "aggregator.crl_stale is 'maybe'"),
    ],
)
def test_a_bad_file_is_refused(tmp_path: Path, old: str, new: str, named: str) -> None:
    """Each mistake is refused with the file and the key."""
    assert old in GOOD
    path = write(tmp_path, GOOD.replace(old, new))
    with pytest.raises(ConfigurationError, match=named) as caught:
        load_config(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """A file that does not exist is named."""
    with pytest.raises(ConfigurationError, match="nowhere"):
        load_config(tmp_path / "nowhere.toml")


def test_only_local_addresses(tmp_path: Path) -> None:
    """An aggregator that others reach without TLS is refused."""
    path = write(tmp_path, GOOD.replace("127.0.0.1:0", "0.0.0.0:80"))
    with pytest.raises(ConfigurationError, match=r"aggregator\.listen 0\.0\.0\.0:80") as caught:
        load_config(path)
    assert caught.value.reason == "not_local"


def test_a_passphrase_file_is_optional(tmp_path: Path) -> None:
    """Its path counts from the file like the others; without one there is none."""
    assert load_config(write(tmp_path, GOOD)).passphrase_file is None
    named = GOOD.replace("[model]", 'passphrase_file = "pass"\n[model]')
    assert load_config(write(tmp_path, named)).passphrase_file == tmp_path / "pass"
    with pytest.raises(ConfigurationError, match=r"aggregator\.passphrase_file"):
        load_config(write(tmp_path, named.replace('"pass"', "3")))


def test_revocation_lists_are_a_file_or_fetched_into_one(tmp_path: Path) -> None:
    """Fetched ones are kept in the state folder unless another file is named."""
    config = load_config(write(tmp_path, GOOD))
    assert (config.crl, config.crl_urls, config.crl_stale) == (None, (), Stale.REFUSE)
    config = load_config(write(tmp_path, GOOD.replace('"state"', '"state"\ncrl = "c.pem"\ncrl_stale = "allow"')))
    assert (config.crl, config.crl_stale) == (tmp_path / "c.pem", Stale.ALLOW)
    config = load_config(write(tmp_path, GOOD.replace('"state"', '"state"\ncrl_url = "https://h:1/v1/crl"')))
    assert (config.crl, config.crl_urls) == (config.state / "crl.pem", ("https://h:1/v1/crl",))
    several = 'crl_url = ["https://h:1/v1/crl", "http://g/crl"]'
    config = load_config(write(tmp_path, GOOD.replace('"state"', f'"state"\n{several}')))
    assert config.crl_urls == ("https://h:1/v1/crl", "http://g/crl")


@pytest.mark.parametrize(("changes", "reason"), [({"quorum": 3}, "quorum"), ({"level": "maximum"}, "wrong_level")])
def test_a_roster_that_no_round_can_be_run_with_is_named(
    tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:  # fmt: skip
    """With its number, and what is asked for."""
    roster = make_federation(tmp_path, sites=("bank-a", "bank-b")).authority.roster()
    good = RoundsConfig(count=1, quorum=2, level=SecurityLevel.HIGH)
    good.require_usable(roster)
    with pytest.raises(ConfigurationError) as caught:
        replace(good, **changes).require_usable(roster)
    assert caught.value.reason == reason
