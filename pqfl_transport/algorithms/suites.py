"""Content suites: how an envelope is made (ENVELOPE.md §1, §10)."""

import re

from pqfl_transport.algorithms.kems import KEMS
from pqfl_transport.algorithms.rows import EXPERIMENTAL_PREFIX, SUITE_PREFIX, Algorithm, ContentSuite

_HKDF, _GCM, _CHACHA, _BODY = "HKDF-SHA-512", "AES-256-GCM", "ChaCha20-Poly1305", "Cobblestone-256"
_KEY_WRAP = "AES-256-KWP"
_SHORT = {"ML-KEM-768+X25519": "mlkem768x25519", "ML-KEM-1024+P-384": "mlkem1024p384", "ML-KEM-1024": "mlkem1024"}
# The signature of an experimental suite, by the category that its KEM claims; there is no ML-DSA of category 1 or 4.
_SIGNATURES = {1: "ML-DSA-44", 2: "ML-DSA-44", 3: "ML-DSA-65", 5: "ML-DSA-87"}
_SHA384_SIGNATURE = "ML-DSA-87"


def _suite(prefix: str, short: str, kem: str, signature: str, aead: str) -> ContentSuite:
    level = signature.replace("-", "").lower()
    trailer_hash = "SHA-384" if signature == _SHA384_SIGNATURE else "SHA-256"
    return ContentSuite(f"{prefix}{short}-{level}", kem, signature, _HKDF, aead, _BODY, trailer_hash)


def _standard(kem: str, signature: str, aead: str) -> ContentSuite:
    middle = "-chacha" if aead == _CHACHA else ""
    return _suite(SUITE_PREFIX, _SHORT[kem] + middle, kem, signature, aead)


def _experimental(row: Algorithm) -> ContentSuite:
    kem = re.sub(r"[^a-z0-9]", "", (row.hybrid_of or "").lower())
    signature = _SIGNATURES[row.nist_category or 1]
    return _suite(EXPERIMENTAL_PREFIX, f"{kem}-x25519", row.name, signature, _KEY_WRAP)


SUITES = (
    *(
        _standard(kem, signature, aead)
        for aead in (_GCM, _CHACHA)
        for kem, signature in (
            ("ML-KEM-768+X25519", "ML-DSA-44"),
            ("ML-KEM-768+X25519", "ML-DSA-65"),
            ("ML-KEM-1024+P-384", "ML-DSA-87"),
        )
    ),
    _standard("ML-KEM-1024", "ML-DSA-87", _GCM),
    *(_experimental(row) for row in KEMS if row.hybrid_of),
)
