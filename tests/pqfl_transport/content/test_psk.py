"""Pre-shared keys: a key for each envelope, derived alike at both ends; files that are what they say."""

import hashlib
import hmac
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pqfl_transport.content.keysource import KeyId
from pqfl_transport.content.psk import MAX_KEY_BYTES, PreSharedKey
from pqfl_transport.crypto import armour
from pqfl_transport.crypto.contexts import length_prefixed
from pqfl_transport.errors import ConfigurationError

SPRING = PreSharedKey("spring", bytes(range(32)))
NONCE = "000102030405060708090a0b0c0d0e0f"


def test_both_ends_derive_the_same_key() -> None:
    """The sender for a new nonce, the receiver for the nonce that the header names."""
    key = SPRING.new_key()
    key_id = KeyId.parse(key.id)
    assert key_id.source == "psk:spring"
    assert PreSharedKey.from_pem(SPRING.to_pem()).key(key_id.serial) == key
    assert SPRING.new_key() != key
    assert SPRING.new_key(random=lambda count: bytes(range(count))).id == f"psk:spring:{NONCE}"


def test_the_derivation_is_the_specified_one() -> None:
    """HKDF-SHA-512 without salt over the key, for the label and the whole id, written out with HMAC alone."""
    info = length_prefixed(b"pqfl/v1/psk", f"psk:spring:{NONCE}".encode())
    extracted = hmac.digest(b"\0" * 64, bytes(range(32)), hashlib.sha512)
    assert SPRING.key(NONCE).material == hmac.digest(extracted, info + b"\1", hashlib.sha512)[:32]


def test_recorded_keys_are_derived_again() -> None:
    """The recorded envelopes with a key of this kind give the pre-shared key and what it has to become."""
    facts = json.loads((Path(__file__).resolve().parents[2] / "vectors" / "envelope" / "extra-keys.json").read_text())
    shared = PreSharedKey(facts["psk"]["name"], bytes.fromhex(facts["psk"]["key"]))
    recorded = {
        key_id: key for vector in facts["vectors"] if "tensors" in vector for key_id, key in vector["extra"].items()
    }
    derived = {key_id: key for key_id, key in recorded.items() if key_id.startswith("psk:")}
    assert derived
    for key_id, key in derived.items():
        assert shared.key(KeyId.parse(key_id).serial).material.hex() == key


def test_names_and_nonces_give_keys_of_their_own() -> None:
    """One secret under two names, or for two nonces, is as two secrets."""
    other = PreSharedKey("summer", bytes(range(32)))
    materials = {one.key(nonce).material for one in (SPRING, other) for nonce in (NONCE, NONCE[::-1])}
    assert len(materials) == 4


@given(st.binary(min_size=32, max_size=MAX_KEY_BYTES))
def test_files_hold_name_and_key(secret: bytes) -> None:
    """What was written is read again."""
    read = PreSharedKey.from_pem(PreSharedKey("a-1", secret).to_pem())
    assert (read.name, read.key(NONCE)) == ("a-1", PreSharedKey("a-1", secret).key(NONCE))


def test_a_new_key_is_random_and_is_not_shown() -> None:
    """Two of one name differ; neither is in its own representation."""
    assert PreSharedKey.generate("x").key(NONCE) != PreSharedKey.generate("x").key(NONCE)
    assert "material" not in repr(SPRING.key(NONCE))


@pytest.mark.parametrize(
    ("name", "key"),
    [("", b"k" * 32), ("Spring", b"k" * 32), ("a:b", b"k" * 32), ("a", b"k" * 31), ("a", b"k" * (MAX_KEY_BYTES + 1))],
)
def test_names_and_lengths_that_are_refused(name: str, key: bytes) -> None:
    """A name that could not stand in an id; less than 256 bits; more than a file should hold."""
    with pytest.raises(ConfigurationError) as caught:
        PreSharedKey(name, key)
    assert caught.value.reason == "bad_key"
    with pytest.raises(ConfigurationError):
        PreSharedKey.from_pem(armour.encode("PQFL PRE-SHARED KEY", length_prefixed(b"pqfl-psk/v1", name.encode(), key)))


@given(st.binary(max_size=120))
def test_no_file_breaks_the_parser(data: bytes) -> None:
    """Whatever stands in a block of this label is a key or an error of ours."""
    for pem in (data, armour.encode("PQFL PRE-SHARED KEY", data)):
        with pytest.raises(ConfigurationError):
            PreSharedKey.from_pem(pem)
