"""Algorithms as rows of data.

Nothing in the program branches on an algorithm's name: code reads a row and does what the row says. A hybrid group
is a row and not a subclass, and an alias from an older paper means the standard that came of it.

Sizes are in bytes. Sources: ML-KEM FIPS 203 table 3, ML-DSA FIPS 204 table 2, SLH-DSA FIPS 205 table 2, hybrid groups
RFC 10024, X-Wing and ML-KEM-1024 with P-384 draft-ietf-hpke-pq, TLS suites RFC 9846 (8446bis), ML-DSA code points
draft-ietf-tls-mldsa.
"""

from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from functools import cache
from types import MappingProxyType

from pqfl_transport.errors import ConfigurationError, PolicyError


class Kind(StrEnum):
    """What a row can be used as."""

    KEM = "kem"
    SIGNATURE = "signature"
    AEAD = "aead"
    TLS_GROUP = "tls-group"
    TLS_SUITE = "tls-suite"
    CONTENT_SUITE = "content-suite"


class Status(StrEnum):
    """Whether a row may be used at all; which standard rows are used is the policy's decision."""

    STANDARD = "standard"
    DRAFT = "draft"
    CLASSICAL = "classical"
    SUPERSEDED = "superseded"
    BROKEN = "broken"


@dataclass(frozen=True, slots=True)
class Algorithm:
    """One algorithm, as a row. Sizes that do not apply are ``None``."""

    name: str
    kind: Kind
    family: str
    status: Status
    source: str
    nist_category: int | None = None
    aliases: tuple[str, ...] = ()
    public_key_bytes: int | None = None
    seed_bytes: int | None = None
    ciphertext_bytes: int | None = None
    signature_bytes: int | None = None
    code_point: int | None = None
    oid: str | None = None
    openssl_name: str | None = None
    providers: tuple[str, ...] = ()
    broken_on: date | None = None
    remark: str = ""


@dataclass(frozen=True, slots=True)
class ContentSuite:
    """How an envelope is made: one id for version and suite, so that the two can never be mixed."""

    id: str
    kem: str
    signature: str
    kdf: str
    aead: str
    body: str
    trailer_hash: str


OPENSSL = "openssl"
PYCA = "cryptography"
LIBOQS = "liboqs"

_KEMS = (
    Algorithm(
        "ML-KEM-512", Kind.KEM, "lattice", Status.STANDARD, "FIPS 203", 1, ("Kyber512", "Kyber-512"),
        800, 64, 768, oid="2.16.840.1.101.3.4.4.1", openssl_name="ML-KEM-512", providers=(OPENSSL, LIBOQS),
        remark="no deployed hybrid group is built around it",
    ),
    Algorithm(
        "ML-KEM-768", Kind.KEM, "lattice", Status.STANDARD, "FIPS 203", 3, ("Kyber768", "Kyber-768", "Kyber"),
        1184, 64, 1088, oid="2.16.840.1.101.3.4.4.2", openssl_name="ML-KEM-768", providers=(PYCA, OPENSSL, LIBOQS),
    ),
    Algorithm(
        "ML-KEM-1024", Kind.KEM, "lattice", Status.STANDARD, "FIPS 203", 5, ("Kyber1024", "Kyber-1024"),
        1568, 64, 1568, code_point=0x0042, oid="2.16.840.1.101.3.4.4.3", openssl_name="ML-KEM-1024",
        providers=(PYCA, OPENSSL, LIBOQS),
    ),
    Algorithm(
        "ML-KEM-768+X25519", Kind.KEM, "lattice+ecdh", Status.DRAFT, "draft-ietf-hpke-pq", 3,
        ("X-Wing", "MLKEM768-X25519"), 1216, 32, 1120, code_point=0x647A, providers=(PYCA,),
    ),
    Algorithm(
        "ML-KEM-1024+P-384", Kind.KEM, "lattice+ecdh", Status.DRAFT, "draft-ietf-hpke-pq", 5,
        ("MLKEM1024-P384",), 1665, 32, 1665, code_point=0x0051, providers=(PYCA,),
    ),
    Algorithm(
        "kyber768-round3", Kind.KEM, "lattice", Status.SUPERSEDED, "NIST round 3 submission, 2020", 3, (),
        1184, None, 1088, providers=(LIBOQS,),
        remark="does not interoperate with ML-KEM-768; superseded by FIPS 203 on 2024-08-13",
    ),
    Algorithm(
        "SIKE", Kind.KEM, "isogeny", Status.BROKEN, "Castryck and Decru, ePrint 2022/975", None,
        ("SIKEp434", "SIKEp503", "SIKEp610", "SIKEp751", "SIDH"), broken_on=date(2022, 7, 30),
        remark="key recovery in about an hour on one core (Castryck and Decru, ePrint 2022/975)",
    ),
)  # fmt: skip

_SIGNATURES = (
    Algorithm(
        "ML-DSA-44", Kind.SIGNATURE, "lattice", Status.STANDARD, "FIPS 204", 2, ("Dilithium2", "Dilithium-2"),
        1312, 32, signature_bytes=2420, code_point=0x0904, oid="2.16.840.1.101.3.4.3.17", openssl_name="mldsa44",
        providers=(PYCA, OPENSSL, LIBOQS),
    ),
    Algorithm(
        "ML-DSA-65", Kind.SIGNATURE, "lattice", Status.STANDARD, "FIPS 204", 3,
        ("Dilithium3", "Dilithium-3", "Dilithium"), 1952, 32, signature_bytes=3309, code_point=0x0905,
        oid="2.16.840.1.101.3.4.3.18", openssl_name="mldsa65", providers=(PYCA, OPENSSL, LIBOQS),
    ),
    Algorithm(
        "ML-DSA-87", Kind.SIGNATURE, "lattice", Status.STANDARD, "FIPS 204", 5, ("Dilithium5", "Dilithium-5"),
        2592, 32, signature_bytes=4627, code_point=0x0906, oid="2.16.840.1.101.3.4.3.19", openssl_name="mldsa87",
        providers=(PYCA, OPENSSL, LIBOQS),
    ),
    Algorithm(
        "SLH-DSA-SHA2-128s", Kind.SIGNATURE, "hash", Status.STANDARD, "FIPS 205", 1,
        ("SPHINCS+", "SPHINCS+-SHA2-128s", "SPHINCS+-SHA2-128s-simple", "SLH-DSA"), 32, 48, signature_bytes=7856,
        oid="2.16.840.1.101.3.4.3.20", openssl_name="SLH-DSA-SHA2-128s", providers=(OPENSSL, LIBOQS),
        remark="not offered in a TLS handshake by OpenSSL; certificates and documents only",
    ),
    Algorithm(
        "ECDSA-P256", Kind.SIGNATURE, "ecc", Status.CLASSICAL, "FIPS 186-5", None, ("ecdsa_secp256r1_sha256",),
        65, signature_bytes=72, code_point=0x0403, openssl_name="ecdsa_secp256r1_sha256", providers=(PYCA, OPENSSL),
    ),
    Algorithm(
        "ECDSA-P384", Kind.SIGNATURE, "ecc", Status.CLASSICAL, "FIPS 186-5", None, ("ecdsa_secp384r1_sha384",),
        97, signature_bytes=104, code_point=0x0503, openssl_name="ecdsa_secp384r1_sha384", providers=(PYCA, OPENSSL),
    ),
    Algorithm(
        "Ed25519", Kind.SIGNATURE, "ecc", Status.CLASSICAL, "RFC 8032", None, (), 32, 32, signature_bytes=64,
        code_point=0x0807, openssl_name="ed25519", providers=(PYCA, OPENSSL),
    ),
    Algorithm(
        "RSA-PSS", Kind.SIGNATURE, "rsa", Status.CLASSICAL, "RFC 8017", None, ("RSA", "rsa_pss_rsae_sha256"),
        code_point=0x0804, openssl_name="rsa_pss_rsae_sha256", providers=(PYCA, OPENSSL),
    ),
    Algorithm(
        "RSA-PKCS1-SHA256", Kind.SIGNATURE, "rsa", Status.CLASSICAL, "RFC 8017", None, ("rsa_pkcs1_sha256",),
        code_point=0x0401, openssl_name="rsa_pkcs1_sha256", providers=(PYCA, OPENSSL),
        remark="on certificates only; TLS 1.3 handshakes are signed with RSA-PSS",
    ),
    Algorithm(
        "RSA-PKCS1-SHA384", Kind.SIGNATURE, "rsa", Status.CLASSICAL, "RFC 8017", None, ("rsa_pkcs1_sha384",),
        code_point=0x0501, openssl_name="rsa_pkcs1_sha384", providers=(PYCA, OPENSSL),
        remark="on certificates only; TLS 1.3 handshakes are signed with RSA-PSS",
    ),
    Algorithm(
        "Rainbow", Kind.SIGNATURE, "multivariate", Status.BROKEN, "Beullens, ePrint 2022/214", None,
        ("Rainbow-I", "Rainbow-III", "Rainbow-V"), broken_on=date(2022, 2, 25),
        remark="key recovery for its smallest parameters in a weekend on a laptop (Beullens, ePrint 2022/214)",
    ),
)  # fmt: skip

_AEADS = (
    Algorithm("AES-256-GCM", Kind.AEAD, "block", Status.STANDARD, "SP 800-38D", 5, (), providers=(PYCA, OPENSSL)),
    Algorithm(
        "ChaCha20-Poly1305", Kind.AEAD, "stream", Status.STANDARD, "RFC 8439", 5, (), providers=(PYCA, OPENSSL)
    ),
    Algorithm(
        "Cobblestone-256", Kind.AEAD, "block", Status.DRAFT, "c2sp.org/chunked-encryption", 5, (), providers=(PYCA,),
        remark="16 KiB chunks of AES-256-GCM with key commitment; carries the body of envelopes",
    ),
)  # fmt: skip

_TLS_GROUPS = (
    Algorithm(
        "X25519MLKEM768", Kind.TLS_GROUP, "lattice+ecdh", Status.STANDARD, "RFC 10024", 3, ("X25519Kyber768",),
        1216, None, 1120, code_point=0x11EC, openssl_name="X25519MLKEM768", providers=(OPENSSL,),
    ),
    Algorithm(
        "SecP256r1MLKEM768", Kind.TLS_GROUP, "lattice+ecdh", Status.STANDARD, "RFC 10024", 3, ("P256Kyber768",),
        1249, None, 1153, code_point=0x11EB, openssl_name="SecP256r1MLKEM768", providers=(OPENSSL,),
    ),
    Algorithm(
        "SecP384r1MLKEM1024", Kind.TLS_GROUP, "lattice+ecdh", Status.STANDARD, "RFC 10024", 5, (),
        1665, None, 1665, code_point=0x11ED, openssl_name="SecP384r1MLKEM1024", providers=(OPENSSL,),
    ),
    Algorithm(
        "MLKEM512", Kind.TLS_GROUP, "lattice", Status.DRAFT, "draft-ietf-tls-mlkem", 1, (),
        800, None, 768, code_point=0x0200, openssl_name="MLKEM512", providers=(OPENSSL,),
    ),
    Algorithm(
        "MLKEM768", Kind.TLS_GROUP, "lattice", Status.DRAFT, "draft-ietf-tls-mlkem", 3, (),
        1184, None, 1088, code_point=0x0201, openssl_name="MLKEM768", providers=(OPENSSL,),
    ),
    Algorithm(
        "MLKEM1024", Kind.TLS_GROUP, "lattice", Status.DRAFT, "draft-ietf-tls-mlkem", 5, (),
        1568, None, 1568, code_point=0x0202, openssl_name="MLKEM1024", providers=(OPENSSL,),
    ),
    # OpenSSL reads the classical groups back in lower case, so that is how they are named here.
    Algorithm(
        "x25519", Kind.TLS_GROUP, "ecc", Status.CLASSICAL, "RFC 7748", None, (),
        32, None, 32, code_point=0x001D, openssl_name="X25519", providers=(OPENSSL,),
    ),
    Algorithm(
        "secp256r1", Kind.TLS_GROUP, "ecc", Status.CLASSICAL, "SP 800-186", None, ("prime256v1",),
        65, None, 65, code_point=0x0017, openssl_name="secp256r1", providers=(OPENSSL,),
    ),
    Algorithm(
        "secp384r1", Kind.TLS_GROUP, "ecc", Status.CLASSICAL, "SP 800-186", None, (),
        97, None, 97, code_point=0x0018, openssl_name="secp384r1", providers=(OPENSSL,),
    ),
)  # fmt: skip

_TLS_SUITES = (
    Algorithm(
        "TLS_AES_256_GCM_SHA384", Kind.TLS_SUITE, "block", Status.STANDARD, "RFC 9846", 5, (),
        code_point=0x1302, openssl_name="TLS_AES_256_GCM_SHA384", providers=(OPENSSL,),
    ),
    Algorithm(
        "TLS_CHACHA20_POLY1305_SHA256", Kind.TLS_SUITE, "stream", Status.STANDARD, "RFC 9846", 5, (),
        code_point=0x1303, openssl_name="TLS_CHACHA20_POLY1305_SHA256", providers=(OPENSSL,),
    ),
    Algorithm(
        "TLS_AES_128_GCM_SHA256", Kind.TLS_SUITE, "block", Status.STANDARD, "RFC 9846", 1, (),
        code_point=0x1301, openssl_name="TLS_AES_128_GCM_SHA256", providers=(OPENSSL,),
    ),
)  # fmt: skip

_CONTENT_SUITES = (
    ContentSuite(
        "pqfl/v1/mlkem768x25519-mldsa44", "ML-KEM-768+X25519", "ML-DSA-44",
        "HKDF-SHA-512", "AES-256-GCM", "Cobblestone-256", "SHA-256",
    ),
    ContentSuite(
        "pqfl/v1/mlkem768x25519-mldsa65", "ML-KEM-768+X25519", "ML-DSA-65",
        "HKDF-SHA-512", "AES-256-GCM", "Cobblestone-256", "SHA-256",
    ),
    ContentSuite(
        "pqfl/v1/mlkem1024p384-mldsa87", "ML-KEM-1024+P-384", "ML-DSA-87",
        "HKDF-SHA-512", "AES-256-GCM", "Cobblestone-256", "SHA-384",
    ),
    ContentSuite(
        "pqfl/v1/mlkem1024-mldsa87", "ML-KEM-1024", "ML-DSA-87",
        "HKDF-SHA-512", "AES-256-GCM", "Cobblestone-256", "SHA-384",
    ),
)  # fmt: skip

TABLE: tuple[Algorithm, ...] = (*_KEMS, *_SIGNATURES, *_AEADS, *_TLS_GROUPS, *_TLS_SUITES)
CONTENT_SUITES = MappingProxyType({suite.id: suite for suite in _CONTENT_SUITES})


def find(name: str, kind: Kind | None = None) -> Algorithm:
    """Return the row that ``name`` or an alias of it means; upper and lower case, ``-`` and ``_`` do not matter.

    Raises ``PolicyError`` for a broken algorithm, with the reason and the date, and ``ConfigurationError`` for an
    unknown name. Where a KEM and a TLS group share a spelling and ``kind`` is not given, the KEM is meant.
    """
    for row in _by_spelling().get(_spelling(name), ()):
        if kind is None or row.kind is kind:
            if row.status is Status.BROKEN:
                raise PolicyError(f"{row.name} is broken since {row.broken_on}: {row.remark}", reason="broken")
            return row
    wanted = f" as a {kind.value}" if kind else ""
    known = ", ".join(row.name for row in TABLE if kind in (None, row.kind) and row.status is not Status.BROKEN)
    raise ConfigurationError(f"unknown algorithm {name!r}{wanted}; known are {known}", reason="unknown_algorithm")


def content_suite(suite_id: str) -> ContentSuite:
    """Return the content suite with this exact id. Raises ``PolicyError``: an unknown suite is never guessed at."""
    try:
        return CONTENT_SUITES[suite_id]
    except KeyError:
        raise PolicyError(f"unknown content suite {suite_id!r}", reason="unknown_suite") from None


def _spelling(name: str) -> str:
    return name.casefold().replace("-", "").replace("_", "").replace(" ", "")


@cache
def _by_spelling() -> dict[str, tuple[Algorithm, ...]]:
    rows: dict[str, tuple[Algorithm, ...]] = {}
    for row in TABLE:
        for spelling in {_spelling(word) for word in (row.name, *row.aliases)}:
            rows[spelling] = (*rows.get(spelling, ()), row)
    return rows
