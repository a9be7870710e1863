"""Joining tokens: one line of text that lets one named party into a federation, once, until it expires.

    pqfl-join-1.BASE64URL      LP(level, root's fingerprint, service, party, expiry, secret) ‖ checksum

Whoever holds a token can join in that party's name, and nobody else can play the enrolment service to its holder: the
root's fingerprint and the service's SPIFFE ID are checked before anything is sent. The secret itself never travels.
Three keys are derived from all of the token (HKDF-SHA-512): its public name, and those of the HMACs over requests and
over answers, so that a token with another name or another end in it is another token. The checksum, the first 4 bytes
of SHA-256, tells a token that was copied badly from one that is refused; it protects against nothing else.
"""

import base64
import binascii
import hashlib
import hmac
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Self

from pqfl_transport.crypto.contexts import Label, length_prefixed
from pqfl_transport.crypto.pyca import hkdf_sha512
from pqfl_transport.errors import CertificateError, ConfigurationError, MessageError
from pqfl_transport.pki.spiffe import Role, SpiffeId
from pqfl_transport.policy import SecurityLevel

PREFIX = "pqfl-join-1."
MAX_TOKEN_CHARACTERS = 1024
SECRET_BYTES = 32
KEY_BYTES = 32
MAC_BYTES = 64
SERVICE_NAME = "enrolment"
"""The enrolment service is ``spiffe://FEDERATION/gateway/enrolment``: it listens and never dials, as gateways do."""

_ID_BYTES = 16
_FINGERPRINT_BYTES = 32
_TIME_BYTES = 8
_CHECKSUM_BYTES = 4
_LENGTH_BYTES = 4
_ITEMS = 6
_MAX_TIME = 1 << 48


def service_id(federation: str) -> SpiffeId:
    """Return the SPIFFE ID of a federation's enrolment service."""
    return SpiffeId(federation, Role.GATEWAY, SERVICE_NAME)


@dataclass(frozen=True, slots=True)
class TokenKeys:
    """What both sides compute with; the authority keeps this and not the token."""

    token_id: str
    """32 hex digits: names the token, says nothing about it."""
    request_key: bytes = field(repr=False)
    answer_key: bytes = field(repr=False)

    def request_mac(self, binding: bytes, payload: bytes) -> bytes:
        """Return the HMAC-SHA-512 over a request; ``binding`` is the connection's exporter (RFC 9266)."""
        return hmac.digest(self.request_key, length_prefixed(binding, payload), "sha512")

    def answer_mac(self, binding: bytes, request: bytes, payload: bytes) -> bytes:
        """Return the HMAC-SHA-512 over an answer, which is bound to the payload of the request that it answers."""
        message = length_prefixed(binding, hashlib.sha512(request).digest(), payload)
        return hmac.digest(self.answer_key, message, "sha512")


@dataclass(frozen=True, slots=True)
class JoinToken:
    """What a token says. Its text is a secret."""

    level: SecurityLevel
    root_sha256: bytes
    """Over the DER of the root's certificate."""
    service: SpiffeId
    party: SpiffeId
    expires_at: int
    """Unix seconds."""
    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if self.service.federation != self.party.federation:
            raise ConfigurationError("the token's service and party are of two federations", reason="bad_token")
        if len(self.root_sha256) != _FINGERPRINT_BYTES or len(self.secret) != SECRET_BYTES:
            raise ConfigurationError("the token's fingerprint or secret is not of 32 bytes", reason="bad_token")
        if not 0 < self.expires_at < _MAX_TIME:
            raise ConfigurationError("the token's end is no time", reason="bad_token")

    @classmethod
    def make(
        cls,
        *,
        level: SecurityLevel,
        root_sha256: bytes,
        party: SpiffeId,
        expires_at: int,
        random: Callable[[int], bytes] = secrets.token_bytes,
    ) -> Self:
        """Make a token with a fresh secret; ``random`` is replaced in tests only."""
        return cls(level, root_sha256, service_id(party.federation), party, expires_at, random(SECRET_BYTES))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse the one spelling of a token; white space around it does not count.

        Raises ``ConfigurationError`` (``bad_token``), never quoting it.
        """
        text = text.strip()
        if not text.startswith(PREFIX) or len(text) > MAX_TOKEN_CHARACTERS:
            raise _bad(f"it does not begin with {PREFIX}, or is too long")
        body = text.removeprefix(PREFIX)
        try:
            data = base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError) as error:
            raise _bad("a character is wrong or missing") from error
        if base64.urlsafe_b64encode(data).decode().rstrip("=") != body:
            raise _bad("a character is wrong or missing")
        packed, checksum = data[:-_CHECKSUM_BYTES], data[-_CHECKSUM_BYTES:]
        if _checksum(packed) != checksum:
            raise _bad("its checksum does not fit: it was copied with a mistake, or not to its end")
        return cls._unpack(packed)

    def to_text(self) -> str:
        """Return the line to hand over: a secret."""
        packed = self._packed
        return PREFIX + base64.urlsafe_b64encode(packed + _checksum(packed)).decode().rstrip("=")

    @property
    def keys(self) -> TokenKeys:
        """What is derived from all of the token."""

        def derive(label: Label, length_bytes: int) -> bytes:
            return hkdf_sha512(self.secret, length_prefixed(label.value, self._packed), length_bytes)

        return TokenKeys(
            derive(Label.JOIN_TOKEN, _ID_BYTES).hex(),
            derive(Label.JOIN_REQUEST, KEY_BYTES),
            derive(Label.JOIN_ANSWER, KEY_BYTES),
        )

    def require_current(self, now: float) -> None:
        """Raise ``MessageError`` (``token_expired``) once the token's end is over."""
        if now > self.expires_at:
            raise expired(self.party)

    @property
    def _packed(self) -> bytes:
        return length_prefixed(
            self.level.value.encode(), self.root_sha256, str(self.service).encode(), str(self.party).encode(),
            self.expires_at.to_bytes(_TIME_BYTES, "big"), self.secret,
        )  # fmt: skip

    @classmethod
    def _unpack(cls, packed: bytes) -> Self:
        level, root, service, party, expires_at, secret = _split(packed)
        if len(expires_at) != _TIME_BYTES:
            raise _bad("its end is no time")
        try:
            return cls(
                SecurityLevel(level.decode()), root, SpiffeId.parse(service.decode()), SpiffeId.parse(party.decode()),
                int.from_bytes(expires_at, "big"), secret,
            )  # fmt: skip
        except (CertificateError, ValueError) as error:
            raise _bad("it names no level, service or party that this version knows") from error


def expired(party: SpiffeId | str) -> MessageError:
    """Return the refusal of a token whose end is over."""
    return MessageError(f"the token for {party} has expired: ask for another one", reason="token_expired")


def _checksum(packed: bytes) -> bytes:
    return hashlib.sha256(packed).digest()[:_CHECKSUM_BYTES]


def _split(packed: bytes) -> list[bytes]:
    items, at = [], 0
    while at < len(packed):
        length = int.from_bytes(packed[at : at + _LENGTH_BYTES], "big")
        items.append(packed[at + _LENGTH_BYTES : at + _LENGTH_BYTES + length])
        at += _LENGTH_BYTES + length
    if at != len(packed) or len(items) != _ITEMS or length_prefixed(*items) != packed:
        raise _bad("it is not of this version")
    return items


def _bad(why: str) -> ConfigurationError:
    return ConfigurationError(f"this is no joining token of version 1: {why}", reason="bad_token")
