"""ML-DSA private keys as others write them: the seed, the expanded key, or both (RFC 9881 §6), in PKCS#8.

This project writes seeds, and signs with a seed. A file that holds both gives its seed, once OpenSSL has found that the
two belong together (§8.2). From an expanded key nobody gets the seed back: OpenSSL can use such a key in TLS
handshakes, and nothing else here can.
"""

from typing import Annotated

from cryptography.hazmat import asn1
from cryptography.x509 import ObjectIdentifier
from OpenSSL import crypto

from pqfl_transport.algorithms import TABLE, Kind
from pqfl_transport.crypto import armour
from pqfl_transport.crypto.pkcs8 import MAX_PEM_BYTES, PLAIN_LABEL
from pqfl_transport.errors import ConfigurationError

SEED_BYTES = 32
EXPANDED_BYTES = {"ML-DSA-44": 2560, "ML-DSA-65": 4032, "ML-DSA-87": 4896}
"""FIPS 204 §4, table 2."""

_NAMES = {
    ObjectIdentifier(row.oid): row.name
    for row in TABLE
    if row.kind is Kind.SIGNATURE and row.oid is not None and row.name in EXPANDED_BYTES
}


@asn1.sequence
class _Algorithm:
    """AlgorithmIdentifier; RFC 9881 §2 leaves the parameters out."""

    oid: ObjectIdentifier


@asn1.sequence
class _OneAsymmetricKey:
    """RFC 5958 §2."""

    version: int
    algorithm: _Algorithm
    private_key: bytes
    attributes: Annotated[asn1.SetOf[asn1.TLV] | None, asn1.Implicit(0)]
    public_key: Annotated[asn1.BitString | None, asn1.Implicit(1)]


@asn1.sequence
class _Both:
    seed: bytes
    expanded: bytes


def seed_of(pem: bytes) -> tuple[str, bytes] | None:
    """Return algorithm and seed of an ML-DSA key that holds its seed and its expanded key; ``None`` for other files.

    Raises ``ConfigurationError`` (``bad_key``) for a key without its seed, and where the two do not belong together.
    """
    try:
        der = armour.decode(pem, PLAIN_LABEL, max_bytes=MAX_PEM_BYTES)
        container = asn1.decode_der(_OneAsymmetricKey, der)
    except (ConfigurationError, ValueError):
        return None
    name = _NAMES.get(container.algorithm.oid)
    if name is None:
        return None
    if _is_expanded(container.private_key, name):
        raise ConfigurationError(
            f"an {name} key in expanded form, without its seed, which is what signs here and which nothing recovers"
            " from it, `openssl pkey` neither: make a new key that holds its seed (RFC 9881 §6), with pqfl or"
            " `openssl genpkey`",
            reason="bad_key",
        )
    try:
        both = asn1.decode_der(_Both, container.private_key)
    except ValueError:
        return None
    if len(both.seed) != SEED_BYTES or len(both.expanded) != EXPANDED_BYTES[name]:
        return None
    _require_consistent(der, name)
    return name, both.seed


def public_half(der: bytes) -> bytes:
    """Return the SubjectPublicKeyInfo (DER) of a private key of any algorithm, ML-DSA in any of the three forms.

    Raises ``ConfigurationError`` (``bad_key``) for what OpenSSL reads as no key.
    """
    try:
        return crypto.dump_publickey(crypto.FILETYPE_ASN1, _load(der))
    except crypto.Error as error:
        raise ConfigurationError("not a private key that OpenSSL can read", reason="bad_key") from error


def _is_expanded(value: bytes, name: str) -> bool:
    try:
        return len(asn1.decode_der(bytes, value)) == EXPANDED_BYTES[name]
    except ValueError:
        return False


def _require_consistent(der: bytes, name: str) -> None:
    # RFC 9881 §8.2. Of a file with two keys in it, different readers would otherwise use different ones. OpenSSL
    # expands the seed and compares when it loads such a key.
    try:
        _load(der)
    except crypto.Error as error:
        raise ConfigurationError(
            f"the seed and the expanded key in this {name} private key do not belong together (RFC 9881 §8.2)",
            reason="bad_key",
        ) from error


def _load(der: bytes) -> crypto.PKey:
    # As PEM, because only there a passphrase can be given, and without one OpenSSL may ask the terminal.
    return crypto.load_privatekey(crypto.FILETYPE_PEM, armour.encode(PLAIN_LABEL, der), b"")
