"""Files of sealed updates: whole under their own name or not there at all."""

import stat
from pathlib import Path

import pytest

from aggregator.rounds import Receipt
from aggregator.store.updates import KeptUpdates
from pqfl_transport.content.envelope import Prologue, decode_prologue
from pqfl_transport.errors import ConfigurationError, PlatformError, RoundError
from tests.support.envelopes import make_keys
from tests.support.rounds import Willing

ENVELOPE = bytes(make_keys().seal())


@pytest.fixture
def prologue() -> Prologue:
    return decode_prologue(ENVELOPE)[0]


def names(folder: Path) -> list[str]:
    return [path.name for path in (folder / "updates").iterdir()]


def test_an_update_is_kept_as_it_came(tmp_path: Path, prologue: Prologue) -> None:
    """In a private file, named by its prologue, once it is whole."""
    kept = KeptUpdates(tmp_path, Willing())
    file = kept.begin(prologue)
    file.write(ENVELOPE[len(prologue.raw) :])
    assert not file.path.exists()
    file.keep()
    file.discard()
    assert kept.path(prologue.digest).read_bytes() == ENVELOPE
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600


def test_what_is_discarded_leaves_nothing_and_takes_nothing(tmp_path: Path, prologue: Prologue) -> None:
    """Whoever still writes to it learns that the round is over."""
    file = KeptUpdates(tmp_path, Willing()).begin(prologue)
    file.discard()
    file.discard()
    assert names(tmp_path) == []
    for use in (lambda: file.write(b"more"), file.keep):
        with pytest.raises(RoundError) as caught:
            use()
        assert caught.value.reason == "closed"


def test_files_of_other_updates_are_removed(tmp_path: Path, prologue: Prologue) -> None:
    """Those that the database does not know, and torn ones of a process that was killed."""
    kept = KeptUpdates(tmp_path, Willing())
    kept.begin(prologue).keep()
    kept.path(b"other").write_bytes(b"")
    kept.keep_only([prologue.digest])
    (tmp_path / "updates" / ".x.pqfl.12345678.part").write_bytes(b"torn")
    KeptUpdates(tmp_path, Willing())
    assert names(tmp_path) == [kept.path(prologue.digest).name]


def test_that_it_was_accepted_is_the_databases_to_keep(tmp_path: Path) -> None:
    """Receipt and samples go there."""
    store = Willing()
    receipt = Receipt(1, "a", b"e" * 16, b"p" * 32, b"s" * 32)
    KeptUpdates(tmp_path, store).accept(b"c", receipt, 9)
    assert [(one.receipt, one.samples) for one in store.accepted] == [(receipt, 9)]


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, prologue: Prologue) -> None:
    """At the start as a matter of configuration, later as one of the disk."""
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ConfigurationError, match="file"):
        KeptUpdates(tmp_path / "file", Willing())
    kept = KeptUpdates(tmp_path, Willing())
    (tmp_path / "updates").rmdir()
    with pytest.raises(PlatformError) as caught:
        kept.begin(prologue)
    assert caught.value.reason == "disk"
