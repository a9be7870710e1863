"""Private keys under a passphrase as everybody reads them: PKCS#8 ``ENCRYPTED PRIVATE KEY`` with PBES2 (RFC 8018).

Written with scrypt (RFC 7914 §7) and AES-256-CBC, read with scrypt or PBKDF2 and AES-CBC of any key size. It is put
together here from the library's parts, because the library's own writer offers no more than 2,048 rounds of PBKDF2,
and its reader does not cap what a file may make it compute. N = 2^14, r = 8, p = 5 takes 16 MiB, which OpenSSL reads
too: it stops at 32 MiB.

CBC is not authenticated. A damaged file shows up as wrong padding or as something that is no key, and whoever can write
to a key file can as well put another key there.
"""

import secrets
from collections.abc import Callable

from cryptography.hazmat import asn1
from cryptography.hazmat.primitives import hashes, padding
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.pbkdf2 import PBKDF2HMAC
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from cryptography.x509 import ObjectIdentifier

from pqfl_transport.crypto import armour
from pqfl_transport.errors import ConfigurationError

PLAIN_LABEL = "PRIVATE KEY"
ENCRYPTED_LABEL = "ENCRYPTED PRIVATE KEY"
MAX_PEM_BYTES = 64 * 1024
MAX_SCRYPT_BYTES = 256 << 20
"""The most memory that a file may make this process allocate."""
MAX_SCRYPT_PARALLELISM = 16
MAX_PBKDF2_ITERATIONS = 10_000_000

_N, _R, _P = 1 << 14, 8, 5
_SALT_BYTES = 16
_MAX_SALT_BYTES = 256
_BLOCK_BITS = algorithms.AES.block_size

_PBES2 = ObjectIdentifier("1.2.840.113549.1.5.13")
_PBKDF2 = ObjectIdentifier("1.2.840.113549.1.5.12")
_SCRYPT = ObjectIdentifier("1.3.6.1.4.1.11591.4.11")
_HMAC_SHA1 = ObjectIdentifier("1.2.840.113549.2.7")
_AES_256_CBC = ObjectIdentifier("2.16.840.1.101.3.4.1.42")
_KEY_BYTES = {
    ObjectIdentifier("2.16.840.1.101.3.4.1.2"): 16,
    ObjectIdentifier("2.16.840.1.101.3.4.1.22"): 24,
    _AES_256_CBC: 32,
}
_HMACS: dict[ObjectIdentifier, Callable[[], hashes.HashAlgorithm]] = {
    _HMAC_SHA1: hashes.SHA1,
    ObjectIdentifier("1.2.840.113549.2.9"): hashes.SHA256,
    ObjectIdentifier("1.2.840.113549.2.10"): hashes.SHA384,
    ObjectIdentifier("1.2.840.113549.2.11"): hashes.SHA512,
}


@asn1.sequence
class _Algorithm:
    oid: ObjectIdentifier
    parameters: asn1.TLV


@asn1.sequence
class _Encrypted:
    """EncryptedPrivateKeyInfo, RFC 5958 §3."""

    algorithm: _Algorithm
    data: bytes


@asn1.sequence
class _Pbes2:
    """PBES2-params, RFC 8018 appendix A.4."""

    kdf: _Algorithm
    cipher: _Algorithm


@asn1.sequence
class _Prf:
    oid: ObjectIdentifier
    parameters: asn1.Null | None


@asn1.sequence
class _Pbkdf2Params:
    """PBKDF2-params, RFC 8018 appendix A.2; without ``prf`` it is HMAC with SHA-1."""

    salt: bytes
    iterations: int
    key_length: int | None
    prf: _Prf | None


@asn1.sequence
class _ScryptParams:
    """scrypt-params, RFC 7914 §7.1."""

    salt: bytes
    n: int
    r: int
    p: int
    key_length: int | None


def is_encrypted(pem: bytes) -> bool:
    """Return whether this is a key file that wants a passphrase; what else it is, if anything, others find out."""
    return f"-----BEGIN {ENCRYPTED_LABEL}-----".encode() in pem


def encrypt(pem: bytes, passphrase: bytes, *, random: Callable[[int], bytes] = secrets.token_bytes) -> bytes:
    """Return an unencrypted PKCS#8 PEM as an encrypted one; ``random`` is replaced in tests only.

    Raises ``ConfigurationError`` (``bad_key``) where ``pem`` is no unencrypted PKCS#8 block.
    """
    plain = armour.decode(pem, PLAIN_LABEL, max_bytes=MAX_PEM_BYTES)
    salt, vector = random(_SALT_BYTES), random(_BLOCK_BITS // 8)
    key = Scrypt(salt, _KEY_BYTES[_AES_256_CBC], _N, _R, _P).derive(passphrase)
    padder = padding.PKCS7(_BLOCK_BITS).padder()
    encryptor = Cipher(algorithms.AES(key), modes.CBC(vector)).encryptor()
    data = encryptor.update(padder.update(plain) + padder.finalize()) + encryptor.finalize()
    scheme = _Pbes2(
        kdf=_algorithm(_SCRYPT, _ScryptParams(salt=salt, n=_N, r=_R, p=_P, key_length=None)),
        cipher=_algorithm(_AES_256_CBC, vector),
    )
    whole = asn1.encode_der(_Encrypted(algorithm=_algorithm(_PBES2, scheme), data=data))
    return armour.encode(ENCRYPTED_LABEL, whole)


def decrypt(pem: bytes, passphrase: bytes) -> bytes:
    """Return an encrypted PKCS#8 PEM as an unencrypted one, whatever kind of key is in it.

    Raises ``ConfigurationError``: ``bad_key`` for another form or scheme, ``key_cost`` for one that demands more memory
    or time than the caps, ``wrong_passphrase`` where it does not open.
    """
    der = armour.decode(pem, ENCRYPTED_LABEL, max_bytes=MAX_PEM_BYTES)
    try:
        whole = asn1.decode_der(_Encrypted, der)
        if whole.algorithm.oid != _PBES2:
            raise _unknown("scheme", whole.algorithm.oid)
        scheme = whole.algorithm.parameters.parse(_Pbes2)
        key_bytes = _KEY_BYTES.get(scheme.cipher.oid)
        if key_bytes is None:
            raise _unknown("cipher", scheme.cipher.oid)
        vector = scheme.cipher.parameters.parse(bytes)
        key = _derive(scheme.kdf, passphrase, key_bytes)
        cipher = Cipher(algorithms.AES(key), modes.CBC(vector))
    except ValueError as error:
        raise ConfigurationError(f"not an encrypted PKCS#8 key: {error}", reason="bad_key") from error
    return armour.encode(PLAIN_LABEL, _opened(cipher, whole.data))


def _opened(cipher: "Cipher[modes.CBC]", data: bytes) -> bytes:
    decryptor, unpadder = cipher.decryptor(), padding.PKCS7(_BLOCK_BITS).unpadder()
    try:
        plain = unpadder.update(decryptor.update(data) + decryptor.finalize()) + unpadder.finalize()
        # One wrong passphrase in 256 gives padding that fits: what comes out has to be a structure too.
        asn1.decode_der(asn1.TLV, plain)
    except ValueError:
        raise wrong_passphrase() from None
    return plain


def _derive(kdf: _Algorithm, passphrase: bytes, length: int) -> bytes:
    if kdf.oid == _SCRYPT:
        return _scrypt(kdf.parameters.parse(_ScryptParams), passphrase, length)
    if kdf.oid == _PBKDF2:
        return _pbkdf2(kdf.parameters.parse(_Pbkdf2Params), passphrase, length)
    raise _unknown("key derivation", kdf.oid)


def _scrypt(params: _ScryptParams, passphrase: bytes, length: int) -> bytes:
    # Memory is 128·r·N, time is p times that (RFC 7914 §2): both are known before any of it is spent.
    memory_bytes = 128 * params.n * params.r
    fits = 0 < memory_bytes <= MAX_SCRYPT_BYTES and 0 < params.p <= MAX_SCRYPT_PARALLELISM and params.r > 0
    if not fits or len(params.salt) > _MAX_SALT_BYTES:
        raise _too_costly(f"scrypt with N={params.n}, r={params.r}, p={params.p}")
    return Scrypt(params.salt, length, params.n, params.r, params.p).derive(passphrase)


def _pbkdf2(params: _Pbkdf2Params, passphrase: bytes, length: int) -> bytes:
    if not 0 < params.iterations <= MAX_PBKDF2_ITERATIONS or len(params.salt) > _MAX_SALT_BYTES:
        raise _too_costly(f"{params.iterations} rounds of PBKDF2")
    prf = _HMAC_SHA1 if params.prf is None else params.prf.oid
    if prf not in _HMACS:
        raise _unknown("HMAC", prf)
    return PBKDF2HMAC(_HMACS[prf](), length, params.salt, params.iterations).derive(passphrase)


def _algorithm(oid: ObjectIdentifier, parameters: object) -> _Algorithm:
    return _Algorithm(oid=oid, parameters=asn1.decode_der(asn1.TLV, asn1.encode_der(parameters)))


def wrong_passphrase() -> ConfigurationError:
    """Return the one error for a key that does not open: nobody can tell a wrong passphrase from a damaged file."""
    return ConfigurationError("does not open with this passphrase, or is damaged", reason="wrong_passphrase")


def _too_costly(what: str) -> ConfigurationError:
    return ConfigurationError(
        f"demands {what}, more than {MAX_SCRYPT_BYTES >> 20} MiB or {MAX_PBKDF2_ITERATIONS} rounds", reason="key_cost"
    )


def _unknown(what: str, oid: ObjectIdentifier) -> ConfigurationError:
    return ConfigurationError(
        f"is encrypted with the {what} {oid.dotted_string}; read are PBES2 with scrypt or PBKDF2, and AES-CBC",
        reason="bad_key",
    )
