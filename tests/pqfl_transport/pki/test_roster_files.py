"""Rosters as files: the number never goes down, not in one process, not after a restart, not beside another process."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from pqfl_transport.crypto.pyca import VerifyingKey
from pqfl_transport.errors import ConfigurationError, MessageError
from pqfl_transport.pki import keystore, roster_files
from pqfl_transport.pki.memory import beside
from pqfl_transport.pki.roster import Roster
from pqfl_transport.pki.roster_files import RosterReader, load_remembered_roster
from tests.support.pki import Federation, make_federation, publish_roster


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return make_federation(tmp_path_factory.mktemp("federation"), sites=("bank-a",))


def roots(federation: Federation) -> list[VerifyingKey]:
    return keystore.root_keys(keystore.load_anchors(federation.ca_pem))


def load(federation: Federation, path: Path, seen_path: Path | None = None) -> Roster:
    return load_remembered_roster(path, roots(federation), federation="fed", seen_path=seen_path)


def refusal(federation: Federation, path: Path) -> MessageError:
    with pytest.raises(MessageError) as caught:
        load(federation, path)
    assert str(path) in str(caught.value)
    return caught.value


def test_a_lower_number_is_refused_after_a_restart(federation: Federation, tmp_path: Path) -> None:
    """Nothing is kept in the process: what counts is beside the file, and the sentence says where."""
    path = publish_roster(federation, tmp_path / "roster.json", number=7)
    assert load(federation, path).number == load(federation, path).number == 7
    publish_roster(federation, path, number=6)
    error = refusal(federation, path)
    assert error.reason == "stale_roster"
    assert f"number 6 is older than number 7, which was seen before ({beside(path)})" in str(error)
    publish_roster(federation, path, number=8)
    assert load(federation, path).number == 8
    assert json.loads(beside(path).read_text())["number"] == 8


def test_what_does_not_hold_is_not_remembered(federation: Federation, tmp_path: Path) -> None:
    """A stranger's roster of a high number locks nobody out, and neither does one of another federation."""
    path = publish_roster(federation, tmp_path / "roster.json", number=7)
    load(federation, path)
    other = make_federation(tmp_path / "other", sites=())
    publish_roster(other, path, number=99)
    assert refusal(federation, path).reason == "unknown_signer"
    publish_roster(federation, path, number=99, federation="else", parties={})
    assert refusal(federation, path).reason == "wrong_federation"
    publish_roster(federation, path, number=8)
    assert load(federation, path).number == 8


@pytest.mark.parametrize(
    "text", ["", "[]", '{"pqfl": "roster-seen/v1", "number": 0}', '{"pqfl": "roster-seen/v1", "number": true}']
)
def test_a_broken_memory_is_never_a_first_start(federation: Federation, tmp_path: Path, text: str) -> None:
    """Garbling it brings nothing back."""
    path = publish_roster(federation, tmp_path / "roster.json", number=7)
    beside(path).write_text(text)
    with pytest.raises(ConfigurationError, match="not what was seen of the roster") as caught:
        load(federation, path)
    assert caught.value.reason == "malformed"


def test_a_folder_that_cannot_be_written_is_an_error_and_another_place_is_none(
    federation: Federation, tmp_path: Path
) -> None:
    """Without a memory nothing starts."""
    path = publish_roster(federation, tmp_path / "roster.json")
    with pytest.raises(ConfigurationError, match="cannot remember which roster was seen") as caught:
        load(federation, path, tmp_path / "nowhere" / "seen")
    assert caught.value.reason == "not_writable"
    load(federation, path, tmp_path / "seen")
    assert (tmp_path / "seen").exists()
    assert not beside(path).exists()


def test_a_reader_remembers_by_itself_too(federation: Federation, tmp_path: Path) -> None:
    """Whoever removes the memory of a running process gains nothing by it."""
    path, reader = publish_roster(federation, tmp_path / "roster.json", number=7), RosterReader()
    assert reader.read(path, roots(federation), federation="fed").number == 7
    beside(path).unlink()
    elsewhere = publish_roster(federation, tmp_path / "earlier.json", number=6)
    with pytest.raises(MessageError, match="number 6 is older than number 7"):
        reader.read(elsewhere, roots(federation), federation="fed")


def test_a_file_that_did_not_change_is_verified_once(
    federation: Federation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock may ask every few seconds; another number, another root and another federation are looked at anew."""
    opened = []
    real = roster_files.open_roster
    monkeypatch.setattr(roster_files, "open_roster", lambda *known, **named: opened.append(1) or real(*known, **named))
    path, reader = publish_roster(federation, tmp_path / "roster.json", number=7), RosterReader()
    keys = roots(federation)
    first = reader.read(path, keys, federation="fed")
    assert reader.read(path, keys, federation="fed") is first
    assert len(opened) == 1
    with pytest.raises(MessageError, match="none of the keys"):
        reader.read(path, [replace_key(federation)], federation="fed")
    with pytest.raises(MessageError, match="is of federation"):
        reader.read(path, keys, federation="else")
    publish_roster(federation, path, number=8)
    assert reader.read(path, keys, federation="fed") == replace(first, number=8)


def replace_key(federation: Federation) -> VerifyingKey:
    """A key that is no root's."""
    return keystore.load_signing_identity(federation.aggregator).key.verifying_key
