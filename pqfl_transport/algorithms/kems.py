"""Key encapsulation: ML-KEM FIPS 203 table 3, its hybrids draft-ietf-hpke-pq, the other families liboqs 0.16."""

from datetime import date

from pqfl_transport.algorithms.rows import LIBOQS, OPENSSL, PYCA, Algorithm, Kind, Status

_STANDARD = (
    Algorithm(
        "ML-KEM-512", Kind.KEM, "lattice", Status.STANDARD, "FIPS 203", 1, ("Kyber512", "Kyber-512"),
        800, 64, 768, oid="2.16.840.1.101.3.4.4.1", openssl_name="ML-KEM-512", providers=(OPENSSL, LIBOQS),
        remark="smallest of the standard; no deployed hybrid group is built around it", liboqs_name="ML-KEM-512",
    ),
    Algorithm(
        "ML-KEM-768", Kind.KEM, "lattice", Status.STANDARD, "FIPS 203", 3, ("Kyber768", "Kyber-768", "Kyber"),
        1184, 64, 1088, oid="2.16.840.1.101.3.4.4.2", openssl_name="ML-KEM-768", providers=(PYCA, OPENSSL, LIBOQS),
        remark="the standard's middle category, fast and small; used inside the hybrids", liboqs_name="ML-KEM-768",
    ),
    Algorithm(
        "ML-KEM-1024", Kind.KEM, "lattice", Status.STANDARD, "FIPS 203", 5, ("Kyber1024", "Kyber-1024"),
        1568, 64, 1568, code_point=0x0042, oid="2.16.840.1.101.3.4.4.3", openssl_name="ML-KEM-1024",
        providers=(PYCA, OPENSSL, LIBOQS), remark="what CNSA 2.0 asks for, alone", liboqs_name="ML-KEM-1024",
    ),
    Algorithm(
        "ML-KEM-768+X25519", Kind.KEM, "lattice+ecdh", Status.DRAFT, "draft-ietf-hpke-pq", 3,
        ("X-Wing", "MLKEM768-X25519"), 1216, 32, 1120, code_point=0x647A, providers=(PYCA,),
        remark="the default: broken only if both ML-KEM-768 and X25519 are", rests_on=("ML-KEM-768",),
    ),
    Algorithm(
        "ML-KEM-1024+P-384", Kind.KEM, "lattice+ecdh", Status.DRAFT, "draft-ietf-hpke-pq", 5,
        ("MLKEM1024-P384",), 1665, 32, 1665, code_point=0x0051, providers=(PYCA,),
        remark="the highest category with a classical second line", rests_on=("ML-KEM-1024",),
    ),
    Algorithm(
        "SIKE", Kind.KEM, "isogeny", Status.BROKEN, "Castryck and Decru, ePrint 2022/975", None,
        ("SIKEp434", "SIKEp503", "SIKEp610", "SIKEp751", "SIDH"), broken_on=date(2022, 7, 30),
        remark="key recovery in about an hour on one core (Castryck and Decru, ePrint 2022/975)",
    ),
)  # fmt: skip


def _of_liboqs(
    name: str, category: int, sizes: tuple[int, int, int], *aliases: str, liboqs_name: str | None = None
) -> Algorithm:
    """Return a row that only liboqs has; ``sizes`` are those of public key, secret key and ciphertext."""
    facts = next(facts for prefix, facts in _FAMILIES.items() if name.startswith(prefix))
    family, status, source, remark = facts
    public, secret, ciphertext = sizes
    return Algorithm(
        name, Kind.KEM, family, status, source, category, aliases, public, None, ciphertext, providers=(LIBOQS,),
        remark=remark, liboqs_name=liboqs_name or name, secret_key_bytes=secret,
    )  # fmt: skip


_FAMILIES = {
    "kyber": (
        "lattice", Status.SUPERSEDED, "NIST round 3 submission, 2020",
        "does not interoperate with ML-KEM; superseded by FIPS 203 on 2024-08-13",
    ),
    "FrodoKEM": (
        "lattice", Status.EXPERIMENTAL, "ISO/IEC 18033-2 amendment in preparation",
        "plain LWE without ring structure, the cautious lattice; recommended by BSI and ANSSI; large and slower",
    ),
    "eFrodoKEM": (
        "lattice", Status.EXPERIMENTAL, "ISO/IEC 18033-2 amendment in preparation",
        "for keys that are used once only; no content suite is made of it",
    ),
    "Classic-McEliece": (
        "code", Status.EXPERIMENTAL, "NIST round 4 submission, 2022",
        "unbroken since 1978, smallest ciphertexts; public keys up to 1.3 MB, so for keys that are handed over once",
    ),
    "HQC": (
        "code", Status.EXPERIMENTAL, "selected by NIST on 2025-03-11, NIST IR 8545",
        "NIST's back-up to ML-KEM, from another problem than lattices; the standard is being written",
    ),
    "BIKE": (
        "code", Status.EXPERIMENTAL, "NIST round 4 submission, 2022",
        "smaller than HQC, not selected (NIST IR 8545); not secure against chosen ciphertexts, so no content suite",
    ),
    "NTRU": (
        "lattice", Status.EXPERIMENTAL, "NIST round 3 submission, 2020",
        "oldest of the lattice schemes (1996), out of patents; not selected by NIST",
    ),
    "sntrup": (
        "lattice", Status.EXPERIMENTAL, "OpenSSH's default from 2022 to 2025",
        "in wide use as the KEM of OpenSSH 9; not selected by NIST",
    ),
}  # fmt: skip

_LIBOQS = (
    _of_liboqs("kyber512-round3", 1, (800, 1632, 768), liboqs_name="Kyber512"),
    _of_liboqs("kyber768-round3", 3, (1184, 2400, 1088), liboqs_name="Kyber768"),
    _of_liboqs("kyber1024-round3", 5, (1568, 3168, 1568), liboqs_name="Kyber1024"),
    *(
        _of_liboqs(f"{prefix}FrodoKEM-{size}-{expansion}", category, (public, secret, ciphertext + salt))
        for prefix, salted in (("", True), ("e", False))
        for size, category, public, secret, ciphertext, extra in (
            (640, 1, 9616, 19888, 9720, 32), (976, 3, 15632, 31296, 15744, 48), (1344, 5, 21520, 43088, 21632, 64),
        )
        for expansion in ("AES", "SHAKE")
        for salt in (extra if salted else 0,)
    ),
    *(
        _of_liboqs(f"Classic-McEliece-{size}{systematic}", category, (public, secret, ciphertext))
        for size, category, public, secret, ciphertext in (
            (348864, 1, 261120, 6492, 96), (460896, 3, 524160, 13608, 156), (6688128, 5, 1044992, 13932, 208),
            (6960119, 5, 1047319, 13948, 194), (8192128, 5, 1357824, 14120, 208),
        )
        for systematic in ("", "f")
    ),
    _of_liboqs("HQC-1", 1, (2241, 2321, 4433), "HQC-128"),
    _of_liboqs("HQC-3", 3, (4514, 4602, 8978), "HQC-192"),
    _of_liboqs("HQC-5", 5, (7237, 7333, 14421), "HQC-256"),
    _of_liboqs("BIKE-L1", 1, (1541, 5223, 1573)),
    _of_liboqs("BIKE-L3", 3, (3083, 10105, 3115)),
    _of_liboqs("BIKE-L5", 5, (5122, 16494, 5154)),
    _of_liboqs("NTRU-HPS-2048-509", 1, (699, 935, 699)),
    _of_liboqs("NTRU-HPS-2048-677", 3, (930, 1234, 930)),
    _of_liboqs("NTRU-HPS-4096-821", 5, (1230, 1590, 1230)),
    _of_liboqs("NTRU-HRSS-701", 3, (1138, 1450, 1138)),
    _of_liboqs("sntrup761", 2, (1158, 1763, 1039), "NTRU-Prime"),
)  # fmt: skip

_NO_SUITE = ("kyber", "eFrodoKEM", "BIKE")
X25519_BYTES = 32


def _hybrid(row: Algorithm) -> Algorithm:
    """Return the row of a KEM beside X25519 in our own combiner: what the two ends store and send, added up."""
    public, ciphertext = row.public_key_bytes or 0, row.ciphertext_bytes or 0
    secret = row.secret_key_bytes or _MLKEM_512_SECRET_BYTES
    return Algorithm(
        f"{row.name}+X25519", Kind.KEM, f"{row.family}+ecdh", Status.EXPERIMENTAL, f"ENVELOPE.md §10; {row.source}",
        row.nist_category, (), public + X25519_BYTES, None, ciphertext + X25519_BYTES, providers=(LIBOQS,),
        remark=row.remark, secret_key_bytes=secret + X25519_BYTES + public, hybrid_of=row.name, rests_on=(row.name,),
    )  # fmt: skip


_MLKEM_512_SECRET_BYTES = 1632

KEMS = (
    *_STANDARD,
    *_LIBOQS,
    _hybrid(_STANDARD[0]),
    *(_hybrid(row) for row in _LIBOQS if not row.name.startswith(_NO_SUITE)),
)
