"""Signed documents: JSON that one known key vouches for, as a file or over HTTP.

    {"pqfl": "roster/v1", "payload": "{…JSON as text…}", "signature": "base64", "signer": "hex fingerprint"}

The signature is ML-DSA over the exact UTF-8 bytes of the payload's text, in the context of the kind, so no canonical
form of JSON is needed and a roster never passes for a round. ``signer`` is only a hint which of the keys the reader
already trusts to try; a key is never taken from a document. The payload is parsed after the signature holds.
"""

import base64
import binascii
import json
import math
import re
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Any, NoReturn

from pqfl_transport.crypto.contexts import Context
from pqfl_transport.crypto.pyca import SigningKey, VerifyingKey
from pqfl_transport.errors import MessageError

MAX_DOCUMENT_BYTES = 8 * 1024 * 1024
"""What a reader takes where it says nothing else."""

_VERSION = "v1"
_OUTER_FIELDS = {"pqfl": str, "payload": str, "signature": str, "signer": str}
_MAX_OUTER_FIELDS = 16
# What stands between the strings of an object.
_OPENING, _COLON, _COMMA, _CLOSING = (
    re.compile(rf"[ \t\n\r]*{mark}[ \t\n\r]*") for mark in (r"\{(?=\s*\")", r":(?=\s*\")", r",(?=\s*\")", r"\}")
)


class DocumentKind(Enum):
    """The kinds of signed documents: the word in ``pqfl`` and the context of the signature."""

    ROSTER = ("roster", Context.ROSTER)
    ROUND = ("round", Context.ROUND)
    RECEIVING_KEY = ("receiving-key", Context.RECEIVING_KEY)
    ADVISORY = ("advisory", Context.ADVISORY)
    RENEWAL = ("renewal", Context.RENEWAL)
    RENEWAL_SIGNING = ("renewal-signing", Context.RENEWAL_SIGNING)
    RENEWAL_TWIN = ("renewal-twin", Context.RENEWAL_TWIN)

    @property
    def tag(self) -> str:
        """Kind and version as they stand in the document."""
        return f"{self.value[0]}/{_VERSION}"

    @property
    def context(self) -> Context:
        """The ML-DSA context string of this kind's signatures."""
        return self.value[1]


def sign_document(kind: DocumentKind, payload: Mapping[str, Any], key: SigningKey) -> bytes:
    """Return the document as UTF-8 JSON with a final newline. ``payload`` is anything JSON can say."""
    text = json.dumps(payload, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    document = {
        "pqfl": kind.tag,
        "payload": text,
        "signature": base64.b64encode(key.sign(text.encode(), kind.context)).decode(),
        "signer": key.verifying_key.fingerprint.hex(),
    }
    return json.dumps(document, ensure_ascii=False, indent=1).encode() + b"\n"


def open_document(
    data: bytes, kind: DocumentKind, keys: Iterable[VerifyingKey], *, max_bytes: int = MAX_DOCUMENT_BYTES
) -> dict[str, Any]:
    """Verify a document by one of ``keys`` and return its payload.

    Raises ``MessageError`` with the reason ``too_large``, ``malformed``, ``unknown_signer`` or ``bad_signature``.
    """
    if len(data) > max_bytes:
        raise MessageError(f"{kind.tag}: {len(data)} bytes, more than {max_bytes}", reason="too_large")
    document = require_fields(_parse_strings(data, kind.tag), _OUTER_FIELDS, kind.tag)
    if document["pqfl"] != kind.tag:
        raise _malformed(kind.tag, f"says that it is {document['pqfl'][:40]!r}")
    signature = decode_base64(document["signature"], f"{kind.tag}: signature")
    signer = next((key for key in keys if key.fingerprint.hex() == document["signer"]), None)
    if signer is None:
        raise MessageError(
            f"{kind.tag}: signed by {document['signer'][:64]!r}, which is none of the keys that may sign it",
            reason="unknown_signer",
        )
    payload = _encode(document["payload"], kind.tag)
    try:
        signer.verify(signature, payload, kind.context)
    except MessageError as error:
        raise MessageError(f"{kind.tag}: {error}", reason=error.reason) from error
    return parse_object(payload, kind.tag)


def parse_object(data: bytes, where: str) -> dict[str, Any]:
    """Parse one JSON object strictly: UTF-8, no duplicate names, no NaN or infinity. Raises ``MessageError``."""
    try:
        value = json.loads(
            data.decode(),
            object_pairs_hook=_without_duplicates,
            parse_float=_finite,
            parse_constant=_refuse_constant,
        )
    except (ValueError, RecursionError) as error:
        raise _malformed(where, f"not strict JSON: {error}") from error
    if not isinstance(value, dict):
        raise _malformed(where, "not a JSON object")
    return value


def _parse_strings(data: bytes, where: str) -> dict[str, str]:
    """Parse one JSON object of few strings, as strictly. Raises ``MessageError`` (``malformed``).

    Nobody has signed it yet, and 128 MiB of small values would be gigabytes of objects: there are strings or nothing.
    """
    pairs: list[tuple[str, Any]] = []
    try:
        text, decoder = data.decode(), json.JSONDecoder()
        at = _skip(_OPENING, text, 0)
        while len(pairs) < _MAX_OUTER_FIELDS:
            name, at = decoder.raw_decode(text, at)
            value, at = decoder.raw_decode(text, _skip(_COLON, text, at))
            pairs.append((name, value))
            if _CLOSING.fullmatch(text, at):
                return _without_duplicates(pairs)
            at = _skip(_COMMA, text, at)
    except ValueError as error:
        raise _malformed(where, f"not a strict JSON object of strings: {error}") from error
    raise _malformed(where, f"has more than {_MAX_OUTER_FIELDS} fields")


def _skip(mark: re.Pattern[str], text: str, at: int) -> int:
    match = mark.match(text, at)
    if match is None:
        raise ValueError(f"unexpected at character {at}")
    return match.end()


def require_fields(
    value: Mapping[str, Any], fields: Mapping[str, type | tuple[type, ...]], where: str
) -> dict[str, Any]:
    """Return ``value`` as a dict when it has exactly these fields of these types; ``bool`` never passes for ``int``.

    Raises ``MessageError`` (``malformed``) naming the fields that are missing, unknown or of another type.
    """
    if missing := sorted(fields.keys() - value.keys()):
        raise _malformed(where, f"lacks {', '.join(missing)}")
    if unknown := sorted(value.keys() - fields.keys()):
        raise _malformed(where, f"has unknown fields {', '.join(repr(name[:40]) for name in unknown[:5])}")
    for name, kind in fields.items():
        if not isinstance(value[name], kind) or (isinstance(value[name], bool) and kind is not bool):
            raise _malformed(where, f"{name} is of the wrong type")
    return dict(value)


def decode_base64(text: str, where: str) -> bytes:
    """Decode canonical base64 (RFC 4648 §4). Raises ``MessageError`` (``malformed``)."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise _malformed(where, f"not base64: {error}") from error
    if base64.b64encode(data).decode() != text:
        raise _malformed(where, "not canonical base64")
    return data


def _encode(text: str, where: str) -> bytes:
    # JSON can spell a lone surrogate, which has no UTF-8 form and so was never signed.
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise _malformed(where, "the payload is not Unicode text") from error


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a name occurs twice")
    return value


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:40]} is out of range")
    return value


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _malformed(where: str, why: str) -> MessageError:
    return MessageError(f"{where}: {why}", reason="malformed")
