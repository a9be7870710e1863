"""`pqfl ca revoke` and `crl`: one command takes a party out, and its list is what readers take."""

from pathlib import Path

import pytest
from cryptography import x509

from certs.authority import Authority
from pqfl_transport.errors import ConfigurationError
from tests.pqfl.commands.test_ca import facts, run


@pytest.fixture
def ca(tmp_path: Path) -> Path:
    """An authority with a site."""
    made = Authority.create(tmp_path / "ca", federation="fed")
    made.issue(profile="site", name="bank", out=tmp_path / "bank")
    return made.folder


def test_revoking_writes_the_list_and_says_what_comes_next(ca: Path) -> None:
    """Both certificates, a numbered list, and the roster's turn."""
    result = run("revoke", "--dir", ca, "--name", "bank", "--reason", "keycompromise")
    assert result.exit_code == 0, result.exception
    for words in ("client certificate", "signing certificate", "list number 1, 2 revoked", "pqfl ca roster sign"):
        assert words in result.output
    crl = x509.load_pem_x509_crl((ca / "crl.pem").read_bytes())
    assert len(list(crl)) == 2
    assert {entry.extensions[0].value.reason for entry in crl} == {x509.ReasonFlags.key_compromise}  # type: ignore[attr-defined]


def test_a_reason_is_one_of_the_standards(ca: Path) -> None:
    """A word of one's own is refused with the words there are."""
    result = run("revoke", "--dir", ca, "--name", "bank", "--reason", "annoying")
    assert result.exit_code == 2
    assert "cessationofoperation" in result.stderr.lower()


def test_the_flag_is_blamed_for_a_name_that_nobody_has(ca: Path) -> None:
    """A typo revokes nobody."""
    error = run("revoke", "--dir", ca, "--name", "bnak", "--reason", "superseded").exception
    assert isinstance(error, ConfigurationError)
    assert str(error).startswith("--name")


def test_a_list_is_made_for_as_long_as_asked(ca: Path) -> None:
    """Numbers rise from one command to the next, and from where peers are."""
    value = facts("crl", "--dir", ca, "--out", ca.parent / "crl.pem", "--days", "3")
    assert [one["number"] for one in value["lists"]] == [1]
    crl = x509.load_pem_x509_crl((ca.parent / "crl.pem").read_bytes())
    assert crl.next_update_utc is not None
    assert (crl.next_update_utc - crl.last_update_utc).days == 3
    assert facts("crl", "--dir", ca, "--at-least-number", "9")["lists"][0]["number"] == 9
    assert facts("crl", "--dir", ca)["lists"][0]["number"] == 10


def test_a_revoked_name_is_issued_again_only_when_told(ca: Path) -> None:
    """With --reissue, for a party that lost its keys."""
    run("revoke", "--dir", ca, "--name", "bank", "--reason", "keyCompromise")
    again = ("issue", "--dir", ca, "--profile", "site", "--name", "bank", "--out", ca.parent / "bank2")
    error = run(*again).exception
    assert isinstance(error, ConfigurationError)
    assert error.reason == "was_revoked"
    assert "--reissue" in str(error)
    assert facts(*again, "--reissue")["roster_number"] == 3
