"""Key encapsulation by row."""

import pytest

from pqfl_transport.crypto import pyca
from pqfl_transport.crypto.kems import decapsulation_key, encapsulation_key, generate, wrapped_bytes
from pqfl_transport.errors import ConfigurationError


@pytest.mark.parametrize("kem", ["ML-KEM-768+X25519", "ML-KEM-1024+P-384", "ML-KEM-1024"])
@pytest.mark.parametrize("size", [32, 33])
def test_the_length_is_what_wrapping_makes(kem: str, size: int) -> None:
    """What the table says of a row is what its keys do."""
    seed = bytes(64 if kem == "ML-KEM-1024" else 32)
    wrapped = pyca.DecapsulationKey(kem, seed).public.wrap(bytes(size), b"info")
    assert len(wrapped) == wrapped_bytes(kem, size)


def test_an_unknown_row_is_refused() -> None:
    """Nothing is guessed at."""
    with pytest.raises(ConfigurationError):
        wrapped_bytes("ROT13", 32)


@pytest.mark.parametrize("kem", ["ML-KEM-512", "ML-KEM-768", "HQC-3", "kyber768-round3"])
def test_rows_without_a_place_in_envelopes_make_no_keys(kem: str) -> None:
    """A bare KEM, or a superseded one, is refused by name."""
    with pytest.raises(ConfigurationError, match=kem):
        generate(kem)


def test_a_row_leads_to_its_door() -> None:
    """Keys come back from what is stored of them, whichever library made them."""
    key = generate("ML-KEM-1024")
    again = decapsulation_key("ML-KEM-1024", key.stored)
    assert again.public.raw == key.public.raw
    wrapped = encapsulation_key("ML-KEM-1024", key.public.raw).wrap(b"k" * 32, b"info")
    assert again.unwrap(wrapped, b"info") == b"k" * 32
