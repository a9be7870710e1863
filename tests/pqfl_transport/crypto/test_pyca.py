"""The door to primitives, against vectors that others published, and the promises our own classes make.

Vectors: the package ``cryptography_vectors`` (BSD-3-Clause or Apache-2.0): ML-DSA known answers (NIST), HPKE with
post-quantum KEMs (draft-ietf-hpke-pq), AES-256-CTR (RFC 3686), and that of SP 800-38A below. The package's vectors of
chunked encryption are for other hashes than Cobblestone-256 uses; bodies are held to the format instead: lengths,
commitment, order, end.
"""

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import cryptography_vectors
import pytest
from cryptography.hazmat.bindings._rust import openssl
from cryptography.hazmat.primitives import hashes, hpke, serialization
from cryptography.hazmat.primitives.asymmetric import ec, mldsa
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from pqfl_transport.crypto.contexts import Context
from pqfl_transport.crypto.pyca import (
    BODY_CHUNK_BYTES,
    BODY_COMMITMENT_BYTES,
    BodyDecryptor,
    DecapsulationKey,
    EncapsulationKey,
    Keystream,
    SigningKey,
    VerifyingKey,
    body_bytes,
    body_encryptor,
    hkdf_sha512,
    wrapped_bytes,
)
from pqfl_transport.errors import ConfigurationError, MessageError
from tests.support.published import ml_dsa_records

ML_DSA = ("ML-DSA-44", "ML-DSA-65", "ML-DSA-87")
KEM_IDS = {0x647A: "ML-KEM-768+X25519", 0x51: "ML-KEM-1024+P-384", 0x42: "ML-KEM-1024"}
KDFS = {1: hpke.KDF.HKDF_SHA256, 2: hpke.KDF.HKDF_SHA384, 3: hpke.KDF.HKDF_SHA512, 16: hpke.KDF.SHAKE128,
        17: hpke.KDF.SHAKE256}  # fmt: skip
AEADS = {1: hpke.AEAD.AES_128_GCM, 2: hpke.AEAD.AES_256_GCM, 3: hpke.AEAD.CHACHA20_POLY1305}
SEED = bytes(range(32))


@pytest.mark.parametrize("algorithm", ML_DSA)
def test_ml_dsa_keys_and_signatures_are_those_of_fips_204(algorithm: str) -> None:
    """Seeds expand to the published keys, and the published signatures verify under them and nothing else."""
    checked = 0
    for record in ml_dsa_records(algorithm):
        key = SigningKey.from_seed(algorithm, bytes.fromhex(record["xi"])).verifying_key
        raw = key.pyca_key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
        assert raw.hex() == record["pk"]
        message, context = bytes.fromhex(record["msg"]), bytes.fromhex(record["ctx"])
        signature = bytes.fromhex(record["sm"])[: -len(message) or None]
        key.pyca_key.verify(signature, message, context)
        with pytest.raises(MessageError):
            key.verify(signature, message, Context.PROLOGUE)
        checked += 1
    assert checked >= 10


def hpke_vectors() -> list[Any]:
    """Every published vector for a KEM of ours."""
    with cryptography_vectors.open_vector_file("HPKE/hpke-pq-test-vectors.json", "rb") as file:
        found = [vector for vector in json.load(file) if vector["kem_id"] in KEM_IDS]
    return [pytest.param(v, id=f"{KEM_IDS[v['kem_id']]}-{v['kdf_id']}-{v['aead_id']}") for v in found]


@pytest.mark.parametrize("vector", hpke_vectors())
def test_kems_are_those_of_the_hpke_draft(vector: dict[str, Any]) -> None:
    """Seeds expand to the published public keys, and the published encapsulation opens with our private keys."""
    key = DecapsulationKey(KEM_IDS[vector["kem_id"]], bytes.fromhex(vector["skRm"]))
    assert key.public.raw.hex() == vector["pkRm"]
    kem = {0x647A: hpke.KEM.MLKEM768_X25519, 0x51: hpke.KEM.MLKEM1024_P384, 0x42: hpke.KEM.MLKEM1024}[vector["kem_id"]]
    # The draft also has KDFs that the library lacks; their keys are checked all the same.
    if vector["kdf_id"] in KDFS:
        suite = hpke.Suite(kem, KDFS[vector["kdf_id"]], AEADS[vector["aead_id"]])
        first = vector["encryptions"][0]
        message = bytes.fromhex(vector["enc"] + first["ct"])
        info, aad = bytes.fromhex(vector["info"]), bytes.fromhex(first["aad"])
        opened = openssl.hpke._decrypt_with_aad(suite, message, key._private, info, aad)  # type: ignore[attr-defined]
        assert opened.hex() == first["pt"]


def test_every_kem_of_ours_has_published_vectors() -> None:
    """A row without an outside witness would be believed on our word."""
    assert {KEM_IDS[param.values[0]["kem_id"]] for param in hpke_vectors()} == set(KEM_IDS.values())


@pytest.mark.parametrize(
    "size", [0, 1, BODY_CHUNK_BYTES - 1, BODY_CHUNK_BYTES, BODY_CHUNK_BYTES + 1, 3 * BODY_CHUNK_BYTES]
)
@pytest.mark.parametrize("piece_bytes", [1 << 30, 5000])
def test_a_body_comes_back_and_has_the_length_that_was_said(size: int, piece_bytes: int) -> None:
    """At every edge of a chunk, in one piece or in many."""
    plaintext = bytes(number % 251 for number in range(size))
    encryptor = body_encryptor(b"k" * 32, b"context")
    ciphertext = encryptor.update(plaintext) + encryptor.finalize()
    assert len(ciphertext) == body_bytes(size)
    decryptor, opened = BodyDecryptor(b"k" * 32, b"context"), b""
    buffer = bytearray(len(ciphertext) + BODY_CHUNK_BYTES)
    for start in range(0, len(ciphertext), piece_bytes):
        opened += bytes(buffer[: decryptor.update_into(ciphertext[start : start + piece_bytes], buffer)])
    assert opened + decryptor.finalize() == plaintext


@pytest.mark.parametrize("cut", [1, 16, BODY_CHUNK_BYTES, BODY_CHUNK_BYTES + 16, BODY_CHUNK_BYTES + 17])
def test_a_body_cut_anywhere_is_refused(cut: int) -> None:
    """At the edge of a chunk too: the last chunk says that it is the last."""
    encryptor = body_encryptor(b"k" * 32, b"context")
    ciphertext = encryptor.update(bytes(2 * BODY_CHUNK_BYTES + 5)) + encryptor.finalize()

    def decrypt() -> None:
        decryptor = BodyDecryptor(b"k" * 32, b"context")
        decryptor.update_into(ciphertext[:-cut], bytearray(len(ciphertext) + BODY_CHUNK_BYTES))
        decryptor.finalize()

    with pytest.raises(MessageError) as caught:
        decrypt()
    assert caught.value.reason == "bad_body"


def test_hkdf_is_rfc_5869_without_salt() -> None:
    """The same as the library's own with SHA-512, an empty salt and any length."""
    for length in (1, 32, 64, 200):
        expected = HKDF(hashes.SHA512(), length, salt=bytes(64), info=b"info").derive(b"key material")
        assert hkdf_sha512(b"key material", b"info", length) == expected


@pytest.mark.parametrize("algorithm", ML_DSA)
def test_signing_keys_survive_being_stored(algorithm: str) -> None:
    """PEM and SPKI give back equal keys with the same fingerprint."""
    key = SigningKey.from_seed(algorithm, SEED)
    assert SigningKey.from_pem(key.to_pem()).verifying_key == key.verifying_key
    again = VerifyingKey.from_spki(key.verifying_key.spki)
    assert (again.algorithm, again.fingerprint) == (algorithm, hashlib.sha256(again.spki).digest())
    assert len({again, key.verifying_key}) == 1
    assert key.verifying_key != SigningKey.generate(algorithm).verifying_key


@pytest.mark.parametrize("algorithm", ML_DSA)
def test_a_signature_is_for_one_message_one_context_one_key(algorithm: str) -> None:
    """Anything else is a bad signature, of any length too."""
    key = SigningKey.from_seed(algorithm, SEED)
    signature = key.sign(b"message", Context.ROUND)
    key.verifying_key.verify(signature, b"message", Context.ROUND)
    assert key.sign(b"message", Context.ROUND) != signature
    other = SigningKey.generate(algorithm).verifying_key
    for verifier, data, message, context in (
        (key.verifying_key, signature, b"massage", Context.ROUND),
        (key.verifying_key, signature, b"message", Context.ROSTER),
        (key.verifying_key, signature[:-1], b"message", Context.ROUND),
        (key.verifying_key, b"", b"message", Context.ROUND),
        (other, signature, b"message", Context.ROUND),
    ):
        with pytest.raises(MessageError) as caught:
            verifier.verify(data, message, context)
        assert caught.value.reason == "bad_signature"


def test_keys_of_other_kinds_are_refused() -> None:
    """An ECDSA key, an encrypted key, no key at all: said in words, not used."""
    classical = ec.generate_private_key(ec.SECP256R1())
    pem = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    encrypted = SigningKey.from_seed("ML-DSA-65", SEED).pyca_key.private_bytes(
        *pem, serialization.BestAvailableEncryption(b"password")
    )
    for data in (classical.private_bytes(*pem, serialization.NoEncryption()), encrypted, b"", b"no key"):
        with pytest.raises(ConfigurationError) as caught:
            SigningKey.from_pem(data)
        assert caught.value.reason == "bad_key"
    spki = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    for data in (classical.public_key().public_bytes(*spki), b"", b"\x30\x00"):
        with pytest.raises(ConfigurationError):
            VerifyingKey.from_spki(data)


def test_a_key_without_its_seed_is_refused_with_the_reason() -> None:
    """A key that only has its expanded form cannot be loaded here, and the error says what is missing."""
    folder = Path(str(cryptography_vectors.__file__)).parent / "asymmetric" / "MLDSA"
    der = (folder / "mldsa65_noseed_priv.der").read_bytes()
    pem = b"-----BEGIN PRIVATE KEY-----\n" + base64.encodebytes(der) + b"-----END PRIVATE KEY-----\n"
    with pytest.raises(ConfigurationError, match="seed") as caught:
        SigningKey.from_pem(pem)
    assert caught.value.reason == "bad_key"


def test_nothing_is_sealed_to_a_degenerate_key() -> None:
    """A point of low order in the classical half of a hybrid: our error, and not the library's."""
    good = DecapsulationKey("ML-KEM-768+X25519", bytes(32)).public.raw
    with pytest.raises(ConfigurationError) as caught:
        EncapsulationKey("ML-KEM-768+X25519", good[:-32] + bytes(32)).wrap(b"secret", b"")
    assert caught.value.reason == "bad_key"


@pytest.mark.parametrize("kem", KEM_IDS.values())
def test_wrapping_opens_with_its_key_and_its_info_alone(kem: str) -> None:
    """Round trip, length as announced, and every change a refusal."""
    seed_bytes = 64 if kem == "ML-KEM-1024" else 32
    key, other = DecapsulationKey(kem, b"s" * seed_bytes), DecapsulationKey(kem, b"t" * seed_bytes)
    wrapped = EncapsulationKey(kem, key.public.raw).wrap(b"c" * 32, b"info")
    assert len(wrapped) == wrapped_bytes(kem, 32)
    assert key.unwrap(wrapped, b"info") == b"c" * 32
    for opener, data, info in (
        (other, wrapped, b"info"),
        (key, wrapped, b"other"),
        (key, wrapped[:-1], b"info"),
        (key, b"", b"info"),
    ):
        with pytest.raises(MessageError) as caught:
            opener.unwrap(data, info)
        assert caught.value.reason == "not_for_us"


@pytest.mark.parametrize("kem", KEM_IDS.values())
def test_keys_of_the_wrong_length_are_refused(kem: str) -> None:
    """Seeds and public keys are exactly as long as their row says."""
    with pytest.raises(ConfigurationError):
        DecapsulationKey(kem, b"s" * 31)
    with pytest.raises(ConfigurationError):
        EncapsulationKey(kem, b"p" * 31)


def test_a_body_commits_to_its_key_and_context_before_it_begins() -> None:
    """The first 56 bytes are refused alone under another key or context."""
    encryptor = body_encryptor(b"k" * 32, b"context")
    commitment = encryptor.update(b"")
    assert len(commitment) == BODY_COMMITMENT_BYTES
    BodyDecryptor(b"k" * 32, b"context").update_into(commitment, bytearray())
    for key, context in ((b"K" * 32, b"context"), (b"k" * 32, b"other")):
        with pytest.raises(MessageError) as caught:
            BodyDecryptor(key, context).update_into(commitment, bytearray())
        assert caught.value.reason == "bad_body"


def test_the_key_types_are_the_librarys_own() -> None:
    """Certificates are built with the very keys that sign content."""
    assert isinstance(SigningKey.generate("Dilithium3").pyca_key, mldsa.MLDSA65PrivateKey)


NIST_KEY = "603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4"
NIST_COUNTER = "f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff"
NIST_PLAINTEXT = (
    "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51"
    "30c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710"
)
NIST_CIPHERTEXT = (
    "601ec313775789a5b7a7f504bbf3d228f443e3ca4d62b59aca84e990cacaf5c5"
    "2b0930daa23de94ce87017ba2d84988ddfc9c58db67aada613c2dd08457941a6"
)


def ctr_vectors() -> list[tuple[str, str, str, str]]:
    """Key, first counter block, plaintext, ciphertext: SP 800-38A F.5.5, and RFC 3686 from the package."""
    folder = Path(str(cryptography_vectors.__file__)).parent / "ciphers" / "AES" / "CTR"
    lines = (folder / "aes-256-ctr.txt").read_text().splitlines()
    values = {field: [line.split(" = ")[1] for line in lines if line.startswith(field)] for field in ("KEY", "IV")}
    texts = [[line.split(" = ")[1] for line in lines if line.startswith(field)] for field in ("PLAIN", "CIPHER")]
    published = list(zip(values["KEY"], values["IV"], *texts, strict=True))
    return [(NIST_KEY, NIST_COUNTER, NIST_PLAINTEXT, NIST_CIPHERTEXT), *published]


@pytest.mark.parametrize(("key", "counter", "plaintext", "ciphertext"), ctr_vectors())
def test_a_keystream_is_aes_256_in_counter_mode(key: str, counter: str, plaintext: str, ciphertext: str) -> None:
    """A plaintext plus the stream from block number ``counter`` is the published ciphertext."""
    stream = bytearray(len(plaintext) // 2)
    Keystream(bytes.fromhex(key), int(counter, 16) * 16).fill(stream)
    encrypted = bytes(a ^ b for a, b in zip(stream, bytes.fromhex(plaintext), strict=True))
    assert encrypted.hex() == ciphertext.lower()


@pytest.mark.parametrize("offset", [0, 1, 15, 16, 17, 4095, (1 << 18) - 1, 1 << 18, (1 << 18) + 5])
def test_a_keystream_begins_at_any_byte(offset: int) -> None:
    """A later part is the same whether or not what is before it was made, in pieces of any size."""
    whole = bytearray(1 << 19)
    Keystream(b"k" * 32).fill(whole)
    part = bytearray(len(whole) - offset)
    view, stream = memoryview(part), Keystream(b"k" * 32, offset)
    for start, end in ((0, 3), (3, 35), (35, len(part))):
        stream.fill(view[start:end])
    assert part == whole[offset:]
    other = bytearray(64)
    Keystream(b"K" * 32).fill(other)
    assert other != whole[:64]


@pytest.mark.parametrize(
    ("key", "offset", "reason"),
    [
        (b"k" * 31, 0, "bad_key"),
        (b"k" * 16, 0, "bad_key"),
        (b"", 0, "bad_key"),
        (b"k" * 32, -1, "keystream_range"),
        (b"k" * 32, 1 << 132, "keystream_range"),
    ],
)
def test_a_keystream_has_a_full_key_and_an_end(key: bytes, offset: int, reason: str) -> None:
    """AES-128 keys and short seeds are refused, and so is a place that the counter has no block for."""
    with pytest.raises(ConfigurationError) as caught:
        Keystream(key, offset)
    assert caught.value.reason == reason
