"""The example keys of RFC 9881 and what is known of them; the files are in `tests/vectors/rfc9881`."""

import warnings
from pathlib import Path

from OpenSSL import crypto

FOLDER = Path(__file__).resolve().parents[1] / "vectors" / "rfc9881"
ALGORITHMS = ("ML-DSA-44", "ML-DSA-65", "ML-DSA-87")
FORMS = ("seed", "expanded", "both")
SEED = bytes(range(32))
"""Of all keys."""
INCONSISTENT = ("bad-ML-DSA-44-1", "bad-ML-DSA-44-2", "bad-ML-DSA-44-3")
"""Both forms with different keys; expanded keys with a wrong hash of the public key, and with wrong low bits."""


def private_pem(algorithm: str, form: str) -> bytes:
    """The example private key in one of the three forms."""
    return (FOLDER / f"{algorithm}-{form}.priv").read_bytes()


def in_both_forms(pem: bytes) -> bytes:
    """Return a key that is a seed as OpenSSL writes it unless it is told otherwise: seed and expanded key."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return crypto.dump_privatekey(crypto.FILETYPE_PEM, crypto.load_privatekey(crypto.FILETYPE_PEM, pem, b""))
