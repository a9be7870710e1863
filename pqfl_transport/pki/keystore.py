"""Keys and certificates from files (`pki.files`): identities, trust anchors, rosters, keystores.

Private keys are PKCS#8 PEM of mode 0600, and so are keystores, one file with certificate and key.
"""

import contextlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    pkcs12,
)

from pqfl_transport.crypto import pkcs8
from pqfl_transport.crypto.pyca import SigningKey, VerifyingKey
from pqfl_transport.errors import CertificateError, ConfigurationError, MessageError
from pqfl_transport.pki import chain
from pqfl_transport.pki.files import (
    MAX_SECRET_BYTES,
    read_public,
    read_secret,
    sync_folder,
    write_public,
    write_secret,
)
from pqfl_transport.pki.passphrases import PassphraseSource, from_environment, unlocked
from pqfl_transport.pki.profiles import Usage
from pqfl_transport.pki.roster import MAX_ROSTER_BYTES, Roster, open_roster
from pqfl_transport.pki.spiffe import SpiffeId

__all__ = [
    "MAX_SECRET_BYTES",
    "SigningCertificate",
    "SigningIdentity",
    "load_anchors",
    "load_certificate",
    "load_private_pem",
    "load_roster",
    "load_signing_certificate",
    "load_signing_identity",
    "load_signing_key",
    "open_keystore",
    "read_certificate_file",
    "read_public",
    "read_secret",
    "root_keys",
    "sync_folder",
    "write_public",
    "write_secret",
]

_PEM_BEGIN = b"-----BEGIN "
_PEM_BLOCK = re.compile(rb"-----BEGIN ((?:[A-Z]+ )?PRIVATE KEY|CERTIFICATE)-----[^-]+-----END \1-----")
_KEY_LABELS = (b"PRIVATE KEY", b"ENCRYPTED PRIVATE KEY", b"EC PRIVATE KEY", b"RSA PRIVATE KEY")


@dataclass(frozen=True, slots=True)
class SigningCertificate:
    """Who signs, and the key that verifies it: what ``signing.pem`` says."""

    id: SpiffeId
    key: VerifyingKey
    certificate: x509.Certificate


@dataclass(frozen=True, slots=True)
class SigningIdentity:
    """Who we are when we sign content: ``signing.pem`` and ``signing.key`` of one folder."""

    id: SpiffeId
    key: SigningKey
    certificate: x509.Certificate


def open_keystore(data: bytes, password: bytes | None, name: str) -> tuple[bytes, bytes]:
    """Return the certificates and the private key of a PEM bundle or a PKCS#12 file, each as PEM, the key unencrypted.

    A bundle holds one private key, perhaps encrypted (PKCS#8), and certificates, the key's own first. ``name`` is the
    file in messages. Raises ``ConfigurationError`` (``bad_keystore``).
    """
    return _open_bundle(data, password, name) if _PEM_BEGIN in data else _open_pkcs12(data, password, name)


def _open_bundle(data: bytes, password: bytes | None, name: str) -> tuple[bytes, bytes]:
    blocks = [(match[1], match[0] + b"\n") for match in _PEM_BLOCK.finditer(data)]
    # Only the certificates: they are shown to peers and in messages, and the file's key is neither's business.
    certificates = b"".join(block for label, block in blocks if label == b"CERTIFICATE")
    keys = [(label, block) for label, block in blocks if label in _KEY_LABELS]
    if len(keys) != 1 or not certificates:
        raise _bad_keystore(
            name,
            f"holds {len(keys)} private keys and {certificates.count(_PEM_BEGIN)} certificates, not one with its own",
        )
    label, key = keys[0]
    return certificates, _decrypt(key, password, name) if label == b"ENCRYPTED PRIVATE KEY" else key


def _decrypt(key: bytes, password: bytes | None, name: str) -> bytes:
    if not password:
        raise _bad_keystore(name, "its private key is encrypted and no password was given")
    try:
        return pkcs8.decrypt(key, password)
    except ConfigurationError as error:
        raise _bad_keystore(name, f"its private key {error}") from error


def _open_pkcs12(data: bytes, password: bytes | None, name: str) -> tuple[bytes, bytes]:
    try:
        store = pkcs12.load_pkcs12(data, password)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise _bad_keystore(
            name,
            "neither a PEM bundle nor a PKCS#12 file that opens with this password. PKCS#12 files can hold RSA, ECDSA"
            f" and Ed25519 keys here; of one with an ML-DSA key make a PEM bundle: openssl pkcs12 -in {name} -noenc"
            " -out BUNDLE.pem; chmod 600 BUNDLE.pem",
        ) from error
    if store.cert is None or store.key is None:
        raise _bad_keystore(name, "holds no certificate with its private key")
    key = store.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    certificates = (store.cert, *store.additional_certs)
    return b"".join(one.certificate.public_bytes(Encoding.PEM) for one in certificates), key


def _bad_keystore(name: str, why: str) -> ConfigurationError:
    return ConfigurationError(f"{name}: {why}", reason="bad_keystore")


def load_anchors(path: Path) -> tuple[x509.Certificate, ...]:
    """Return the roots and issuing certificates of ``ca.pem``. Raises ``ConfigurationError`` naming the file."""
    certificates = _load_certificates(path)
    if not root_keys(certificates):
        raise ConfigurationError(f"{path}: holds no self-signed ML-DSA root certificate", reason="no_root")
    return certificates


def root_keys(anchors: Iterable[x509.Certificate]) -> list[VerifyingKey]:
    """Return the ML-DSA keys of the roots, the self-signed ones among the anchors: those may sign rosters."""
    keys = []
    for anchor in anchors:
        if chain.is_self_signed(anchor):
            with contextlib.suppress(CertificateError):
                keys.append(chain.verifying_key(anchor))
    return keys


def load_certificate(path: Path, *, now: datetime | None = None) -> x509.Certificate:
    """Return the first certificate of a file. Raises ``ConfigurationError`` naming the file unless it is valid now.

    ``now`` is the system's clock unless given.
    """
    certificate = _load_certificates(path)[0]
    try:
        chain.require_valid_now(certificate, now or datetime.now(UTC))
    except CertificateError as error:
        raise ConfigurationError(f"{path}: {error}", reason=error.reason) from error
    return certificate


def read_certificate_file(path: Path) -> x509.Certificate:
    """Return the first certificate of a file, whatever its dates. Raises ``ConfigurationError`` naming the file."""
    return _load_certificates(path)[0]


def load_signing_certificate(path: Path, *, now: datetime | None = None) -> SigningCertificate:
    """Return the party and key of a ``signing.pem``; its issuer is not verified, because there are no anchors here.

    ``now`` is the system's clock unless given. Raises ``ConfigurationError`` naming the file where the certificate is
    for another use, has expired, or names no party.
    """
    certificate = load_certificate(path, now=now)
    try:
        chain.require_usage(certificate, Usage.SIGNING)
        return SigningCertificate(chain.spiffe_id(certificate), chain.verifying_key(certificate), certificate)
    except CertificateError as error:
        raise ConfigurationError(f"{path}: {error}", reason=error.reason) from error


def load_signing_identity(
    folder: Path, *, name: str = "signing", now: datetime | None = None,
    passphrases: PassphraseSource = from_environment,
) -> SigningIdentity:  # fmt: skip
    """Load ``signing.pem`` and ``signing.key`` of an identity folder, or the pair of another ``name`` there.

    Raises ``ConfigurationError`` naming the file, ``key_mismatch`` where the two do not belong together, and what
    `load_private_pem` raises.
    """
    certificate_path, key_path = folder / f"{name}.pem", folder / f"{name}.key"
    signer = load_signing_certificate(certificate_path, now=now)
    key = load_signing_key(key_path, passphrases)
    if key.verifying_key != signer.key:
        raise ConfigurationError(f"{key_path}: is not the private key of {certificate_path}", reason="key_mismatch")
    return SigningIdentity(signer.id, key, signer.certificate)


def load_signing_key(path: Path, passphrases: PassphraseSource = from_environment) -> SigningKey:
    """Return an ML-DSA private key. Raises ``ConfigurationError`` naming the file, and as `load_private_pem` does."""
    pem = load_private_pem(path, passphrases)
    try:
        return SigningKey.from_pem(pem)
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: {error}", reason=error.reason) from error


def load_private_pem(path: Path, passphrases: PassphraseSource = from_environment) -> bytes:
    """Return a private key file's PEM, unencrypted, of any algorithm; ``passphrases`` is asked only where it is not.

    Raises ``ConfigurationError`` naming the file: what `read_secret` raises, ``no_passphrase``, ``wrong_passphrase``,
    ``key_cost``, ``bad_key``.
    """
    pem = read_secret(path)
    if not pkcs8.is_encrypted(pem):
        return pem
    return unlocked(str(path), passphrases, lambda passphrase: pkcs8.decrypt(pem, passphrase))


def load_roster(
    path: Path, roots: Iterable[VerifyingKey], *, at_least_number: int = 0, federation: str | None = None
) -> Roster:
    """Read and verify a roster file. Raises ``ConfigurationError`` for the file, ``MessageError`` for its content."""
    data = read_public(path, max_bytes=MAX_ROSTER_BYTES)
    try:
        return open_roster(data, roots, at_least_number=at_least_number, federation=federation)
    except MessageError as error:
        raise MessageError(f"{path}: {error}", reason=error.reason) from error


def _load_certificates(path: Path) -> tuple[x509.Certificate, ...]:
    try:
        return tuple(chain.load_certificates(read_public(path)))
    except CertificateError as error:
        raise ConfigurationError(f"{path}: {error}", reason=error.reason) from error
