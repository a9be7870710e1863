"""`pqfl ca twin` and `issue --twin`: an operator is told what to hand over, and which flag is wrong."""

from pathlib import Path

import pytest

from certs.authority import Authority
from pqfl_transport.errors import ConfigurationError
from tests.pqfl.commands.test_ca import facts, run


@pytest.fixture
def ca(tmp_path: Path) -> Path:
    """A new authority with a site and an aggregator."""
    made = Authority.create(tmp_path / "ca", federation="fed")
    for profile in ("site", "aggregator"):
        made.issue(profile=profile, name=profile, out=tmp_path / profile)
    return made.folder


def blamed(*words: object) -> str:
    """The flag in front of the refusal."""
    error = run(*words).exception
    assert isinstance(error, ConfigurationError)
    return str(error).partition(":")[0]


def test_a_twin_from_issuer_to_revocation(ca: Path, tmp_path: Path) -> None:
    """Everything that one does with it, in the order of the documentation."""
    assert facts("twin", "init", "--dir", ca)["secret"] == [str(ca / "classical.key")]
    made = facts("twin", "issue", "--dir", ca, "--name", "site", "--out", tmp_path / "twin")
    assert made["id"] == "spiffe://fed/site/site"
    assert made["certificates"][0]["usage"] == "classical-client"
    told = run(
        "issue", "--dir", ca, "--profile", "gateway", "--name", "hub", "--twin", "--out", tmp_path / "hub"
    ).output
    assert "classical.pem for classical-server use: ECDSA-P256" in told
    assert "ML-DSA-65 + ECDSA-P256" in run("list", "--dir", ca).output
    assert "classical-client use, ECDSA-P256" in run("show", "--dir", ca, "site/site").output
    assert (
        "crl-dual.pem in its place"
        in run("revoke", "--dir", ca, "--name", "site/site", "--reason", "superseded").output
    )
    lists = facts("crl", "--dir", ca, "--classical", "--out", tmp_path / "lists.pem")["lists"]
    assert [(one["authority"].partition(",")[0], one["revoked"]) for one in lists] == [
        ("CN=issuing", 2),
        ("CN=classical", 1),
    ]
    assert (tmp_path / "lists.pem").read_bytes() == (ca / "crl-dual.pem").read_bytes()


def test_what_is_wrong_is_said_by_flag(ca: Path, tmp_path: Path) -> None:
    """A missing issuer, a stranger, a role without twins, a validity beyond the issuer's, a folder that is taken."""
    out = ("--out", tmp_path / "out")
    issue = ("twin", "issue", "--dir", ca, "--name")
    assert blamed(*issue, "site/site", *out) == "--dir"
    assert blamed("issue", "--dir", ca, "--profile", "site", "--name", "b", "--twin", *out) == "--twin"
    assert blamed("crl", "--dir", ca, "--classical") == "--classical"
    assert run("twin", "init", "--dir", ca).exit_code == 0
    assert blamed("twin", "init", "--dir", ca) == "--dir"
    assert blamed(*issue, "nobody", *out) == "--name"
    assert blamed(*issue, "aggregator/aggregator", *out) == "--name"
    assert blamed("issue", "--dir", ca, "--profile", "operator", "--name", "b", "--twin", *out) == "--twin"
    assert blamed(*issue, "site/site", "--days", "3000", *out) == "--days"
    assert blamed(*issue, "site/site", "--out", ca) == "--out"


def test_keys_under_a_passphrase(ca: Path, tmp_path: Path) -> None:
    """The issuer's from the authority's passphrase, the twin's from one of its own."""
    (tmp_path / "one").write_text("the authority's passphrase\n")
    (tmp_path / "two").write_text("the party's passphrase\n")
    for path in (tmp_path / "one", tmp_path / "two"):
        path.chmod(0o600)
    assert run("twin", "init", "--dir", ca, "--encrypt", "--passphrase-file", tmp_path / "one").exit_code == 0
    words = ("twin", "issue", "--dir", ca, "--name", "site/site", "--out", tmp_path / "twin", "--encrypt")
    facts(*words, "--passphrase-file", tmp_path / "one", "--new-passphrase-file", tmp_path / "two")
    for key in (ca / "classical.key", tmp_path / "twin" / "classical.key"):
        assert b"BEGIN ENCRYPTED PRIVATE KEY" in key.read_bytes()
