"""The next roster: who enters it, who leaves, and whose keys change. The root signs what `plan` shows.

A member whose signing key changes keeps the one before as its former key for a while, so that the new roster need not
reach everybody at once. A key of which any certificate was revoked is never kept.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from types import MappingProxyType

from certs.entry import Entry, State
from certs.folder import AuthorityFolder
from certs.ledger import Candidate
from pqfl_transport.crypto.pyca import VerifyingKey
from pqfl_transport.errors import ConfigurationError
from pqfl_transport.pki import keystore
from pqfl_transport.pki.profiles import Usage
from pqfl_transport.pki.references import CertificateReference
from pqfl_transport.pki.roster import FormerKey, Party, Roster, open_roster, sign_roster
from pqfl_transport.pki.spiffe import Role, SpiffeId
from pqfl_transport.policy import SecurityLevel

DEFAULT_WEIGHT_CAP = 1_000_000
"""The most samples one update of a site may claim where nobody says otherwise."""
OVERLAP_SECONDS = 14 * 86_400
"""So long a signing key that is replaced counts beside the new one where nobody says otherwise."""


@dataclass(frozen=True, slots=True)
class RosterPlan:
    """What the next roster would change. Every list is of SPIFFE IDs."""

    present: Roster
    following: Roster
    admitted: tuple[str, ...]
    removed: tuple[str, ...]
    rekeyed: tuple[str, ...]
    """Members whose signing or receiving key is another one."""
    recapped: tuple[str, ...]
    """Members with another weight cap."""
    ended: tuple[str, ...]
    """Members whose former signing key is in the roster no more."""

    @property
    def is_empty(self) -> bool:
        """Whether nothing would change."""
        return self.present.parties == self.following.parties and self.present.level is self.following.level


def plan_roster(
    authority: AuthorityFolder,
    *,
    now: datetime,
    parties: Iterable[Party] = (),
    only: Iterable[str] | None = None,
    weight_caps: Mapping[str, int] = MappingProxyType({}),
    level: SecurityLevel | None = None,
    former_until: int | None = None,
) -> RosterPlan:
    """Return the next roster: ``parties`` in addition, candidates admitted, whoever was revoked left out.

    ``only`` names the candidates to admit, all unless given; ``weight_caps`` is by SPIFFE ID. ``former_until``, in Unix
    seconds, is the latest end of any former signing key; unless given, `OVERLAP_SECONDS` from now for those that are
    replaced by this roster, and for others what the present one says. Raises
    ``ConfigurationError`` (``no_candidate``) for an ID in either that is none of the roster's.
    """
    present = authority.roster()
    entries = authority.ledger.entries()
    revoked = revoked_parties(entries, present)
    members = {name: party for name, party in present.parties.items() if name not in revoked}
    wanted = None if only is None else set(only)
    for candidate in authority.ledger.candidates():
        if (wanted is None or candidate.id in wanted) and _is_certified(candidate, entries, now):
            members[candidate.id] = _party(candidate, present)
    members |= {str(party.id): party for party in parties}
    if unknown := sorted(((wanted or set()) | weight_caps.keys()) - members.keys()):
        raise ConfigurationError(
            f"{', '.join(unknown)[:300]}: neither a candidate nor in the roster", reason="no_candidate"
        )
    members |= {name: replace(members[name], weight_cap=cap) for name, cap in weight_caps.items()}
    members = {
        name: _with_former(party, present.parties.get(name), entries, int(now.timestamp()), former_until)
        for name, party in members.items()
    }
    members = {name: with_reference(authority, entries, party) for name, party in members.items()}
    following = replace(
        present, number=present.number + 1, issued_at=int(now.timestamp()), parties=MappingProxyType(members),
        level=level or present.level,
    )  # fmt: skip
    return _compared(present, following)


def sign_planned(authority: AuthorityFolder, following: Roster, now: datetime) -> bytes:
    """Return the signed roster. Raises ``ConfigurationError`` (``missing``) without the root's key."""
    return sign_roster(following, authority.issuer("root", now).key)


def publish_roster(authority: AuthorityFolder, data: bytes, now: datetime) -> int:
    """Replace the roster by a signed one and record it; return its number. One that is there already is no news."""
    roots = keystore.root_keys(keystore.load_anchors(authority.ca_path))
    roster = open_roster(data, roots, federation=authority.federation)
    present = authority.roster()
    if present.number >= roster.number:
        return roster.number
    plan = _compared(present, roster)
    with authority.ledger.writing(now) as book:
        book.record(
            "roster", number=roster.number, sha256=hashlib.sha256(data).hexdigest(), admitted=list(plan.admitted),
            removed=list(plan.removed), rekeyed=list(plan.rekeyed),
        )  # fmt: skip
    # A roster that is out is in the chain; one that is in the chain and did not get out is made again.
    keystore.write_public(authority.roster_path, data)
    settled = [
        one.id for one in authority.ledger.candidates()
        if one.id in roster.parties and roster.parties[one.id].signing_key.spki == one.signing_key
    ]  # fmt: skip
    with authority.ledger.writing(now) as book:
        for name in settled:
            book.forget_candidate(name)
    return roster.number


def revoked_parties(entries: Iterable[Entry], roster: Roster) -> frozenset[str]:
    """Return the members of which every certificate for signing was revoked."""
    signing: dict[str, list[bool]] = {}
    for entry in entries:
        if entry.usage == Usage.SIGNING and entry.state != State.WITHDRAWN:
            signing.setdefault(entry.id, []).append(bool(entry.revoked_at))
    return frozenset(name for name in roster.parties if all(signing.get(name, [False])))


def revoked_keys(entries: Iterable[Entry]) -> frozenset[str]:
    """Return the fingerprints, in hex, of the signing keys of which any certificate was revoked."""
    return frozenset(entry.key_sha256 for entry in entries if entry.usage == Usage.SIGNING and entry.revoked_at)


def without_revoked_former(roster: Roster, entries: Iterable[Entry]) -> Roster:
    """Return a roster in which no former key was revoked since it was signed."""
    revoked = revoked_keys(entries)
    parties = {
        name: replace(party, former=None)
        if party.former is not None and party.former.key.fingerprint.hex() in revoked
        else party
        for name, party in roster.parties.items()
    }
    return replace(roster, parties=MappingProxyType(parties))


def _with_former(
    party: Party, before: Party | None, entries: Iterable[Entry], now: int, until: int | None
) -> Party:  # fmt: skip
    """Return a member of the next roster with the former key that it has there."""
    if before is None:
        return replace(party, former=None)
    if party.signing_key == before.signing_key:
        former = before.former
        if former is not None and until is not None:
            former = replace(former, until=min(former.until, until))
    else:
        end = now + OVERLAP_SECONDS if until is None else until
        former = FormerKey(before.signing_key, end, before.certificate)
    # Content suites go by the algorithm of a member's keys: one of another level counts no more when that is left.
    keeps = former is not None and former.until > now and former.key.algorithm == party.signing_key.algorithm
    if former is None or not keeps or former.key.fingerprint.hex() in revoked_keys(entries):
        return replace(party, former=None)
    return replace(party, former=former)


def _is_certified(candidate: Candidate, entries: Iterable[Entry], now: datetime) -> bool:
    key = hashlib.sha256(candidate.signing_key).hexdigest()
    return any(
        entry.is_good(now) and (entry.id, entry.usage, entry.key_sha256) == (candidate.id, Usage.SIGNING, key)
        for entry in entries
    )


def with_reference(authority: AuthorityFolder, entries: Iterable[Entry], party: Party) -> Party:
    """Say which certificates a member's keys have, the last ones where they were renewed, for revocation lists."""
    known = tuple(entries)
    certificate = _reference(authority, known, str(party.id), party.signing_key) or party.certificate
    former = party.former
    if former is not None:
        reference = _reference(authority, known, str(party.id), former.key) or former.certificate
        former = replace(former, certificate=reference)
    return replace(party, certificate=certificate, former=former)


def _reference(
    authority: AuthorityFolder, entries: Sequence[Entry], party: str, key: VerifyingKey
) -> CertificateReference | None:
    for entry in reversed(entries):
        if entry.state == State.WITHDRAWN or (entry.id, entry.usage, entry.key_sha256) != (
            party, Usage.SIGNING, key.fingerprint.hex(),
        ):  # fmt: skip
            continue
        certificate = authority.ledger.certificate(entry.sha256)
        if certificate is not None:
            return CertificateReference.of(certificate)
    return None


def _party(candidate: Candidate, present: Roster) -> Party:
    """Return the entry that a candidate would have: a member keeps its receiving key and its cap."""
    party_id, key = SpiffeId.parse(candidate.id), VerifyingKey.from_spki(candidate.signing_key)
    member = present.parties.get(candidate.id)
    if candidate.receiving_key is None:
        if member is None:
            raise ConfigurationError(f"{candidate.id} has no receiving key", reason="bad_keys")
        return replace(member, signing_key=key)
    cap = DEFAULT_WEIGHT_CAP if party_id.role is Role.SITE else 0
    fingerprint = hashlib.sha256(candidate.receiving_key).digest()
    return Party(party_id, key, candidate.receiving_key, fingerprint, cap if member is None else member.weight_cap)


def _compared(present: Roster, following: Roster) -> RosterPlan:
    before, after = present.parties, following.parties
    both = sorted(before.keys() & after.keys())
    return RosterPlan(
        present,
        following,
        admitted=tuple(sorted(after.keys() - before.keys())),
        removed=tuple(sorted(before.keys() - after.keys())),
        rekeyed=tuple(
            name for name in both
            if (before[name].signing_key, before[name].receiving_key)
            != (after[name].signing_key, after[name].receiving_key)
        ),
        recapped=tuple(name for name in both if before[name].weight_cap != after[name].weight_cap),
        ended=tuple(name for name in both if _ends(before[name], after[name])),
    )  # fmt: skip


def _ends(before: Party, after: Party) -> bool:
    return before.former is not None and (after.former is None or after.former.key != before.former.key)
