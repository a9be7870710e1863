"""What others published, through this project's own doors; README.md beside this file says from where it is.

`tests/pqfl_transport/crypto/test_pyca.py` has ML-DSA known answers and HPKE with post-quantum KEMs; here are ML-KEM,
RFC 9180 for the KDF and AEADs that envelopes use, chunked encryption, and the same answers through liboqs.
"""

import base64
import hashlib
import json
import zlib
from typing import Any

import cryptography_vectors
import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.bindings._rust import openssl
from cryptography.hazmat.primitives import hashes, hpke
from cryptography.hazmat.primitives.asymmetric import ec, mlkem, x25519
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from pqfl_transport.algorithms import Kind, find
from pqfl_transport.crypto import liboqs, pyca
from pqfl_transport.crypto.pyca import BODY_CHUNK_BYTES, BODY_COMMITMENT_BYTES, BodyDecryptor, body_encryptor
from pqfl_transport.errors import MessageError
from tests.support.forging import SALT_BYTES, chosen_salt_body
from tests.support.liboqs import needs_liboqs
from tests.support.published import ml_dsa_records, ml_kem_records

ML_KEM = {"ML-KEM-768": mlkem.MLKEM768PrivateKey, "ML-KEM-1024": mlkem.MLKEM1024PrivateKey}
ML_DSA = ("ML-DSA-44", "ML-DSA-65", "ML-DSA-87")
AEAD_IDS = {"AES-256-GCM": 2, "ChaCha20-Poly1305": 3}
HKDF_SHA512_ID = 3
CURVES = {16: ec.SECP256R1(), 17: ec.SECP384R1(), 18: ec.SECP521R1()}
KEMS = {16: hpke.KEM.P256, 17: hpke.KEM.P384, 18: hpke.KEM.P521, 32: hpke.KEM.X25519}


@pytest.mark.parametrize("name", ML_KEM)
def test_ml_kem_keys_and_secrets_are_those_of_fips_203(name: str) -> None:
    """Seeds expand to the published keys; published ciphertexts, the invalid ones too, give the published secrets."""
    checked = 0
    for record in ml_kem_records(name):
        key = ML_KEM[name].from_seed_bytes(bytes.fromhex(record["d"] + record["z"]))
        assert key.public_key().public_bytes_raw().hex() == record["pk"]
        assert key.decapsulate(bytes.fromhex(record["ct"])).hex() == record["ss"]
        assert key.decapsulate(bytes.fromhex(record["ct_n"])).hex() == record["ss_n"]
        checked += 1
    assert checked == 1000


def test_the_door_makes_the_published_ml_kem_1024_keys() -> None:
    """The one KEM that a receiving key is made of alone has the raw key of FIPS 203."""
    for record in ml_kem_records("ML-KEM-1024"):
        seed = bytes.fromhex(record["d"] + record["z"])
        assert pyca.DecapsulationKey("ML-KEM-1024", seed).public.raw.hex() == record["pk"]


@needs_liboqs
@pytest.mark.parametrize("name", ["ML-KEM-512", *ML_KEM])
def test_liboqs_gives_the_published_secrets_of_fips_203(name: str) -> None:
    """The other provider, with the published private keys; of invalid ciphertexts too."""
    row = find(name, Kind.KEM)
    for number, record in enumerate(ml_kem_records(name)):
        secret = bytes.fromhex(record["sk"])
        assert liboqs.decapsulate(row, secret, bytes.fromhex(record["ct"])).hex() == record["ss"]
        assert liboqs.decapsulate(row, secret, bytes.fromhex(record["ct_n"])).hex() == record["ss_n"]
        if number == 100:
            break


@needs_liboqs
@pytest.mark.parametrize("name", ML_DSA)
def test_liboqs_verifies_the_published_signatures_in_their_contexts(name: str) -> None:
    """The other provider: each holds in its own context and in no other."""
    row = find(name, Kind.SIGNATURE)
    for record in ml_dsa_records(name):
        message, context = bytes.fromhex(record["msg"]), bytes.fromhex(record["ctx"])
        signature, public = bytes.fromhex(record["sm"])[: -len(message)], bytes.fromhex(record["pk"])
        liboqs.verify(row, public, message, signature, context)
        for wrong in (context[:-1], context + b"\0", b"pqfl/v1/prologue", b""):
            with pytest.raises(MessageError):
                liboqs.verify(row, public, message, signature, wrong)


def rfc_9180() -> list[Any]:
    """The base-mode vectors under the KDF and the AEADs that wrap keys; the library has no X448."""
    with cryptography_vectors.open_vector_file("HPKE/test-vectors.json", "rb") as file:
        found = json.load(file)
    chosen = [
        vector for vector in found
        if (vector["mode"], vector["kdf_id"]) == (0, HKDF_SHA512_ID) and vector["aead_id"] in AEAD_IDS.values()
        and vector["kem_id"] in KEMS
    ]  # fmt: skip
    return [pytest.param(v, id=f"{v['kem_id']}-{v['aead_id']}") for v in chosen]


@pytest.mark.parametrize("vector", rfc_9180())
def test_wrapping_is_rfc_9180(vector: dict[str, Any]) -> None:
    """The KDF and AEADs of our wraps open the published messages, with the classical KEMs of the RFC."""
    (aead,) = (name for name, number in AEAD_IDS.items() if number == vector["aead_id"])
    suite = hpke.Suite(KEMS[vector["kem_id"]], hpke.KDF.HKDF_SHA512, pyca._WRAP_AEADS[aead])
    secret = bytes.fromhex(vector["skRm"])
    key: Any
    if vector["kem_id"] in CURVES:
        key = ec.derive_private_key(int.from_bytes(secret, "big"), CURVES[vector["kem_id"]])
    else:
        key = x25519.X25519PrivateKey.from_private_bytes(secret)
    first = vector["encryptions"][0]
    message, info = bytes.fromhex(vector["enc"] + first["ct"]), bytes.fromhex(vector["info"])
    opened = openssl.hpke._decrypt_with_aad(suite, message, key, info, bytes.fromhex(first["aad"]))  # type: ignore[attr-defined]
    assert opened.hex() == first["pt"]
    with pytest.raises(InvalidTag):
        openssl.hpke._decrypt_with_aad(suite, message, key, info + b"x", bytes.fromhex(first["aad"]))  # type: ignore[attr-defined]


def test_every_kdf_and_aead_of_a_suite_has_vectors_of_the_rfc() -> None:
    """Both AEADs, each with more than one KEM."""
    kinds = {(param.values[0]["aead_id"], param.values[0]["kem_id"]) for param in rfc_9180()}
    assert {aead for aead, _ in kinds} == set(AEAD_IDS.values()) == {AEAD_IDS[name] for name in pyca._WRAP_AEADS}
    assert len(kinds) >= 4


def chunked(expect: str) -> list[Any]:
    """The vectors of c2sp.org/chunked-encryption for AES-256-GCM; they are made with SHA-256."""
    with cryptography_vectors.open_vector_file("chunked-encryption/vectors.json", "rb") as file:
        found = json.load(file)["vectors"]
    return [
        pytest.param(vector, id=vector["name"])
        for vector in found
        if vector["aead"] == "AEAD_AES_256_GCM" and vector["expect"] == expect
    ]


def ciphertext_of(vector: dict[str, Any]) -> bytes:
    """The bytes of a vector."""
    data = base64.b64decode(vector["ciphertext"] or "")
    return zlib.decompress(data) if vector.get("compressed") else data


@pytest.mark.parametrize("vector", chunked("success"))
def test_chunked_encryption_is_that_of_c2sp(vector: dict[str, Any]) -> None:
    """One construction, two hashes: with SHA-256 it gives the published bytes, with SHA-512 those of our door.

    The published vectors are made with SHA-256 and Cobblestone-256 is with SHA-512, so our door cannot open them. The
    tests' own implementation stands between: it makes both, and differs in nothing but the hash.
    """
    key, context, sealed = bytes.fromhex(vector["key"]), vector["context"].encode(), ciphertext_of(vector)
    salt = sealed[:SALT_BYTES]
    plaintext = payload(vector, sealed)
    assert hashlib.sha256(plaintext).hexdigest() == vector["payload_sha256"]
    assert chosen_salt_body(key, context, plaintext, salt, hashes.SHA256()) == sealed
    ours = body_encryptor(key, context)
    made = ours.update(plaintext) + ours.finalize()
    assert chosen_salt_body(key, context, plaintext, made[:SALT_BYTES]) == made
    assert opened(key, context, chosen_salt_body(key, context, plaintext, salt)) == plaintext


def payload(vector: dict[str, Any], sealed: bytes) -> bytes:
    """What a vector holds, by the chunk key that it states."""
    aead, nonce = AESGCM(bytes.fromhex(vector["aead_key"])), int(vector["base_nonce"], 16)
    size = BODY_CHUNK_BYTES + 16
    chunks = range(BODY_COMMITMENT_BYTES, len(sealed), size)
    return b"".join(
        aead.decrypt((nonce ^ number).to_bytes(12, "big"), sealed[at : at + size], None)
        for number, at in enumerate(chunks)
    )


def opened(key: bytes, context: bytes, ciphertext: bytes) -> bytes:
    """What our door makes of a body."""
    decryptor, buffer = BodyDecryptor(key, context), bytearray(len(ciphertext) + BODY_CHUNK_BYTES)
    written = decryptor.update_into(ciphertext, buffer)
    return bytes(buffer[:written]) + decryptor.finalize()


@pytest.mark.parametrize("vector", chunked("failure"))
def test_what_c2sp_has_refused_our_door_refuses(vector: dict[str, Any]) -> None:
    """The chunks as they were published, under a header that our door accepts where the vector's own was right.

    A refusal is only worth something if the damage is what is refused, so where the vector states the chunk key, its
    chunks are sealed again under ours, one by one, and those that were damaged stay damaged.
    """
    key, context, sealed = bytes.fromhex(vector["key"]), vector["context"].encode(), ciphertext_of(vector)
    if "aead_key" in vector:
        sealed = translated(vector, key, context, sealed)
    if len(key) == 32:
        with pytest.raises(MessageError) as caught:
            opened(key, context, sealed)
        assert caught.value.reason == "bad_body"
    else:
        with pytest.raises(ValueError, match="32"):
            BodyDecryptor(key, context)


def translated(vector: dict[str, Any], key: bytes, context: bytes, sealed: bytes) -> bytes:
    """Seal a vector's chunks again under the SHA-512 keys; a chunk that does not open is carried over as it is."""
    salt = sealed[:SALT_BYTES]
    info = b"c2sp.org/chunked-encryption@v1+AEAD_AES_256_GCM\0" + salt + context
    derived = HKDFExpand(hashes.SHA512(), 76, info).derive(key)
    theirs, ours = AESGCM(bytes.fromhex(vector["aead_key"])), AESGCM(derived[:32])
    their_nonce, our_nonce = int(vector["base_nonce"], 16), int.from_bytes(derived[32:44], "big")
    size = BODY_CHUNK_BYTES + 16
    parts = [salt, derived[44:]]
    for at in range(BODY_COMMITMENT_BYTES, len(sealed), size):
        chunk = sealed[at : at + size]
        # A chunk that was moved opens under the number that it was sealed with, and keeps it.
        for number in range(4):
            try:
                plain = theirs.decrypt((their_nonce ^ number).to_bytes(12, "big"), chunk, None)
            except (InvalidTag, ValueError):
                continue
            chunk = ours.encrypt((our_nonce ^ number).to_bytes(12, "big"), plain, None)
            break
        parts.append(chunk)
    return b"".join(parts)


def test_translation_changes_nothing_but_the_keys() -> None:
    """What was whole opens after it, so what is refused after it is refused for its damage."""
    for param in chunked("success"):
        vector = param.values[0]
        key, context, sealed = bytes.fromhex(vector["key"]), vector["context"].encode(), ciphertext_of(vector)
        if len(sealed) < 5 * BODY_CHUNK_BYTES:
            assert opened(key, context, translated(vector, key, context, sealed)) == payload(vector, sealed)
