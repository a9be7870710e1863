"""The former ledger: every line is taken over, a damaged one is named, and a killed migration is done again."""

import json
import logging
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from certs.authority import Authority
from certs.history import verify_history
from certs.ledger import Ledger
from certs.migration import FORMER, KEPT, migrate_ledger, read_former_ledger
from pqfl_transport.errors import ConfigurationError

NOW = datetime(2026, 7, 1, 12, 0, 0, tzinfo=UTC)
FIELDS = ("issued_at", "id", "usage", "algorithm", "serial", "sha256", "not_after")
LINE = dict.fromkeys(FIELDS, "x") | {"issued_at": "2026-07-01T12:00:00Z", "not_after": "2026-09-29T12:00:00Z"}
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


def write(path: Path, *lines: dict[str, str]) -> Path:
    """A former ledger with these lines."""
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture
def former(tmp_path: Path) -> Authority:
    """A folder as the former version made it, with a site in the roster."""
    made = Authority.create(tmp_path / "ca", federation="fed")
    made.issue(profile="site", name="one", out=tmp_path / "one")
    lines = [{name: getattr(entry, name) for name in FIELDS} for entry in made.ledger.entries()]
    write(made.folder / FORMER, *lines)
    for name in ("ledger.db", "log.key", "log.pub"):
        (made.folder / name).unlink()
    return made


@given(ident=TEXT, serial=TEXT)
def test_any_text_comes_back(tmp_path_factory: pytest.TempPathFactory, ident: str, serial: str) -> None:
    """No text in a field, line breaks included, splits or joins lines."""
    path = tmp_path_factory.getbasetemp() / "any.jsonl"
    write(path, LINE | {"id": ident, "serial": serial}, LINE)
    first, second = read_former_ledger(path)
    assert (first.id, first.serial, second.id) == (ident, serial, "x")


@given(data=st.binary(max_size=300))
def test_junk_is_named_or_taken(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    """Any bytes are entries or one error that names the file."""
    path = tmp_path_factory.getbasetemp() / "junk.jsonl"
    path.write_bytes(data)
    try:
        read_former_ledger(path)
    except ConfigurationError as error:
        assert str(path) in str(error)  # noqa: PT017 -- both ends are allowed


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (b"", "not strict JSON"),
        (b"{}", "lacks algorithm"),
        (b"[]", "not a JSON object"),
        (b'{"id": "cut', "not strict JSON"),
        (b"\xff", "not strict JSON"),
        (json.dumps(LINE | {"revoked": "no"}).encode(), "has unknown fields 'revoked'"),
        (json.dumps(LINE | {"not_after": "soon"}).encode(), "not_after is no time"),
    ],
)
def test_a_damaged_line_is_named(tmp_path: Path, line: bytes, complaint: str) -> None:
    """The file and the line's number are in the message, so that it can be mended by hand."""
    path = write(tmp_path / FORMER, LINE)
    path.write_bytes(path.read_bytes() + line + b"\n")
    with pytest.raises(ConfigurationError, match=f"{path}: line 2: {complaint}") as caught:
        read_former_ledger(path)
    assert caught.value.reason == "malformed"


def test_opening_a_former_folder_takes_its_ledger_over(former: Authority, caplog: pytest.LogCaptureFixture) -> None:
    """The log says so, the old file is kept under another name, and the chain knows every certificate."""
    before = (former.folder / FORMER).read_bytes()
    with caplog.at_level(logging.WARNING):
        opened = Authority.open(former.folder)
    assert "4 certificates are in ledger.db now" in caplog.text
    assert (former.folder / KEPT).read_bytes() == before
    assert not (former.folder / FORMER).exists()
    entries = opened.ledger.entries()
    assert [entry.usage for entry in entries] == ["root", "issuing", "client", "signing"]
    assert entries[1].issuer == entries[0].sha256 == entries[0].issuer
    assert entries[2].issuer == entries[1].sha256
    assert opened.ledger.certificate(entries[1].sha256) is not None
    assert verify_history(opened.ledger, None).lines == 5


def test_a_migrated_authority_goes_on(former: Authority) -> None:
    """Names stay in use, parties are admitted, and heads are signed with a key that was made meanwhile."""
    opened = Authority.open(former.folder)
    with pytest.raises(ConfigurationError) as caught:
        opened.issue(profile="site", name="one", out=former.folder.parent / "again")
    assert caught.value.reason == "already_issued"
    assert opened.issue(profile="site", name="two", out=former.folder.parent / "two").roster_number == 3
    assert b"checkpoint" in opened.log_head()


def test_a_migration_that_was_killed_is_done_again(former: Authority) -> None:
    """Before the ledger was whole it begins anew; after that only the old file's name is left to do."""
    data = (former.folder / FORMER).read_bytes()
    former.ledger.path.touch()
    Authority.open(former.folder)
    (former.folder / KEPT).rename(former.folder / FORMER)
    opened = Authority.open(former.folder)
    assert len(opened.ledger.entries()) == 4
    assert (former.folder / KEPT).read_bytes() == data


def test_a_damaged_former_ledger_is_not_taken_over(former: Authority) -> None:
    """Half a ledger would be a ledger without the other half."""
    path = former.folder / FORMER
    path.write_bytes(path.read_bytes() + b"{}\n")
    with pytest.raises(ConfigurationError, match="line 5"):
        Authority.open(former.folder)
    assert not Ledger(former.folder / "ledger.db").is_made()
    assert path.exists()


def test_a_folder_without_a_former_ledger_is_left_alone(tmp_path: Path) -> None:
    """There is nothing to be done, and nothing is."""
    migrate_ledger(tmp_path, Ledger(tmp_path / "ledger.db"), NOW)
    assert list(tmp_path.iterdir()) == []
