"""The audit log: one JSON line an event, hash-chained, with checkpoints signed with ML-DSA.

A line is the canonical JSON (sorted keys, no spaces, UTF-8) of ``seq``, ``time`` (RFC 3339, UTC), ``kind``, ``facts``,
``prev`` and ``hash``; ``hash`` is SHA-256 over the canonical bytes of the line without it, and ``prev`` is the hash of
the line before, so that no line can be changed, dropped or moved without breaking the chain behind it. Whoever can
write the file can also write a new chain: a checkpoint is a line with a ``signature`` (`Context.AUDIT`, over the
canonical bytes without ``signature`` and ``hash``), and what stands before a checkpoint cannot be rewritten without
the signing key. Cutting lines off the end, back to any earlier state, shows only to someone who remembers the summary.

A process killed while it writes leaves a torn last line. The next one to open the log keeps those bytes, ends the
line, and writes a ``tear`` event with their length and SHA-256; verification accepts the torn line only with it.
"""

import base64
import binascii
import fcntl
import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from threading import Lock
from typing import Any, Self

from pqfl_transport.crypto.contexts import Context
from pqfl_transport.crypto.pyca import SigningKey, VerifyingKey
from pqfl_transport.errors import ConfigurationError, MessageError, PlatformError

_log = logging.getLogger(__name__)

DEFAULT_CHECKPOINT_EVERY = 256
MAX_LINE_BYTES = 64 * 1024
_GENESIS = "0" * 64
_NEWLINE = b"\n"


class EventKind(StrEnum):
    """What happened. ``checkpoint`` and ``tear`` are written by the log itself."""

    CONNECTION = "connection"
    REFUSAL = "refusal"
    START = "start"
    STOP = "stop"
    ROUND = "round"
    UPDATE = "update"
    MODEL = "model"
    CERTIFICATE = "certificate"
    POLICY = "policy"
    RELOAD = "reload"
    CHECKPOINT = "checkpoint"
    TEAR = "tear"


@dataclass(frozen=True, slots=True)
class AuditSummary:
    """What `verify_audit_log` found in a log whose chain holds."""

    lines: int
    checkpoints: int
    sealed_lines: int
    """Lines up to and including the last checkpoint whose signature was checked."""
    torn_lines: int
    first_time: str | None
    last_time: str | None
    last_hash: str


class AuditLog:
    """An append-only log file, mode 0600, for one process; its methods may be called from several threads."""

    def __init__(
        self,
        path: Path | str,
        *,
        signing_key: SigningKey | None = None,
        clock: Callable[[], float] = time.time,
        checkpoint_every: int = DEFAULT_CHECKPOINT_EVERY,
    ) -> None:
        """Open or continue the log at ``path``; with a signing key, every so many lines are signed.

        Raises ``ConfigurationError`` when the file cannot be opened or another process writes it, and
        ``MessageError`` (reason ``audit_chain``) when its end is not a valid line of a log.
        """
        if checkpoint_every < 1:
            raise ConfigurationError(f"checkpoint_every is {checkpoint_every}, it must be at least 1")
        self.path = Path(path)
        self.torn_bytes = 0
        """Length of a torn last line that was found on opening, else 0."""
        self._signing_key, self._clock, self._checkpoint_every = signing_key, clock, checkpoint_every
        self._lock = Lock()
        self._failed = False
        self._since_checkpoint = 0
        self._fd: int | None = _open_exclusively(self.path)
        try:
            self._sequence, self._last_hash = self._continue_chain()
        except BaseException:
            self._release()
            raise

    def event(self, kind: EventKind, **facts: Any) -> None:
        """Append one event. ``facts`` are JSON values without secrets.

        Raises ``PlatformError`` when the line cannot be written: what cannot be audited must not go on unnoticed.
        """
        with self._lock:
            self._append({"kind": EventKind(kind).value, "facts": facts})
            self._since_checkpoint += 1
            if self._signing_key is not None and self._since_checkpoint >= self._checkpoint_every:
                self._checkpoint(self._signing_key)

    def checkpoint(self) -> None:
        """Sign the chain so far and bring it to the disk; without a signing key or news, only the latter."""
        with self._lock:
            if self._signing_key is not None and self._since_checkpoint:
                self._checkpoint(self._signing_key)
            elif self._fd is not None:
                os.fsync(self._fd)

    def close(self) -> None:
        """Write a last checkpoint and close the file. Closing twice is harmless."""
        if self._fd is None:
            return
        try:
            if not self._failed:
                self.checkpoint()
        finally:
            self._release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _release(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _checkpoint(self, key: SigningKey) -> None:
        facts = {"algorithm": key.algorithm, "signer": key.verifying_key.fingerprint.hex()}
        self._append({"kind": EventKind.CHECKPOINT.value, "facts": facts}, key)
        self._since_checkpoint = 0
        if self._fd is not None:
            os.fsync(self._fd)

    def _append(self, line: dict[str, Any], key: SigningKey | None = None) -> None:
        line |= {"seq": self._sequence, "time": _rfc3339(self._clock()), "prev": self._last_hash}
        if key is not None:
            line["signature"] = base64.b64encode(key.sign(_canonical(line), Context.AUDIT)).decode()
        line["hash"] = _digest(line)
        data = _canonical(line) + _NEWLINE
        if len(data) > MAX_LINE_BYTES:
            raise ConfigurationError(f"{self.path}: an event of {len(data)} bytes is longer than {MAX_LINE_BYTES}")
        self._write(data)
        self._sequence, self._last_hash = self._sequence + 1, line["hash"]

    def _write(self, data: bytes) -> None:
        # After a failed write the file may end in a torn line; only opening it again can tell and record it.
        if self._fd is None or self._failed:
            raise PlatformError(f"{self.path}: the audit log is closed", reason="audit_log")
        try:
            written = os.write(self._fd, data)
        except OSError as error:
            self._failed = True
            raise PlatformError(f"{self.path}: cannot write the audit log: {error}", reason="audit_log") from error
        if written != len(data):
            self._failed = True
            raise PlatformError(f"{self.path}: the audit log was written only in part", reason="audit_log")

    def _continue_chain(self) -> tuple[int, str]:
        """Check the end of an existing file; return the next sequence number and the last hash."""
        complete, torn = _read_end(self.path)
        sequence, last_hash = 0, _GENESIS
        if complete is not None:
            line = _parse_line(complete, f"{self.path}: last line")
            sequence, last_hash = line["seq"] + 1, line["hash"]
        if torn:
            with suppress(MessageError):
                # Only the newline is missing: the event itself arrived.
                line = _parse_line(torn, str(self.path))
                if line["prev"] == last_hash and line["seq"] == sequence:
                    self._write(_NEWLINE)
                    return line["seq"] + 1, line["hash"]
            self._record_tear(torn, sequence, last_hash)
            return self._sequence, self._last_hash
        return sequence, last_hash

    def _record_tear(self, torn: bytes, sequence: int, last_hash: str) -> None:
        self.torn_bytes = len(torn)
        _log.warning("%s: the last line is torn (%d bytes); it is kept and recorded", self.path, len(torn))
        self._sequence, self._last_hash = sequence, last_hash
        self._write(_NEWLINE)
        self._append({"kind": EventKind.TEAR.value, "facts": _tear_facts(torn)})


def verify_audit_log(path: Path | str, keys: Iterable[VerifyingKey] | None) -> AuditSummary:
    """Check every line, the chain, and every checkpoint under ``keys``; without keys (None) the chain only.

    Raises ``MessageError`` naming the file and the line: reasons ``audit_chain``, ``unknown_signer``,
    ``bad_signature``, ``torn``; ``ConfigurationError`` when the file cannot be read.
    """
    walk = _Walk(None if keys is None else {key.fingerprint.hex(): key for key in keys})
    number = 0
    try:
        with Path(path).open("rb") as file:
            while data := file.readline(MAX_LINE_BYTES + 1):
                number += 1
                walk.take(data, f"{path}: line {number}")
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot read the audit log: {error.strerror}") from error
    return walk.finish(f"{path}: line {number}")


class _Walk:
    """One pass over a log, line by line."""

    def __init__(self, keys: Mapping[str, VerifyingKey] | None) -> None:
        self._keys = keys
        self._lines = self._checkpoints = self._sealed = self._torn_lines = 0
        self._first_time: str | None = None
        self._last_time: str | None = None
        self._last_hash = _GENESIS
        self._pending: tuple[bytes, MessageError] | None = None

    def take(self, data: bytes, where: str) -> None:
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

    def finish(self, where: str) -> AuditSummary:
        if self._pending is not None:
            raise MessageError(f"{where}: the last line is torn or damaged", reason="torn")
        return AuditSummary(
            self._lines, self._checkpoints, self._sealed, self._torn_lines,
            self._first_time, self._last_time, self._last_hash,
        )  # fmt: skip

    def _settle_torn(self, line: Mapping[str, Any]) -> None:
        if self._pending is None:
            return
        torn, error = self._pending
        if line["kind"] != EventKind.TEAR or line["facts"] != _tear_facts(torn):
            raise error
        self._pending = None
        self._torn_lines += 1

    def _link(self, line: Mapping[str, Any], where: str) -> None:
        if line["seq"] != self._lines or line["prev"] != self._last_hash:
            raise MessageError(f"{where}: does not follow the line before it", reason="audit_chain")
        self._lines += 1
        self._last_hash, self._last_time = line["hash"], line["time"]
        self._first_time = self._first_time or line["time"]
        if line["kind"] == EventKind.CHECKPOINT:
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
        key.verify(signature, _canonical(signed), Context.AUDIT)
    except (binascii.Error, MessageError, TypeError):
        raise MessageError(f"{where}: the checkpoint's signature does not hold", reason="bad_signature") from None


def _open_exclusively(path: Path) -> int:
    try:
        fd = os.open(path, os.O_CREAT | os.O_RDWR | os.O_APPEND | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot open the audit log: {error.strerror}") from error
    try:
        # Two writers would fork the chain.
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.fchmod(fd, 0o600)
    except OSError as error:
        os.close(fd)
        raise ConfigurationError(f"{path}: the audit log is in use by another process") from error
    return fd


def _read_end(path: Path) -> tuple[bytes | None, bytes]:
    """Return the last complete line and the torn rest behind it."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 2 * MAX_LINE_BYTES - 2))
        end = file.read()
    *lines, torn = end.split(_NEWLINE)
    if len(torn) > MAX_LINE_BYTES:
        raise MessageError(f"{path}: last line: longer than {MAX_LINE_BYTES} bytes", reason="audit_chain")
    return (lines[-1] if lines else None), torn


def _parse_complete_line(data: bytes, where: str) -> dict[str, Any]:
    line = _parse_line(data.removesuffix(_NEWLINE), where)
    if not data.endswith(_NEWLINE):
        raise MessageError(f"{where}: the last line is torn", reason="torn")
    return line


def _parse_line(data: bytes, where: str) -> dict[str, Any]:
    """Parse one line and check its own hash. Raises ``MessageError`` naming ``where``."""
    line = _parse_canonical(data) if len(data) <= MAX_LINE_BYTES else None
    if line is None:
        raise MessageError(f"{where}: not a line of an audit log", reason="audit_chain")
    if line["hash"] != _digest({name: value for name, value in line.items() if name != "hash"}):
        raise MessageError(f"{where}: was changed, its hash does not fit", reason="audit_chain")
    return line


def _parse_canonical(data: bytes) -> dict[str, Any] | None:
    try:
        line = json.loads(data)
        # JSON can spell NaN and half a surrogate pair, which have no canonical form.
        same = isinstance(line, dict) and _fields_are_typed(line) and _canonical(line) == data
    except (ValueError, RecursionError):
        return None
    return line if same else None


_FIELDS = {"seq": int, "time": str, "kind": str, "facts": dict, "prev": str, "hash": str}


def _fields_are_typed(line: Mapping[str, Any]) -> bool:
    typed = all(isinstance(line.get(name), kind) for name, kind in _FIELDS.items())
    return typed and line.keys() - _FIELDS.keys() <= {"signature"}


def _tear_facts(torn: bytes) -> dict[str, Any]:
    return {"torn_bytes": len(torn), "torn_sha256": hashlib.sha256(torn).hexdigest()}


def _digest(line: Mapping[str, Any]) -> str:
    return hashlib.sha256(_canonical(line)).hexdigest()


def _canonical(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def _rfc3339(now: float) -> str:
    return datetime.fromtimestamp(now, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
