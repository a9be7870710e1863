"""One party's place in its federation: who it is, whom the root says belongs, and that the two agree."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509

from pqfl_transport.errors import CertificateError, ConfigurationError
from pqfl_transport.pki import chain, keystore
from pqfl_transport.pki.keystore import SigningIdentity
from pqfl_transport.pki.passphrases import PassphraseSource, from_environment
from pqfl_transport.pki.profiles import Usage
from pqfl_transport.pki.roster import Party, Roster
from pqfl_transport.pki.roster_files import load_remembered_roster
from pqfl_transport.pki.signing_files import held_keys, is_ending, key_in_use
from pqfl_transport.pki.spiffe import Role
from pqfl_transport.policy import Policy, for_level


@dataclass(frozen=True, slots=True)
class Membership:
    """A signing identity that the roster lists."""

    identity: SigningIdentity
    roster: Roster
    chosen: Policy | None = None
    """What is worked under instead of the policy of the roster's level."""

    @property
    def policy(self) -> Policy:
        """The policy that was chosen, or else that of the roster's level."""
        return self.chosen or for_level(self.roster.level)

    @property
    def party(self) -> Party:
        """The own entry in the roster."""
        return self.roster.party(str(self.identity.id))

    @property
    def signs_with_former(self) -> bool:
        """Whether the key in use is the one that the roster names as the former one."""
        former = self.party.former
        return former is not None and self.identity.key.verifying_key == former.key

    def has_to_switch(self, now: float) -> bool:
        """Whether the key in use is a former one whose time is about to be over; ``now`` is in Unix seconds.

        Loading the membership again gives the present key, where the folder has it.
        """
        return self.signs_with_former and is_ending(self.party, now)

    def parties(self, role: Role) -> list[Party]:
        """Return all members of a role, ordered by ID."""
        return [party for _, party in sorted(self.roster.parties.items()) if party.id.role is role]


def load_membership(  # noqa: PLR0913 -- one call says everything; all but the files are keywords
    identity_dir: Path,
    ca_path: Path,
    roster_path: Path,
    *,
    role: Role,
    at_least_number: int = 0,
    seen_path: Path | None = None,
    policy: Policy | None = None,
    now: datetime | None = None,
    passphrases: PassphraseSource = from_environment,
) -> Membership:
    """Load the signing key that is in use now (`signing_files`), verify certificate and roster under ``ca.pem``.

    ``policy`` is that of the roster's level unless given; another one has to be of that level. ``now`` is the system's
    clock unless given; ``passphrases`` is asked where the key is encrypted. The roster's number is remembered
    in ``seen_path`` where that is given, as `load_remembered_roster` does. Raises ``ConfigurationError``
    naming the file: what `keystore` raises, ``wrong_role``, ``wrong_level``, ``not_in_roster`` where the roster lists
    this ID not at all or with another key; ``MessageError`` for a roster that does not hold (`keystore.load_roster`).
    """
    now = now or datetime.now(UTC)
    anchors = keystore.load_anchors(ca_path)
    held = held_keys(identity_dir)
    own = held[0].signer.id
    if own.role is not role:
        raise ConfigurationError(f"{identity_dir}: {own} is no {role.value}", reason="wrong_role")
    roots, federation = keystore.root_keys(anchors), own.federation
    if seen_path is None:
        roster = keystore.load_roster(roster_path, roots, at_least_number=at_least_number, federation=federation)
    else:
        roster = load_remembered_roster(
            roster_path, roots, at_least_number=at_least_number, federation=federation, seen_path=seen_path
        )
    if policy is not None and policy.level is not roster.level:
        raise ConfigurationError(
            f"policy {policy.name} is of level {policy.level}, roster {roster.number} of level {roster.level}",
            reason="wrong_level",
        )
    party = roster.parties.get(str(own))
    listed = None if party is None else key_in_use(held, party, now.timestamp())
    name = (listed or held[0]).name
    identity = keystore.load_signing_identity(identity_dir, name=name, now=now, passphrases=passphrases)
    membership = Membership(identity, roster, policy)
    try:
        membership = under_policy(membership, anchors, membership.policy, now=now)
    except CertificateError as error:
        raise ConfigurationError(f"{identity_dir / name}.pem: {error}", reason=error.reason) from error
    if listed is None:
        raise ConfigurationError(
            f"{roster_path}: roster {roster.number} does not list {own} with this signing key;"
            " get the current roster from the certificate authority",
            reason="not_in_roster",
        )
    return membership


def under_policy(
    membership: Membership, anchors: Sequence[x509.Certificate], policy: Policy, *, now: datetime
) -> Membership:
    """Return the membership under another policy. Raises ``CertificateError`` where its certificate does not fit it."""
    chain.verify_chain(membership.identity.certificate, anchors, policy=policy, usage=Usage.SIGNING, now=now)
    return replace(membership, chosen=policy)
