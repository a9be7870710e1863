"""Secrets under a passphrase: they open with it and with what stood beside them, and demand no more than the caps."""

import hashlib

import pytest
from cryptography.cobblestone import Cobblestone256Decryptor
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from hypothesis import given, settings
from hypothesis import strategies as st

from pqfl_transport.content.header import split_items
from pqfl_transport.crypto import locking
from pqfl_transport.crypto.contexts import length_prefixed
from pqfl_transport.crypto.locking import Cost, lock, unlock
from pqfl_transport.errors import ConfigurationError

CHEAP = Cost(passes=1, lanes=1, memory_kib=8)
SECRET = b"seed" * 8


def items(locked: bytes) -> list[bytes]:
    return split_items(locked, "locked", maximum=16)


def reason(parts: list[bytes], passphrase: bytes = b"pw", binding: bytes = b"beside") -> str:
    with pytest.raises(ConfigurationError) as caught:
        unlock(parts, passphrase, binding)
    return caught.value.reason


@given(st.binary(max_size=70_000), st.binary(min_size=1, max_size=60), st.binary(max_size=60))
@settings(deadline=None, max_examples=40)
def test_a_secret_comes_back(secret: bytes, passphrase: bytes, binding: bytes) -> None:
    """Any secret, passphrase and binding; the stored form shows nothing of the secret."""
    locked = lock(secret, passphrase, binding, cost=CHEAP)
    assert unlock(items(locked), passphrase, binding) == secret
    # What stands beside it in plain sight may be drawn as a secret too.
    assert len(secret) < 8 or secret not in items(locked)[-1]


def test_the_default_cost_is_the_second_recommendation() -> None:
    """RFC 9106 §4: three passes, four lanes, 64 MiB, and a salt of 16 bytes."""
    parts = items(lock(SECRET, b"pw", b"beside"))
    assert [int.from_bytes(part, "big") for part in parts[1:4]] == [3, 4, 65536]
    assert (parts[0], len(parts[4])) == (b"argon2id", 16)
    assert unlock(parts, b"pw", b"beside") == SECRET


def test_nothing_repeats() -> None:
    """The salt is new every time, so two files with one passphrase have nothing in common."""
    first, second = (items(lock(SECRET, b"pw", b"beside", cost=CHEAP)) for _ in range(2))
    assert first[4] != second[4]
    assert first[5] != second[5]


def test_everything_is_bound_to_everything() -> None:
    """Another passphrase, another binding, another salt, a changed secret, an easier cost: one error."""
    parts = items(lock(SECRET, b"pw", b"beside", cost=Cost(2, 1, 16)))
    assert unlock(parts, b"pw", b"beside") == SECRET
    assert reason(parts, b"other") == reason(parts, binding=b"elsewhere") == "wrong_passphrase"
    for place, changed in (
        (1, (1).to_bytes(4, "big")),
        (3, (8).to_bytes(4, "big")),
        (4, b"t" * 16),
        (5, parts[5][:-1]),
        (5, parts[5][:-1] + bytes([parts[5][-1] ^ 1])),
        (5, parts[5] + b"x"),
        (5, b""),
    ):
        assert reason([*parts[:place], changed, *parts[place + 1 :]]) == "wrong_passphrase"


@pytest.mark.parametrize(
    "cost",
    [Cost(17, 1, 8), Cost(0, 1, 8), Cost(1, 17, 1024), Cost(1, 0, 8), Cost(1, 1, (256 << 10) + 1), Cost(1, 2, 15),
     Cost(1 << 31, 1 << 31, 1 << 31)],
    ids=str,
)  # fmt: skip
def test_a_hostile_file_gets_no_gigabytes(monkeypatch: pytest.MonkeyPatch, cost: Cost) -> None:
    """Parameters above the caps, or that Argon2 does not take, are refused before anything is derived."""
    parts = [*locking._encode(cost, b"s" * 16), b"sealed" * 20]
    monkeypatch.setattr(locking, "Argon2id", None)
    assert reason(parts) == "key_cost"


def test_what_is_no_locked_secret_is_refused() -> None:
    """Too few items or too many, another algorithm, numbers and salts of other lengths."""
    parts = items(lock(SECRET, b"pw", b"beside", cost=CHEAP))
    for wrong in (
        [],
        parts[:-1],
        [*parts, b""],
        [b"scrypt", *parts[1:]],
        [parts[0], b"\1", *parts[2:]],
        [*parts[:4], b"short", parts[5]],
    ):
        assert reason(wrong) == "bad_key"


@given(st.lists(st.binary(max_size=40), max_size=8))
@settings(deadline=None)
def test_noise_is_our_own_error(parts: list[bytes]) -> None:
    """No items make it raise anything else."""
    assert reason(parts) in {"bad_key", "key_cost", "wrong_passphrase"}


def test_it_is_the_argon2_of_everybody() -> None:
    """The parameters go to Argon2id by their names: derived by hand with the library, the key is the same."""
    parts = items(lock(SECRET, b"pw", b"beside", cost=Cost(2, 3, 64), random=lambda count: b"r" * count))
    key = Argon2id(salt=b"r" * 16, length=32, iterations=2, lanes=3, memory_cost=64).derive(b"pw")
    binding = length_prefixed(b"pqfl/v1/key-file", b"beside", length_prefixed(*parts[:5]))
    assert opened(key, binding, parts[5]) == SECRET


def opened(key: bytes, binding: bytes, sealed: bytes) -> bytes:
    decryptor = Cobblestone256Decryptor(key, hashlib.sha512(binding).digest())
    return decryptor.update(sealed) + decryptor.finalize()
