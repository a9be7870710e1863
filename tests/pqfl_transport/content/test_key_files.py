"""Files of receiving keys on a disk: capped, private, unlocked only where they have to be."""

import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from pqfl_transport.content.key_files import (
    KeyRingFile,
    load_key_ring,
    load_receiving_keys,
    load_recipient,
    replace_key_ring,
    unlock_entry,
)
from pqfl_transport.content.receiving_keys import KeyEntry, ReceivingKeys
from pqfl_transport.content.recipients import ReceivingKey
from pqfl_transport.crypto.armour import MAX_PEM_BYTES
from pqfl_transport.crypto.locking import Cost
from pqfl_transport.errors import ConfigurationError
from pqfl_transport.pki.files import write_secret
from pqfl_transport.pki.passphrases import fixed

KEM = "ML-KEM-768+X25519"
PASSPHRASE = "correct horse battery"


def nobody(name: str) -> Iterable[bytes]:
    """A source that must not be asked."""
    raise AssertionError(name)


@pytest.fixture
def ring() -> ReceivingKeys:
    """Two encrypted keys, the second past its end."""
    new, old = (KeyEntry.of(ReceivingKey.generate(KEM), made=9) for _ in range(2))
    old = replace(old, not_after=int(time.time()) - 10)
    return ReceivingKeys((new, old)).mapped(lambda entry: entry.encrypted(PASSPHRASE.encode(), cost=Cost(1, 1, 8)))


def test_keys_are_unlocked_once_they_are_needed(tmp_path: Path, ring: ReceivingKeys) -> None:
    """Reading asks nobody; what is past its end is not unlocked, and gone from what a site uses."""
    path = tmp_path / "receiving.key"
    write_secret(path, ring.to_pem())
    assert load_key_ring(path).is_encrypted
    keys = load_receiving_keys(path, time.time(), fixed(PASSPHRASE))
    assert [entry.opened.fingerprint for entry in keys.entries] == [ring.newest.fingerprint]
    entry = unlock_entry(path, load_key_ring(path).entries[1], fixed(PASSPHRASE))
    assert entry.opened.fingerprint == ring.entries[1].fingerprint
    plain = tmp_path / "plain.key"
    write_secret(plain, ReceivingKeys.of(keys.newest.opened).to_pem())
    assert load_receiving_keys(plain, time.time(), nobody).newest.opened.stored == keys.newest.opened.stored


def test_errors_name_the_file(tmp_path: Path, ring: ReceivingKeys) -> None:
    """A wrong passphrase, none, an end that has come, damage, a loose mode and a missing file."""
    path = tmp_path / "receiving.key"
    write_secret(path, ring.to_pem())
    ended, damaged = tmp_path / "ended", tmp_path / "damaged"
    write_secret(ended, ReceivingKeys(ring.entries[1:]).to_pem())
    write_secret(damaged, ring.to_pem()[:-20])
    loose = tmp_path / "loose"
    loose.write_bytes(ring.to_pem())
    loose.chmod(0o640)
    for file, source, reason in (
        (path, fixed("wrong"), "wrong_passphrase"),
        (path, lambda _name: (), "no_passphrase"),
        (ended, nobody, "key_expired"),
        (damaged, nobody, "bad_key"),
        (loose, nobody, "loose_permissions"),
        (tmp_path / "none", nobody, "missing"),
    ):
        with pytest.raises(ConfigurationError, match=str(file)) as caught:
            load_receiving_keys(file, time.time(), source)
        assert caught.value.reason == reason


def test_large_keys_fit_and_larger_ones_do_not(tmp_path: Path) -> None:
    """Public keys of code-based families have a megabyte; nothing reads more than the cap."""
    path = tmp_path / "large.pub"
    path.write_bytes(b"A" * (MAX_PEM_BYTES + 1))
    with pytest.raises(ConfigurationError, match=r"large\.pub") as caught:
        load_recipient(path)
    assert caught.value.reason == "too_large"
    path.write_bytes(b"A" * MAX_PEM_BYTES)
    with pytest.raises(ConfigurationError, match=r"large\.pub") as other:
        load_recipient(path)
    assert other.value.reason == "bad_key"
    key = ReceivingKey.generate(KEM)
    path.write_bytes(key.public.to_pem())
    assert load_recipient(path) == key.public


def test_replacing_keeps_nothing_of_the_old(tmp_path: Path) -> None:
    """The file is another one, whole, of mode 0600, and the bytes of the old one are overwritten where they were."""
    path = tmp_path / "receiving.key"
    old, new = ReceivingKeys.of(ReceivingKey.generate(KEM)), ReceivingKeys.of(ReceivingKey.generate(KEM))
    write_secret(path, old.to_pem())
    with path.open("rb") as still_open:
        replace_key_ring(path, new)
        assert set(still_open.read()) == {0}
    assert path.read_bytes() == new.to_pem()
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_file_in_use_is_read_again_when_it_was_changed(tmp_path: Path, ring: ReceivingKeys) -> None:
    """What is broken raises each time, and what comes after it counts."""
    path, now = tmp_path / "receiving.key", time.time()
    write_secret(path, ring.to_pem())
    file = KeyRingFile(path, fixed(PASSPHRASE))
    assert file.load(now).newest.opened.fingerprint == ring.newest.fingerprint
    assert file.reload(now) is None
    other = ReceivingKeys.of(ReceivingKey.generate(KEM))
    write_secret(path, b"broken", overwrite=True)
    for _ in range(2):
        with pytest.raises(ConfigurationError, match=r"receiving\.key"):
            file.reload(now)
    write_secret(path, other.to_pem(), overwrite=True)
    found = file.reload(now)
    assert found is not None
    assert found.newest.fingerprint == other.newest.fingerprint
    assert file.reload(now) is None
