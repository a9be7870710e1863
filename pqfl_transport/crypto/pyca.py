"""The door to primitives on ``cryptography``: signatures, key encapsulation, hashes, the body cipher, a keystream.

Nothing here is an algorithm of our own. Classes exist because the library beneath has one class per parameter set
while this project has rows (`pqfl_transport.algorithms`), and because a failed verification has to say whose fault it
is. Verification raises; it never returns a bool.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, Self, cast

from cryptography.cobblestone import Cobblestone256Decryptor, Cobblestone256Encryptor
from cryptography.exceptions import InvalidSignature, InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, hpke, serialization
from cryptography.hazmat.primitives.asymmetric import ec, mldsa, mlkem, x25519
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from pqfl_transport.algorithms import Kind, find
from pqfl_transport.crypto import mldsa_keys
from pqfl_transport.crypto.contexts import Context
from pqfl_transport.errors import ConfigurationError, MessageError

Buffer = bytes | bytearray | memoryview
"""Anything the primitives read without a copy."""

FINGERPRINT_BYTES = 32

MLDSAPrivateKey = mldsa.MLDSA44PrivateKey | mldsa.MLDSA65PrivateKey | mldsa.MLDSA87PrivateKey
MLDSAPublicKey = mldsa.MLDSA44PublicKey | mldsa.MLDSA65PublicKey | mldsa.MLDSA87PublicKey

_SIGNATURES: dict[str, tuple[type[MLDSAPrivateKey], type[MLDSAPublicKey]]] = {
    "ML-DSA-44": (mldsa.MLDSA44PrivateKey, mldsa.MLDSA44PublicKey),
    "ML-DSA-65": (mldsa.MLDSA65PrivateKey, mldsa.MLDSA65PublicKey),
    "ML-DSA-87": (mldsa.MLDSA87PrivateKey, mldsa.MLDSA87PublicKey),
}


class VerifyingKey:
    """A public ML-DSA key. ``algorithm`` is the row's name; ``fingerprint`` is SHA-256 over its SPKI, 32 bytes."""

    __slots__ = ("_key", "algorithm", "fingerprint", "spki")

    def __init__(self, key: MLDSAPublicKey) -> None:
        self._key = key
        self.algorithm = _name_of(key, position=1)
        self.spki = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        self.fingerprint = hashlib.sha256(self.spki).digest()

    @classmethod
    def from_spki(cls, der: bytes) -> Self:
        """Parse a DER SubjectPublicKeyInfo. Raises ``ConfigurationError`` when it is no ML-DSA key."""
        try:
            key = serialization.load_der_public_key(der)
        except (ValueError, UnsupportedAlgorithm) as error:
            raise ConfigurationError(f"not a public key: {error}", reason="bad_key") from error
        if not isinstance(key, MLDSAPublicKey):
            raise ConfigurationError(f"not an ML-DSA public key but {type(key).__name__}", reason="bad_key")
        return cls(key)

    @property
    def pyca_key(self) -> MLDSAPublicKey:
        """The key as the certificate builder of ``cryptography.x509`` takes it."""
        return self._key

    def verify(self, signature: Buffer, message: Buffer, context: Context) -> None:
        """Raise ``MessageError`` unless ``signature`` is this key's over ``message`` in ``context`` (FIPS 204 §5.3)."""
        try:
            self._key.verify(bytes(signature), message, context.value)
        except (InvalidSignature, ValueError):
            raise MessageError("the signature does not hold", reason="bad_signature") from None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, VerifyingKey) and self.spki == other.spki

    def __hash__(self) -> int:
        return hash(self.spki)


class SigningKey:
    """A private ML-DSA key, held as its 32-byte seed (FIPS 204 §3.6.1)."""

    __slots__ = ("_key", "algorithm", "verifying_key")

    def __init__(self, key: MLDSAPrivateKey) -> None:
        self._key = key
        self.algorithm = _name_of(key, position=0)
        self.verifying_key = VerifyingKey(key.public_key())

    @classmethod
    def generate(cls, algorithm: str) -> Self:
        """Make a new key of the named ML-DSA row."""
        return cls(_SIGNATURES[find(algorithm, Kind.SIGNATURE).name][0].generate())

    @classmethod
    def from_seed(cls, algorithm: str, seed: bytes) -> Self:
        """Expand a 32-byte seed."""
        return cls(_SIGNATURES[find(algorithm, Kind.SIGNATURE).name][0].from_seed_bytes(seed))

    @classmethod
    def from_pem(cls, pem: bytes) -> Self:
        """Parse a PKCS#8 PEM, unencrypted, that holds the seed. Raises ``ConfigurationError`` naming what it found."""
        try:
            key = serialization.load_pem_private_key(pem, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            found = mldsa_keys.seed_of(pem)
            if found is not None:
                return cls.from_seed(*found)
            said = str(error).partition(". ")[0]
            raise ConfigurationError(
                f"not an unencrypted PKCS#8 private key that holds its seed (RFC 9881 §6): {said}", reason="bad_key"
            ) from error
        if not isinstance(key, MLDSAPrivateKey):
            raise ConfigurationError(f"not an ML-DSA private key but {type(key).__name__}", reason="bad_key")
        return cls(key)

    def to_pem(self) -> bytes:
        """Serialise as PKCS#8 PEM in seed form (RFC 9881 §6)."""
        return self._key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )

    def sign(self, message: Buffer, context: Context) -> bytes:
        """Sign ``message`` in ``context`` (FIPS 204 §5.2, hedged). Takes about half a millisecond: off the loop."""
        return self._key.sign(message, context.value)

    @property
    def pyca_key(self) -> MLDSAPrivateKey:
        """The key as the certificate builder of ``cryptography.x509`` takes it."""
        return self._key


def _name_of(key: MLDSAPrivateKey | MLDSAPublicKey, *, position: int) -> str:
    return next(name for name, classes in _SIGNATURES.items() if isinstance(key, classes[position]))


class _HpkePublic(Protocol):
    """Whatever ``hpke.Suite.encrypt`` takes as a public key."""


class _HpkePrivate(Protocol):
    """Whatever ``hpke.Suite.decrypt`` takes as a private key."""


@dataclass(frozen=True, slots=True)
class _KemRow:
    kem: hpke.KEM
    expand_seed: Callable[[bytes], tuple[_HpkePrivate, bytes]]
    """seed → (private key object, raw public key)"""
    parse_public: Callable[[bytes], _HpkePublic]


_X25519_BYTES = 32
_P384_SCALAR_BYTES = 48
_MLKEM_SEED_BYTES = 64
_MLKEM768_PUBLIC_BYTES = 1184
_MLKEM1024_PUBLIC_BYTES = 1568


def _expand_mlkem768_x25519(seed: bytes) -> tuple[_HpkePrivate, bytes]:
    # The hybrid keys have no serialisation of their own in the library; draft-ietf-hpke-pq expands the 32-byte seed
    # with SHAKE256 into the ML-KEM seed and the X25519 scalar.
    expanded = hashlib.shake_256(seed).digest(_MLKEM_SEED_BYTES + _X25519_BYTES)
    pq = mlkem.MLKEM768PrivateKey.from_seed_bytes(expanded[:_MLKEM_SEED_BYTES])
    classical = x25519.X25519PrivateKey.from_private_bytes(expanded[_MLKEM_SEED_BYTES:])
    public = pq.public_key().public_bytes_raw() + classical.public_key().public_bytes_raw()
    return hpke.MLKEM768X25519PrivateKey(pq, classical), public


def _parse_mlkem768_x25519(raw: bytes) -> _HpkePublic:
    return hpke.MLKEM768X25519PublicKey(
        mlkem.MLKEM768PublicKey.from_public_bytes(raw[:_MLKEM768_PUBLIC_BYTES]),
        x25519.X25519PublicKey.from_public_bytes(raw[_MLKEM768_PUBLIC_BYTES:]),
    )


def _expand_mlkem1024_p384(seed: bytes) -> tuple[_HpkePrivate, bytes]:
    # The draft redraws a scalar outside 1 … n-1; that happens once in 2^190 seeds, so here such a seed is refused by
    # `derive_private_key` and a new one is made.
    expanded = hashlib.shake_256(seed).digest(_MLKEM_SEED_BYTES + _P384_SCALAR_BYTES)
    pq = mlkem.MLKEM1024PrivateKey.from_seed_bytes(expanded[:_MLKEM_SEED_BYTES])
    classical = ec.derive_private_key(int.from_bytes(expanded[_MLKEM_SEED_BYTES:], "big"), ec.SECP384R1())
    point = classical.public_key().public_bytes(
        serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
    )
    return hpke.MLKEM1024P384PrivateKey(pq, classical), pq.public_key().public_bytes_raw() + point


def _parse_mlkem1024_p384(raw: bytes) -> _HpkePublic:
    return hpke.MLKEM1024P384PublicKey(
        mlkem.MLKEM1024PublicKey.from_public_bytes(raw[:_MLKEM1024_PUBLIC_BYTES]),
        ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP384R1(), raw[_MLKEM1024_PUBLIC_BYTES:]),
    )


def _expand_mlkem1024(seed: bytes) -> tuple[_HpkePrivate, bytes]:
    key = mlkem.MLKEM1024PrivateKey.from_seed_bytes(seed)
    return key, key.public_key().public_bytes_raw()


_KEMS = {
    "ML-KEM-768+X25519": _KemRow(hpke.KEM.MLKEM768_X25519, _expand_mlkem768_x25519, _parse_mlkem768_x25519),
    "ML-KEM-1024+P-384": _KemRow(hpke.KEM.MLKEM1024_P384, _expand_mlkem1024_p384, _parse_mlkem1024_p384),
    "ML-KEM-1024": _KemRow(hpke.KEM.MLKEM1024, _expand_mlkem1024, mlkem.MLKEM1024PublicKey.from_public_bytes),
}

_WRAP_TAG_BYTES = 16
WRAP_AEAD = "AES-256-GCM"
_WRAP_AEADS = {WRAP_AEAD: hpke.AEAD.AES_256_GCM, "ChaCha20-Poly1305": hpke.AEAD.CHACHA20_POLY1305}


def wrapped_bytes(kem: str, plaintext_bytes: int) -> int:
    """Return the length of what ``wrap`` makes: the encapsulation, the plaintext and a 16-byte tag."""
    return (find(kem, Kind.KEM).ciphertext_bytes or 0) + plaintext_bytes + _WRAP_TAG_BYTES


class DecapsulationKey:
    """A private HPKE key, held as its seed: 32 bytes for hybrids (draft-ietf-hpke-pq), 64 for ML-KEM alone."""

    __slots__ = ("_private", "kem", "public", "seed")

    def __init__(self, kem: str, seed: bytes) -> None:
        row = find(kem, Kind.KEM)
        if row.name not in _KEMS or len(seed) != row.seed_bytes:
            raise ConfigurationError(f"no {len(seed)}-byte seed makes a key of {row.name}", reason="bad_key")
        self.kem = row.name
        self.seed = seed
        try:
            self._private, raw = _KEMS[self.kem].expand_seed(seed)
        except ValueError as error:
            raise ConfigurationError(f"the seed makes no key of {row.name}: {error}", reason="bad_key") from error
        self.public = EncapsulationKey(self.kem, raw)

    @property
    def stored(self) -> bytes:
        """What is kept of the key: its seed."""
        return self.seed

    def unwrap(self, wrapped: bytes, info: bytes, *, aead: str = WRAP_AEAD) -> bytes:
        """Open an HPKE message (RFC 9180 §6.1, base mode). Raises ``MessageError``; ML-KEM rejects implicitly."""
        try:
            return _wrap_suite(self.kem, aead).decrypt(
                wrapped, cast("hpke.MLKEM768X25519PrivateKey", self._private), info
            )
        except (InvalidTag, ValueError):
            raise MessageError("the wrapped key does not open with this receiving key", reason="not_for_us") from None


class EncapsulationKey:
    """A public HPKE key: the row's name and the raw key as draft-ietf-hpke-pq serialises it."""

    __slots__ = ("_public", "kem", "raw")

    def __init__(self, kem: str, raw: bytes) -> None:
        row = find(kem, Kind.KEM)
        if row.name not in _KEMS or len(raw) != row.public_key_bytes:
            raise ConfigurationError(f"{len(raw)} bytes are no public key of {row.name}", reason="bad_key")
        self.kem = row.name
        self.raw = raw
        try:
            self._public = _KEMS[self.kem].parse_public(raw)
        except ValueError as error:
            raise ConfigurationError(f"not a public key of {row.name}: {error}", reason="bad_key") from error

    def wrap(self, plaintext: bytes, info: bytes, *, aead: str = WRAP_AEAD) -> bytes:
        """Seal a short secret to this key (RFC 9180 §6.1, base mode): encapsulation ‖ ciphertext.

        Raises ``ConfigurationError`` (``bad_key``) for a key whose classical half is degenerate.
        """
        try:
            return _wrap_suite(self.kem, aead).encrypt(
                plaintext, cast("hpke.MLKEM768X25519PublicKey", self._public), info
            )
        except ValueError as error:
            raise ConfigurationError(f"not a public key of {self.kem}: {error}", reason="bad_key") from error


def _wrap_suite(kem: str, aead: str) -> hpke.Suite:
    return hpke.Suite(_KEMS[kem].kem, hpke.KDF.HKDF_SHA512, _WRAP_AEADS[aead])


BODY_KEY_BYTES = 32
BODY_CHUNK_BYTES = 16 * 1024
BODY_TAG_BYTES = 16
BODY_COMMITMENT_BYTES = 56
"""Cobblestone's salt (24) and key commitment (32), the first bytes of every body."""


def body_bytes(plaintext_bytes: int) -> int:
    """Return the length of a Cobblestone-256 ciphertext: commitment, text, one tag a chunk, the last never full."""
    chunks = plaintext_bytes // BODY_CHUNK_BYTES + 1
    return BODY_COMMITMENT_BYTES + plaintext_bytes + chunks * BODY_TAG_BYTES


def body_encryptor(key: bytes, context: bytes) -> Cobblestone256Encryptor:
    """Return a streaming Cobblestone-256 encryptor; its first ``update`` gives the 56-byte commitment."""
    return Cobblestone256Encryptor(key, context)


class BodyDecryptor:
    """A streaming Cobblestone-256 decryptor. Plaintext counts only after ``finalize``."""

    __slots__ = ("_decryptor",)

    def __init__(self, key: bytes, context: bytes) -> None:
        self._decryptor = Cobblestone256Decryptor(key, context)

    def update_into(self, data: Buffer, buffer: bytearray | memoryview) -> int:
        """Decrypt whole chunks into ``buffer``, which needs ``len(data)`` + one chunk of room; return the count."""
        try:
            return self._decryptor.update_into(data, buffer)
        except InvalidTag:
            raise _damaged_body() from None

    def finalize(self) -> bytes:
        """Return the last bytes. Raises ``MessageError`` when the body was cut, reordered or changed."""
        try:
            return self._decryptor.finalize()
        except (InvalidTag, ValueError):
            raise _damaged_body() from None


def _damaged_body() -> MessageError:
    return MessageError("the body is damaged: changed, reordered or cut", reason="bad_body")


def hkdf_sha512(key_material: bytes, info: bytes, length_bytes: int) -> bytes:
    """HKDF-SHA-512 (RFC 5869) without salt."""
    return HKDF(algorithm=hashes.SHA512(), length=length_bytes, salt=None, info=info).derive(key_material)


KEYSTREAM_KEY_BYTES = 32
_BLOCK_BYTES = 16
_ZEROS = memoryview(bytes(1 << 18))


class Keystream:
    """AES-256-CTR (SP 800-38A §6.5) as a generator: the bytes of blocks 0, 1, 2 … of one 32-byte key.

    Counter block number k is k as 16 bytes, big-endian, so a key serves one stream only. It may begin at any byte
    without making those before it. Raises ``ConfigurationError`` (``bad_key``) for a key of another length, and
    ``keystream_range`` for a place outside of the counter's 2^128 blocks.
    """

    __slots__ = ("_encryptor",)

    def __init__(self, key: bytes, offset_bytes: int = 0) -> None:
        if len(key) != KEYSTREAM_KEY_BYTES:
            raise ConfigurationError(f"a keystream's key has {KEYSTREAM_KEY_BYTES} bytes", reason="bad_key")
        block, skipped_bytes = divmod(offset_bytes, _BLOCK_BYTES)
        try:
            counter = block.to_bytes(_BLOCK_BYTES, "big")
        except OverflowError:
            raise ConfigurationError(f"no keystream has a byte {offset_bytes}", reason="keystream_range") from None
        self._encryptor = Cipher(algorithms.AES(key), modes.CTR(counter)).encryptor()
        self._encryptor.update(_ZEROS[:skipped_bytes])

    def fill(self, buffer: bytearray | memoryview) -> None:
        """Overwrite ``buffer``, a flat one of bytes, with the next bytes of the stream."""
        view = memoryview(buffer)
        for start in range(0, len(view), len(_ZEROS)):
            part = view[start : start + len(_ZEROS)]
            self._encryptor.update_into(_ZEROS[: len(part)], part)
