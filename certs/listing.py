"""Who has certificates, how long they last, who is in the roster: what an operator wants to see at a glance."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from certs.entry import CLASSICAL_AUTHORITY, AuthorityUse, Entry, State, to_time
from certs.ledger import Candidate
from pqfl_transport.pki.profiles import Usage
from pqfl_transport.pki.roster import Roster
from pqfl_transport.pki.spiffe import SpiffeId

AUTHORITY_WARNING = timedelta(days=180)
"""So long before the end of an authority it is time to replace it: parties need a new ``ca.pem`` before."""


class Standing(StrEnum):
    """What certificates are good for now."""

    GOOD = "good"
    ENDING = "ending"
    """A leaf in the last quarter of its life, an authority in its last half year."""
    EXPIRED = "expired"
    REVOKED = "revoked"


class Membership(StrEnum):
    """What the roster says of a party."""

    MEMBER = "member"
    CANDIDATE = "candidate"
    """Certified, and in the next roster if the root signs it."""
    NEW_KEY = "member, new key"
    """A member whose new signing key waits for the next roster."""
    LEAVING = "member, revoked"
    """Revoked, and still in a roster: the next one leaves it out."""
    NONE = "-"
    """Gateways, operators and authorities are in no roster."""


@dataclass(frozen=True, slots=True)
class Row:
    """One party or one authority."""

    name: str
    """Its SPIFFE ID; ``root`` or ``issuing`` for an authority."""
    profile: str
    algorithm: str
    not_after: datetime
    """When the first of its present certificates ends."""
    standing: Standing
    membership: Membership
    revoked_at: str
    reason: str
    certificates: tuple[Entry, ...]
    """Its present certificates: the latest of every use."""
    use: AuthorityUse | None = None
    """What an authority does at the moment; None for a party."""

    @property
    def algorithms(self) -> str:
        """Its algorithm, and that of its twin where it has one."""
        return " + ".join([self.algorithm, *(entry.algorithm for entry in self.certificates if entry.is_twin)])

    def facts(self, now: datetime) -> dict[str, object]:
        """Return the row in JSON's types."""
        return {
            "name": self.name, "profile": self.profile, "algorithm": self.algorithm,
            "not_after": min(entry.not_after for entry in self.certificates),
            "expires_in_seconds": int((self.not_after - now).total_seconds()), "standing": self.standing.value,
            "membership": self.membership.value, "revoked_at": self.revoked_at, "reason": self.reason,
            "use": None if self.use is None else self.use.value,
            "certificates": [entry.facts() for entry in self.certificates],
        }  # fmt: skip

    def warning(self, now: datetime) -> str | None:
        """Return a sentence where somebody has to do something soon, or should have done it."""
        if self.standing not in {Standing.ENDING, Standing.EXPIRED} or self.reason or self.use is AuthorityUse.FORMER:
            return None
        when = f"{self.not_after:%Y-%m-%d %H:%M} UTC"
        remedy = "it has to be renewed"
        if self.profile in {"root", "issuing", CLASSICAL_AUTHORITY}:
            remedy = f"pqfl ca rotate {self.profile}"
        if self.standing is Standing.EXPIRED:
            return f"{self.name} expired {when}: {remedy}"
        return f"{self.name} expires in {spoken(self.not_after - now)}, {when}: {remedy}"


def list_rows(
    entries: Sequence[Entry], roster: Roster, candidates: Iterable[Candidate], now: datetime,
    *, uses: Mapping[str, AuthorityUse],
) -> tuple[Row, ...]:  # fmt: skip
    """Return a row for every authority that there ever was, and then one for every party, by ID.

    ``uses`` is what `AuthorityFolder.uses` says; an authority that is not in it is a former one.
    """
    waiting = {one.id: one for one in candidates}
    authorities = [_authority_row(entry, now, uses) for entry in entries if entry.is_authority]
    parties: dict[str, list[Entry]] = {}
    for entry in entries:
        if entry.id and entry.state != State.WITHDRAWN:
            parties.setdefault(entry.id, []).append(entry)
    return (*authorities, *(_party_row(name, parties[name], roster, waiting, now) for name in sorted(parties)))


def spoken(rest: timedelta) -> str:
    """Return a span of time as people say it, in its largest unit."""
    seconds = max(0, int(rest.total_seconds()))
    for unit, size in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} seconds"


def _authority_row(entry: Entry, now: datetime, uses: Mapping[str, AuthorityUse]) -> Row:
    end = to_time(entry.not_after)
    standing = _standing([entry], end, now, end - AUTHORITY_WARNING)
    return Row(
        entry.usage, entry.usage, entry.algorithm, end, standing, Membership.NONE, entry.revoked_at, entry.reason,
        (entry,), uses.get(entry.sha256, AuthorityUse.FORMER),
    )  # fmt: skip


def _party_row(
    name: str, entries: Sequence[Entry], roster: Roster, waiting: Mapping[str, Candidate], now: datetime
) -> Row:
    latest = {entry.usage: entry for entry in entries}
    member = roster.parties.get(name)
    if member is not None:
        # Beside the certificate of the key that counts there may be a newer one, of the next key or of a former one.
        key = member.signing_key.fingerprint.hex()
        latest |= {entry.usage: entry for entry in entries if entry.usage == Usage.SIGNING and entry.key_sha256 == key}
    # A twin that has ended ends nothing else: that is how a migration is over.
    present = tuple(entry for entry in latest.values() if not entry.is_twin or entry.is_good(now))
    end = min(to_time(entry.not_after) for entry in present)
    begin = max((to_time(entry.not_before) for entry in present if entry.not_before), default=end - timedelta(days=90))
    standing = _standing(present, end, now, end - (end - begin) / 4)
    revoked = next((entry for entry in present if entry.revoked_at), None)
    return Row(
        name, SpiffeId.parse(name).role.value, present[0].algorithm, end, standing,
        _membership(name, latest, roster, waiting), revoked.revoked_at if revoked else "",
        revoked.reason if revoked else "", present,
    )  # fmt: skip


def _standing(entries: Iterable[Entry], end: datetime, now: datetime, warning: datetime) -> Standing:
    if any(entry.revoked_at for entry in entries):
        return Standing.REVOKED
    if now > end:
        return Standing.EXPIRED
    return Standing.ENDING if now > warning else Standing.GOOD


def _membership(name: str, latest: Mapping[str, Entry], roster: Roster, waiting: Mapping[str, Candidate]) -> Membership:
    member, candidate = roster.parties.get(name), waiting.get(name)
    signing = latest.get(Usage.SIGNING)
    if member is None:
        return Membership.CANDIDATE if candidate is not None else Membership.NONE
    if candidate is not None and candidate.signing_key != member.signing_key.spki:
        return Membership.NEW_KEY
    if signing is not None and signing.revoked_at:
        return Membership.LEAVING
    return Membership.MEMBER
