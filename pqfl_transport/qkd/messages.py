"""The messages of ETSI GS QKD 014 V1.1.1 without I/O: requests as values, answers parsed strictly, errors by culprit.

An SAE is a program that uses keys, a KME (key manager) the service that hands them out, one at each end of a link. The
sender, called the master, asks its own key manager for a new key and tells the other end the key's id; the other end,
the slave, gets the same key from its own manager by that id. Sections in this file are those of the standard.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from pqfl_transport.content.keysource import UUID
from pqfl_transport.errors import ConfigurationError, MessageError, PeerError, PqflError, TransportError
from pqfl_transport.pki.documents import decode_base64, parse_object

MAX_ANSWER_BYTES = 256 * 1024
"""More than any answer takes: 128 keys of 1 KiB in base64, with room for extensions."""
MAX_KEYS = 128
"""Keys in one request or answer."""
MAX_SIZE_BITS = 8192

_MAX_SAE_CHARACTERS = 256
_MAX_DETAIL = 300
_STATUS_FIELDS = {
    "source_KME_ID": str, "target_KME_ID": str, "master_SAE_ID": str, "slave_SAE_ID": str, "key_size": int,
    "stored_key_count": int, "max_key_count": int, "max_key_per_request": int, "max_key_size": int, "min_key_size": int,
    "max_SAE_ID_count": int,
}  # fmt: skip
_BAD_REQUEST, _UNAUTHORIZED, _FORBIDDEN, _NOT_FOUND, _UNAVAILABLE = 400, 401, 403, 404, 503


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request to a key manager; ``path`` is percent-encoded already."""

    method: str
    path: str
    what: str
    """What it asks for, in messages: ``status``, ``enc_keys`` or ``dec_keys``."""
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class DeliveredKey:
    """One key of a key container (§6.3): its UUID as the manager spells it, and its bytes."""

    id: str
    material: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Status:
    """What a key manager says of the keys between two SAEs (§6.1). Sizes are in bits."""

    source_kme_id: str
    target_kme_id: str
    master_sae_id: str
    slave_sae_id: str
    key_size: int
    stored_key_count: int
    max_key_count: int
    max_key_per_request: int
    max_key_size: int
    min_key_size: int
    max_sae_id_count: int


def status_request(slave_sae_id: str) -> Request:
    """Ask about the keys that can be shared with this SAE (§5.1)."""
    return Request("GET", _path(slave_sae_id, "status"), "status")


def enc_keys_request(slave_sae_id: str, *, number: int = 1, size_bits: int = 256) -> Request:
    """Ask for new keys to share with this SAE (§5.2). Raises ``ConfigurationError`` (``key_request``)."""
    if not 1 <= number <= MAX_KEYS:
        raise ConfigurationError(f"{number} keys in one request: expected 1 to {MAX_KEYS}", reason="key_request")
    if size_bits % 8 or not 0 < size_bits <= MAX_SIZE_BITS:
        raise ConfigurationError(
            f"keys of {size_bits} bits: expected a multiple of 8, at most {MAX_SIZE_BITS}", reason="key_request"
        )
    body = json.dumps({"number": number, "size": size_bits}).encode()
    return Request("POST", _path(slave_sae_id, "enc_keys"), "enc_keys", body)


def dec_keys_request(master_sae_id: str, key_ids: Sequence[str]) -> Request:
    """Ask for the keys that this SAE was given under these ids (§5.3). Raises ``ConfigurationError``."""
    if not 1 <= len(key_ids) <= MAX_KEYS or not all(UUID.fullmatch(key_id) for key_id in key_ids):
        raise ConfigurationError(f"expected 1 to {MAX_KEYS} UUIDs as key ids", reason="key_request")
    body = json.dumps({"key_IDs": [{"key_ID": key_id} for key_id in key_ids]}).encode()
    return Request("POST", _path(master_sae_id, "dec_keys"), "dec_keys", body)


def parse_status(data: bytes, source: str) -> Status:
    """Parse a status (§6.1); members that it does not know are left alone. Raises ``PeerError`` (``bad_answer``)."""
    facts = _object(data, source)
    found = [_member(facts, name, kind, source) for name, kind in _STATUS_FIELDS.items()]
    if any(isinstance(value, int) and value < 0 for value in found):
        raise _bad_answer(source, "a negative number")
    return Status(*found)


def parse_new_keys(data: bytes, source: str, *, number: int, size_bits: int) -> tuple[DeliveredKey, ...]:
    """Parse the answer to `enc_keys_request`: exactly so many keys of this size, none twice.

    Raises ``PeerError`` (``bad_answer``, ``wrong_key_size``).
    """
    keys = _parse_container(data, source, size_bits)
    if len(keys) != number:
        raise _bad_answer(source, f"{len(keys)} keys where {number} were asked for")
    return keys


def parse_named_keys(data: bytes, source: str, *, key_ids: Sequence[str], size_bits: int) -> tuple[DeliveredKey, ...]:
    """Parse the answer to `dec_keys_request` into the order of the ids: exactly those keys, of this size.

    Raises ``PeerError`` (``bad_answer``, ``wrong_key_size``).
    """
    found = {key.id.lower(): key for key in _parse_container(data, source, size_bits)}
    if found.keys() != {key_id.lower() for key_id in key_ids}:
        raise _bad_answer(source, "other keys than those asked for")
    return tuple(found[key_id.lower()] for key_id in key_ids)


def error_of(status: int, data: bytes, request: Request, source: str) -> PqflError:
    """Return the error that an answer means (§6.5: ``{"message", "details"}``), by whose fault it is.

    ``MessageError`` (``unknown_key_id``) where the id is not known or was handed out before; ``ConfigurationError``
    (``key_manager_refused``, ``key_request``) where the manager does not want us or our request; ``TransportError``
    (``keys_exhausted``, ``key_manager_down``) where it cannot deliver now.
    """
    said = _said(data)
    if status in {_UNAUTHORIZED, _FORBIDDEN}:
        return ConfigurationError(
            f"{source} does not let this SAE in for {request.what}{said}", reason="key_manager_refused"
        )
    if status in {_BAD_REQUEST, _NOT_FOUND} and request.what == "dec_keys":
        return MessageError(f"{source} has no key of this id for us, or not any more{said}", reason="unknown_key_id")
    if status in {_BAD_REQUEST, _NOT_FOUND}:
        return ConfigurationError(f"{source} takes no such request for {request.what}{said}", reason="key_request")
    if status == _UNAVAILABLE and request.what == "enc_keys":
        return TransportError(f"{source} has no keys to give{said}", reason="keys_exhausted")
    return TransportError(f"{source} answered HTTP status {status} to {request.what}{said}", reason="key_manager_down")


def _path(sae_id: str, what: str) -> str:
    if not 0 < len(sae_id) <= _MAX_SAE_CHARACTERS or not sae_id.isprintable() or sae_id in {".", ".."}:
        raise ConfigurationError(f"{sae_id[:80]!r} is no SAE ID", reason="key_request")
    return f"/api/v1/keys/{quote(sae_id, safe='')}/{what}"


def _parse_container(data: bytes, source: str, size_bits: int) -> tuple[DeliveredKey, ...]:
    rows = _member(_object(data, source), "keys", list, source)
    if not 0 < len(rows) <= MAX_KEYS:
        raise _bad_answer(source, f"{len(rows)} keys")
    keys = tuple(_parse_key(row, source) for row in rows)
    if len({key.id.lower() for key in keys}) != len(keys):
        raise _bad_answer(source, "the same key id twice")
    for key in keys:
        if len(key.material) * 8 != size_bits:
            raise PeerError(
                f"{source} delivered a key of {len(key.material) * 8} bits and not of {size_bits}",
                reason="wrong_key_size",
            )
    return keys


def _parse_key(row: object, source: str) -> DeliveredKey:
    if not isinstance(row, dict):
        raise _bad_answer(source, "a key that is no JSON object")
    key_id: str = _member(row, "key_ID", str, source)
    if not UUID.fullmatch(key_id):
        raise _bad_answer(source, "a key_ID that is no UUID")
    try:
        return DeliveredKey(key_id, decode_base64(_member(row, "key", str, source), "key"))
    except MessageError as error:
        raise _bad_answer(source, str(error)) from None


def _object(data: bytes, source: str) -> dict[str, Any]:
    if len(data) > MAX_ANSWER_BYTES:
        raise _bad_answer(source, f"more than {MAX_ANSWER_BYTES} bytes")
    try:
        return parse_object(data, "the answer")
    except MessageError as error:
        raise _bad_answer(source, str(error)) from None


def _member(facts: Mapping[str, Any], name: str, kind: type, source: str) -> Any:
    value = facts.get(name)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise _bad_answer(source, f"{name} is missing or of the wrong type")
    return value


def _said(data: bytes) -> str:
    """Return what the manager gave as its reason, fit for a log line; its details may hold anything and stay out."""
    try:
        message = parse_object(data[:MAX_ANSWER_BYTES], "the answer").get("message")
    except MessageError:
        return ""
    if not isinstance(message, str) or not message:
        return ""
    return ": " + "".join(letter if letter.isprintable() else "?" for letter in message[:_MAX_DETAIL])


def _bad_answer(source: str, what: str) -> PeerError:
    return PeerError(f"{source} gave an answer that is none of ETSI GS QKD 014: {what}", reason="bad_answer")
