"""The round document: what an aggregator promises about a round, signed for one asker.

Its payload is JSON under `pqfl_transport.pki.documents` (ML-DSA, `Context.ROUND`). It contains the asker's nonce, so
that an old document cannot be replayed, and everything a site needs to seal an update: the suite, the challenge, the
receiving key of this round, and the version, digest and schema of the base model. The receiver decides whose
signature it takes; this module checks form and sizes only.
"""

import base64
import binascii
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pqfl_transport.crypto.pyca import SigningKey, VerifyingKey
from pqfl_transport.errors import MessageError
from pqfl_transport.pki.documents import DocumentKind, open_document, sign_document

MAX_DOCUMENT_BYTES = 4 << 20
DIGEST_BYTES = 32
MAX_TENSORS = 1 << 16
_MAX_DIMENSIONS = 32
_MAX_INTEGER = (1 << 63) - 1
# Long enough to be fresh, short enough to sign for a stranger: hexadecimal or base64 of 16 to 48 bytes.
_NONCE = re.compile(r"[0-9A-Za-z+/=_-]{32,64}")


class RoundState(StrEnum):
    """What a site can do now: submit, wait, or stop."""

    COLLECTING = "collecting"
    AGGREGATING = "aggregating"
    FINISHED = "finished"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class TensorSchema:
    """Name, type (as the safetensors layout spells it) and shape of one tensor."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class RoundDocument:
    """The payload of a round document. Times are Unix seconds."""

    nonce: str
    aggregator: str
    """SPIFFE ID of the signer."""
    federation: str
    round: int
    state: RoundState
    suite: str
    """Content suite that updates have to be sealed with."""
    challenge: bytes
    """32 bytes that an update has to repeat; empty once there is nothing left to submit."""
    receiving_key: bytes
    """The round's public receiving key as its versioned structure; empty like the challenge."""
    model_version: int
    model_digest: bytes
    schema: tuple[TensorSchema, ...]
    plaintext_bytes: int
    """Length of the model in the safetensors layout: sites cap what they allocate by it."""
    quorum: int
    deadline: int
    not_after: int
    roster_number: int


def require_nonce(nonce: str) -> None:
    """Raise ``MessageError`` (reason ``bad_nonce``) unless it is 32 to 64 characters of hexadecimal or base64."""
    if not _NONCE.fullmatch(nonce):
        raise MessageError("the nonce must be 32 to 64 characters of hexadecimal or base64", reason="bad_nonce")


def sign_round_document(document: RoundDocument, key: SigningKey) -> bytes:
    """Return the signed document, ready to be sent. Takes about half a millisecond: off the event loop."""
    return sign_document(DocumentKind.ROUND, _to_payload(document), key)


def open_round_document(data: bytes, keys: Iterable[VerifyingKey], *, nonce: str) -> RoundDocument:
    """Verify and parse a document that was made for ``nonce``.

    Raises ``MessageError``: the reasons of `open_document`, ``malformed``, and ``replayed`` when the document was
    signed for another nonce.
    """
    payload = open_document(data, DocumentKind.ROUND, keys, max_bytes=MAX_DOCUMENT_BYTES)
    document = _from_payload(payload)
    if document.nonce != nonce:
        raise MessageError("the round document answers another nonce: it is a replay", reason="replayed")
    return document


def _to_payload(document: RoundDocument) -> dict[str, Any]:
    return {
        "nonce": document.nonce,
        "aggregator": document.aggregator,
        "federation": document.federation,
        "round": document.round,
        "state": document.state.value,
        "suite": document.suite,
        "challenge": document.challenge.hex(),
        "receiving_key": base64.b64encode(document.receiving_key).decode(),
        "model": {
            "version": document.model_version,
            "digest": document.model_digest.hex(),
            "plaintext_bytes": document.plaintext_bytes,
        },
        "schema": [[tensor.name, tensor.dtype, list(tensor.shape)] for tensor in document.schema],
        "quorum": document.quorum,
        "deadline": document.deadline,
        "not_after": document.not_after,
        "roster": document.roster_number,
    }


def _from_payload(payload: Mapping[str, Any]) -> RoundDocument:
    model = _field(payload, "model", dict)
    document = RoundDocument(
        nonce=_field(payload, "nonce", str),
        aggregator=_field(payload, "aggregator", str),
        federation=_field(payload, "federation", str),
        round=_count(payload, "round"),
        state=_state(_field(payload, "state", str)),
        suite=_field(payload, "suite", str),
        challenge=_hexadecimal(payload, "challenge", (0, DIGEST_BYTES)),
        receiving_key=_base64(payload, "receiving_key"),
        model_version=_count(model, "version"),
        model_digest=_hexadecimal(model, "digest", (DIGEST_BYTES,)),
        plaintext_bytes=_count(model, "plaintext_bytes"),
        schema=_schema(_field(payload, "schema", list)),
        quorum=_count(payload, "quorum"),
        deadline=_count(payload, "deadline"),
        not_after=_count(payload, "not_after"),
        roster_number=_count(payload, "roster"),
    )
    if document.state is RoundState.COLLECTING and not (document.challenge and document.receiving_key):
        raise _malformed("challenge", "an open round needs a challenge and a receiving key")
    return document


def _schema(rows: list[Any]) -> tuple[TensorSchema, ...]:
    if len(rows) > MAX_TENSORS:
        raise _malformed("schema", f"more than {MAX_TENSORS} tensors")
    return tuple(_tensor(row) for row in rows)


def _tensor(row: object) -> TensorSchema:
    match row:
        case [str(name), str(dtype), list(shape)] if len(shape) <= _MAX_DIMENSIONS:
            if all(type(size) is int and 0 <= size <= _MAX_INTEGER for size in shape):
                return TensorSchema(name, dtype, tuple(shape))
    raise _malformed("schema", "a row is not name, type and shape")


def _state(word: str) -> RoundState:
    try:
        return RoundState(word)
    except ValueError:
        raise _malformed("state", "not a state of a round") from None


def _field(payload: Mapping[str, Any], name: str, kind: type[Any]) -> Any:
    value = payload.get(name)
    if type(value) is not kind:
        raise _malformed(name, f"expected {kind.__name__}")
    return value


def _count(payload: Mapping[str, Any], name: str) -> int:
    value: int = _field(payload, name, int)
    if not 0 <= value <= _MAX_INTEGER:
        raise _malformed(name, "out of range")
    return value


def _hexadecimal(payload: Mapping[str, Any], name: str, lengths: tuple[int, ...]) -> bytes:
    try:
        value = bytes.fromhex(_field(payload, name, str))
    except ValueError:
        raise _malformed(name, "not hexadecimal") from None
    if len(value) not in lengths:
        raise _malformed(name, f"{len(value)} bytes")
    return value


def _base64(payload: Mapping[str, Any], name: str) -> bytes:
    try:
        return base64.b64decode(_field(payload, name, str), validate=True)
    except (binascii.Error, ValueError):
        raise _malformed(name, "not base64") from None


def _malformed(name: str, what: str) -> MessageError:
    return MessageError(f"the round document's field {name!r} is malformed: {what}", reason="malformed")
