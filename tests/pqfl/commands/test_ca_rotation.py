"""`pqfl ca rotate` and `retire`: an operator is told what to give to whom, and when it is over."""

from pathlib import Path

import pytest

from certs.authority import Authority
from pqfl_transport.errors import ConfigurationError
from pqfl_transport.pki.chain import load_certificates
from pqfl_transport.pki.keystore import load_anchors
from tests.pqfl.commands.test_ca import facts, run


@pytest.fixture
def ca(tmp_path: Path) -> Path:
    """A new authority."""
    return Authority.create(tmp_path / "ca", federation="fed").folder


def test_an_issuing_authority_is_announced_and_then_used(ca: Path) -> None:
    """Two runs of one command, with the distribution of ca.pem between them."""
    first = run("rotate", "issuing", "--dir", ca, "--announce")
    assert first.exit_code == 0, first.exception
    assert "run this again when everybody has ca.pem" in first.output
    assert facts("rotate", "issuing", "--dir", ca)["in_use"]
    assert len(load_anchors(ca / "ca.pem")) == 3


def test_a_root_is_replaced_and_the_old_one_retired(ca: Path) -> None:
    """After the next roster nothing needs it."""
    assert "take both offline" in run("rotate", "root", "--dir", ca).output
    error = run("retire", "--dir", ca).exception
    assert isinstance(error, ConfigurationError)
    assert "pqfl ca roster sign" in str(error)
    assert run("roster", "sign", "--dir", ca, "--yes").exit_code == 0
    assert len(facts("retire", "--dir", ca)["retired"]) == 2


def test_a_level_is_changed_with_the_issuing_authority(ca: Path) -> None:
    """What is issued from then on is of the new level."""
    assert facts("rotate", "issuing", "--dir", ca, "--level", "maximum")["certificate"]["algorithm"] == "ML-DSA-87"
    assert facts("list", "--dir", ca)["level"] == "maximum"


def test_without_the_root_nothing_is_replaced(ca: Path) -> None:
    """The message says where its key has to be brought."""
    (ca / "root.key").unlink()
    for what in ("issuing", "root"):
        error = run("rotate", what, "--dir", ca).exception
        assert isinstance(error, ConfigurationError)
        assert str(error).startswith("--dir")


def test_the_classical_issuer_is_announced_used_and_the_former_one_retired(ca: Path, tmp_path: Path) -> None:
    """Whose twin holds the former one is said, and where the new file has to go."""
    error = run("rotate", "classical", "--dir", ca).exception
    assert isinstance(error, ConfigurationError)
    assert "pqfl ca twin init" in str(error)
    assert run("twin", "init", "--dir", ca).exit_code == 0
    issued = run("issue", "--dir", ca, "--profile", "gateway", "--name", "hub", "--out", tmp_path / "hub", "--twin")
    assert issued.exit_code == 0
    assert (
        "run this again when all have classical-ca.pem" in run("rotate", "classical", "--dir", ca, "--announce").output
    )
    assert "(signs)" in run("list", "--dir", ca).output
    assert "(announced)" in run("list", "--dir", ca).output
    assert facts("rotate", "classical", "--dir", ca)["in_use"]
    assert "(former)" in run("list", "--dir", ca).output
    error = run("retire", "--dir", ca, "--classical").exception
    assert isinstance(error, ConfigurationError)
    assert "spiffe://fed/gateway/hub (classical-server)" in str(error)
    retired = run("retire", "--dir", ca, "--classical", "--force")
    assert f"no longer in {ca / 'classical-ca.pem'}" in retired.output
    assert len(load_certificates((ca / "classical-ca.pem").read_bytes())) == 1
    assert len(load_anchors(ca / "ca.pem")) == 2
