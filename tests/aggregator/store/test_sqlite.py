"""The database of a run: what it was told is there after a restart, and what cannot be is refused."""

import resource
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from aggregator.rounds import Receipt, Terms
from aggregator.store.records import KeptModel, KeptRound, KeptRun, KeptUpdate, Standing
from aggregator.store.sqlite import VERSION, SqliteStore
from pqfl_transport.errors import ConfigurationError, PlatformError, RoundError

RUN = KeptRun("fed", b"d" * 32)
TERMS = Terms(
    federation="fed", number=1, challenge=b"c" * 32, suite="suite", base_digest=b"d" * 32,
    receiving_fingerprint=b"f" * 32, max_plaintext_bytes=5000, expected=frozenset({"a", "b"}), quorum=1,
    deadline=2000.5, not_after=2061,
)  # fmt: skip
ROUND = KeptRound(TERMS, attempt=2, roster=7)


def update(sender: str, number: int = 1) -> KeptUpdate:
    name = sender.encode()
    return KeptUpdate(Receipt(number, sender, name * 16, name * 32, b"s" * 32), samples=9)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    with closing(SqliteStore(tmp_path)) as made:
        made.begin(RUN)
        yield made


def reopened(store: SqliteStore, folder: Path) -> SqliteStore:
    store.close()
    return SqliteStore(folder)


def test_a_new_store_is_empty_and_private(store: SqliteStore, tmp_path: Path) -> None:
    """There is no model and no round, and nobody else reads the file."""
    assert (store.model(), store.round()) == (None, None)
    assert stat.S_IMODE((tmp_path / "run.db").stat().st_mode) == 0o600


def test_everything_comes_back_as_it_was(store: SqliteStore, tmp_path: Path) -> None:
    """A round with its terms, its attempt and its updates in the order of acceptance; the latest model."""
    store.open(ROUND)
    for sender in ("b", "a"):
        store.accept(TERMS.challenge, update(sender))
    store.publish(KeptModel(0, b"m" * 32))
    with closing(reopened(store, tmp_path)) as again:
        again.begin(RUN)
        assert again.round() == replace(ROUND, updates=(update("b"), update("a")))
        assert again.model() == KeptModel(0, b"m" * 32)


def test_another_run_is_refused(store: SqliteStore) -> None:
    """It is not begun over the one that is kept."""
    with pytest.raises(ConfigurationError, match="fed"):
        store.begin(KeptRun("other", b"d" * 32))
    store.begin(RUN)


def test_one_update_of_each_sender_is_kept(store: SqliteStore) -> None:
    """Not a second one, and no envelope id or prologue twice, whoever sends it."""
    store.open(ROUND)
    store.accept(TERMS.challenge, update("a"))
    copied = replace(update("a").receipt, sender="b")
    for one in (update("a"), KeptUpdate(copied, 9)):
        with pytest.raises(RoundError) as caught:
            store.accept(TERMS.challenge, one)
        assert caught.value.reason == "duplicate"
    found = store.round()
    assert found is not None
    assert len(found.updates) == 1


@pytest.mark.parametrize("standing", [Standing.AGGREGATING, Standing.FAILED])
def test_a_round_that_is_over_takes_nothing(store: SqliteStore, standing: Standing) -> None:
    """Nor does one that was never opened, nor one in whose place another was opened."""
    store.open(ROUND)
    store.open(replace(ROUND, terms=replace(TERMS, challenge=b"2" * 32)))
    store.end(b"2" * 32, standing)
    for challenge in (TERMS.challenge, b"2" * 32, b"?" * 32):
        with pytest.raises(RoundError) as caught:
            store.accept(challenge, update("a"))
        assert caught.value.reason == "closed"


def test_a_published_round_stays_so(store: SqliteStore) -> None:
    """Publishing ends the round that the model is of, once and for all, and takes no second model."""
    store.open(ROUND)
    store.end(TERMS.challenge, Standing.AGGREGATING)
    store.publish(KeptModel(1, b"m" * 32))
    store.publish(KeptModel(1, b"n" * 32))
    store.end(TERMS.challenge, Standing.FAILED)
    found = store.round()
    assert found is not None
    assert found.standing is Standing.PUBLISHED
    assert store.model() == KeptModel(1, b"m" * 32)
    with pytest.raises(RoundError):
        store.accept(TERMS.challenge, update("a"))


def test_a_second_process_is_refused(store: SqliteStore, tmp_path: Path) -> None:
    """Until the first one has ended, however it did."""
    script = "import sys; from pathlib import Path; from aggregator.store.sqlite import SqliteStore\n"
    script += "try: SqliteStore(Path(sys.argv[1]))\nexcept Exception as error: print(error.reason)"
    words = (sys.executable, "-c", script, str(tmp_path))
    assert subprocess.run(words, capture_output=True, text=True, check=True).stdout == "in_use\n"
    store.close()
    assert subprocess.run(words, capture_output=True, text=True, check=True).stdout == ""


@pytest.mark.parametrize("pragma", [f"user_version = {VERSION + 1}", "application_id = 1"])
def test_what_is_of_a_newer_version_or_another_program_is_refused(
    store: SqliteStore, tmp_path: Path, pragma: str
) -> None:
    """And not changed."""
    store.close()
    with closing(sqlite3.connect(tmp_path / "run.db")) as database:
        database.execute(f"PRAGMA {pragma}")
    before = (tmp_path / "run.db").read_bytes()
    with pytest.raises(ConfigurationError) as caught:
        SqliteStore(tmp_path)
    assert caught.value.reason == "version"
    assert (tmp_path / "run.db").read_bytes() == before


def test_a_damaged_file_and_a_folder_that_is_none_are_named(store: SqliteStore, tmp_path: Path) -> None:
    """Nothing is begun anew over them."""
    store.close()
    (tmp_path / "run.db").write_bytes(b"no database" * 100)
    with pytest.raises(PlatformError, match=r"run\.db"):
        SqliteStore(tmp_path)
    with pytest.raises(ConfigurationError, match="cannot use the state folder"):
        SqliteStore(tmp_path / "run.db")


def test_a_disk_that_is_full_keeps_what_was_there(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """An update that cannot be written down is refused as that, and not half-kept."""
    store.open(ROUND)
    store.accept(TERMS.challenge, update("a"))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    resource.setrlimit(resource.RLIMIT_FSIZE, (512, limits[1]))
    try:
        with pytest.raises(PlatformError) as caught:
            store.accept(TERMS.challenge, update("b"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.reason == "disk"
    found = store.round()
    assert found is not None
    assert [one.receipt.sender for one in found.updates] == ["a"]
    store.accept(TERMS.challenge, update("b"))
