"""The roster: who belongs to a federation, with which keys, signed by the offline root.

The roster carries the public keys themselves beside their fingerprints, so no message ever brings a key. Rosters are
numbered, and a reader that remembers the highest number it has seen refuses a lower one: whoever was left out of a
later roster does not come back with an earlier one. Only the root signs it; joining is a decision of the consortium
and not of a service that is online.

A member whose signing key was replaced has two for a while, the present and the former one, so that rosters may reach
everybody at different times. Whoever verifies looks the key up among those that count now (`Party.signing_keys`).
"""

import base64
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from pqfl_transport.crypto.pyca import SigningKey, VerifyingKey
from pqfl_transport.errors import CertificateError, ConfigurationError, MessageError
from pqfl_transport.pki.documents import (
    DocumentKind,
    decode_base64,
    open_document,
    require_fields,
    sign_document,
)
from pqfl_transport.pki.references import CertificateReference
from pqfl_transport.pki.spiffe import SpiffeId, require_label
from pqfl_transport.policy import SecurityLevel, for_level

_WHERE = DocumentKind.ROSTER.tag
MAX_ROSTER_BYTES = 128 * 1024 * 1024
"""What a reader takes: 10,000 parties with ML-DSA-87 keys, each with a former signing key as well, are 100 MiB."""
MAX_WEIGHT_CAP = 2**63 - 1
_MAX_NUMBER = 2**63 - 1
MAX_TIME = 253_402_300_799
"""The last second of the year 9999, in Unix seconds."""
_MAX_BITS = 62
_MAX_CLIP = 1e9

_ROSTER_FIELDS = {
    "federation": str,
    "level": str,
    "number": int,
    "issued_at": int,
    "parties": list,
    "secure_aggregation": dict,
}
_PARTY_FIELDS: dict[str, type] = {
    "id": str,
    "signing_key": str,
    "signing_fingerprint": str,
    "receiving_key": str,
    "receiving_fingerprint": str,
    "weight_cap": int,
}
_CERTIFICATE = "signing_certificate"
_FORMER = "former"
_FORMER_FIELDS: dict[str, type] = {"signing_key": str, "signing_fingerprint": str, "until": int}
_SECURE_AGGREGATION_FIELDS: Mapping[str, type | tuple[type, ...]] = MappingProxyType(
    {"minimum_sites": int, "threshold": int, "clip": (int, float), "bits": int}
)


@dataclass(frozen=True, slots=True)
class FormerKey:
    """The signing key that a member had before the present one."""

    key: VerifyingKey
    until: int
    """Unix seconds; it counts up to and including this time."""
    certificate: CertificateReference | None = None
    """Its certificate, as `Party.certificate`."""


@dataclass(frozen=True, slots=True)
class Party:
    """A member that signs and receives content: a site or an aggregator."""

    id: SpiffeId
    signing_key: VerifyingKey
    receiving_key: bytes
    """The bytes inside its ``PQFL RECEIVING PUBLIC KEY`` block; this module does not look into them."""
    receiving_fingerprint: bytes
    """SHA-256 over ``receiving_key``, 32 bytes."""
    weight_cap: int
    """The most samples a single update of this party may claim; 0 for one that sends no updates."""
    certificate: CertificateReference | None = None
    """The certificate of ``signing_key``, so that its revocation counts; rosters of earlier versions have none."""
    former: FormerKey | None = None
    """The key before this one, of the same algorithm, for as long as both count."""

    def signing_keys(self, now: float) -> tuple[VerifyingKey, ...]:
        """Return the keys whose signatures count at ``now``, in Unix seconds: the present one first."""
        former = self.former
        return (self.signing_key,) if former is None or now > former.until else (self.signing_key, former.key)

    def key_for(self, fingerprint: bytes, now: float) -> VerifyingKey:
        """Return the key of this fingerprint that counts at ``now``, in Unix seconds.

        Raises ``MessageError`` (``wrong_sender_key``) where the member has none, or not any more.
        """
        for key in self.signing_keys(now):
            if key.fingerprint == fingerprint:
                return key
        former = self.former
        ended = former is not None and former.key.fingerprint == fingerprint
        why = "replaced, and its time is over" if ended else "none of its keys in the roster"
        raise MessageError(
            f"signed with the key {fingerprint.hex()[:16]}… of {self.id}, which is {why}", reason="wrong_sender_key"
        )


@dataclass(frozen=True, slots=True)
class SecureAggregation:
    """The parameters of secure aggregation that all members agree on. They count only where a round uses it."""

    minimum_sites: int = 3
    """A round with fewer sites than this is not opened."""
    threshold: int = 2
    """So many sites can finish a round when others drop out; not more than ``minimum_sites``."""
    clip: float = 8.0
    """Entries of a delta beyond this are clipped before they are made integers."""
    bits: int = 24
    """How many bits one clipped entry is encoded in."""


@dataclass(frozen=True, slots=True)
class Roster:
    """One numbered state of a federation. ``parties`` maps SPIFFE URIs to their holders."""

    federation: str
    level: SecurityLevel
    number: int
    issued_at: int
    """Unix seconds."""
    parties: Mapping[str, Party]
    secure_aggregation: SecureAggregation = field(default_factory=SecureAggregation)

    def party(self, spiffe_uri: str) -> Party:
        """Return the member of this ID. Raises ``MessageError`` (``unknown_sender``) where there is none."""
        try:
            return self.parties[spiffe_uri]
        except KeyError:
            raise MessageError(
                f"{spiffe_uri[:256]!r} is not in roster {self.number} of {self.federation}", reason="unknown_sender"
            ) from None


def sign_roster(roster: Roster, root_key: SigningKey) -> bytes:
    """Return the roster as a signed document. Raises ``MessageError`` where no reader would take it."""
    payload = _encode(roster)
    _decode(payload)
    data = sign_document(DocumentKind.ROSTER, payload, root_key)
    if len(data) > MAX_ROSTER_BYTES:
        raise MessageError(f"{_WHERE}: {len(data)} bytes, more than {MAX_ROSTER_BYTES}", reason="too_large")
    return data


def open_roster(
    data: bytes, roots: Iterable[VerifyingKey], *, at_least_number: int = 0, federation: str | None = None
) -> Roster:
    """Verify a roster by one of the roots' keys (`keystore.root_keys`) and return it.

    Raises ``MessageError``: what ``open_document`` raises, ``malformed``, ``stale_roster`` for a number lower than
    ``at_least_number``, ``wrong_federation`` where ``federation`` is given and is another.
    """
    roster = _decode(open_document(data, DocumentKind.ROSTER, roots, max_bytes=MAX_ROSTER_BYTES))
    if federation is not None and roster.federation != federation:
        raise MessageError(
            f"{_WHERE}: is of federation {roster.federation!r} and not of {federation!r}", reason="wrong_federation"
        )
    if roster.number < at_least_number:
        raise MessageError(
            f"{_WHERE}: number {roster.number} is older than number {at_least_number}, which was seen before",
            reason="stale_roster",
        )
    return roster


def _encode(roster: Roster) -> dict[str, Any]:
    secure = roster.secure_aggregation
    return {
        "federation": roster.federation,
        "level": roster.level.value,
        "number": roster.number,
        "issued_at": roster.issued_at,
        "parties": [_encode_party(party) for _, party in sorted(roster.parties.items())],
        "secure_aggregation": {name: getattr(secure, name) for name in _SECURE_AGGREGATION_FIELDS},
    }


def _encode_party(party: Party) -> dict[str, Any]:
    encoded: dict[str, Any] = {
        "id": str(party.id),
        **_encode_key(party.signing_key, party.certificate),
        "receiving_key": base64.b64encode(party.receiving_key).decode(),
        "receiving_fingerprint": party.receiving_fingerprint.hex(),
        "weight_cap": party.weight_cap,
    }
    if party.former is not None:
        former = party.former
        encoded[_FORMER] = _encode_key(former.key, former.certificate) | {"until": former.until}
    return encoded


def _encode_key(key: VerifyingKey, certificate: CertificateReference | None) -> dict[str, Any]:
    encoded: dict[str, Any] = {
        "signing_key": base64.b64encode(key.spki).decode(), "signing_fingerprint": key.fingerprint.hex()
    }  # fmt: skip
    return encoded if certificate is None else encoded | {_CERTIFICATE: certificate.encode()}


def _decode(payload: Mapping[str, Any]) -> Roster:
    fields = require_fields(payload, _ROSTER_FIELDS, _WHERE)
    try:
        require_label("federation", fields["federation"])
    except CertificateError as error:
        raise _malformed(str(error)) from error
    _require_range("number", fields["number"], 1, _MAX_NUMBER)
    _require_range("issued_at", fields["issued_at"], 0, _MAX_NUMBER)
    level = _decode_level(fields["level"])
    parties: dict[str, Party] = {}
    for item in fields["parties"]:
        party = _decode_party(item, fields["federation"], level)
        if str(party.id) in parties:
            raise _malformed(f"{party.id} occurs twice")
        parties[str(party.id)] = party
    return Roster(
        federation=fields["federation"],
        level=level,
        number=fields["number"],
        issued_at=fields["issued_at"],
        parties=MappingProxyType(parties),
        secure_aggregation=_decode_secure_aggregation(fields["secure_aggregation"]),
    )


def _decode_level(word: str) -> SecurityLevel:
    try:
        return for_level(word).level
    except ConfigurationError as error:
        raise _malformed(str(error)) from error


def _decode_party(item: object, federation: str, level: SecurityLevel) -> Party:
    if not isinstance(item, dict):
        raise _malformed("a party is not an object")
    # Neither is there where it has nothing to say, so that programs which do not know it read such a roster.
    optional: dict[str, type] = {name: dict for name in (_CERTIFICATE, _FORMER) if name in item}
    fields = require_fields(item, _PARTY_FIELDS | optional, f"{_WHERE}: party")
    try:
        party_id = SpiffeId.parse(fields["id"])
    except CertificateError as error:
        raise _malformed(str(error)) from error
    receiving_key = decode_base64(fields["receiving_key"], f"{_WHERE}: receiving_key")
    receiving_fingerprint = hashlib.sha256(receiving_key).digest()
    if party_id.federation != federation:
        raise _malformed(f"{party_id} is not of federation {federation[:80]!r}")
    signing_key, certificate = _decode_key(fields, str(party_id), level)
    if receiving_fingerprint.hex() != fields["receiving_fingerprint"]:
        raise _malformed(f"{party_id}: receiving_fingerprint is not that of receiving_key")
    _require_range(f"{party_id}: weight_cap", fields["weight_cap"], 0, MAX_WEIGHT_CAP)
    former = None
    if _FORMER in fields:
        former = _decode_former(fields[_FORMER], f"{party_id}: {_FORMER}", signing_key, level)
    return Party(
        party_id, signing_key, receiving_key, receiving_fingerprint, fields["weight_cap"], certificate, former
    )  # fmt: skip


def _decode_key(
    fields: Mapping[str, Any], whose: str, level: SecurityLevel
) -> tuple[VerifyingKey, CertificateReference | None]:
    try:
        key = VerifyingKey.from_spki(decode_base64(fields["signing_key"], f"{_WHERE}: signing_key"))
    except ConfigurationError as error:
        raise _malformed(str(error)) from error
    # Whoever went to a higher level before the others is a member all the while; those are what issuers may have.
    if key.algorithm not in for_level(level).ca_signatures:
        raise _malformed(f"{whose}: a key of {key.algorithm} does not fit the level {level.value}")
    if key.fingerprint.hex() != fields["signing_fingerprint"]:
        raise _malformed(f"{whose}: signing_fingerprint is not that of signing_key")
    if _CERTIFICATE not in fields:
        return key, None
    return key, CertificateReference.decode(fields[_CERTIFICATE], f"{_WHERE}: {whose}: {_CERTIFICATE}")


def _decode_former(item: Mapping[str, Any], whose: str, present: VerifyingKey, level: SecurityLevel) -> FormerKey:
    optional: dict[str, type] = {_CERTIFICATE: dict} if _CERTIFICATE in item else {}
    fields = require_fields(item, _FORMER_FIELDS | optional, f"{_WHERE}: {whose}")
    key, certificate = _decode_key(fields, whose, level)
    # Suites are chosen by the algorithm of a member's keys, so both have the same one.
    if key == present or key.algorithm != present.algorithm:
        raise _malformed(f"{whose}: is not another key of {present.algorithm}")
    _require_range(f"{whose}: until", fields["until"], 0, MAX_TIME)
    return FormerKey(key, fields["until"], certificate)


def _decode_secure_aggregation(item: Mapping[str, Any]) -> SecureAggregation:
    fields = require_fields(item, _SECURE_AGGREGATION_FIELDS, f"{_WHERE}: secure_aggregation")
    _require_range("minimum_sites", fields["minimum_sites"], 1, _MAX_NUMBER)
    _require_range("threshold", fields["threshold"], 1, fields["minimum_sites"])
    _require_range("bits", fields["bits"], 1, _MAX_BITS)
    if not 0 < fields["clip"] <= _MAX_CLIP:
        raise _malformed(f"clip is {fields['clip']} and has to be greater than 0 and at most {_MAX_CLIP:g}")
    return SecureAggregation(fields["minimum_sites"], fields["threshold"], float(fields["clip"]), fields["bits"])


def _require_range(what: str, value: int, lowest: int, highest: int) -> None:
    if not lowest <= value <= highest:
        raise _malformed(f"{what} is {value} and has to be {lowest} to {highest}")


def _malformed(why: str) -> MessageError:
    return MessageError(f"{_WHERE}: {why}", reason="malformed")
