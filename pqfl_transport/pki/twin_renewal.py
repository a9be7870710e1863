"""Renewing a classical twin, as messages: what a party asks of the enrolment service, and what it gets.

A request of its own beside that of the post-quantum certificates (`pki.enrolment`), so that neither waits for the
other. It comes over post-quantum TLS, is bound to that connection by its exporter and signed by the party's present TLS
key: nobody who can only forge classical signatures gets a twin. The new key has signed its own certification request.
Nothing here reads a clock, a file or a socket.
"""

import base64
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from pqfl_transport.crypto.pyca import SigningKey
from pqfl_transport.errors import CertificateError, MessageError
from pqfl_transport.pki import chain
from pqfl_transport.pki.documents import (
    DocumentKind,
    decode_base64,
    open_document,
    parse_object,
    require_fields,
    sign_document,
)
from pqfl_transport.pki.enrolment import MAX_MESSAGE_BYTES
from pqfl_transport.pki.requests import make_request, open_twin_request
from pqfl_transport.pki.spiffe import SpiffeId

RENEW_TWIN_PATH = "/v1/renew-twin"

_REQUEST, _ANSWER = "twin-renewal-request/v1", "twin-renewal-answer/v1"
_REQUEST_FIELDS = {"pqfl": str, "tls_certificate": str, "twin_certificate": str, "request": str}
_PAYLOAD_FIELDS = {"id": str, "binding": str, "twin_sha256": str, "request": str}
_ANSWER_FIELDS = {"pqfl": str, "twin": str, "anchors": str}


@dataclass(frozen=True, slots=True)
class TwinRenewal:
    """A request that its TLS key has signed. Whose certificates these are, and whether they hold, is not known yet."""

    party: SpiffeId
    tls: x509.Certificate
    twin: x509.Certificate
    """The present twin, which is to be renewed."""
    new_key: ec.EllipticCurvePublicKey
    """Possession of its private key has been shown."""


@dataclass(frozen=True, slots=True)
class TwinGrant:
    """What a party is given."""

    twin: x509.Certificate
    anchors: tuple[x509.Certificate, ...]
    """The federation's classical issuers that count, the one that signs first."""


def make_twin_renewal(
    party: SpiffeId, binding: bytes, tls: x509.Certificate, key: SigningKey, twin: x509.Certificate,
    new_key: ec.EllipticCurvePrivateKey,
) -> bytes:  # fmt: skip
    """Return the request for one connection; ``key`` is the private key of ``tls``."""
    payload = {
        "id": str(party), "binding": binding.hex(), "twin_sha256": _sha256(twin),
        "request": _encode(make_request(party, new_key)),
    }  # fmt: skip
    message = {
        "pqfl": _REQUEST,
        "tls_certificate": _encode(tls.public_bytes(Encoding.DER)),
        "twin_certificate": _encode(twin.public_bytes(Encoding.DER)),
        "request": sign_document(DocumentKind.RENEWAL_TWIN, payload, key).decode(),
    }
    return json.dumps(message).encode()


def open_twin_renewal(data: bytes, binding: bytes) -> TwinRenewal:
    """Verify that the TLS key in a request signed it on this connection, for the twin in it.

    Raises ``MessageError``: ``too_large``, ``malformed``, ``unknown_signer``, ``bad_signature``, ``wrong_connection``,
    ``wrong_name`` where it and its certificates are not all of one party, ``wrong_certificate`` for another twin, and
    what `requests.open_twin_request` raises; ``CertificateError`` for an unreadable certificate.
    """
    message = _outer(data, _REQUEST, _REQUEST_FIELDS)
    tls, twin = (
        chain.load_certificate_der(decode_base64(message[name], _REQUEST))
        for name in ("tls_certificate", "twin_certificate")
    )
    kind = DocumentKind.RENEWAL_TWIN
    document = open_document(_text(message["request"], _REQUEST), kind, [chain.verifying_key(tls)])
    fields = require_fields(document, _PAYLOAD_FIELDS, kind.tag)
    if not hmac.compare_digest(fields["binding"].encode(), binding.hex().encode()):
        raise MessageError(f"{kind.tag}: was made for another connection", reason="wrong_connection")
    party = chain.spiffe_id(tls)
    if fields["id"] != str(party) or chain.spiffe_id(twin) != party:
        raise MessageError(f"{kind.tag}: certificates and request are not all of {party}", reason="wrong_name")
    if fields["twin_sha256"] != _sha256(twin):
        raise MessageError(f"{kind.tag}: is for another twin", reason="wrong_certificate")
    new_key = open_twin_request(decode_base64(fields["request"], kind.tag), party, kind.tag)
    return TwinRenewal(party, tls, twin, new_key)


def twin_answer(grant: TwinGrant) -> bytes:
    """Return the answer."""
    anchors = b"".join(one.public_bytes(Encoding.PEM) for one in grant.anchors)
    twin = grant.twin.public_bytes(Encoding.PEM)
    return json.dumps({"pqfl": _ANSWER, "twin": twin.decode(), "anchors": anchors.decode()}).encode()


def open_twin_answer(data: bytes) -> TwinGrant:
    """Parse an answer; whether its certificates are any good is for its reader to verify.

    Raises ``MessageError`` (``too_large``, ``malformed``).
    """
    message = _outer(data, _ANSWER, _ANSWER_FIELDS)
    try:
        (twin,) = chain.load_certificates(_text(message["twin"], _ANSWER))
        return TwinGrant(twin, tuple(chain.load_certificates(_text(message["anchors"], _ANSWER))))
    except (CertificateError, ValueError) as error:
        raise MessageError(f"{_ANSWER}: {error}", reason="malformed") from error


def _outer(data: bytes, tag: str, fields: Mapping[str, type]) -> dict[str, str]:
    if len(data) > MAX_MESSAGE_BYTES:
        raise MessageError(f"{tag}: {len(data)} bytes, more than {MAX_MESSAGE_BYTES}", reason="too_large")
    message: dict[str, str] = require_fields(parse_object(data, tag), fields, tag)
    if message["pqfl"] != tag:
        raise MessageError(f"{tag}: says that it is {message['pqfl'][:40]!r}", reason="malformed")
    return message


def _sha256(certificate: x509.Certificate) -> str:
    return certificate.fingerprint(SHA256()).hex()


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _text(text: str, where: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise MessageError(f"{where}: not Unicode text", reason="malformed") from error
