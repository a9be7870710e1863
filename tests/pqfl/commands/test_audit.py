"""`pqfl audit`: a log that was changed is found out, and one that was cut back too, by who kept its head."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pqfl.commands.audit import audit_group
from pqfl_transport.audit import AuditLog, EventKind
from pqfl_transport.errors import ConfigurationError, MessageError
from pqfl_transport.pki.files import write_secret
from pqfl_transport.pki.keystore import load_signing_key
from pqfl_transport.pki.passphrases import fixed


def run(*words: object) -> Result:
    return CliRunner().invoke(audit_group, [str(word) for word in words], catch_exceptions=False)


def write(log: Path, key: Path, events: int) -> None:
    """Continue a log with so many events and a signed head."""
    with AuditLog(log, signing_key=load_signing_key(key)) as audit:
        for number in range(events):
            audit.event(EventKind.CONNECTION, number=number)


def test_a_log_and_its_head(tmp_path: Path) -> None:
    """Key, log, verification, and a head that somebody else keeps and the log goes on containing."""
    key, log, head = tmp_path / "audit.key", tmp_path / "audit.jsonl", tmp_path / "head.json"
    assert run("key", "--out", key).exit_code == 0
    assert key.stat().st_mode & 0o777 == 0o600
    write(log, key, 3)
    head.write_text(run("head", log).output)
    write(log, key, 2)
    facts = json.loads(run("verify", log, "--key", f"{key}.pub", "--head", head, "--json").output)
    assert (facts["lines"], facts["sealed_lines"], facts["checkpoints"]) == (7, 7, 2)
    assert "7 lines hold" in run("verify", log).output


def test_what_was_rewritten_is_found_out(tmp_path: Path) -> None:
    """A line changed breaks the chain; a whole new log lacks the head; another key is not the key."""
    key, other, log = tmp_path / "audit.key", tmp_path / "other.key", tmp_path / "audit.jsonl"
    head = tmp_path / "head.json"
    run("key", "--out", key)
    run("key", "--out", other)
    write(log, key, 3)
    head.write_text(run("head", log).output)
    with pytest.raises(MessageError) as caught:
        run("verify", log, "--key", f"{other}.pub")
    assert caught.value.reason == "unknown_signer"
    good = log.read_bytes()
    log.write_bytes(good.replace(b'"number":1', b'"number":7'))
    with pytest.raises(MessageError):
        run("verify", log)
    log.unlink()
    write(log, key, 3)
    with pytest.raises(MessageError, match="rewritten"):
        run("verify", log, "--key", f"{key}.pub", "--head", head)


def test_a_log_without_signed_heads_has_none_to_give(tmp_path: Path) -> None:
    """It says what it would have needed."""
    log = tmp_path / "audit.jsonl"
    with AuditLog(log) as audit:
        audit.event(EventKind.START)
    with pytest.raises(MessageError, match="--audit-key"):
        run("head", log)
    with pytest.raises(ConfigurationError):
        run("head", tmp_path / "nowhere")
    with pytest.raises(ConfigurationError, match="not a public key"):
        run("verify", log, "--key", log)


def test_an_audit_key_can_be_encrypted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under the passphrase of a file or of the variable; a weak one makes no key."""
    monkeypatch.delenv("PQFL_PASSPHRASE", raising=False)
    write_secret(tmp_path / "pass", b"correct horse battery")
    key = tmp_path / "audit.key"
    assert run("key", "--encrypt", "--passphrase-file", tmp_path / "pass", "--out", key).exit_code == 0
    assert b"ENCRYPTED PRIVATE KEY" in key.read_bytes()
    assert load_signing_key(key, fixed("correct horse battery")).algorithm == "ML-DSA-65"
    write_secret(tmp_path / "weak", b"short")
    with pytest.raises(ConfigurationError, match="at least 15"):
        run("key", "--encrypt", "--passphrase-file", tmp_path / "weak", "--out", tmp_path / "none.key")
    assert not (tmp_path / "none.key").exists()


def test_a_log_under_two_keys_is_verified_with_both(tmp_path: Path) -> None:
    """As an aggregator leaves it that changed its signing key."""
    keys, log = [tmp_path / "first.key", tmp_path / "second.key"], tmp_path / "audit.jsonl"
    for key in keys:
        run("key", "--out", key)
        write(log, key, 2)
    words = [word for key in keys for word in ("--key", f"{key}.pub")]
    assert json.loads(run("verify", log, *words, "--json").output)["sealed_lines"] == 6
    with pytest.raises(MessageError):
        run("verify", log, *words[:2])
