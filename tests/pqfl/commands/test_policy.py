"""`pqfl policy` as a user types it."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from pqfl.commands.policy import policy_group
from pqfl_transport.errors import PqflError
from pqfl_transport.policy import POLICIES, for_level
from tests.pqfl_transport.policy.test_files import CLASSICAL, GOOD
from tests.support.advisories import publish
from tests.support.pki import Federation, make_federation

SETS = {"groups", "leaf_keys", "ca_signatures", "tls_suites", "content_suites"}


def run(*words: str) -> str:
    done = CliRunner().invoke(policy_group, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_explain_gives_level_reason_and_five_sets() -> None:
    """For a program as JSON, for a person in words."""
    facts = json.loads(run("explain", "--sensitivity", "0.9", "--horizon-years", "30", "--json"))
    assert facts["level"] == "maximum"
    assert facts["reason"]
    assert facts.keys() >= SETS
    assert facts["groups"] == ["SecP384r1MLKEM1024"]
    text = run("explain", "--sensitivity", "0.2", "--horizon-years", "3")
    assert "level standard" in text
    assert "X25519MLKEM768" in text


def test_constraints_are_flags() -> None:
    """What the place lacks, and what a regulation asks for."""
    facts = json.loads(run("explain", "--sensitivity", "0.7", "--horizon-years", "3", "--no-aes", "--json"))
    assert facts["tls_suites"][0] == "TLS_CHACHA20_POLY1305_SHA256"
    facts = json.loads(run("explain", "--sensitivity", "0.1", "--horizon-years", "3", "--cnsa2", "--json"))
    assert facts["level"] == "cnsa2"


def test_show_prints_a_policy_by_name() -> None:
    """Every policy that there is."""
    for name, policy in POLICIES.items():
        facts = json.loads(run("show", name, "--json"))
        assert facts.keys() >= SETS
        assert facts["level"] == policy.level
        assert policy.groups[0] in run("show", name)


def test_the_policy_of_a_moving_federation_is_good() -> None:
    """The file that certs/README.md hands out lists both levels, and nothing of a third."""
    facts = json.loads(run("show", str(Path(__file__).resolve().parents[3] / "certs" / "moving.toml"), "--json"))
    for field in SETS - {"level", "policy"}:
        assert set(facts[field]) <= {*getattr(for_level("standard"), field), *getattr(for_level("high"), field)}
    assert set(facts["leaf_keys"]) == {"ML-DSA-44", "ML-DSA-65"}
    assert facts["level"] == "standard"


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return make_federation(tmp_path_factory.mktemp("federation"), sites=())


def failing(*words: object) -> Exception:
    done = CliRunner().invoke(policy_group, [str(word) for word in words])
    assert isinstance(done.exception, PqflError), done.output
    return done.exception


def test_budgets_are_weighed_in_the_reason() -> None:
    """The link by arithmetic, the processor by measuring it here; the level stays in either case."""
    text = run("explain", "--sensitivity", "0.9", "--horizon-years", "30", "--link-kbps", "9", "--cpu-budget", "1e6")
    assert "level maximum" in text
    assert "more than 1 s" in text
    assert "measured here, SecP384r1MLKEM1024 with ML-DSA-87" in text
    assert "within 1e+06 ms" in text


def test_an_advisory_takes_away_and_is_told(federation: Federation, tmp_path: Path) -> None:
    """What is left, what changed and why; an earlier advisory is refused from then on."""
    path = publish(federation, tmp_path / "a.json", "SecP256r1MLKEM768", number=2)
    words = ("explain", "--sensitivity", "0.7", "--horizon-years", "3", "--json", "--advisory", str(path))
    facts = json.loads(run(*words, "--cacert", str(federation.ca_pem)))
    assert (facts["policy"], facts["groups"]) == ("high-2026+advisory-2", ["X25519MLKEM768"])
    assert facts["changes"][0]["old"] == ["X25519MLKEM768", "SecP256r1MLKEM768"]
    assert "SecP256r1MLKEM768 is broken" in facts["reason"]
    publish(federation, path, number=1)
    assert "older than number 2" in str(failing(*words, "--cacert", federation.ca_pem))
    assert "--advisory needs --cacert" in str(failing(*words))


def test_an_advisory_is_shown_whatever_its_dates(federation: Federation, tmp_path: Path) -> None:
    """That it is past its end, or that a day has not come, is one of the facts; a stranger's is refused."""
    path = publish(federation, tmp_path / "a.json", "RSA", not_before=2e9, seconds=-60)
    ca = str(federation.ca_pem)
    assert json.loads(run("advisory", str(path), "--cacert", ca, "--json"))["stale"] is True
    text = run("advisory", str(path), "--cacert", ca)
    assert "past its end since" in text
    assert "RSA is broken since 2033-05-18 03:33 UTC: a paper (not yet)" in text
    stranger = make_federation(tmp_path / "other", sites=())
    assert "none of the keys" in str(failing("advisory", path, "--cacert", stranger.ca_pem))


def test_show_checks_a_file(tmp_path: Path) -> None:
    """Before an operator gives it to a service."""
    (tmp_path / "own.toml").write_text(GOOD + CLASSICAL)
    facts = json.loads(run("show", str(tmp_path / "own.toml"), "--json"))
    assert (facts["policy"], facts["classical"]["groups"]) == ("cardio-2027", ["x25519"])
    assert "classical TLS groups:" in run("show", str(tmp_path / "own.toml"))
    (tmp_path / "own.toml").write_text(GOOD.replace("ML-DSA-65", "ML-DSA-44"))
    assert "own.toml: leaf_keys: ML-DSA-44" in str(failing("show", tmp_path / "own.toml"))
