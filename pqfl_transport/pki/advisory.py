"""Advisories as signed documents: only the federation's offline root says that an algorithm must go.

    {"federation": "cardio", "number": 7, "issued_at": 1764000000, "expires_at": 1771776000, "withdrawn": [
        {"algorithm": "SecP256r1MLKEM768", "status": "broken", "not_before": 0, "why": "…"}]}

Times are Unix seconds. Advisories are numbered like rosters: a reader refuses a lower number than it has seen, and
the same number with another content, so nobody brings an algorithm back with an earlier list. One that is past its end
is refused too, unless it is the very one that the reader took while it was good: that one goes on counting, and is
said to be stale. A name that the reader does not know refuses the whole: it may mean something that is in use.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pqfl_transport.algorithms import meant_by
from pqfl_transport.crypto.pyca import SigningKey, VerifyingKey
from pqfl_transport.errors import CertificateError, ConfigurationError, MessageError
from pqfl_transport.pki.documents import DocumentKind, open_document, require_fields, sign_document
from pqfl_transport.pki.spiffe import require_label
from pqfl_transport.policy import Advisory, Verdict, Withdrawal

MAX_ADVISORY_BYTES = 256 * 1024
MAX_WITHDRAWALS = 256
MAX_WHY_CHARACTERS = 500
_MAX_NAME_CHARACTERS = 100
# The last second of the year 9999: every moment has a date that can be shown.
_MAX_MOMENT = 253_402_300_799
_MAX_NUMBER = 2**63 - 1
_WHERE = DocumentKind.ADVISORY.tag

_FIELDS = {"federation": str, "number": int, "issued_at": int, "expires_at": int, "withdrawn": list}
_WITHDRAWAL_FIELDS = {"algorithm": str, "status": str, "not_before": int, "why": str}


@dataclass(frozen=True, slots=True)
class Seen:
    """What a reader remembers of the advisory with the highest number it has seen."""

    number: int
    digest: bytes
    """SHA-256, 32 bytes, as `digest_of` gives it."""


def digest_of(advisory: Advisory) -> bytes:
    """Return SHA-256 over what an advisory says; signing it once more does not change it."""
    return hashlib.sha256(json.dumps(_encode(advisory), sort_keys=True).encode()).digest()


def sign_advisory(advisory: Advisory, root_key: SigningKey) -> bytes:
    """Return the advisory as a signed document. Raises ``MessageError`` where no reader would take it."""
    payload = _encode(advisory)
    _decode(payload)
    return sign_document(DocumentKind.ADVISORY, payload, root_key)


def open_advisory(
    data: bytes,
    roots: Iterable[VerifyingKey],
    *,
    now: float,
    federation: str | None = None,
    seen: Seen | None = None,
) -> Advisory:
    """Verify an advisory by one of the roots' keys (`keystore.root_keys`) and return it. ``now`` is Unix seconds.

    Raises ``MessageError``: what ``open_document`` raises, ``malformed``, ``unknown_algorithm``, ``wrong_federation``
    where ``federation`` is given and is another, ``stale_advisory`` for a number lower than the one ``seen`` or the
    same with another content, ``expired`` for one past its end that is not the one seen.
    """
    payload = open_document(data, DocumentKind.ADVISORY, roots, max_bytes=MAX_ADVISORY_BYTES)
    advisory = _decode(payload)
    if federation is not None and advisory.federation != federation:
        raise MessageError(
            f"{_WHERE}: is of federation {advisory.federation!r} and not of {federation!r}", reason="wrong_federation"
        )
    known = Seen(advisory.number, digest_of(advisory))
    if seen is not None and advisory.number <= seen.number and known != seen:
        what = "is older than" if advisory.number < seen.number else "says something else than the first"
        raise MessageError(
            f"{_WHERE}: number {advisory.number} {what} number {seen.number}, which was seen before",
            reason="stale_advisory",
        )
    if advisory.is_stale(now) and known != seen:
        raise MessageError(
            f"{_WHERE}: number {advisory.number} is past its end; get the current one from the certificate authority",
            reason="expired",
        )
    return advisory


def _encode(advisory: Advisory) -> dict[str, Any]:
    return {
        "federation": advisory.federation,
        "number": advisory.number,
        "issued_at": advisory.issued_at,
        "expires_at": advisory.expires_at,
        "withdrawn": [
            {"algorithm": one.algorithm, "status": one.status.value, "not_before": one.not_before, "why": one.why}
            for one in advisory.withdrawals
        ],
    }


def _decode(payload: Mapping[str, Any]) -> Advisory:
    fields = require_fields(payload, _FIELDS, _WHERE)
    try:
        require_label("federation", fields["federation"])
    except CertificateError as error:
        raise _malformed(str(error)) from error
    _require_range("number", fields["number"], 1, _MAX_NUMBER)
    _require_range("issued_at", fields["issued_at"], 0, _MAX_MOMENT)
    _require_range("expires_at", fields["expires_at"], fields["issued_at"] + 1, _MAX_MOMENT)
    items = fields["withdrawn"]
    if len(items) > MAX_WITHDRAWALS:
        raise _malformed(f"withdraws {len(items)} algorithms; {MAX_WITHDRAWALS} are allowed")
    withdrawals = tuple(_decode_withdrawal(item) for item in items)
    names = [one.algorithm for one in withdrawals]
    if len(set(names)) != len(names):
        raise _malformed("withdraws an algorithm twice")
    return Advisory(
        fields["federation"], fields["number"], fields["issued_at"], fields["expires_at"], withdrawals
    )  # fmt: skip


def _decode_withdrawal(item: object) -> Withdrawal:
    if not isinstance(item, dict):
        raise _malformed("a withdrawal is not an object")
    fields = require_fields(item, _WITHDRAWAL_FIELDS, f"{_WHERE}: withdrawal")
    name, why = fields["algorithm"], fields["why"]
    if len(name) > _MAX_NAME_CHARACTERS:
        raise _malformed(f"an algorithm's name of {len(name)} characters")
    try:
        meant_by(name)
    except ConfigurationError as error:
        raise MessageError(
            f"{_WHERE}: {error}. What this version does not know it cannot take away, so the whole is refused: update"
            " it, or have the name corrected",
            reason=error.reason,
        ) from error
    if fields["status"] not in set(Verdict):
        raise _malformed(f"{name}: status {fields['status'][:40]!r}: expected {' or '.join(Verdict)}")
    _require_range(f"{name}: not_before", fields["not_before"], 0, _MAX_MOMENT)
    # It is shown on terminals and in logs.
    if not 1 <= len(why) <= MAX_WHY_CHARACTERS or not why.isprintable():
        raise _malformed(f"{name}: why: expected one line of 1 to {MAX_WHY_CHARACTERS} printable characters")
    return Withdrawal(name, Verdict(fields["status"]), fields["not_before"], why)


def _require_range(what: str, value: int, lowest: int, highest: int) -> None:
    if not lowest <= value <= highest:
        raise _malformed(f"{what} is {value} and has to be {lowest} to {highest}")


def _malformed(why: str) -> MessageError:
    return MessageError(f"{_WHERE}: {why}", reason="malformed")
