"""The record of used ids: durable, shared by processes, never silently full."""

import sqlite3
import stat
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest

from pqfl_transport.errors import ConfigurationError, MessageError, PlatformError
from pqfl_transport.extrakeys.record import UsedKeys

A, B = b"a" * 32, b"b" * 32
ID = "qkd:link:bc490419-7d60-487f-adc1-4ddcc177c139"


def refused(used: UsedKeys, key_id: str, envelope: bytes) -> str:
    with pytest.raises((MessageError, PlatformError)) as caught:
        used.claim(key_id, envelope)
    return caught.value.reason


def test_an_id_belongs_to_one_envelope(tmp_path: Path) -> None:
    """The same one may come again; every other is refused, also after a restart."""
    path = tmp_path / "used.db"
    used = UsedKeys(path)
    used.claim(ID, A)
    used.claim(ID, A)
    assert refused(used, ID, B) == "extra_key"
    assert refused(UsedKeys(path), ID, B) == "extra_key"
    UsedKeys(path).claim(ID, A)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_another_process_sees_what_is_used(tmp_path: Path) -> None:
    """A claim is on the disk when it returns."""
    path = tmp_path / "used.db"
    script = (
        "import os, sys; from pathlib import Path; from pqfl_transport.extrakeys.record import UsedKeys\n"
        f"UsedKeys(Path(sys.argv[1])).claim({ID!r}, b'a' * 32); os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", script, path], check=True)
    assert refused(UsedKeys(path), ID, B) == "extra_key"


def test_of_many_at_once_one_wins(tmp_path: Path) -> None:
    """Threads that claim one id for envelopes of their own."""
    used, won = UsedKeys(tmp_path / "used.db"), []

    def claim(number: int) -> None:
        try:
            used.claim(ID, bytes([number]) * 32)
        except MessageError:
            return
        won.append(number)

    threads = [threading.Thread(target=claim, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1


def test_a_full_record_forgets_what_is_old_and_refuses_before_it_forgets_what_is_not(tmp_path: Path) -> None:
    """Three places, kept for a day."""
    now = 1_000_000.0
    used = UsedKeys(tmp_path / "used.db", retain_days=1, max_ids=3, clock=lambda: now)
    for number in range(3):
        used.claim(f"id-{number}", A)
        now += 1000
    assert refused(used, "id-3", A) == "used_keys_full"
    assert refused(used, "id-0", B) == "extra_key"
    now = 1_000_000.0 + 86_400 + 500
    used.claim("id-3", A)
    assert refused(used, "id-1", B) == "extra_key"
    assert refused(used, "id-4", A) == "used_keys_full"


def test_files_that_are_no_record(tmp_path: Path) -> None:
    """A folder that is not there, another file, a later version: named, and left as they are."""
    with pytest.raises(ConfigurationError, match=r"nowhere"):
        UsedKeys(tmp_path / "nowhere" / "used.db")
    (tmp_path / "text").write_bytes(b"no database" * 100)
    with pytest.raises(PlatformError, match=r"text"):
        UsedKeys(tmp_path / "text")
    with closing(sqlite3.connect(tmp_path / "later.db")) as database:
        database.execute("PRAGMA user_version = 2")
    with pytest.raises(ConfigurationError, match=r"later\.db"):
        UsedKeys(tmp_path / "later.db")
