"""The ledger: all of a transaction or nothing, nothing is changed or deleted, and every event is chained."""

import json
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from certs.entry import Entry, State
from certs.ledger import Candidate, Ledger, Preparation
from pqfl_transport.crypto.pyca import SigningKey
from pqfl_transport.errors import ConfigurationError, PlatformError
from pqfl_transport.pki.authority import create_issuing, create_root
from pqfl_transport.policy import SecurityLevel

NOW = datetime(2026, 7, 1, 12, 0, 0, tzinfo=UTC)
ROOT = create_root("fed", now=NOW)
ISSUING = create_issuing(ROOT, SecurityLevel.HIGH, now=NOW)
ROOT_ENTRY = Entry.of(ROOT.certificate, holder="", usage="root", now=NOW)
ENTRY = Entry.of(ISSUING.certificate, holder="spiffe://fed/site/a", usage="client", now=NOW, issuer=ROOT.certificate)
KEY = SigningKey.from_seed("ML-DSA-44", bytes(32))


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """A ledger with two certificates."""
    made = Ledger(tmp_path / "ledger.db")
    with made.creating(NOW) as book:
        book.enter(ROOT_ENTRY, ROOT.certificate)
        book.enter(ENTRY, ISSUING.certificate)
    return made


def kinds(ledger: Ledger) -> list[str]:
    """The kinds of all events."""
    return [json.loads(line)["kind"] for line in ledger.lines()]


def test_certificates_come_back_in_their_order(ledger: Ledger) -> None:
    """With their bytes, by party and by key."""
    assert ledger.entries() == (ROOT_ENTRY, ENTRY)
    assert ledger.entries(party="spiffe://fed/site/a") == ledger.entries_of_key(ENTRY.key_sha256) == (ENTRY,)
    assert ledger.certificate(ENTRY.sha256) == ISSUING.certificate
    assert ledger.certificate("00") is None
    assert kinds(ledger) == ["issue", "issue"]


def test_the_file_is_public_and_whole(ledger: Ledger) -> None:
    """It holds no secret, and between two commands there is no second file to be copied with it."""
    assert stat.S_IMODE(ledger.path.stat().st_mode) & 0o077 == 0o044
    assert [path.name for path in ledger.path.parent.iterdir()] == ["ledger.db"]


def test_a_copy_in_write_ahead_mode_is_brought_back(ledger: Ledger) -> None:
    """Whoever looked into it with another program and left a write-ahead log behind has lost nothing."""
    with closing(sqlite3.connect(ledger.path)) as database:
        assert database.execute("PRAGMA journal_mode = WAL").fetchone() == ("wal",)
        database.execute("INSERT INTO candidates VALUES ('x', x'00', NULL, '')")
        database.commit()
    assert [one.id for one in ledger.candidates()] == ["x"]
    assert [path.name for path in ledger.path.parent.iterdir()] == ["ledger.db"]


def test_a_block_that_fails_leaves_nothing(ledger: Ledger) -> None:
    """Neither a certificate nor an event nor a candidate."""

    def fail() -> None:
        with ledger.writing(NOW) as book:
            book.revoke(ENTRY, "key_compromise")
            book.propose(Candidate("spiffe://fed/site/a", b"k", b"r", ""))
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert ledger.entries() == (ROOT_ENTRY, ENTRY)
    assert kinds(ledger) == ["issue", "issue"]
    assert ledger.candidates() == ()


def test_a_revocation_is_a_mark_and_an_event(ledger: Ledger) -> None:
    """The certificate stays, with when and why."""
    later = NOW + timedelta(days=1)
    with ledger.writing(later) as book:
        revoked = book.revoke(ENTRY, "key_compromise")
    assert ledger.entries() == (ROOT_ENTRY, revoked)
    assert (revoked.revoked_at, revoked.reason, revoked.state) == ("2026-07-02T12:00:00Z", "key_compromise", "issued")
    assert kinds(ledger) == ["issue", "issue", "revoke"]


def test_the_latest_keys_of_a_party_are_its_candidates(ledger: Ledger) -> None:
    """A later signing key takes the place of the former, and a receiving key stays until there is another."""
    with ledger.writing(NOW) as book:
        book.propose(Candidate("a", b"k1", b"r1", "t1"))
        book.propose(Candidate("a", b"k2", None, "t2"))
        book.propose(Candidate("b", b"k3", b"r3", "t3"))
    assert ledger.candidates() == (Candidate("a", b"k2", b"r1", "t2"), Candidate("b", b"k3", b"r3", "t3"))
    with ledger.writing(NOW) as book:
        book.forget_candidate("a")
    assert [one.id for one in ledger.candidates()] == ["b"]


def test_numbers_of_lists_are_kept(ledger: Ledger) -> None:
    """By the authority that signs them."""
    assert ledger.list_number("aa") == 0
    with ledger.writing(NOW) as book:
        book.number_list("aa", 7, NOW)
    assert (ledger.list_number("aa"), ledger.list_number("bb")) == (7, 0)


def test_a_preparation_is_settled_once(ledger: Ledger) -> None:
    """Its certificates are issued then, unless they were withdrawn."""
    third = replace(ENTRY, sha256="03", serial="3", state=State.PREPARED)
    fourth = replace(ENTRY, sha256="04", serial="4", state=State.PREPARED)
    with ledger.writing(NOW) as book:
        book.enter(third, None)
        book.enter(fourth, None)
        book.prepare(Preparation(ENTRY.id, "{}", "stage", "target", b"roster"))
    assert ledger.preparations() == (Preparation(ENTRY.id, "{}", "stage", "target", b"roster"),)
    with ledger.writing(NOW) as book:
        book.revoke(fourth, "superseded", state=State.WITHDRAWN)
        book.settle(ENTRY.id)
    assert ledger.preparations() == ()
    assert [one.state for one in ledger.entries()] == ["issued", "issued", "issued", "withdrawn"]


def test_a_head_is_signed_once_and_anew_after_news(ledger: Ledger) -> None:
    """Asking twice gives the same line; an event, or another key, makes the next one."""
    with ledger.writing(NOW) as book:
        first = book.sign_head(KEY)
        assert book.sign_head(KEY) == first
        assert book.sign_head(SigningKey.from_seed("ML-DSA-44", bytes([1]) * 32)) != first
        book.record("roster", number=2)
        assert book.sign_head(KEY) != first
    assert kinds(ledger) == ["issue", "issue", "checkpoint", "checkpoint", "roster", "checkpoint"]


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM certificates",
        "DELETE FROM events",
        "UPDATE events SET line = ''",
        "UPDATE certificates SET id = 'spiffe://fed/site/b'",
        "UPDATE certificates SET not_after = '2099-01-01T00:00:00Z'",
    ],
)
def test_what_is_entered_is_final(ledger: Ledger, statement: str) -> None:
    """A mistake of a program, or of somebody at a prompt, does not rewrite the past."""
    with closing(sqlite3.connect(ledger.path)) as database, pytest.raises(sqlite3.IntegrityError, match="never"):
        database.execute(statement)


def test_one_serial_number_of_one_issuer_is_one_certificate(ledger: Ledger) -> None:
    """A second one under the same number could not be told apart in a revocation list."""
    with pytest.raises(PlatformError, match="UNIQUE"), ledger.writing(NOW) as book:
        book.enter(replace(ENTRY, sha256="05"), None)


def _other_application(path: Path) -> None:
    path.unlink()
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE certificates (a)")


def _later_version(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA user_version = 2")


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda path: path.unlink(), "missing"),
        (lambda path: path.write_bytes(b""), "version"),
        (lambda path: path.write_bytes(b"no database" * 100), "ledger"),
        (lambda path: path.write_bytes(path.read_bytes()[:5000]), "ledger"),
        (_other_application, "version"),
        (_later_version, "version"),
    ],
)
def test_a_file_that_is_no_ledger_is_named(ledger: Ledger, spoil: Callable[[Path], None], reason: str) -> None:
    """Nothing is read out of it and nothing made of it."""
    spoil(ledger.path)
    with pytest.raises((ConfigurationError, PlatformError), match=str(ledger.path)) as caught:
        ledger.entries()
    assert caught.value.reason == reason


def test_a_ledger_is_made_once(ledger: Ledger, tmp_path: Path) -> None:
    """A making that was killed leaves an empty file, which is none yet."""
    with pytest.raises(ConfigurationError, match="exists already"), ledger.creating(NOW):
        pass
    empty = Ledger(tmp_path / "empty.db")
    assert not empty.is_made()
    empty.path.touch()
    assert not empty.is_made()
    with empty.creating(NOW):
        pass
    assert empty.is_made()


def test_killed_in_a_transaction_it_is_as_before(ledger: Ledger) -> None:
    """The journal that a killed process leaves is played back by whoever comes next."""
    script = (
        "import os, signal, sys\nfrom datetime import UTC, datetime\nfrom pathlib import Path\n"
        "from certs.ledger import Ledger\n"
        "with Ledger(Path(sys.argv[1])).writing(datetime.now(UTC)) as book:\n"
        "    for number in range(2000):\n"
        "        book.record('roster', number=number, text='x' * 2000)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(ledger.path)], check=False)
    assert done.returncode == -9
    assert kinds(ledger) == ["issue", "issue"]
    assert [path.name for path in ledger.path.parent.iterdir()] == ["ledger.db"]
