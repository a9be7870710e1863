"""What a file with keys says about each of them: kind, algorithm, fingerprint, dates, whom it belongs to.

Receiving keys, PKCS#8 and SPKI files, certificates, rosters, round documents and statements of receiving keys. Nothing
is verified but what is said to be: a file is taken at its word, which is why fingerprints are compared.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from pqfl_transport.algorithms import find
from pqfl_transport.content.receiving_keys import ENCRYPTED_LABEL, MAX_KEYS, MAX_RING_BYTES, ReceivingKeys
from pqfl_transport.content.recipients import PRIVATE_LABEL, PUBLIC_LABEL, RecipientKey
from pqfl_transport.crypto import armour, mldsa_keys, pkcs8
from pqfl_transport.crypto.pyca import FINGERPRINT_BYTES, VerifyingKey
from pqfl_transport.errors import CertificateError, ConfigurationError, MessageError, PqflError
from pqfl_transport.pki import chain
from pqfl_transport.pki.documents import decode_base64, parse_object
from pqfl_transport.pki.extensions import find_extension
from pqfl_transport.pki.files import read_public, read_secret
from pqfl_transport.pki.keystore import load_roster, root_keys
from pqfl_transport.pki.passphrases import PassphraseSource, unlocked
from pqfl_transport.pki.profiles import Usage
from pqfl_transport.pki.roster import MAX_ROSTER_BYTES, MAX_TIME

_UNVERIFIED = "as the file says; its signature was not verified"
_MAX_OWNER = 300
_CERTIFICATE = b"-----BEGIN CERTIFICATE-----"
_PRIVATE = b"PRIVATE KEY-----"
_BEGIN = b"-----BEGIN "


@dataclass(frozen=True, slots=True)
class KeyFacts:
    """One key. Times are Unix seconds, 0 where they are not known or there is none."""

    file: str
    kind: str
    algorithm: str
    fingerprint: bytes | None
    """``None`` for an encrypted PKCS#8 key that was not opened."""
    private: bool = False
    encrypted: bool = False
    owner: str = ""
    """SPIFFE ID, or a certificate's subject where it names no party."""
    made: int = 0
    not_after: int = 0
    remark: str = ""

    def __post_init__(self) -> None:
        # Shown on terminals before anything is verified, so nothing that a terminal obeys may be in it.
        shown = "".join(letter if letter.isprintable() else "?" for letter in self.owner[:_MAX_OWNER])
        object.__setattr__(self, "owner", shown)

    @property
    def nist_category(self) -> int | None:
        """The category that the algorithm claims; ``None`` where the table has none."""
        try:
            return find(self.algorithm).nist_category
        except PqflError:
            return None


def facts_of(path: Path, passphrases: PassphraseSource | None = None, cacert: Path | None = None) -> list[KeyFacts]:
    """Return what a file says about its keys, at least one; ``passphrases`` opens encrypted PKCS#8 keys.

    With ``cacert`` a roster's signature is verified. Raises ``PqflError`` naming the file.
    """
    data = read_public(path, max_bytes=max(MAX_RING_BYTES, MAX_ROSTER_BYTES))
    if _PRIVATE in data:
        data = read_secret(path, max_bytes=MAX_RING_BYTES)
    try:
        if data.lstrip().startswith(b"{"):
            found = list(_of_document(path, data, cacert))
        elif _CERTIFICATE in data and _PRIVATE not in data:
            found = [_of_certificate(path, one) for one in chain.load_certificates(data)]
        else:
            found = list(_of_blocks(path, data, passphrases))
    except PqflError as error:
        if str(path) in str(error):
            raise
        raise type(error)(f"{path}: {error}", reason=error.reason) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigurationError(f"{path}: cannot be read: {error}", reason="bad_key") from error
    if not found:
        raise ConfigurationError(f"{path}: holds no key", reason="bad_key")
    return found


def _of_blocks(path: Path, data: bytes, passphrases: PassphraseSource | None) -> Iterator[KeyFacts]:
    if _BEGIN not in data:
        raise ConfigurationError("holds no key: neither PEM nor a document", reason="bad_key")
    for block in armour.blocks(data, max_bytes=MAX_RING_BYTES, max_blocks=MAX_KEYS):
        if block.label == PUBLIC_LABEL:
            key = RecipientKey.from_bytes(block.data)
            yield KeyFacts(str(path), "public receiving key", key.kem, key.fingerprint)
        elif block.label in {PRIVATE_LABEL, ENCRYPTED_LABEL}:
            (entry,) = ReceivingKeys.from_pem(armour.encode(block.label, block.data)).entries
            yield KeyFacts(
                str(path), "private receiving key", entry.kem, entry.fingerprint, private=True,
                encrypted=entry.is_encrypted, made=entry.made, not_after=entry.not_after,
            )  # fmt: skip
        elif block.label == "CERTIFICATE":
            yield _of_certificate(path, x509.load_der_x509_certificate(block.data))
        elif block.label == "PUBLIC KEY":
            yield _of_spki(path, block.data, "public key")
        elif block.label in {pkcs8.PLAIN_LABEL, pkcs8.ENCRYPTED_LABEL}:
            yield _of_pkcs8(path, block, passphrases)
        else:
            raise ConfigurationError(f"holds {block.label!r}, which is no key that is known here", reason="bad_key")


def _of_pkcs8(path: Path, block: armour.Block, passphrases: PassphraseSource | None) -> KeyFacts:
    encrypted = block.label == pkcs8.ENCRYPTED_LABEL
    der = block.data
    if encrypted:
        if passphrases is None:
            return KeyFacts(str(path), "private key", "", None, private=True, encrypted=True)
        pem = armour.encode(block.label, block.data)
        plain = unlocked(str(path), passphrases, lambda phrase: pkcs8.decrypt(pem, phrase))
        der = armour.decode(plain, pkcs8.PLAIN_LABEL, max_bytes=pkcs8.MAX_PEM_BYTES)
    facts = _of_spki(path, mldsa_keys.public_half(der), "private key")
    return KeyFacts(str(path), facts.kind, facts.algorithm, facts.fingerprint, private=True, encrypted=encrypted)


def _of_spki(path: Path, spki: bytes, kind: str) -> KeyFacts:
    try:
        algorithm = VerifyingKey.from_spki(spki).algorithm
    except ConfigurationError:
        # Classical keys of a migration are shown too; anything that is no key at all is not.
        try:
            algorithm = type(load_der_public_key(spki)).__name__.removesuffix("PublicKey")
        except (ValueError, UnsupportedAlgorithm) as error:
            raise ConfigurationError(f"not a public key: {error}", reason="bad_key") from error
    return KeyFacts(str(path), kind, algorithm, hashlib.sha256(spki).digest())


def _of_certificate(path: Path, certificate: x509.Certificate) -> KeyFacts:
    spki = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    try:
        owner = str(chain.spiffe_id(certificate))
    except CertificateError:
        owner = certificate.subject.rfc4514_string()
    return KeyFacts(
        str(path), _certificate_kind(certificate), chain.key_algorithm_name(certificate), hashlib.sha256(spki).digest(),
        owner=owner, made=int(certificate.not_valid_before_utc.timestamp()),
        not_after=int(certificate.not_valid_after_utc.timestamp()),
    )  # fmt: skip


def _certificate_kind(certificate: x509.Certificate) -> str:
    constraints = find_extension(certificate, x509.BasicConstraints)
    if constraints is not None and constraints.ca:
        return "root certificate" if chain.is_self_signed(certificate) else "issuing certificate"
    usages = find_extension(certificate, x509.ExtendedKeyUsage) or ()
    words = [usage.value for usage in Usage if usage.oid in usages]
    return " ".join([*words, "certificate"])


def _of_document(path: Path, data: bytes, cacert: Path | None) -> Iterator[KeyFacts]:
    document = parse_object(data, "document")
    kind = str(document.get("pqfl", ""))[:40]
    payload = parse_object(_text(document, "payload").encode("utf-8", "replace"), kind)
    remark = _UNVERIFIED
    if kind == "roster/v1" and cacert is not None:
        load_roster(path, root_keys(chain.load_certificates(read_public(cacert))))
        remark = f"verified with {cacert}"
    if kind == "roster/v1":
        parties = payload.get("parties")
        if not isinstance(parties, list):
            raise MessageError("the roster has no parties", reason="malformed")
        for party in parties:
            yield from _of_party(path, party, remark)
    elif kind == "round/v1":
        signer = bytes.fromhex(_text(document, "signer"))
        if len(signer) != FINGERPRINT_BYTES:
            raise MessageError("the document's signer is no fingerprint", reason="malformed")
        yield KeyFacts(str(path), "signing key", "", signer, owner=_text(payload, "aggregator"), remark=remark)
        if payload.get("receiving_key"):
            owner = f"{_text(payload, 'aggregator')}, round {payload.get('round')}"
            yield _of_receiving(path, payload, owner, remark)
    elif kind == "receiving-key/v1":
        yield _of_receiving(path, payload, _text(payload, "id"), remark)
    else:
        raise ConfigurationError(f"is a document {kind!r}, which holds no key that is known here", reason="bad_key")


def _of_party(path: Path, party: Any, remark: str) -> Iterator[KeyFacts]:
    if not isinstance(party, dict):
        raise MessageError("a party is not an object", reason="malformed")
    spki = decode_base64(_text(party, "signing_key"), "signing_key")
    facts = _of_spki(path, spki, "signing key")
    owner = _text(party, "id")
    yield KeyFacts(str(path), facts.kind, facts.algorithm, facts.fingerprint, owner=owner, remark=remark)
    if isinstance(former := party.get("former"), dict):
        facts = _of_spki(path, decode_base64(_text(former, "signing_key"), "signing_key"), "former signing key")
        until = former.get("until")
        yield KeyFacts(
            str(path), facts.kind, facts.algorithm, facts.fingerprint, owner=owner, remark=remark,
            not_after=until if isinstance(until, int) and 0 <= until <= MAX_TIME else 0,
        )  # fmt: skip
    yield _of_receiving(path, party, owner, remark)


def _of_receiving(path: Path, fields: Mapping[str, Any], owner: str, remark: str) -> KeyFacts:
    key = RecipientKey.from_bytes(decode_base64(_text(fields, "receiving_key"), "receiving_key"))
    made = fields.get("made", 0)
    return KeyFacts(
        str(path), "public receiving key", key.kem, key.fingerprint, owner=owner, remark=remark,
        made=made if isinstance(made, int) else 0,
    )  # fmt: skip


def _text(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str):
        raise MessageError(f"the document's field {name!r} is missing or no text", reason="malformed")
    return value
