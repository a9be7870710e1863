"""Files of receiving keys: dates and order are kept, encrypted keys open with everything that stood beside them."""

import base64
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pqfl_transport.content.receiving_keys import ENCRYPTED_LABEL, MAX_KEYS, KeyEntry, ReceivingKeys, day
from pqfl_transport.content.recipients import PRIVATE_LABEL, ReceivingKey
from pqfl_transport.crypto import armour
from pqfl_transport.crypto.contexts import length_prefixed
from pqfl_transport.crypto.locking import Cost
from pqfl_transport.errors import ConfigurationError, MessageError

KEM = "ML-KEM-768+X25519"
CHEAP = Cost(1, 1, 8)
NOW = 1_800_000_000
OLD, NEW, THIRD = (
    ReceivingKey.generate(KEM, random=lambda count, fill=fill: fill * count) for fill in (b"o", b"n", b"t")
)
PASSPHRASE = b"correct horse battery"


def refused(pem: bytes) -> str:
    with pytest.raises(ConfigurationError) as caught:
        ReceivingKeys.from_pem(pem)
    return caught.value.reason


def locked(entry: KeyEntry) -> KeyEntry:
    return entry.encrypted(PASSPHRASE, cost=CHEAP)


def test_a_file_of_version_1_is_a_ring_of_one() -> None:
    """What was written before there were dates is read, and written again as it was."""
    ring = ReceivingKeys.from_pem(OLD.to_pem())
    assert ring.newest == replace(KeyEntry.of(OLD), key=ring.newest.key)
    assert ring.to_pem() == OLD.to_pem()


@pytest.mark.parametrize("kem", [KEM, "ML-KEM-1024+P-384", "ML-KEM-1024"])
@pytest.mark.parametrize("encrypt", [False, True])
def test_keys_come_back_with_their_dates(kem: str, encrypt: bool) -> None:
    """Several blocks in their order, of every KEM, in plain sight or under a passphrase."""
    keys = [ReceivingKey.generate(kem) for _ in range(3)]
    entries = [replace(KeyEntry.of(key, made=NOW + at), not_after=NOW * at) for at, key in enumerate(keys)]
    ring = ReceivingKeys(tuple(map(locked, entries) if encrypt else entries))
    again = ReceivingKeys.from_pem(ring.to_pem())
    assert again.is_encrypted == encrypt
    assert [(entry.kem, entry.fingerprint, entry.made, entry.not_after) for entry in again.entries] == [
        (kem, key.fingerprint, NOW + at, NOW * at) for at, key in enumerate(keys)
    ]
    opened = again.mapped(lambda entry: entry.unlocked(PASSPHRASE))
    assert [entry.opened.stored for entry in opened.entries] == [key.stored for key in keys]
    assert opened.to_pem() == ring.to_pem()


def test_an_encrypted_key_shows_no_secret_and_does_not_work() -> None:
    """The file holds no seed, its facts are readable, and using it without the passphrase is our own error."""
    entry = ReceivingKeys.from_pem(locked(KeyEntry.of(OLD, made=NOW)).to_pem()).newest
    assert OLD.stored not in base64.b64decode(b"".join(entry.to_pem().splitlines()[1:-1]))
    assert entry.fingerprint == OLD.fingerprint
    with pytest.raises(ConfigurationError) as caught:
        _ = entry.opened
    assert caught.value.reason == "no_passphrase"
    with pytest.raises(ConfigurationError) as wrong:
        entry.unlocked(b"another")
    assert wrong.value.reason == "wrong_passphrase"
    assert "seed" not in repr(entry)


@pytest.mark.parametrize(
    "change", [{"made": NOW + 1}, {"not_after": NOW + 9}, {"fingerprint": NEW.fingerprint}, {"kem": "ML-KEM-1024"}]
)
def test_what_stands_beside_a_secret_is_bound_to_it(change: dict[str, object]) -> None:
    """A date moved, a name exchanged: the key does not open, so nobody prolongs a key without its passphrase."""
    entry = replace(locked(KeyEntry.of(OLD, made=NOW)), key=None)
    with pytest.raises(ConfigurationError) as caught:
        replace(entry, **change).unlocked(PASSPHRASE)  # type: ignore[arg-type] -- one field a case
    assert caught.value.reason == "wrong_passphrase"


def test_the_header_of_an_envelope_finds_its_key() -> None:
    """Whichever of the keys it is sealed to; none of them is a refusal of the message."""
    ring = ReceivingKeys.of(NEW, OLD)
    assert ring.find([b"x" * 32, OLD.fingerprint], NOW).opened is OLD
    assert ring.newest.opened is NEW
    with pytest.raises(MessageError) as caught:
        ring.find([THIRD.fingerprint], NOW)
    assert caught.value.reason == "not_for_us"


def test_a_key_past_its_end_opens_nothing() -> None:
    """To the second; the error names the key and the day, and the other keys go on."""
    ring = ReceivingKeys((KeyEntry.of(NEW), replace(KeyEntry.of(OLD), not_after=NOW)))
    assert ring.find([OLD.fingerprint], NOW).opened is OLD
    with pytest.raises(ConfigurationError, match=f"{OLD.fingerprint.hex()[:16]}.*{day(NOW)}") as caught:
        ring.find([OLD.fingerprint], NOW + 1)
    assert caught.value.reason == "key_expired"
    assert [entry.opened for entry in ring.current(NOW + 1).entries] == [NEW]
    alone = ReceivingKeys((replace(KeyEntry.of(OLD), not_after=NOW),))
    with pytest.raises(ConfigurationError) as none_left:
        alone.current(NOW + 1)
    assert none_left.value.reason == "key_expired"


def test_rotation_puts_a_new_key_in_front_and_ends_the_former() -> None:
    """An end that was set before is never moved to a later day, and dates grow though the clock goes back."""
    ring = ReceivingKeys.of(OLD).rotated(NEW, now=NOW, not_after=NOW + 100)
    assert [(entry.fingerprint, entry.made, entry.not_after) for entry in ring.entries] == [
        (NEW.fingerprint, NOW, 0),
        (OLD.fingerprint, 0, NOW + 100),
    ]
    again = ring.rotated(THIRD, now=NOW - 50, not_after=NOW + 900)
    assert [(entry.fingerprint, entry.made, entry.not_after) for entry in again.entries] == [
        (THIRD.fingerprint, NOW + 1, 0),
        (NEW.fingerprint, NOW, NOW + 900),
        (OLD.fingerprint, 0, NOW + 100),
    ]
    forever = ReceivingKeys.of(OLD).rotated(NEW, now=NOW, not_after=0)
    assert forever.entries[1].not_after == 0


def test_pruning_removes_what_has_ended_and_never_the_newest() -> None:
    """A ring is never empty, whatever its dates."""
    ring = ReceivingKeys.of(OLD).rotated(NEW, now=NOW, not_after=NOW + 100)
    assert ring.pruned(NOW + 100)[1] == ()
    kept, gone = ring.pruned(NOW + 101)
    assert ([entry.opened for entry in kept.entries], [entry.opened for entry in gone]) == ([NEW], [OLD])
    alone = ReceivingKeys((replace(KeyEntry.of(OLD), not_after=NOW),))
    assert alone.pruned(NOW + 1) == (alone, ())


def test_what_is_no_ring_is_refused() -> None:
    """Nothing, too many keys, one twice, a public key, an unknown block, damage, a cut file: one reason."""
    many = b"".join(ReceivingKey.generate(KEM).to_pem() for _ in range(MAX_KEYS + 1))
    entry = KeyEntry.of(OLD, made=NOW).to_pem()
    for pem in (
        b"", many, OLD.to_pem() * 2, OLD.public.to_pem(), armour.encode("PRIVATE KEY", b"x"), entry[:-40],
        entry + b"-----BEGIN PQFL", entry.replace(b"A", b"B", 3),
    ):  # fmt: skip
        assert refused(pem) == "bad_key"


def v2(*items: bytes, label: str = PRIVATE_LABEL) -> bytes:
    return armour.encode(label, length_prefixed(b"pqfl-receiving/v2", *items))


def test_structures_are_held_to_their_form() -> None:
    """Other counts, dates of other lengths or beyond all time, another half, names that are none: refused."""
    kem, date = KEM.encode(), NOW.to_bytes(8, "big")
    good = (b"private", kem, OLD.stored, OLD.fingerprint, date, date)
    assert ReceivingKeys.from_pem(v2(*good)).newest.not_after == NOW
    lock = (b"encrypted", kem, OLD.fingerprint, date, date, b"argon2id")
    assert ReceivingKeys.from_pem(v2(*lock, label=ENCRYPTED_LABEL)).newest.fingerprint == OLD.fingerprint
    for items, label in (
        (good[:-1], PRIVATE_LABEL),
        ((*good, b""), PRIVATE_LABEL),
        ((b"public", *good[1:]), PRIVATE_LABEL),
        ((*good[:5], b"\xff" * 8), PRIVATE_LABEL),
        ((*good[:5], b"\0" * 7), PRIVATE_LABEL),
        ((*good[:3], NEW.fingerprint, date, date), PRIVATE_LABEL),
        ((good[0], b"", *good[2:]), PRIVATE_LABEL),
        ((good[0], b"X25519", *good[2:]), PRIVATE_LABEL),
        (good, ENCRYPTED_LABEL),
        (lock, PRIVATE_LABEL),
        (lock[:-1], ENCRYPTED_LABEL),
        ((*lock[:2], b"short", *lock[3:]), ENCRYPTED_LABEL),
        ((lock[0], b"\x1b[2J", *lock[2:]), ENCRYPTED_LABEL),
        ((*lock, *[b""] * 20), ENCRYPTED_LABEL),
    ):
        assert refused(v2(*items, label=label)) in {"bad_key", "unknown_algorithm"}


@given(st.binary(max_size=300), st.sampled_from([PRIVATE_LABEL, ENCRYPTED_LABEL]))
@settings(deadline=None)
def test_noise_is_our_own_error(data: bytes, label: str) -> None:
    """No bytes in a block make it raise anything else."""
    with pytest.raises(ConfigurationError):
        ReceivingKeys.from_pem(armour.encode(label, data))


@given(st.integers(0, 10**6), st.integers(1, 255))
@settings(deadline=None, max_examples=80)
def test_a_changed_encrypted_key_never_opens(position: int, flip: int) -> None:
    """No byte of the block can be changed and the key still open."""
    data = bytearray(armour.decode(LOCKED, ENCRYPTED_LABEL, max_bytes=10_000))
    data[position % len(data)] ^= flip
    with pytest.raises(ConfigurationError):
        ReceivingKeys.from_pem(armour.encode(ENCRYPTED_LABEL, bytes(data))).newest.unlocked(PASSPHRASE)


LOCKED = locked(KeyEntry.of(OLD, made=NOW)).to_pem()


RECORDED = json.loads((Path(__file__).parents[2] / "vectors" / "receiving_key" / "keys.json").read_text())


@pytest.mark.parametrize("vector", RECORDED, ids=lambda vector: vector["name"])
def test_recorded_files_open_or_are_refused_as_they_say(vector: dict[str, Any]) -> None:
    """What was written once is read by every later version, and refused for the same reason."""

    def opened() -> ReceivingKeys:
        ring = ReceivingKeys.from_pem(vector["file"].encode())
        return ring.mapped(lambda entry: entry.unlocked((vector["passphrase"] or "").encode()))

    if "error" in vector:
        with pytest.raises(ConfigurationError) as caught:
            opened()
        assert caught.value.reason == vector["error"]
        return
    assert [
        {
            "kem": entry.kem, "stored": entry.opened.stored.hex(), "fingerprint": entry.fingerprint.hex(),
            "made": entry.made, "not_after": entry.not_after,
        }
        for entry in opened().entries
    ] == vector["keys"]  # fmt: skip
