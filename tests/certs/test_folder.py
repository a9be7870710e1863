"""The folder: settings are checked when it is opened, keys when they are read, and writers take turns."""

import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest

from certs.authority import Authority
from certs.entry import AuthorityUse, sha256_of
from certs.folder import AuthorityFolder
from pqfl_transport.errors import ConfigurationError
from pqfl_transport.policy import SecurityLevel

NOW = datetime(2026, 7, 1, 12, 0, 0, tzinfo=UTC)


@pytest.fixture
def folder(tmp_path: Path) -> AuthorityFolder:
    """The folder of a new authority, opened."""
    Authority.create(tmp_path / "ca", federation="fed", now=NOW)
    return AuthorityFolder.open(tmp_path / "ca")


def test_settings_come_back(folder: AuthorityFolder) -> None:
    """Name and level are those it was made with."""
    assert (folder.federation, folder.level, folder.policy.level) == ("fed", SecurityLevel.HIGH, SecurityLevel.HIGH)
    assert folder.advisory() is None
    assert dict(folder.roster().parties) == {}


@pytest.mark.parametrize("text", ["", "[]", '{"pqfl": "federation/v2", "federation": "fed", "level": "high"}'])
def test_settings_that_are_none_are_named(folder: AuthorityFolder, text: str) -> None:
    """The message names the file."""
    path = folder.folder / "federation.json"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=str(path)) as caught:
        AuthorityFolder.open(folder.folder)
    assert caught.value.reason == "malformed"


def test_an_authority_is_its_certificate_and_its_key(folder: AuthorityFolder) -> None:
    """A key of another authority is refused, and a root that is offline is missed with the reason."""
    assert folder.issuer("issuing", NOW).federation == "fed"
    (folder.folder / "issuing.key").write_bytes((folder.folder / "log.key").read_bytes())
    with pytest.raises(ConfigurationError) as caught:
        folder.issuer("issuing", NOW)
    assert caught.value.reason == "key_mismatch"
    (folder.folder / "root.key").unlink()
    with pytest.raises(ConfigurationError, match="offline") as caught:
        folder.issuer("root", NOW)
    assert caught.value.reason == "missing"


def test_writers_take_turns(folder: AuthorityFolder) -> None:
    """Whoever comes second waits for the first."""
    order: list[str] = []
    waiting = threading.Event()

    def second() -> None:
        waiting.set()
        with folder.locked():
            order.append("second")

    thread = threading.Thread(target=second)
    with folder.locked():
        thread.start()
        assert waiting.wait(10)
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]


def test_a_folder_may_have_profiles_of_its_own(folder: AuthorityFolder) -> None:
    """What is issued lasts as long as they say; a wrong one is named with its file."""
    shipped = (Path(__file__).resolve().parents[2] / "certs" / "profiles.toml").read_text()
    assert folder.profiles["site"].leaf_days == 90
    path = folder.folder / "profiles.toml"
    path.write_text(shipped.replace("days = 90", "days = 7"))
    authority = Authority.open(folder.folder)
    issued = authority.issue(profile="site", name="one", out=folder.folder.parent / "one", now=NOW)
    assert issued.entries[0].not_after == "2026-07-08T12:00:00Z"
    path.write_text("")
    with pytest.raises(ConfigurationError, match=str(path)) as caught:
        authority.issue(profile="site", name="two", out=folder.folder.parent / "two", now=NOW)
    assert caught.value.reason == "bad_profiles"


def test_what_another_process_made_of_it_is_read_again(tmp_path: Path) -> None:
    """Level and folder are those of now, whatever they were when it was opened."""
    made = Authority.create(tmp_path / "ca", level="standard")
    Authority.open(made.folder).rotate_issuing(level=SecurityLevel.HIGH)
    assert (made.level, made.current().level) == (SecurityLevel.STANDARD, SecurityLevel.HIGH)
    assert isinstance(made.current(), Authority)


def test_which_authorities_count_and_which_sign(tmp_path: Path) -> None:
    """Classical issuers only while there is a migration; what waits is announced, and the rest is said of nobody."""
    ca = Authority.create(tmp_path / "ca", federation="fed")
    assert ca.classical_anchors() == ()
    assert set(ca.uses().values()) == {AuthorityUse.SIGNS}
    entry = ca.create_classical()
    assert [sha256_of(one) for one in ca.classical_anchors()] == [entry.sha256]
    assert entry.sha256 in ca.trusted_fingerprints() - ca.anchor_fingerprints()
    announced = ca.rotate_classical(announce=True).entry
    assert ca.uses()[announced.sha256] is AuthorityUse.ANNOUNCED
    assert len(ca.uses()) == 4
