"""Signatures: ML-DSA FIPS 204 table 2 and draft-ietf-tls-mldsa, SLH-DSA FIPS 205 table 2, others liboqs 0.16."""

from datetime import date

from pqfl_transport.algorithms.rows import LIBOQS, OPENSSL, PYCA, Algorithm, Kind, Status

_ML_DSA = (
    Algorithm(
        "ML-DSA-44", Kind.SIGNATURE, "lattice", Status.STANDARD, "FIPS 204", 2, ("Dilithium2", "Dilithium-2"),
        1312, 32, signature_bytes=2420, code_point=0x0904, oid="2.16.840.1.101.3.4.3.17", openssl_name="mldsa44",
        providers=(PYCA, OPENSSL, LIBOQS),
        remark="smallest; for low sensitivity and short horizons", liboqs_name="ML-DSA-44",
    ),
    Algorithm(
        "ML-DSA-65", Kind.SIGNATURE, "lattice", Status.STANDARD, "FIPS 204", 3,
        ("Dilithium3", "Dilithium-3", "Dilithium"), 1952, 32, signature_bytes=3309, code_point=0x0905,
        oid="2.16.840.1.101.3.4.3.18", openssl_name="mldsa65", providers=(PYCA, OPENSSL, LIBOQS),
        remark="the default: category 3, fast to verify", liboqs_name="ML-DSA-65",
    ),
    Algorithm(
        "ML-DSA-87", Kind.SIGNATURE, "lattice", Status.STANDARD, "FIPS 204", 5, ("Dilithium5", "Dilithium-5"),
        2592, 32, signature_bytes=4627, code_point=0x0906, oid="2.16.840.1.101.3.4.3.19", openssl_name="mldsa87",
        providers=(PYCA, OPENSSL, LIBOQS),
        remark="what CNSA 2.0 asks for; the level of every root", liboqs_name="ML-DSA-87",
    ),
)  # fmt: skip

_SLH_DSA = tuple(
    Algorithm(
        f"SLH-DSA-{hash_}-{bits}{speed}", Kind.SIGNATURE, "hash", Status.STANDARD, "FIPS 205", category,
        (f"SPHINCS+-{hash_}-{bits}{speed}", f"SPHINCS+-{hash_}-{bits}{speed}-simple",
         *(("SPHINCS+", "SLH-DSA") if (hash_, bits, speed) == ("SHA2", 128, "s") else ())),
        public, 3 * public // 2, signature_bytes=signature, oid=f"2.16.840.1.101.3.4.3.{number}",
        openssl_name=f"SLH-DSA-{hash_}-{bits}{speed}", providers=(OPENSSL, LIBOQS),
        remark="rests on hash functions alone; large and slow signatures: for roots and documents, not handshakes",
        liboqs_name=f"SLH_DSA_PURE_{hash_}_{bits}{speed.upper()}",
    )
    for number, (hash_, bits, speed, category, public, signature) in enumerate(
        (hash_, *shape)
        for hash_ in ("SHA2", "SHAKE")
        for shape in (
            (128, "s", 1, 32, 7856), (128, "f", 1, 32, 17088), (192, "s", 3, 48, 16224), (192, "f", 3, 48, 35664),
            (256, "s", 5, 64, 29792), (256, "f", 5, 64, 49856),
        )
    )
    for number in (number + 20,)
)  # fmt: skip

_CLASSICAL = (
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
)  # fmt: skip

_FAMILIES = {
    "Falcon": (
        "lattice", "NIST round 3 submission; FIPS 206 (FN-DSA) in preparation",
        "smallest lattice signatures and keys together; signing needs care with floating point; not yet the standard",
    ),
    "MAYO": (
        "multivariate", "NIST additional signatures, round 2",
        "small signatures and moderate keys; young, parameters may still change",
    ),
    "UOV": (
        "multivariate", "NIST additional signatures, round 2",
        "signatures of about 100 bytes from the oldest multivariate idea (1999); very large keys",
    ),
    "SNOVA": (
        "multivariate", "NIST additional signatures, round 2",
        "small keys and signatures by structure that has been attacked and repaired; for trials only",
    ),
    "CROSS": (
        "code", "NIST additional signatures, round 2",
        "code-based, tiny keys, signatures of 9 kB and more",
    ),
    "MQOM": (
        "multivariate", "NIST additional signatures, round 2",
        "multivariate equations proven in zero knowledge; tiny keys, signatures of 3 kB and more",
    ),
}  # fmt: skip


def _of_liboqs(name: str, category: int, sizes: tuple[int, int, int], liboqs_name: str, *aliases: str) -> Algorithm:
    """Return a row that only liboqs has; ``sizes`` are those of public key, secret key and longest signature."""
    family, source, remark = _FAMILIES[name.partition("-")[0]]
    public, secret, signature = sizes
    return Algorithm(
        name, Kind.SIGNATURE, family, Status.EXPERIMENTAL, source, category, aliases, public, signature_bytes=signature,
        providers=(LIBOQS,), remark=remark, liboqs_name=liboqs_name, secret_key_bytes=secret,
    )  # fmt: skip


_FALCON = (
    _of_liboqs("Falcon-512", 1, (897, 1281, 752), "Falcon-512"),
    _of_liboqs("Falcon-1024", 5, (1793, 2305, 1462), "Falcon-1024"),
    _of_liboqs("Falcon-padded-512", 1, (897, 1281, 666), "Falcon-padded-512"),
    _of_liboqs("Falcon-padded-1024", 5, (1793, 2305, 1280), "Falcon-padded-1024"),
)
_MAYO = tuple(
    _of_liboqs(f"MAYO-{number}", category, sizes, f"MAYO-{number}")
    for number, category, sizes in (
        (1, 1, (1420, 24, 454)), (2, 1, (4912, 24, 186)), (3, 3, (2986, 32, 681)), (5, 5, (5554, 40, 964)),
    )
)  # fmt: skip
_UOV = tuple(
    _of_liboqs(f"UOV-{name}{form}", category, (keys[0], keys[1], signature), f"OV-{name}{form}", f"OV-{name}{form}")
    for name, category, whole, compressed, secret, signature in (
        ("Is", 1, 412160, 66576, 348704, 96), ("Ip", 1, 278432, 43576, 237896, 128),
        ("III", 3, 1225440, 189232, 1044320, 200), ("V", 5, 2869440, 446992, 2436704, 260),
    )
    for form, keys in (("", (whole, secret)), ("-pkc", (compressed, secret)), ("-pkc-skc", (compressed, 32)))
)  # fmt: skip
_SNOVA = tuple(
    _of_liboqs(f"SNOVA-{shape.replace('_', '-')}", category, sizes, f"SNOVA_{shape}")
    for shape, category, sizes in (
        ("24_5_4", 1, (1016, 48, 248)), ("24_5_4_SHAKE", 1, (1016, 48, 248)), ("24_5_4_esk", 1, (1016, 36848, 248)),
        ("24_5_4_SHAKE_esk", 1, (1016, 36848, 248)), ("37_17_2", 1, (9842, 48, 124)), ("25_8_3", 1, (2320, 48, 165)),
        ("56_25_2", 3, (31266, 48, 178)), ("49_11_3", 3, (6006, 48, 286)), ("37_8_4", 3, (4112, 48, 376)),
        ("24_5_5", 3, (1579, 48, 379)), ("60_10_4", 5, (8016, 48, 576)), ("29_6_5", 5, (2716, 48, 454)),
    )
)  # fmt: skip
_CROSS = tuple(
    _of_liboqs(f"CROSS-{shape}", category, (public, secret, signature), f"cross-{shape}")
    for problem, bits, category, public, secret, signatures in (
        ("rsdp", 128, 1, 77, 32, (13152, 18432, 12432)), ("rsdp", 192, 3, 115, 48, (29853, 41406, 28391)),
        ("rsdp", 256, 5, 153, 64, (53527, 74590, 50818)), ("rsdpg", 128, 1, 54, 32, (9120, 11980, 8960)),
        ("rsdpg", 192, 3, 83, 48, (22464, 26772, 20452)), ("rsdpg", 256, 5, 106, 64, (40100, 48102, 36454)),
    )
    for size, signature in zip(("balanced", "fast", "small"), signatures, strict=True)
    for shape in (f"{problem}-{bits}-{size}",)
)  # fmt: skip
_MQOM = tuple(
    _of_liboqs(f"MQOM-cat{category}-{size}-r{rounds}", category, (public, secret, signature),
               f"mqom2_cat{category}_gf16_{size}_r{rounds}")
    for category, public, secret, signatures in (
        (1, 60, 88, (3484, 3280, 3060, 2916)), (3, 90, 132, (8224, 7738, 6820, 6496)),
        (5, 122, 180, (14708, 13772, 12664, 12014)),
    )
    for (size, rounds), signature in zip(
        (("fast", 3), ("fast", 5), ("short", 3), ("short", 5)), signatures, strict=True
    )
)  # fmt: skip

_BROKEN = (
    Algorithm(
        "Rainbow", Kind.SIGNATURE, "multivariate", Status.BROKEN, "Beullens, ePrint 2022/214", None,
        ("Rainbow-I", "Rainbow-III", "Rainbow-V"), broken_on=date(2022, 2, 25),
        remark="key recovery for its smallest parameters in a weekend on a laptop (Beullens, ePrint 2022/214)",
    ),
)  # fmt: skip


SIGNATURES = (*_ML_DSA, *_SLH_DSA, *_CLASSICAL, *_FALCON, *_MAYO, *_UOV, *_SNOVA, *_CROSS, *_MQOM, *_BROKEN)
