"""Checking the ledger: edits, cuts and a rewritten tail are found, each with its reason."""

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from certs.authority import Authority
from certs.history import verify_history
from pqfl_transport.crypto.pyca import SigningKey, VerifyingKey
from pqfl_transport.errors import MessageError
from pqfl_transport.hashchain import canonical, digest

NOW = datetime(2026, 7, 1, 12, 0, 0, tzinfo=UTC)


@pytest.fixture
def ca(tmp_path: Path) -> Authority:
    """An authority with a gateway and a signed head behind it."""
    made = Authority.create(tmp_path / "ca", federation="fed", now=NOW)
    made.issue(profile="gateway", name="hub", out=tmp_path / "hub", now=NOW)
    return made


def log_key(ca: Authority) -> VerifyingKey:
    """The key of the heads."""
    return SigningKey.from_pem((ca.folder / "log.key").read_bytes()).verifying_key


def rewrite(ca: Authority, *statements: tuple[str, tuple[object, ...]]) -> None:
    """Change the file as somebody who owns it can."""
    with closing(sqlite3.connect(ca.ledger.path)) as database:
        for name in ("events_stay", "events_are_final", "certificates_stay", "certificates_are_final"):
            database.execute(f"DROP TRIGGER {name}")
        for statement, values in statements:
            database.execute(statement, values)
        database.commit()


def reason(ca: Authority, head: bytes | None = None, keys: list[VerifyingKey] | None = None) -> str:
    """Why the ledger does not hold."""
    with pytest.raises(MessageError) as caught:
        verify_history(ca.ledger, keys, against=head)
    return caught.value.reason


def test_a_ledger_that_nobody_touched_holds(ca: Authority) -> None:
    """Under its own key, against a head of before, and after more was done."""
    head = ca.log_head(now=NOW)
    assert verify_history(ca.ledger, [log_key(ca)], against=head).sealed_lines == 4
    ca.issue(profile="site", name="one", out=ca.folder.parent / "one", now=NOW)
    summary = verify_history(ca.ledger, [log_key(ca)], against=head)
    assert (summary.lines, summary.sealed_lines) == (7, 4)


def _edit_event(ca: Authority) -> None:
    (line,) = [json.loads(text) for number, text in enumerate(ca.ledger.lines()) if number == 2]
    line["facts"]["id"] = "spiffe://fed/gateway/other"
    line["hash"] = digest({name: value for name, value in line.items() if name != "hash"})
    rewrite(ca, ("UPDATE events SET line = ? WHERE seq = 2", (canonical(line).decode(),)))


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (_edit_event, "audit_chain"),
        (lambda ca: rewrite(ca, ("DELETE FROM events WHERE seq = 1", ())), "audit_chain"),
        (lambda ca: rewrite(ca, ("DELETE FROM events WHERE seq >= 2", ())), "rewritten"),
        (lambda ca: rewrite(ca, ("DELETE FROM certificates WHERE usage = 'server'", ())), "ledger_mismatch"),
        (lambda ca: rewrite(ca, ("UPDATE certificates SET id = 'x' WHERE usage = 'server'", ())), "ledger_mismatch"),
        (lambda ca: rewrite(ca, ("UPDATE certificates SET revoked_at = 'x'", ())), "ledger_mismatch"),
    ],
)
def test_what_was_changed_is_found(ca: Authority, spoil: Callable[[Authority], None], expected: str) -> None:
    """Events by the chain, a cut end by the head that somebody kept, certificates by the events."""
    head = ca.log_head(now=NOW)
    spoil(ca)
    assert reason(ca, head) == expected


def test_a_tail_written_anew_is_found_with_a_head_that_was_kept(ca: Authority) -> None:
    """A history that holds in itself and was signed with the very key is not the one that was told before."""
    head = ca.log_head(now=NOW)
    rewrite(ca, ("DELETE FROM events WHERE seq >= 2", ()), ("DELETE FROM certificates WHERE usage = 'server'", ()))
    ca.log_head(now=NOW)
    assert verify_history(ca.ledger, [log_key(ca)]).sealed_lines == 3
    assert reason(ca, head) == "rewritten"


def test_a_strangers_head_does_not_pass(ca: Authority) -> None:
    """Whoever has the file and not the key signs no head."""
    ca.log_head(now=NOW)
    assert reason(ca, keys=[SigningKey.generate("ML-DSA-65").verifying_key]) == "unknown_signer"


def test_a_head_that_is_none_is_refused(ca: Authority) -> None:
    """The wrong file in --against is told as such and not as a rewritten ledger."""
    assert reason(ca, b"{}") == "audit_chain"
