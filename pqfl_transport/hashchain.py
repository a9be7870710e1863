"""Lines of a hash chain: one canonical JSON object each, as the audit log and the authority's ledger keep them.

A line is the canonical JSON (sorted keys, no spaces, UTF-8) of ``seq``, ``time`` (RFC 3339, UTC), ``kind``, ``facts``,
``prev`` and ``hash``; ``hash`` is SHA-256 over the canonical bytes of the line without it, and ``prev`` is the hash of
the line before, so that no line can be changed, dropped or moved without breaking the chain behind it. A checkpoint is
a line with a ``signature`` (`Context.AUDIT`, over the canonical bytes without ``signature`` and ``hash``): the signed
head of everything up to it.
"""

import base64
import binascii
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pqfl_transport.crypto.contexts import Context
from pqfl_transport.crypto.pyca import SigningKey, VerifyingKey
from pqfl_transport.errors import MessageError

MAX_LINE_BYTES = 64 * 1024
GENESIS = "0" * 64
"""What the first line has for the hash of the one before it."""
CHECKPOINT, TEAR = "checkpoint", "tear"
_NEWLINE = b"\n"


@dataclass(frozen=True, slots=True)
class ChainSummary:
    """What a walk found in lines whose chain holds."""

    lines: int
    checkpoints: int
    sealed_lines: int
    """Lines up to and including the last checkpoint whose signature was checked."""
    torn_lines: int
    first_time: str | None
    last_time: str | None
    last_hash: str


def make_line(
    *, sequence: int, previous: str, now: float, kind: str, facts: Mapping[str, Any], key: SigningKey | None = None
) -> dict[str, Any]:
    """Return the next line, signed where there is a key; ``facts`` are JSON values, ``now`` Unix seconds."""
    line: dict[str, Any] = {"seq": sequence, "time": _rfc3339(now), "kind": kind, "facts": facts, "prev": previous}
    if key is not None:
        line["signature"] = base64.b64encode(key.sign(canonical(line), Context.AUDIT)).decode()
    line["hash"] = digest(line)
    return line


def checkpoint_facts(key: SigningKey) -> dict[str, Any]:
    """Return what a checkpoint says: who signs it."""
    return {"algorithm": key.algorithm, "signer": key.verifying_key.fingerprint.hex()}


class Walk:
    """One pass over a chain, line by line; checkpoints are verified under ``keys``, and without (None) not at all."""

    def __init__(self, keys: Iterable[VerifyingKey] | None) -> None:
        self._keys = None if keys is None else {key.fingerprint.hex(): key for key in keys}
        self._lines = self._checkpoints = self._sealed = self._torn_lines = 0
        self._first_time: str | None = None
        self._last_time: str | None = None
        self._last_hash = GENESIS
        self._pending: tuple[bytes, MessageError] | None = None

    def take(self, data: bytes, where: str) -> None:
        """Check one line, its newline included.

        Raises ``MessageError`` naming ``where``: ``audit_chain``, ``unknown_signer``, ``bad_signature``, ``torn``.
        """
        try:
            line = _parse_complete_line(data, where)
        except MessageError as error:
            # Whether a damaged line may stand is known only from the next one.
            if self._pending is not None:
                raise self._pending[1] from None
            self._pending = data.removesuffix(_NEWLINE), error
            return
        self._settle_torn(line)
        self._link(line, where)

    def finish(self, where: str) -> ChainSummary:
        """Return what was found. Raises ``MessageError`` (``torn``) where the last line was damaged."""
        if self._pending is not None:
            raise MessageError(f"{where}: the last line is torn or damaged", reason="torn")
        return ChainSummary(
            self._lines, self._checkpoints, self._sealed, self._torn_lines,
            self._first_time, self._last_time, self._last_hash,
        )  # fmt: skip

    def _settle_torn(self, line: Mapping[str, Any]) -> None:
        if self._pending is None:
            return
        torn, error = self._pending
        if line["kind"] != TEAR or line["facts"] != tear_facts(torn):
            raise error
        self._pending = None
        self._torn_lines += 1

    def _link(self, line: Mapping[str, Any], where: str) -> None:
        if line["seq"] != self._lines or line["prev"] != self._last_hash:
            raise MessageError(f"{where}: does not follow the line before it", reason="audit_chain")
        self._lines += 1
        self._last_hash, self._last_time = line["hash"], line["time"]
        self._first_time = self._first_time or line["time"]
        if line["kind"] == CHECKPOINT:
            self._checkpoints += 1
            if self._keys is not None:
                _verify_checkpoint(line, self._keys, where)
                self._sealed = self._lines


def _verify_checkpoint(line: Mapping[str, Any], keys: Mapping[str, VerifyingKey], where: str) -> None:
    key = keys.get(str(line["facts"].get("signer")))
    if key is None:
        raise MessageError(f"{where}: the checkpoint was signed by an unknown key", reason="unknown_signer")
    try:
        signature = base64.b64decode(line.get("signature", ""), validate=True)
        signed = {name: value for name, value in line.items() if name not in {"signature", "hash"}}
        key.verify(signature, canonical(signed), Context.AUDIT)
    except (binascii.Error, MessageError, TypeError):
        raise MessageError(f"{where}: the checkpoint's signature does not hold", reason="bad_signature") from None


def _parse_complete_line(data: bytes, where: str) -> dict[str, Any]:
    line = parse_line(data.removesuffix(_NEWLINE), where)
    if not data.endswith(_NEWLINE):
        raise MessageError(f"{where}: the last line is torn", reason="torn")
    return line


def parse_line(data: bytes, where: str) -> dict[str, Any]:
    """Parse one line and check its own hash. Raises ``MessageError`` naming ``where``."""
    line = _parse_canonical(data) if len(data) <= MAX_LINE_BYTES else None
    if line is None:
        raise MessageError(f"{where}: not a line of an audit log", reason="audit_chain")
    if line["hash"] != digest({name: value for name, value in line.items() if name != "hash"}):
        raise MessageError(f"{where}: was changed, its hash does not fit", reason="audit_chain")
    return line


def _parse_canonical(data: bytes) -> dict[str, Any] | None:
    try:
        line = json.loads(data)
        # JSON can spell NaN and half a surrogate pair, which have no canonical form.
        same = isinstance(line, dict) and _fields_are_typed(line) and canonical(line) == data
    except (ValueError, RecursionError):
        return None
    return line if same else None


_FIELDS = {"seq": int, "time": str, "kind": str, "facts": dict, "prev": str, "hash": str}


def _fields_are_typed(line: Mapping[str, Any]) -> bool:
    typed = all(isinstance(line.get(name), kind) for name, kind in _FIELDS.items())
    return typed and line.keys() - _FIELDS.keys() <= {"signature"}


def tear_facts(torn: bytes) -> dict[str, Any]:
    """Return what a line says of a torn one before it."""
    return {"torn_bytes": len(torn), "torn_sha256": hashlib.sha256(torn).hexdigest()}


def digest(line: Mapping[str, Any]) -> str:
    """Return the hash of a line that has none yet, in hex."""
    return hashlib.sha256(canonical(line)).hexdigest()


def canonical(value: Mapping[str, Any]) -> bytes:
    """Return the one spelling that is hashed, signed and stored."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def _rfc3339(now: float) -> str:
    return datetime.fromtimestamp(now, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
