"""What an authority has on the first day."""

import json
from datetime import UTC, datetime
from pathlib import Path

from certs.folder import AuthorityFolder
from certs.founding import found, write_log_key
from pqfl_transport.pki import keystore
from pqfl_transport.pki.authority import create_issuing, create_root
from pqfl_transport.pki.passphrases import fixed
from pqfl_transport.policy import SecurityLevel

NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)
PASSPHRASE = b"correct horse"


def founded(folder: Path, passphrase: bytes | None = None) -> AuthorityFolder:
    folder.mkdir()
    root = create_root("fed", now=NOW)
    issuing = create_issuing(root, SecurityLevel.HIGH, now=NOW)
    found(AuthorityFolder(folder, "fed", SecurityLevel.HIGH), root, issuing, NOW, passphrase=passphrase)
    return AuthorityFolder.open(folder, fixed(PASSPHRASE))


def test_both_authorities_are_known_and_nobody_belongs_yet(tmp_path: Path) -> None:
    """The ledger begins with root and issuing authority; the roster is number 1 and empty."""
    authority = founded(tmp_path / "ca")
    assert [entry.usage for entry in authority.ledger.entries()] == ["root", "issuing"]
    assert authority.anchor_fingerprints() == {entry.sha256 for entry in authority.ledger.entries()}
    assert authority.roster().number == 1
    assert not authority.roster().parties
    assert json.loads((tmp_path / "ca/federation.json").read_bytes())["level"] == "high"
    for name in ("root", "issuing"):
        assert authority.issuer(name, NOW).federation == "fed"


def test_every_private_key_is_under_the_passphrase(tmp_path: Path) -> None:
    """One that lay beside the others in clear would be the way in."""
    founded(tmp_path / "ca", PASSPHRASE)
    for name in ("root", "issuing", "log"):
        path = tmp_path / f"ca/{name}.key"
        assert path.stat().st_mode & 0o777 == 0o600
        assert b"ENCRYPTED PRIVATE KEY" in keystore.read_secret(path)


def test_a_new_log_key_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    """Both halves change together."""
    write_log_key(tmp_path, None)
    before = (tmp_path / "log.pub").read_bytes()
    write_log_key(tmp_path, None)
    assert (tmp_path / "log.pub").read_bytes() != before
    key = keystore.load_signing_key(tmp_path / "log.key")
    assert key.algorithm == "ML-DSA-65"
