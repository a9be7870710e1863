"""Key encapsulation by row."""

import pytest

from pqfl_transport.crypto import pyca
from pqfl_transport.crypto.kems import wrapped_bytes
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
