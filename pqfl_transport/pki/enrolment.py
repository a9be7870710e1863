"""Joining and renewing, as messages: what a party asks of the enrolment service and what it gets (docs/enrolment.md).

Nothing here reads a clock, a file or a socket. Both requests are bound to the TLS connection they travel on by
``binding``, its exporter (RFC 9266), so one that was recorded is of no use on another connection.

A joining request is authenticated by the token's HMAC over its exact bytes, and so is the answer. A renewal is signed
by the keys of the present certificates. In both, every new key has signed its own certification request. A signing
certificate is only for the present signing key again, or for the next one, which waits for a roster that names it: both
are asked for in one document that the present signing key has signed.
"""

import base64
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from pqfl_transport.crypto.pyca import SigningKey, VerifyingKey
from pqfl_transport.errors import CertificateError, MessageError
from pqfl_transport.pki import chain
from pqfl_transport.pki.documents import DocumentKind, decode_base64, open_document, parse_object, require_fields
from pqfl_transport.pki.documents import sign_document as sign
from pqfl_transport.pki.requests import make_request, open_request
from pqfl_transport.pki.spiffe import SpiffeId
from pqfl_transport.pki.statements import Statement, open_first_statement, sign_statement
from pqfl_transport.pki.tokens import JoinToken, TokenKeys

MAX_MESSAGE_BYTES = 256 * 1024
"""A joining request of the highest level has 50 kB; an answer with a dozen authorities fits as well."""
BINDING_BYTES = 32
JOIN_PATH = "/v1/join"
RENEW_PATH = "/v1/renew"
CA_PATH = "/v1/ca"
CRL_PATH = "/v1/crl"
ROSTER_PATH = "/v1/roster"
STATUS_PATH = "/v1/join/{token}"

_JOIN, _ANSWER, _RENEWAL = "join-request/v1", "join-answer/v1", "renewal-request/v1"
_AUTHENTICATED_FIELDS = {"pqfl": str, "token": str, "payload": str, "mac": str}
_JOIN_FIELDS = {"id": str, "tls": str, "signing": str, "receiving": str}
_ANSWER_FIELDS = {"pqfl": str, "payload": str, "mac": str}
_RENEWAL_FIELDS = {
    "pqfl": str, "tls_certificate": str, "signing_certificate": str, "request": str, "signing_request": str,
}  # fmt: skip
_RENEWAL_PAYLOAD_FIELDS = {"id": str, "binding": str, "request": str}
_NEXT = "next"
_GRANT_FIELDS = {"state": str, "tls": str, "signing": str, "ca": str, "gateway": str, "gateway_id": str}
_MAX_ADDRESS_CHARACTERS = 300


class State(StrEnum):
    """How far a joining request is."""

    OPEN = "open"
    """The token was not used yet."""
    PENDING = "pending"
    """It waits for somebody's approval."""
    APPROVED = "approved"
    """It was approved, or needs no approval, and is issued when it is asked for again."""
    DENIED = "denied"
    ISSUED = "issued"


@dataclass(frozen=True, slots=True)
class NewKeys:
    """The public keys that ask for certificates; possession of the private ones has been shown."""

    party: SpiffeId
    tls: VerifyingKey
    signing: VerifyingKey | None
    receiving: bytes | None = None
    """The bytes inside a ``PQFL RECEIVING PUBLIC KEY`` block; whoever uses them looks into them."""
    next_signing: VerifyingKey | None = None
    """In a renewal: the signing key that waits for a roster."""


@dataclass(frozen=True, slots=True)
class Grant:
    """What a party is given."""

    tls: x509.Certificate
    signing: x509.Certificate | None
    ca_pem: bytes
    gateway: str = ""
    """Where the federation's gateway listens, HOST:PORT, where the service knows."""
    gateway_id: str = ""
    """Its SPIFFE ID."""
    next_signing: x509.Certificate | None = None


@dataclass(frozen=True, slots=True)
class PresentCertificates:
    """What a renewal rests on: verified as its signer, and not yet as somebody's of this federation."""

    tls: x509.Certificate
    signing: x509.Certificate | None


def join_payload(party: SpiffeId, tls: SigningKey, signing: SigningKey, receiving: bytes, *, made: int) -> bytes:
    """Return what a site asks with: made once, and sent again as it is until there is an answer.

    ``receiving`` is the public structure of its receiving key, ``made`` the time in Unix seconds.
    """
    statement = sign_statement(Statement(party, receiving, made, made + _STATEMENT_SECONDS), signing)
    payload = {
        "id": str(party),
        "tls": _encode(make_request(party, tls)),
        "signing": _encode(make_request(party, signing)),
        "receiving": statement.decode(),
    }
    return json.dumps(payload).encode()


def join_request(token: JoinToken, payload: bytes, binding: bytes) -> bytes:
    """Return the request for one connection."""
    keys = token.keys
    message = {
        "pqfl": _JOIN,
        "token": keys.token_id,
        "payload": payload.decode(),
        "mac": _encode(keys.request_mac(binding, payload)),
    }
    return json.dumps(message).encode()


def token_of(data: bytes) -> str:
    """Return which token a joining request names, before anything of it is known to be true. Raises as `open_join`."""
    return str(_outer(data, _JOIN, _AUTHENTICATED_FIELDS)["token"])


def open_join(
    data: bytes, keys: TokenKeys, party: SpiffeId, binding: bytes, *, now: float
) -> tuple[bytes, NewKeys]:  # fmt: skip
    """Verify a joining request by its token's keys; return its payload as it came, and the keys it brings.

    ``now`` is in Unix seconds.

    Raises ``MessageError``: ``too_large``, ``malformed``, ``bad_mac`` (another token, another connection, a changed
    byte), ``wrong_name`` for a party that the token is not for, and what `open_request` and `open_first_statement`
    raise.
    """
    message = _outer(data, _JOIN, _AUTHENTICATED_FIELDS)
    payload = _text(message["payload"], _JOIN)
    mac = decode_base64(message["mac"], f"{_JOIN}: mac")
    if not hmac.compare_digest(mac, keys.request_mac(binding, payload)):
        raise MessageError(f"{_JOIN}: its HMAC does not hold under this token", reason="bad_mac")
    fields = require_fields(parse_object(payload, _JOIN), _JOIN_FIELDS, _JOIN)
    if fields["id"] != str(party):
        raise MessageError(f"{_JOIN}: is for {fields['id'][:80]!r}, and the token for {party}", reason="wrong_name")
    tls = open_request(decode_base64(fields["tls"], f"{_JOIN}: tls"), party, f"{_JOIN}: tls")
    signing = open_request(decode_base64(fields["signing"], f"{_JOIN}: signing"), party, f"{_JOIN}: signing")
    statement = open_first_statement(_text(fields["receiving"], _JOIN), party, signing, now=now)
    return payload, NewKeys(party, tls, signing, statement.receiving_key)


def grant_payload(state: State, grant: Grant | None = None) -> bytes:
    """Return the body of an answer: how far a request is and, once it is issued, what the party is given."""
    payload = {
        "state": state.value,
        "tls": "" if grant is None else _pem(grant.tls),
        "signing": "" if grant is None or grant.signing is None else _pem(grant.signing),
        "ca": "" if grant is None else grant.ca_pem.decode(),
        "gateway": "" if grant is None else grant.gateway,
        "gateway_id": "" if grant is None else grant.gateway_id,
    }
    if grant is not None and grant.next_signing is not None:
        payload[_NEXT] = _pem(grant.next_signing)
    return json.dumps(payload).encode()


def open_grant(data: bytes) -> tuple[State, Grant | None]:
    """Parse the body of an answer; whether the certificates are any good is for its reader to verify.

    Raises ``MessageError`` (``too_large``, ``malformed``).
    """
    if len(data) > MAX_MESSAGE_BYTES:
        raise MessageError(f"an answer of {len(data)} bytes, more than {MAX_MESSAGE_BYTES}", reason="too_large")
    message = parse_object(data, _ANSWER)
    fields = require_fields(message, _with_next(_GRANT_FIELDS, message), _ANSWER)
    try:
        state = State(fields["state"])
        if state is not State.ISSUED:
            return state, None
        signing = _certificate_pem(fields["signing"]) if fields["signing"] else None
        ca_pem = _text(fields["ca"], _ANSWER)
        chain.load_certificates(ca_pem)
        if len(fields["gateway"]) > _MAX_ADDRESS_CHARACTERS:
            raise MessageError(f"{_ANSWER}: no such address can be", reason="malformed")
        gateway_id = str(SpiffeId.parse(fields["gateway_id"])) if fields["gateway_id"] else ""
        following = _certificate_pem(fields[_NEXT]) if _NEXT in fields else None
        tls = _certificate_pem(fields["tls"])
        return state, Grant(tls, signing, ca_pem, fields["gateway"], gateway_id, following)
    except (CertificateError, ValueError) as error:
        raise MessageError(f"{_ANSWER}: {error}", reason="malformed") from error


def join_answer(keys: TokenKeys, request: bytes, payload: bytes, binding: bytes) -> bytes:
    """Return the answer to a joining request whose payload was ``request``."""
    message = {
        "pqfl": _ANSWER,
        "payload": payload.decode(),
        "mac": _encode(keys.answer_mac(binding, request, payload)),
    }
    return json.dumps(message).encode()


def open_join_answer(data: bytes, keys: TokenKeys, request: bytes, binding: bytes) -> tuple[State, Grant | None]:
    """Verify an answer by the token's keys. Raises ``MessageError``: ``bad_mac``, and what `open_grant` raises."""
    message = _outer(data, _ANSWER, _ANSWER_FIELDS)
    payload = _text(message["payload"], _ANSWER)
    mac = decode_base64(message["mac"], f"{_ANSWER}: mac")
    if not hmac.compare_digest(mac, keys.answer_mac(binding, request, payload)):
        raise MessageError(f"{_ANSWER}: its HMAC does not hold under this token", reason="bad_mac")
    return open_grant(payload)


@dataclass(frozen=True, slots=True)
class Holder:
    """A certificate, the present key that belongs to it, and the keys that certificates are asked for."""

    certificate: x509.Certificate
    key: SigningKey
    new_key: SigningKey | None
    """What takes its place, or itself; None, for a signing key only, where no new certificate is asked for."""
    next_key: SigningKey | None = None
    """The signing key that waits for a roster."""


def renewal_request(party: SpiffeId, binding: bytes, tls: Holder, signing: Holder | None = None) -> bytes:
    """Return a request to renew the TLS certificate and, with ``signing``, the signing certificate."""
    message = {
        "pqfl": _RENEWAL,
        "tls_certificate": _der(tls.certificate),
        "signing_certificate": "" if signing is None else _der(signing.certificate),
        "request": _signed(DocumentKind.RENEWAL, party, binding, tls),
        "signing_request": "" if signing is None else _signed(DocumentKind.RENEWAL_SIGNING, party, binding, signing),
    }
    return json.dumps(message).encode()


def open_renewal(data: bytes, binding: bytes) -> tuple[PresentCertificates, NewKeys]:
    """Verify that the keys of the certificates in a renewal signed it on this connection; return both.

    Whose certificates these are, and whether they hold, is for the caller to verify. Raises ``MessageError``:
    ``too_large``, ``malformed``, ``bad_signature``, ``wrong_connection``, ``wrong_name`` where a certificate and the
    request are of two parties, and what `open_request` raises; ``CertificateError`` for an unreadable certificate.
    """
    message = _outer(data, _RENEWAL, _RENEWAL_FIELDS)
    if bool(message["signing_certificate"]) is not bool(message["signing_request"]):
        raise MessageError(f"{_RENEWAL}: a signing certificate and its request come together", reason="malformed")
    certificate = _certificate(message["tls_certificate"])
    party, fields = _open_signed(message["request"], DocumentKind.RENEWAL, certificate, binding)
    tls = _open_request(fields["request"], party, DocumentKind.RENEWAL)
    if not message["signing_certificate"]:
        return PresentCertificates(certificate, None), NewKeys(party, tls, None)
    signing_certificate, kind = _certificate(message["signing_certificate"]), DocumentKind.RENEWAL_SIGNING
    signer, fields = _open_signed(message["signing_request"], kind, signing_certificate, binding)
    if signer != party:
        raise MessageError(f"{_RENEWAL}: of {party}, with a signing certificate of {signer}", reason="wrong_name")
    again = _open_request(fields["request"], party, kind) if fields["request"] else None
    following = _open_request(fields[_NEXT], party, kind) if _NEXT in fields else None
    if again is None and following is None:
        raise MessageError(f"{kind.tag}: asks for no certificate", reason="malformed")
    return PresentCertificates(certificate, signing_certificate), NewKeys(party, tls, again, None, following)


_STATEMENT_SECONDS = 24 * 3600


def _signed(kind: DocumentKind, party: SpiffeId, binding: bytes, holder: Holder) -> str:
    request = "" if holder.new_key is None else _encode(make_request(party, holder.new_key))
    payload = {"id": str(party), "binding": binding.hex(), "request": request}
    if holder.next_key is not None:
        payload[_NEXT] = _encode(make_request(party, holder.next_key))
    return sign(kind, payload, holder.key).decode()


def _open_signed(
    text: str, kind: DocumentKind, certificate: x509.Certificate, binding: bytes
) -> tuple[SpiffeId, dict[str, Any]]:
    payload = open_document(_text(text, _RENEWAL), kind, [chain.verifying_key(certificate)])
    known = _RENEWAL_PAYLOAD_FIELDS
    fields = require_fields(
        payload, _with_next(known, payload) if kind is DocumentKind.RENEWAL_SIGNING else known, kind.tag
    )
    if not hmac.compare_digest(fields["binding"].encode(), binding.hex().encode()):
        raise MessageError(f"{kind.tag}: was made for another connection", reason="wrong_connection")
    party = chain.spiffe_id(certificate)
    if fields["id"] != str(party):
        raise MessageError(f"{kind.tag}: the certificate is not of {fields['id'][:80]!r}", reason="wrong_name")
    return party, fields


def _open_request(text: str, party: SpiffeId, kind: DocumentKind) -> VerifyingKey:
    return open_request(decode_base64(text, kind.tag), party, kind.tag)


def _with_next(fields: Mapping[str, type], message: Mapping[str, Any]) -> Mapping[str, type]:
    # It is there only where a next key is: whoever does not know it reads all other messages.
    return {**fields, _NEXT: str} if _NEXT in message else fields


def _outer(data: bytes, tag: str, fields: Mapping[str, type]) -> dict[str, Any]:
    if len(data) > MAX_MESSAGE_BYTES:
        raise MessageError(f"{tag}: {len(data)} bytes, more than {MAX_MESSAGE_BYTES}", reason="too_large")
    message = require_fields(parse_object(data, tag), fields, tag)
    if message["pqfl"] != tag:
        raise MessageError(f"{tag}: says that it is {message['pqfl'][:40]!r}", reason="malformed")
    return message


def _certificate(text: str) -> x509.Certificate:
    return chain.load_certificate_der(decode_base64(text, _RENEWAL))


def _certificate_pem(text: str) -> x509.Certificate:
    return chain.load_certificates(_text(text, _ANSWER))[0]


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(Encoding.PEM).decode()


def _der(certificate: x509.Certificate) -> str:
    return _encode(certificate.public_bytes(Encoding.DER))


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _text(text: str, where: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise MessageError(f"{where}: not Unicode text", reason="malformed") from error
