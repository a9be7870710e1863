"""The audit log: one JSON line an event, hash-chained, with checkpoints signed with ML-DSA.

The lines are those of `hashchain`: none can be changed, dropped or moved without breaking the chain behind it. Whoever
can write the file can also write a new chain: what stands before a checkpoint cannot be rewritten without the signing
key. Cutting lines off the end, back to any earlier state, shows only to someone who remembers the summary.

A process killed while it writes leaves a torn last line. The next one to open the log keeps those bytes, ends the
line, and writes a ``tear`` event with their length and SHA-256; verification accepts the torn line only with it.
"""

import fcntl
import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from threading import Lock
from typing import Any, Self

from pqfl_transport.crypto.pyca import SigningKey, VerifyingKey
from pqfl_transport.errors import ConfigurationError, MessageError, PlatformError
from pqfl_transport.hashchain import (
    CHECKPOINT,
    GENESIS,
    MAX_LINE_BYTES,
    TEAR,
    ChainSummary,
    Walk,
    canonical,
    checkpoint_facts,
    make_line,
    parse_line,
    tear_facts,
)

_log = logging.getLogger(__name__)

DEFAULT_CHECKPOINT_EVERY = 256
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
    CHECKPOINT = CHECKPOINT
    TEAR = TEAR


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
            self._append(EventKind(kind), facts)
            self._since_checkpoint += 1
            if self._signing_key is not None and self._since_checkpoint >= self._checkpoint_every:
                self._checkpoint(self._signing_key)

    def sign_with(self, key: SigningKey) -> None:
        """Sign checkpoints with another key from now on; with what came before, the one before signs now."""
        with self._lock:
            if self._signing_key is not None and self._signing_key.verifying_key != key.verifying_key:
                if self._since_checkpoint:
                    self._checkpoint(self._signing_key)
                self._signing_key = key

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
        self._append(EventKind.CHECKPOINT, checkpoint_facts(key), key)
        self._since_checkpoint = 0
        if self._fd is not None:
            os.fsync(self._fd)

    def _append(self, kind: EventKind, facts: Mapping[str, Any], key: SigningKey | None = None) -> None:
        line = make_line(
            sequence=self._sequence, previous=self._last_hash, now=self._clock(), kind=kind.value, facts=facts, key=key
        )
        data = canonical(line) + _NEWLINE
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
        sequence, last_hash = 0, GENESIS
        if complete is not None:
            line = parse_line(complete, f"{self.path}: last line")
            sequence, last_hash = line["seq"] + 1, line["hash"]
        if torn:
            with suppress(MessageError):
                # Only the newline is missing: the event itself arrived.
                line = parse_line(torn, str(self.path))
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
        self._append(EventKind.TEAR, tear_facts(torn))


def verify_audit_log(path: Path | str, keys: Iterable[VerifyingKey] | None) -> ChainSummary:
    """Check every line, the chain, and every checkpoint under ``keys``; without keys (None) the chain only.

    Raises ``MessageError`` naming the file and the line: reasons ``audit_chain``, ``unknown_signer``,
    ``bad_signature``, ``torn``; ``ConfigurationError`` when the file cannot be read.
    """
    walk = Walk(keys)
    number = 0
    try:
        with Path(path).open("rb") as file:
            while data := file.readline(MAX_LINE_BYTES + 1):
                number += 1
                walk.take(data, f"{path}: line {number}")
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot read the audit log: {error.strerror}") from error
    return walk.finish(f"{path}: line {number}")


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
