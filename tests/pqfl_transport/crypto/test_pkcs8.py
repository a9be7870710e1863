"""PKCS#8 under a passphrase: read by others, read from others, and never more costly than its caps."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat import asn1
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509 import ObjectIdentifier
from hypothesis import given, settings
from hypothesis import strategies as st
from OpenSSL import crypto

from pqfl_transport.crypto import armour, pkcs8
from pqfl_transport.crypto.pyca import SigningKey
from pqfl_transport.errors import ConfigurationError
from tests.support.openssl import find_openssl

KEY = SigningKey.generate("ML-DSA-65")
PASSPHRASE = b"correct horse battery"
ENCRYPTED = pkcs8.encrypt(KEY.to_pem(), PASSPHRASE)


def reason(pem: bytes, passphrase: bytes = PASSPHRASE) -> str:
    with pytest.raises(ConfigurationError) as caught:
        pkcs8.decrypt(pem, passphrase)
    return caught.value.reason


@pytest.mark.parametrize("algorithm", ["ML-DSA-44", "ML-DSA-65", "ML-DSA-87"])
def test_a_key_comes_back_with_its_passphrase(algorithm: str) -> None:
    """Encrypted and decrypted it is the same PEM; the file itself does not show it, and never the same one twice."""
    pem = SigningKey.generate(algorithm).to_pem()
    encrypted = pkcs8.encrypt(pem, PASSPHRASE)
    assert pkcs8.is_encrypted(encrypted)
    assert not pkcs8.is_encrypted(pem)
    assert pkcs8.decrypt(encrypted, PASSPHRASE) == pem
    assert encrypted != pkcs8.encrypt(pem, PASSPHRASE)


def test_the_libraries_read_what_is_written() -> None:
    """It is PBES2 with scrypt as RFC 7914 says it, and stays below what OpenSSL's own reader allocates."""
    assert crypto.load_privatekey(crypto.FILETYPE_PEM, ENCRYPTED, PASSPHRASE).bits() > 0
    found = load_pem_private_key(ENCRYPTED, PASSPHRASE)
    assert found.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) == KEY.to_pem()


def test_what_the_library_writes_is_read() -> None:
    """PBKDF2 with HMAC-SHA-256, and keys of other algorithms."""
    for key in (KEY.pyca_key, ec.generate_private_key(ec.SECP256R1())):
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(PASSPHRASE))
        plain = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        assert pkcs8.decrypt(pem, PASSPHRASE) == plain


@pytest.mark.parametrize(
    "options",
    [
        ("-v2", "aes-256-cbc"),
        ("-v2", "aes-128-cbc", "-v2prf", "hmacWithSHA1"),
        ("-v2", "aes-192-cbc", "-v2prf", "hmacWithSHA512", "-iter", "5000"),
        ("-scrypt",),
        ("-scrypt", "-scrypt_N", "4096", "-scrypt_r", "4", "-scrypt_p", "2"),
    ],
    ids=" ".join,
)
def test_openssl_writes_what_is_read_here(tmp_path: Path, options: tuple[str, ...]) -> None:
    """Every scheme of `openssl pkcs8` that is not broken, and OpenSSL reads it back from here."""
    plain = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )  # fmt: skip
    (tmp_path / "plain.pem").write_bytes(plain)
    run("pkcs8", "-topk8", "-in", tmp_path / "plain.pem", "-out", tmp_path / "e.pem", "-passout", "pass:pw", *options)
    assert pkcs8.decrypt((tmp_path / "e.pem").read_bytes(), b"pw") == plain
    (tmp_path / "ours.pem").write_bytes(pkcs8.encrypt(plain, b"pw"))
    assert run("pkcs8", "-in", tmp_path / "ours.pem", "-passin", "pass:pw") == plain


def test_openssls_ml_dsa_keys_are_read(tmp_path: Path) -> None:
    """`openssl genpkey` writes seed and expanded key; what is in the container is not this module's business."""
    openssl = find_openssl()
    path = tmp_path / "k.pem"
    run("genpkey", "-algorithm", "ML-DSA-65", "-aes-256-cbc", "-pass", "pass:pw", "-out", path, openssl=openssl)
    opened = tmp_path / "o.pem"
    opened.write_bytes(pkcs8.decrypt(path.read_bytes(), b"pw"))
    assert b"ML-DSA-65" in run("pkey", "-in", opened, "-text", "-noout", openssl=openssl)
    path.write_bytes(pkcs8.encrypt(KEY.to_pem(), b"pw"))
    assert b"ML-DSA-65" in run("pkey", "-in", path, "-passin", "pass:pw", "-text", "-noout", openssl=openssl)


def test_a_wrong_passphrase_and_a_damaged_file_are_one_error() -> None:
    """Nobody can tell them apart, and the sentence says so without a secret."""
    assert reason(ENCRYPTED, b"wrong") == "wrong_passphrase"
    der = bytearray(armour.decode(ENCRYPTED, pkcs8.ENCRYPTED_LABEL, max_bytes=4096))
    der[-1] ^= 1
    assert reason(armour.encode(pkcs8.ENCRYPTED_LABEL, bytes(der))) == "wrong_passphrase"
    with pytest.raises(ConfigurationError, match="passphrase, or is damaged") as caught:
        pkcs8.decrypt(ENCRYPTED, b"wrong")
    assert "wrong" not in str(caught.value)


def scrypt(n: int, r: int, p: int) -> bytes:
    """An encrypted key file that demands these parameters."""
    params = pkcs8._ScryptParams(salt=b"s" * 16, n=n, r=r, p=p, key_length=None)
    return container(pkcs8._SCRYPT, params)


def container(kdf: ObjectIdentifier, params: object, cipher: ObjectIdentifier = pkcs8._AES_256_CBC) -> bytes:
    scheme = pkcs8._Pbes2(kdf=pkcs8._algorithm(kdf, params), cipher=pkcs8._algorithm(cipher, b"v" * 16))
    whole = pkcs8._Encrypted(algorithm=pkcs8._algorithm(pkcs8._PBES2, scheme), data=b"d" * 48)
    return armour.encode(pkcs8.ENCRYPTED_LABEL, asn1.encode_der(whole))


@pytest.mark.parametrize(
    "demand",
    [(1 << 30, 8, 1), (1 << 14, 1 << 30, 1), (1 << 14, 8, 1 << 20), (1 << 22, 8, 1), (-2, -8, 1), (1 << 14, 8, 0),
     (0, 8, 1)],
    ids=str,
)  # fmt: skip
def test_a_hostile_file_gets_no_gigabytes(monkeypatch: pytest.MonkeyPatch, demand: tuple[int, int, int]) -> None:
    """Parameters above the caps are refused before anything is derived."""
    monkeypatch.setattr(pkcs8, "Scrypt", None)
    assert reason(scrypt(*demand)) == "key_cost"


@pytest.mark.parametrize("iterations", [0, -1, pkcs8.MAX_PBKDF2_ITERATIONS + 1, 1 << 62])
def test_a_hostile_file_gets_no_hours(monkeypatch: pytest.MonkeyPatch, iterations: int) -> None:
    """So are rounds of PBKDF2."""
    monkeypatch.setattr(pkcs8, "PBKDF2HMAC", None)
    params = pkcs8._Pbkdf2Params(salt=b"s", iterations=iterations, key_length=None, prf=None)
    assert reason(container(pkcs8._PBKDF2, params)) == "key_cost"


def test_unknown_schemes_are_named() -> None:
    """A scheme, a derivation, a cipher and an HMAC that are not read are refused by their identifier."""
    params = pkcs8._ScryptParams(salt=b"s", n=2, r=1, p=1, key_length=None)
    odd = ObjectIdentifier("1.2.3.4")
    prf = pkcs8._Pbkdf2Params(salt=b"s", iterations=1, key_length=None, prf=pkcs8._Prf(oid=odd, parameters=None))
    other = pkcs8._Encrypted(algorithm=pkcs8._algorithm(odd, b""), data=b"")
    for pem in (
        container(odd, params),
        container(pkcs8._SCRYPT, params, cipher=odd),
        container(pkcs8._PBKDF2, prf),
        armour.encode(pkcs8.ENCRYPTED_LABEL, asn1.encode_der(other)),
    ):
        with pytest.raises(ConfigurationError, match=r"1\.2\.3\.4") as caught:
            pkcs8.decrypt(pem, b"pw")
        assert caught.value.reason == "bad_key"


def test_only_an_unencrypted_key_is_encrypted() -> None:
    """Anything else in its place is refused, a certificate as well as a key that is encrypted already."""
    for pem in (ENCRYPTED, b"", armour.encode("CERTIFICATE", b"x")):
        with pytest.raises(ConfigurationError):
            pkcs8.encrypt(pem, PASSPHRASE)


@given(st.binary(max_size=300))
@settings(deadline=None)
def test_noise_is_our_own_error(data: bytes) -> None:
    """No bytes in the block make it raise anything else."""
    assert reason(armour.encode(pkcs8.ENCRYPTED_LABEL, data)) == "bad_key"


@given(st.data())
@settings(deadline=None, max_examples=60)
def test_a_changed_file_is_our_own_error(data: Any) -> None:
    """A bit flipped or bytes cut anywhere never give another key and never another exception."""
    der = bytearray(armour.decode(CHEAP, pkcs8.ENCRYPTED_LABEL, max_bytes=4096))
    at = data.draw(st.integers(0, len(der) - 1))
    if data.draw(st.booleans()):
        der[at] ^= 1 << data.draw(st.integers(0, 7))
    else:
        del der[at:]
    try:
        found = pkcs8.decrypt(armour.encode(pkcs8.ENCRYPTED_LABEL, bytes(der)), b"pw")
    except ConfigurationError:
        return
    assert found != KEY.to_pem()


def _cheap() -> bytes:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pkcs8, "_N", 16)
        return pkcs8.encrypt(KEY.to_pem(), b"pw")


CHEAP = _cheap()


def run(*words: object, openssl: str = "openssl") -> bytes:
    return subprocess.run([openssl, *map(str, words)], capture_output=True, check=True, timeout=60).stdout
