"""`pqfl policy` as a user types it."""

import json

from click.testing import CliRunner

from pqfl.commands.policy import policy_group
from pqfl_transport.policy import POLICIES

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
