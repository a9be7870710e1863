"""The ledger: every certificate is one line, and a damaged line is named."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from hypothesis import given
from hypothesis import strategies as st

from certs.ledger import Entry, read_ledger, write_ledger
from pqfl_transport.errors import ConfigurationError
from pqfl_transport.pki.authority import create_root

NOW = datetime(2026, 7, 1, 12, 0, 0, tzinfo=UTC)
ROOT = create_root("fed", now=NOW).certificate
ENTRY = Entry.of(ROOT, holder="", usage="root", now=NOW)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


def test_an_entry_describes_its_certificate() -> None:
    """Serial number, fingerprint, algorithm and end are the certificate's own, times in UTC."""
    assert Entry(
        issued_at="2026-07-01T12:00:00Z",
        id="",
        usage="root",
        algorithm="ML-DSA-87",
        serial=f"{ROOT.serial_number:x}",
        sha256=ROOT.fingerprint(hashes.SHA256()).hex(),
        not_after="2036-06-28T12:00:00Z",
    ) == ENTRY  # fmt: skip
    east = NOW.astimezone(timezone(timedelta(hours=5)))
    assert Entry.of(ROOT, holder="", usage="root", now=east) == ENTRY


def test_entries_come_back_in_their_order(tmp_path: Path) -> None:
    """What is written is read, oldest first, one JSON object a line."""
    path = tmp_path / "issued.jsonl"
    entries = tuple(replace(ENTRY, id=f"spiffe://fed/site/{number}") for number in range(3))
    write_ledger(path, entries)
    assert read_ledger(path) == entries
    assert [json.loads(line)["id"] for line in path.read_text().splitlines()] == [entry.id for entry in entries]


@given(fields=st.lists(TEXT, min_size=7, max_size=7))
def test_round_trip_of_any_text(tmp_path_factory: pytest.TempPathFactory, fields: list[str]) -> None:
    """No text in a field, line breaks included, splits or joins lines."""
    path = tmp_path_factory.getbasetemp() / "any.jsonl"
    entries = (Entry(*fields), ENTRY)
    write_ledger(path, entries)
    assert read_ledger(path) == entries


def test_an_empty_ledger_has_no_entries(tmp_path: Path) -> None:
    """A file without lines is a ledger without entries."""
    write_ledger(tmp_path / "issued.jsonl", ())
    assert read_ledger(tmp_path / "issued.jsonl") == ()


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (b"", "not strict JSON"),
        (b"{}", "lacks algorithm"),
        (b"[]", "not a JSON object"),
        (b'{"id": "cut', "not strict JSON"),
        (b"\xff", "not strict JSON"),
    ],
)
def test_a_damaged_line_is_named(tmp_path: Path, line: bytes, complaint: str) -> None:
    """The file and the line's number are in the message, so that it can be mended by hand."""
    path = tmp_path / "issued.jsonl"
    write_ledger(path, (ENTRY,))
    path.write_bytes(path.read_bytes() + line + b"\n")
    with pytest.raises(ConfigurationError, match=f"{path}: line 2: {complaint}") as caught:
        read_ledger(path)
    assert caught.value.reason == "malformed"


def test_an_unknown_field_is_refused(tmp_path: Path) -> None:
    """A ledger of a later version is not rewritten without what this one does not know."""
    path = tmp_path / "issued.jsonl"
    write_ledger(path, (ENTRY,))
    path.write_text(path.read_text().replace("{", '{"revoked": "no", '))
    with pytest.raises(ConfigurationError, match="unknown fields 'revoked'"):
        read_ledger(path)


def test_a_missing_ledger_is_named(tmp_path: Path) -> None:
    """Without a ledger nothing is issued; the message says which file is missing."""
    with pytest.raises(ConfigurationError) as caught:
        read_ledger(tmp_path / "issued.jsonl")
    assert caught.value.reason == "missing"
