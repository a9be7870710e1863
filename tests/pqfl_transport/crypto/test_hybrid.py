"""The combiner of a KEM of liboqs with X25519: both halves count, and everything exchanged is bound."""

import pytest
from cryptography.hazmat.primitives import hashes, keywrap
from cryptography.hazmat.primitives.asymmetric import x25519
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from pqfl_transport.algorithms import TABLE, Kind, find
from pqfl_transport.crypto import kems, liboqs
from pqfl_transport.crypto.hybrid import HybridDecapsulationKey, HybridEncapsulationKey
from pqfl_transport.errors import ConfigurationError, MessageError
from tests.support.liboqs import needs_liboqs

HYBRIDS = [row.name for row in TABLE if row.hybrid_of and "McEliece" not in row.name]
NAME = "HQC-1+X25519"


@needs_liboqs
@pytest.mark.parametrize("name", [*HYBRIDS, "Classic-McEliece-348864f+X25519"])
def test_a_key_is_wrapped_and_comes_back(name: str) -> None:
    """Content keys and shares of every hybrid row, with the lengths that the header promises."""
    key = kems.generate(name)
    again = kems.decapsulation_key(name, key.stored)
    assert again.public.raw == key.public.raw
    for size in (32, 33):
        wrapped = key.public.wrap(bytes(size), b"info")
        assert len(wrapped) == kems.wrapped_bytes(name, size)
        assert again.unwrap(wrapped, b"info") == bytes(size)


@needs_liboqs
def test_every_part_of_a_wrapped_key_counts() -> None:
    """A changed ciphertext, ephemeral key, tag or info, a cut, another's key: not for us."""
    key, other = HybridDecapsulationKey.generate(NAME), HybridDecapsulationKey.generate(NAME)
    wrapped = key.public.wrap(b"k" * 32, b"info")
    positions = (0, 4432, 4433, 4464, 4465, len(wrapped) - 1)
    cases = [wrapped[:at] + bytes([wrapped[at] ^ 4]) + wrapped[at + 1 :] for at in positions]
    cases += [wrapped[:-1], wrapped + b"x", b"", wrapped[:4433], wrapped[:4433] + bytes(32) + wrapped[4465:]]
    for changed in cases:
        with pytest.raises(MessageError) as caught:
            key.unwrap(changed, b"info")
        assert caught.value.reason == "not_for_us"
    for opener, info in ((key, b"another"), (other, b"info")):
        with pytest.raises(MessageError):
            opener.unwrap(wrapped, info)


@needs_liboqs
def test_the_derivation_is_that_of_the_specification() -> None:
    """Unwrapped by hand from ENVELOPE.md section 10, without the code under test."""
    key = HybridDecapsulationKey.generate(NAME)
    wrapped = key.public.wrap(b"k" * 32, b"info")
    row = find("HQC-1", Kind.KEM)
    ciphertext, sent, sealed = wrapped[:4433], wrapped[4433:4465], wrapped[4465:]
    secret, scalar, public = key.stored[:2321], key.stored[2321:2353], key.stored[2353:]
    private = x25519.X25519PrivateKey.from_private_bytes(scalar)
    dh = private.exchange(x25519.X25519PublicKey.from_public_bytes(sent))
    parts = [
        b"pqfl/v1/combine", b"HQC-1+X25519", ciphertext, sent, public, private.public_key().public_bytes_raw(), b"info",
    ]  # fmt: skip
    info = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
    shared = liboqs.decapsulate(row, secret, ciphertext)
    kek = HKDF(hashes.SHA512(), 32, None, info).derive(shared + dh)
    assert keywrap.aes_key_unwrap_with_padding(kek, sealed) == b"k" * 32


@needs_liboqs
def test_degenerate_keys_of_x25519_are_refused() -> None:
    """A public key of small order would take one of the two secrets away."""
    raw = HybridDecapsulationKey.generate(NAME).public.raw[:-32] + bytes(32)
    with pytest.raises(ConfigurationError) as caught:
        HybridEncapsulationKey(NAME, raw).wrap(b"k" * 32, b"info")
    assert caught.value.reason == "bad_key"


def test_keys_of_another_length_or_row_are_refused() -> None:
    """Sizes are those of the row; a KEM alone makes no such key."""
    for make in (HybridEncapsulationKey, HybridDecapsulationKey):
        for name in (NAME, "ML-KEM-768", "HQC-1"):
            with pytest.raises(ConfigurationError) as caught:
                make(name, b"short")
            assert caught.value.reason == "bad_key"
