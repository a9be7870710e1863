"""`pqfl ca`: what an operator sees, and which flag is blamed when it does not work."""

import json
import os
import stat
import subprocess
import sys
from datetime import timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from cryptography import x509

from certs.authority import Authority
from pqfl.commands.ca import ca_group
from pqfl_transport.errors import ConfigurationError
from pqfl_transport.pki.files import write_secret
from pqfl_transport.pki.keystore import load_signing_identity
from pqfl_transport.pki.passphrases import fixed

SECRETS = ["receiving.key", "signing.key", "tls.key"]


def run(*arguments: object) -> Result:
    """Run a command; an error of ours comes back as `exception`, like the frame of the command line gets it."""
    return CliRunner().invoke(ca_group, [str(argument) for argument in arguments])


def facts(*arguments: object) -> dict[str, Any]:
    """Run a command with --json and return what it printed."""
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    value: dict[str, Any] = json.loads(result.output)
    return value


@pytest.fixture
def ca(tmp_path: Path) -> Path:
    """The folder of a new authority."""
    Authority.create(tmp_path / "ca", federation="fed")
    return tmp_path / "ca"


def test_init_says_what_is_secret_and_what_belongs_offline(tmp_path: Path) -> None:
    """The operator is told the one thing that matters most: root.key is secret and stays offline."""
    result = run("init", "--dir", tmp_path / "ca", "--federation", "bank-ring")
    assert result.exit_code == 0
    assert "federation bank-ring, level high" in result.output
    (line,) = [line for line in result.output.splitlines() if "root.key" in line]
    assert "SECRET" in line
    assert "offline" in line


def test_init_as_json(tmp_path: Path) -> None:
    """A script learns names, algorithms, ends of validity and which files are secret."""
    value = facts("init", "--dir", tmp_path / "ca", "--level", "standard")
    assert (value["federation"], value["level"], value["roster_number"]) == ("pqfl", "standard", 1)
    assert value["root"]["algorithm"] == "ML-DSA-87"
    assert value["issuing"]["algorithm"] == "ML-DSA-44"
    assert [Path(path).name for path in value["secret"]] == ["root.key", "issuing.key", "log.key"]
    for path in value["secret"]:
        assert stat.S_IMODE(Path(path).stat().st_mode) == 0o600
    assert Path(value["roster"]).is_file()


@pytest.mark.parametrize(
    ("profile", "files"),
    [
        ("gateway", {"tls.pem", "tls.key", "ca.pem"}),
        ("site", {"tls.pem", "tls.key", "ca.pem", "signing.pem", "receiving.pub", *SECRETS}),
        ("aggregator", {"tls.pem", "tls.key", "ca.pem", "signing.pem", "receiving.pub", *SECRETS}),
    ],
)
def test_issue_makes_the_identity_folder_of_the_profile(ca: Path, profile: str, files: set[str]) -> None:
    """A gateway gets TLS keys only; who sends and receives content gets signing and receiving keys too."""
    out = ca.parent / "party"
    value = facts("issue", "--dir", ca, "--profile", profile, "--name", "one", "--out", out)
    assert {path.name for path in out.iterdir()} == files
    assert value["id"] == f"spiffe://fed/{profile}/one"
    assert {Path(path).name for path in value["secret"]} == {name for name in files if name.endswith(".key")}
    assert value["roster_number"] == (None if profile == "gateway" else 2)


def test_issue_says_that_the_new_roster_has_to_be_distributed(ca: Path) -> None:
    """Who admits a site is told the roster's new number and what to do with the file."""
    result = run("issue", "--dir", ca, "--profile", "site", "--name", "hospital-north", "--out", ca.parent / "north")
    assert result.exit_code == 0
    assert "Roster number 2" in result.output
    assert str(ca / "roster.json") in result.output
    assert "SECRET" in result.output


def test_issue_says_that_a_gateway_changes_no_roster(ca: Path) -> None:
    """Nobody distributes a roster in vain."""
    result = run("issue", "--dir", ca, "--profile", "gateway", "--name", "hub", "--out", ca.parent / "hub")
    assert result.exit_code == 0
    assert "roster does not change" in result.output


def test_hosts_days_and_cap_reach_the_certificate_and_the_roster(ca: Path) -> None:
    """--dns, --ip, --days and --weight-cap mean what they say."""
    value = facts(
        "issue", "--dir", ca, "--profile", "aggregator", "--name", "one", "--out", ca.parent / "one",
        "--dns", "a.example", "--dns", "b.example", "--ip", "::1", "--days", "3",
    )  # fmt: skip
    assert [entry["usage"] for entry in value["certificates"]] == ["server", "signing"]
    certificate = x509.load_pem_x509_certificate((ca.parent / "one" / "tls.pem").read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["a.example", "b.example"]
    assert names.get_values_for_type(x509.IPAddress) == [ip_address("::1")]
    assert certificate.not_valid_after_utc - certificate.not_valid_before_utc == timedelta(days=3, minutes=5)
    facts(
        "issue", "--dir", ca, "--profile", "site", "--name", "two", "--out", ca.parent / "two", "--weight-cap", "42"
    )  # fmt: skip
    assert Authority.open(ca).roster().party("spiffe://fed/site/two").weight_cap == 42


WRONG = [
    ("--name", ["--name", "UPPER"]),
    ("--name", ["--name", ""]),
    ("--profile", ["--profile", "hospital"]),
    ("--dns", ["--dns", "two words"]),
    ("--dns", ["--dns", "10.0.0.1"]),
    ("--dns", ["--dns", "bücher.example"]),
    ("--ip", ["--ip", "localhost"]),
    ("--ip", ["--ip", "fe80::1%eth0"]),
    ("--days", ["--days", "0"]),
    ("--days", ["--days", "soon"]),
    ("--days", ["--days", "99999999999"]),
    ("--weight-cap", ["--weight-cap", "0"]),
    ("--weight-cap", ["--weight-cap", str(2**63)]),
    ("--weight-cap", ["--profile", "gateway", "--weight-cap", "5"]),
]


@pytest.mark.parametrize(("flag", "arguments"), WRONG)
def test_a_bad_flag_is_named_and_nothing_is_made(ca: Path, flag: str, arguments: list[str]) -> None:
    """Every value that cannot be is refused as wrong usage with its flag, and the authority stays as it was."""
    before = {path: path.read_bytes() for path in ca.iterdir()}
    good = ["--dir", str(ca), "--profile", "site", "--name", "one", "--out", str(ca.parent / "out")]
    result = run("issue", *good, *arguments)
    if isinstance(result.exception, ConfigurationError):
        assert result.exception.exit_status == 2
        assert str(result.exception).startswith(flag)
    else:
        assert result.exit_code == 2
        assert flag in result.output
    assert {path: path.read_bytes() for path in ca.iterdir()} == before
    assert [path.name for path in ca.parent.iterdir()] == ["ca"]


@pytest.mark.parametrize(
    ("flag", "arguments"),
    [("--federation", ["--federation", "a.b"]), ("--level", ["--level", "low"]), ("--dir", [])],
)
def test_a_bad_flag_of_init_is_named(tmp_path: Path, flag: str, arguments: list[str]) -> None:
    """The same for init, the missing --dir included."""
    result = run("init", *(["--dir", str(tmp_path / "ca")] if arguments else []), *arguments)
    assert result.exit_code == 2
    assert flag in result.output
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_use_is_named_with_its_flag(ca: Path) -> None:
    """Neither an authority nor an identity is ever made over something else."""
    for arguments in (
        ["init", "--dir", ca],
        ["issue", "--dir", ca, "--profile", "site", "--name", "one", "--out", ca],
    ):
        result = run(*arguments)
        assert isinstance(result.exception, ConfigurationError)
        assert result.exception.reason == "exists"
        assert str(ca) in str(result.exception)
        assert str(result.exception).startswith("--dir" if "init" in arguments else "--out")


def test_a_name_is_issued_once(ca: Path) -> None:
    """A second identity of one name is refused with --name and where to look."""
    arguments = ["issue", "--dir", ca, "--profile", "gateway", "--name", "hub", "--out"]
    facts(*arguments, ca.parent / "first")
    result = run(*arguments, ca.parent / "second")
    assert isinstance(result.exception, ConfigurationError)
    assert str(result.exception).startswith("--name: spiffe://fed/gateway/hub was already issued")
    assert not (ca.parent / "second").exists()


def test_a_folder_that_is_no_authority_is_named(tmp_path: Path) -> None:
    """--dir and the missing file are in the message."""
    result = run("issue", "--dir", tmp_path, "--profile", "site", "--name", "one", "--out", tmp_path / "out")
    assert isinstance(result.exception, ConfigurationError)
    assert str(result.exception).startswith(f"--dir: {tmp_path / 'federation.json'}")


def test_the_real_command(tmp_path: Path) -> None:
    """As a process: exit status 0 and one JSON object; refused, exit status 2 and one line without a traceback."""
    command = [sys.executable, "-m", "pqfl", "ca", "init", "--dir", str(tmp_path / "ca"), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ, timeout=60)
    assert json.loads(done.stdout)["dir"] == str(tmp_path / "ca")
    again = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ, timeout=60)
    assert again.returncode == 2
    assert again.stdout == ""
    assert again.stderr == f"pqfl: --dir: {tmp_path / 'ca'}: exists already and is not empty\n"


def test_an_authority_and_its_parties_under_passphrases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One for the authority and another for the party; without the authority's nothing is issued."""
    monkeypatch.delenv("PQFL_PASSPHRASE", raising=False)
    write_secret(tmp_path / "pass", b"of the authority itself")
    write_secret(tmp_path / "party", b"of the party and no one")
    made = tmp_path / "ca"
    mine = ("--passphrase-file", tmp_path / "pass")
    assert run("init", "--dir", made, "--encrypt", *mine).exit_code == 0
    issue = ("issue", "--dir", made, "--profile", "site", "--name", "north", "--out", tmp_path / "north")
    party = ("--encrypt", "--new-passphrase-file", tmp_path / "party")
    for words, said in ((party, ".key: a passphrase is needed"), ((*mine, "--encrypt"), "--new-passphrase-file")):
        result = run(*issue, *words)
        assert isinstance(result.exception, ConfigurationError)
        assert said in str(result.exception)
    assert not (tmp_path / "north").exists()
    assert run(*issue, *mine, *party).exit_code == 0
    for folder in (made, tmp_path / "north"):
        assert all(b"ENCRYPTED" in path.read_bytes() for path in folder.glob("*.key"))
    assert load_signing_identity(tmp_path / "north", passphrases=fixed("of the party and no one"))


def test_an_advisory_is_signed_and_told(ca: Path, tmp_path: Path) -> None:
    """Number, end and each withdrawal; a copy for the parties where --out says."""
    words = ("advisory", "--dir", ca, "--withdraw", "P256Kyber768=broken", "--withdraw", "RSA=deprecated@2031-02-03")
    result = run(*words, "--why", "a paper", "--expires", "30d", "--out", tmp_path / "a.json")
    assert result.exit_code == 0, result.output
    assert "advisory number 1 of federation fed" in result.output
    assert "RSA is deprecated since 2031-02-03: a paper" in result.output
    assert (tmp_path / "a.json").read_bytes() == (ca / "advisory.json").read_bytes()
    value = facts("advisory", "--dir", ca, "--restore", "RSA", "--expires", "2031-01-01")
    assert (value["number"], value["expires_at"]) == (2, 1_924_992_000)
    assert [one["algorithm"] for one in value["withdrawals"]] == ["P256Kyber768"]


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--withdraw", "RSA=broken"], "needs --why"),
        (["--withdraw", "RSA", "--why", "x"], "expected ALGORITHM=STATUS"),
        (["--withdraw", "RSA=standard", "--why", "x"], "STATUS is deprecated or broken"),
        (["--withdraw", "RSA=broken@soon", "--why", "x"], "expected a date"),
        (["--withdraw", "ROT13=broken", "--why", "x"], "unknown algorithm"),
        (["--expires", "2020-01-01"], "over already"),
        (["--expires", "0d"], "expected a date"),
    ],
)
def test_what_no_advisory_can_say_is_wrong_usage(ca: Path, words: list[str], named: str) -> None:
    """The flag and what was expected; nothing is signed."""
    result = run("advisory", "--dir", ca, *words)
    assert result.exit_code == 2
    assert named in " ".join(result.output.split())
    assert not (ca / "advisory.json").exists()


def test_a_restored_name_has_to_be_withdrawn(ca: Path) -> None:
    """The flag is blamed."""
    result = run("advisory", "--dir", ca, "--restore", "RSA")
    assert isinstance(result.exception, ConfigurationError)
    assert str(result.exception).startswith("--restore: RSA")
