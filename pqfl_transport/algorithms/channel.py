"""What a connection negotiates, and ciphers: hybrid groups RFC 10024, TLS suites RFC 9846 (8446bis)."""

from pqfl_transport.algorithms.rows import OPENSSL, PYCA, Algorithm, Kind, Status

AEADS = (
    Algorithm("AES-256-GCM", Kind.AEAD, "block", Status.STANDARD, "SP 800-38D", 5, (), providers=(PYCA, OPENSSL)),
    Algorithm(
        "ChaCha20-Poly1305", Kind.AEAD, "stream", Status.STANDARD, "RFC 8439", 5, (), providers=(PYCA, OPENSSL)
    ),
    Algorithm(
        "AES-256-KWP", Kind.AEAD, "block", Status.STANDARD, "RFC 5649, SP 800-38F", 5, (), providers=(PYCA,),
        remark="wraps keys under a key that is used once; experimental suites only",
    ),
    Algorithm(
        "Cobblestone-256", Kind.AEAD, "block", Status.DRAFT, "c2sp.org/chunked-encryption", 5, (), providers=(PYCA,),
        remark="16 KiB chunks of AES-256-GCM with key commitment; carries the body of envelopes",
        rests_on=("AES-256-GCM",),
    ),
)  # fmt: skip

TLS_GROUPS = (
    Algorithm(
        "X25519MLKEM768", Kind.TLS_GROUP, "lattice+ecdh", Status.STANDARD, "RFC 10024", 3, ("X25519Kyber768",),
        1216, None, 1120, code_point=0x11EC, openssl_name="X25519MLKEM768", providers=(OPENSSL,),
        rests_on=("ML-KEM-768",),
    ),
    Algorithm(
        "SecP256r1MLKEM768", Kind.TLS_GROUP, "lattice+ecdh", Status.STANDARD, "RFC 10024", 3, ("P256Kyber768",),
        1249, None, 1153, code_point=0x11EB, openssl_name="SecP256r1MLKEM768", providers=(OPENSSL,),
        rests_on=("ML-KEM-768",),
    ),
    Algorithm(
        "SecP384r1MLKEM1024", Kind.TLS_GROUP, "lattice+ecdh", Status.STANDARD, "RFC 10024", 5, (),
        1665, None, 1665, code_point=0x11ED, openssl_name="SecP384r1MLKEM1024", providers=(OPENSSL,),
        rests_on=("ML-KEM-1024",),
    ),
    Algorithm(
        "MLKEM512", Kind.TLS_GROUP, "lattice", Status.DRAFT, "draft-ietf-tls-mlkem", 1, (),
        800, None, 768, code_point=0x0200, openssl_name="MLKEM512", providers=(OPENSSL,),
        rests_on=("ML-KEM-512",),
    ),
    Algorithm(
        "MLKEM768", Kind.TLS_GROUP, "lattice", Status.DRAFT, "draft-ietf-tls-mlkem", 3, (),
        1184, None, 1088, code_point=0x0201, openssl_name="MLKEM768", providers=(OPENSSL,),
        rests_on=("ML-KEM-768",),
    ),
    Algorithm(
        "MLKEM1024", Kind.TLS_GROUP, "lattice", Status.DRAFT, "draft-ietf-tls-mlkem", 5, (),
        1568, None, 1568, code_point=0x0202, openssl_name="MLKEM1024", providers=(OPENSSL,),
        rests_on=("ML-KEM-1024",),
    ),
    # OpenSSL reads the classical groups back in lower case, so that is how they are named here.
    Algorithm(
        "x25519", Kind.TLS_GROUP, "ecc", Status.CLASSICAL, "RFC 7748", None, (),
        32, None, 32, code_point=0x001D, openssl_name="X25519", providers=(OPENSSL,),
    ),
    Algorithm(
        "secp256r1", Kind.TLS_GROUP, "ecc", Status.CLASSICAL, "SP 800-186", None, ("prime256v1", "P-256"),
        65, None, 65, code_point=0x0017, openssl_name="secp256r1", providers=(OPENSSL,),
    ),
    Algorithm(
        "secp384r1", Kind.TLS_GROUP, "ecc", Status.CLASSICAL, "SP 800-186", None, ("P-384",),
        97, None, 97, code_point=0x0018, openssl_name="secp384r1", providers=(OPENSSL,),
    ),
)  # fmt: skip

TLS_SUITES = (
    Algorithm(
        "TLS_AES_256_GCM_SHA384", Kind.TLS_SUITE, "block", Status.STANDARD, "RFC 9846", 5, (),
        code_point=0x1302, openssl_name="TLS_AES_256_GCM_SHA384", providers=(OPENSSL,),
        rests_on=("AES-256-GCM",),
    ),
    Algorithm(
        "TLS_CHACHA20_POLY1305_SHA256", Kind.TLS_SUITE, "stream", Status.STANDARD, "RFC 9846", 5, (),
        code_point=0x1303, openssl_name="TLS_CHACHA20_POLY1305_SHA256", providers=(OPENSSL,),
        rests_on=("ChaCha20-Poly1305",),
    ),
    Algorithm(
        "TLS_AES_128_GCM_SHA256", Kind.TLS_SUITE, "block", Status.STANDARD, "RFC 9846", 1, (),
        code_point=0x1301, openssl_name="TLS_AES_128_GCM_SHA256", providers=(OPENSSL,),
    ),
)  # fmt: skip
