"""`pqfl ca list`, `show` and `log`: facts for people and for scripts, and a ledger that shows what was done to it."""

import json
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from certs.authority import Authority
from pqfl_transport.errors import ConfigurationError, MessageError
from pqfl_transport.pki import chain
from tests.pqfl.commands.test_ca import facts, run


@pytest.fixture
def ca(tmp_path: Path) -> Path:
    """An authority with a site that ends soon and a gateway that was revoked."""
    made = Authority.create(tmp_path / "ca", federation="fed")
    early = datetime.now(UTC) - timedelta(days=80)
    Authority.create(tmp_path / "old", federation="fed", now=early)
    made.issue(profile="site", name="bank", out=tmp_path / "bank", days=1)
    made.issue(profile="gateway", name="hub", out=tmp_path / "hub")
    made.revoke("hub", "superseded")
    return made.folder


def test_the_table_tells_who_is_who(ca: Path) -> None:
    """Everybody is a line, with standing and membership."""
    output = run("list", "--dir", ca).output
    for words in ("spiffe://fed/site/bank", "member", "revoked", "ML-DSA-87", "ML-DSA-65", "1824 days"):
        assert words in output


def test_the_list_as_json(ca: Path) -> None:
    """A script learns the same, in seconds and whole fingerprints."""
    value = facts("list", "--dir", ca)
    assert (value["federation"], value["level"], value["roster_number"]) == ("fed", "high", 2)
    parties = {row["name"]: row for row in value["parties"]}
    assert parties["spiffe://fed/site/bank"]["membership"] == "member"
    assert 0 < parties["spiffe://fed/site/bank"]["expires_in_seconds"] <= 86400
    assert parties["spiffe://fed/gateway/hub"]["standing"] == "revoked"
    assert len(parties["root"]["certificates"][0]["sha256"]) == 64


def test_an_end_that_is_near_is_a_warning(tmp_path: Path) -> None:
    """On standard error, and in the JSON."""
    early = datetime.now(UTC) - timedelta(days=1750)
    Authority.create(tmp_path / "ca", federation="fed", now=early)
    assert "warning: issuing expires in" in run("list", "--dir", tmp_path / "ca").stderr
    (warning,) = facts("list", "--dir", tmp_path / "ca")["warnings"]
    assert "pqfl ca rotate issuing" in warning


def test_one_party_is_shown_with_its_certificates(ca: Path) -> None:
    """As words, as JSON, and as the PEM that was given to it."""
    assert "spiffe://fed/site/bank: member" in run("show", "--dir", ca, "bank").output
    value = facts("show", "--dir", ca, "site/bank")
    assert [entry["usage"] for entry in value["certificates"]] == ["client", "signing"]
    (one,) = facts("show", "--dir", ca, value["certificates"][0]["serial"])["certificates"]
    assert one == value["certificates"][0]
    pem = run("show", "--dir", ca, "bank", "--pem").output.encode()
    assert pem == b"".join((ca.parent / "bank" / name).read_bytes() for name in ("tls.pem", "signing.pem"))
    assert len(chain.load_certificates(pem)) == 2
    error = run("show", "--dir", ca, "nobody").exception
    assert isinstance(error, ConfigurationError)
    assert error.reason == "unknown_name"


def test_a_head_that_was_kept_finds_a_history_written_anew(ca: Path) -> None:
    """The ledger holds in itself; only who kept a head sees that its end was cut off."""
    kept = ca.parent / "kept.json"
    assert run("log", "head", "--dir", ca, "--out", kept).exit_code == 0
    assert run("log", "head", "--dir", ca).output == kept.read_text()
    value = facts("log", "verify", "--dir", ca, "--against", kept)
    assert value["lines"] == value["sealed_lines"] == json.loads(kept.read_text())["seq"] + 1
    with closing(sqlite3.connect(ca / "ledger.db")) as database:
        database.execute("DROP TRIGGER events_stay")
        database.execute("DELETE FROM events WHERE seq = (SELECT max(seq) FROM events)")
        database.commit()
    assert run("log", "verify", "--dir", ca).exit_code == 0
    error = run("log", "verify", "--dir", ca, "--against", kept).exception
    assert isinstance(error, MessageError)
    assert error.reason == "rewritten"
