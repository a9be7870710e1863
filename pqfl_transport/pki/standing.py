"""Who may take part now: whom the roster of the moment lists and no revocation list of the moment names."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from pqfl_transport.errors import CertificateError
from pqfl_transport.pki.membership import Membership
from pqfl_transport.pki.revocation import Revocations
from pqfl_transport.pki.roster import Party, Roster
from pqfl_transport.pki.spiffe import Role

# These say that a party is out. A stale list says that nobody knows, which is no reason to strike somebody off.
_OUT = frozenset({"revoked", "no_certificate", "untrusted"})


@dataclass(slots=True)
class Standing:
    """What one process knows of its federation; roster and lists are exchanged while it runs."""

    member: Membership
    clock: Callable[[], float]
    """Unix seconds."""
    revocations: Revocations | None = None
    """``None`` where no list is configured: then the roster alone decides."""
    following: Roster | None = None
    """A later roster that was read and counts from the next round on. Which certificate a key has is news at once."""

    def party(self, spiffe_uri: str) -> Party:
        """Return a member in good standing, with its former key only where that one's certificate is good as well.

        Raises ``MessageError`` (``unknown_sender``) for one that the roster does not list, ``CertificateError`` as
        `Revocations.check_party` does.
        """
        party = self.member.roster.party(spiffe_uri)
        if self.revocations is None:
            return party
        good = self.revocations.with_good_keys(self._as_certified_now(party), self._now())
        return party if good.former is not None else replace(party, former=None)

    def parties(self, role: Role) -> list[Party]:
        """Return the members of a role that are not out, ordered by ID. That a list is stale puts nobody out."""
        return [party for party in self.member.parties(role) if self.outage(party) is None]

    def outage(self, party: Party, signer: bytes | None = None) -> CertificateError | None:
        """Return why a member is out, where it is.

        ``signer`` is the fingerprint of a key that it signed something with, the present one unless given: with a
        former key that was revoked, what was signed with it is out.
        """
        former = party.former
        try:
            if self.revocations is not None:
                known = self._as_certified_now(party)
                self.revocations.check_party(known, self._now())
                if former is not None and signer == former.key.fingerprint:
                    self.revocations.check_former(known, self._now())
        except CertificateError as error:
            return error if error.reason in _OUT else None
        return None

    def require_own(self) -> None:
        """Raise ``CertificateError`` where this process itself is out: its certificate, or the one the roster names."""
        if self.revocations is None:
            return
        now, identity = self._now(), self.member.identity
        try:
            self.revocations.check(identity.certificate, now)
            party = self._as_certified_now(self.member.party)
            self.revocations.check_party(party, now)
            if self.member.signs_with_former:
                self.revocations.check_former(party, now)
        except CertificateError as error:
            if error.reason in _OUT:
                sentence = f"the certificate of this {identity.id.role.value} itself does not count: {error}"
                raise CertificateError(sentence, reason=error.reason) from error

    def _as_certified_now(self, party: Party) -> Party:
        """Return a member with the certificates that its keys have in the later roster: they may have been renewed."""
        later = None if self.following is None else self.following.parties.get(str(party.id))
        if later is None:
            return party
        known = {later.signing_key: later.certificate}
        if later.former is not None:
            known[later.former.key] = later.former.certificate
        former = party.former
        if former is not None:
            former = replace(former, certificate=known.get(former.key, former.certificate))
        return replace(party, certificate=known.get(party.signing_key, party.certificate), former=former)

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self.clock(), UTC)
