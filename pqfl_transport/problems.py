"""Errors over HTTP: problem documents (RFC 9457) made from our errors, and made into them again.

``type`` is ``urn:pqfl:problem:CULPRIT:REASON``: the culprit is the error's class, so that the other end raises the
same one, and the reason is repeated as a member of its own for those who only count. A problem that a standard names
has the standard's type.
"""

import json
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from pqfl_transport.errors import (
    CertificateError,
    ConfigurationError,
    MessageError,
    PeerError,
    PlatformError,
    PolicyError,
    PqflError,
    RoundError,
    TransportError,
)

CONTENT_TYPE = "application/problem+json"
MAX_PROBLEM_BYTES = 64 * 1024
_MAX_DETAIL = 1000
# Problems that a standard names: draft-ietf-httpbis-resumable-upload-12 §6.
_STANDARD_TYPES: Mapping[str, str] = MappingProxyType(
    {
        "mismatching_offset": "https://iana.org/assignments/http-problem-types#mismatching-upload-offset",
        "inconsistent_length": "https://iana.org/assignments/http-problem-types#inconsistent-upload-length",
    }
)
_TYPE = re.compile(r"urn:pqfl:problem:([a-z]{1,20}):([a-z0-9_]{1,40})", re.ASCII)

_CLASSES: Mapping[str, type[PqflError]] = MappingProxyType(
    {
        "message": MessageError,
        "round": RoundError,
        "policy": PolicyError,
        "peer": PeerError,
        "certificate": CertificateError,
        "transport": TransportError,
        "platform": PlatformError,
        "configuration": ConfigurationError,
    }
)
_TITLES: Mapping[str, str] = MappingProxyType(
    {
        "message": "The message is malformed, forged, or not for this recipient",
        "round": "The round cannot take this message",
        "policy": "The policy in force does not allow this",
        "peer": "The peer may not do this",
        "certificate": "A certificate cannot be accepted",
        "transport": "A connection failed",
        "platform": "The service cannot do this now",
        "configuration": "The service is not set up for this",
    }
)
_CLASS_STATUS: Mapping[str, int] = MappingProxyType(
    {
        "message": 400, "round": 409, "policy": 403, "peer": 403, "certificate": 403,
        "transport": 502, "platform": 503, "configuration": 500,
    }
)  # fmt: skip
_REASON_STATUS: Mapping[str, int] = MappingProxyType(
    {
        "unknown_sender": 403, "wrong_sender": 403, "wrong_sender_key": 403, "wrong_role": 403, "bad_signature": 403,
        "unknown_model": 404, "unknown_round": 404, "unknown_upload": 404, "not_found": 404,
        "method_not_allowed": 405, "idle": 408, "too_large": 413, "wrong_media_type": 415, "misaddressed": 421,
        "wrong_names": 422, "wrong_shape": 422, "wrong_dtype": 422, "not_finite": 422, "bad_samples": 422,
        "bad_body": 422, "target_down": 503, "resources": 503, "not_for_us": 422, "busy": 429, "not_ready": 503,
        "key_manager_down": 503,
    }
)  # fmt: skip


def status_of(error: PqflError) -> int:
    """Return the HTTP status of an error: its reason's own, else its class's."""
    return _REASON_STATUS.get(error.reason, _CLASS_STATUS[_culprit(error)])


def to_problem(error: PqflError) -> dict[str, Any]:
    """Return the problem document of an error: ``type``, ``title``, ``status``, ``detail``, ``reason``."""
    culprit = _culprit(error)
    return {
        "type": _STANDARD_TYPES.get(error.reason, f"urn:pqfl:problem:{culprit}:{error.reason}"),
        "title": _TITLES[culprit],
        "status": status_of(error),
        "detail": str(error),
        "reason": error.reason,
    }


def from_problem(status: int, body: bytes, source: str) -> PqflError:
    """Return the error that an answer of ``status`` means; ``source`` (a URL or a peer) begins its sentence.

    A body that is no problem document of ours is a ``TransportError`` with reason ``http_STATUS``.
    """
    try:
        problem = json.loads(body[:MAX_PROBLEM_BYTES])
    except (ValueError, RecursionError):
        problem = None
    kind, reason = _kind_of(str(problem.get("type"))) if isinstance(problem, dict) else (None, "")
    if kind is None:
        return TransportError(f"{source} answered HTTP status {status}", reason=f"http_{status}")
    # What the other end wrote goes to a log or a terminal: one line, nothing that a terminal would obey.
    detail = "".join(letter if letter.isprintable() else "?" for letter in str(problem.get("detail"))[:_MAX_DETAIL])
    return kind(f"{source}: {detail}", reason=reason)


def _kind_of(word: str) -> tuple[type[PqflError] | None, str]:
    for reason, standard in _STANDARD_TYPES.items():
        if word == standard:
            return RoundError, reason
    match = _TYPE.fullmatch(word)
    return (None, "") if match is None else (_CLASSES.get(match[1]), match[2])


def _culprit(error: PqflError) -> str:
    return next((word for word, kind in _CLASSES.items() if isinstance(error, kind)), "platform")
