"""A party's signed word that it has a new receiving key: what the authority needs for the next roster.

A signed document (`pki.documents`, `Context.RECEIVING_KEY`) under the party's signing key. It is dated and ends: an
authority takes none that is older than the last one it took from that party, so an earlier statement does not bring an
earlier key back, and none that has lain about for long.
"""

import base64
import hashlib
from dataclasses import dataclass
from typing import Any

from pqfl_transport.crypto.pyca import SigningKey, VerifyingKey
from pqfl_transport.errors import CertificateError, MessageError
from pqfl_transport.pki.documents import DocumentKind, decode_base64, open_document, require_fields, sign_document
from pqfl_transport.pki.roster import Party, Roster
from pqfl_transport.pki.spiffe import SpiffeId

STATEMENT_SECONDS = 30 * 24 * 3600
"""How long an authority has to take a statement."""
MAX_STATEMENT_BYTES = 4 << 20
MAX_SKEW_SECONDS = 300
"""How far a party's clock may be ahead of the authority's."""

_WHERE = DocumentKind.RECEIVING_KEY.tag
_MAX_TIME = 1 << 48
_FIELDS = {"id": str, "receiving_key": str, "receiving_fingerprint": str, "made": int, "not_after": int}


@dataclass(frozen=True, slots=True)
class Statement:
    """One party's new receiving key. Times are Unix seconds."""

    id: SpiffeId
    receiving_key: bytes
    """The bytes inside its ``PQFL RECEIVING PUBLIC KEY`` block; this module does not look into them."""
    made: int
    """When the key was made: later than any key that the party had before."""
    not_after: int

    @property
    def receiving_fingerprint(self) -> bytes:
        """SHA-256 over ``receiving_key``, 32 bytes."""
        return hashlib.sha256(self.receiving_key).digest()


def sign_statement(statement: Statement, key: SigningKey) -> bytes:
    """Return the statement as a signed document."""
    payload = {
        "id": str(statement.id),
        "receiving_key": base64.b64encode(statement.receiving_key).decode(),
        "receiving_fingerprint": statement.receiving_fingerprint.hex(),
        "made": statement.made,
        "not_after": statement.not_after,
    }
    return sign_document(DocumentKind.RECEIVING_KEY, payload, key)


def open_statement(data: bytes, roster: Roster, *, now: float) -> tuple[Party, Statement]:
    """Verify a statement by the roster; return the party that made it, as the roster has it, and what it says.

    Raises ``MessageError``: what `open_document` raises, ``malformed``, ``unknown_sender``, ``unknown_signer`` where
    somebody else, or a key that counts no more, signed for the party, ``expired``, ``from_the_future``.
    """
    members = [key for party in roster.parties.values() for key in party.signing_keys(now)]
    statement = _decode(open_document(data, DocumentKind.RECEIVING_KEY, members, max_bytes=MAX_STATEMENT_BYTES))
    party = roster.party(str(statement.id))
    # Some member has signed it; only the one it speaks for may.
    open_document(data, DocumentKind.RECEIVING_KEY, party.signing_keys(now), max_bytes=MAX_STATEMENT_BYTES)
    if now > statement.not_after:
        raise MessageError(f"{_WHERE}: ended; {party.id} has to make a new one", reason="expired")
    _require_past(statement, now)
    return party, statement


def open_first_statement(data: bytes, party_id: SpiffeId, key: VerifyingKey, *, now: float) -> Statement:
    """Verify the statement of a party that no roster names yet, by the signing key that it wants certified.

    Raises ``MessageError``: what `open_document` raises, ``malformed``, ``wrong_sender`` for another party's,
    ``from_the_future``: every later key of the party is of a later time, and would be refused until that has come.
    """
    statement = _decode(open_document(data, DocumentKind.RECEIVING_KEY, [key], max_bytes=MAX_STATEMENT_BYTES))
    if statement.id != party_id:
        raise MessageError(f"{_WHERE}: is of {statement.id} and not of {party_id}", reason="wrong_sender")
    _require_past(statement, now)
    return statement


def _require_past(statement: Statement, now: float) -> None:
    ahead_seconds = statement.made - now
    if ahead_seconds > MAX_SKEW_SECONDS:
        raise MessageError(
            f"{_WHERE}: is of a time to come: the clock of {statement.id} is {ahead_seconds:.0f} s ahead of the"
            f" authority's, more than {MAX_SKEW_SECONDS}",
            reason="from_the_future",
        )


def _decode(payload: dict[str, Any]) -> Statement:
    fields = require_fields(payload, _FIELDS, _WHERE)
    try:
        party_id = SpiffeId.parse(fields["id"])
    except CertificateError as error:
        raise _malformed(str(error)) from error
    if not all(0 < fields[name] < _MAX_TIME for name in ("made", "not_after")):
        raise _malformed("a time is out of range")
    key = decode_base64(fields["receiving_key"], f"{_WHERE}: receiving_key")
    statement = Statement(party_id, key, fields["made"], fields["not_after"])
    if statement.receiving_fingerprint.hex() != fields["receiving_fingerprint"]:
        raise _malformed("receiving_fingerprint is not that of receiving_key")
    return statement


def _malformed(why: str) -> MessageError:
    return MessageError(f"{_WHERE}: {why}", reason="malformed")
