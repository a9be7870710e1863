"""The certificate authority of a federation, and what is done with it: make it, issue, renew, admit, revoke, replace.

The folder is `certs.folder`; every method that changes it holds its lock, and first finishes or takes back what a
killed one left. The ceremony around it is in `certs/README.md`.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Self

from certs.certifying import (
    CertificationRequest,
    Certified,
    Renewal,
    certified_before,
    certify,
    default_seconds,
    require_certifiable,
    require_fresh_keys,
    require_keys_of_profile,
    require_renewal,
    require_succession,
)
from certs.entry import Entry, State, to_text
from certs.folder import AuthorityFolder
from certs.founding import found, write_log_key
from certs.identity import make_identity
from certs.issuing import Issued, describe_request, finish, publish, recover, require_free_name
from certs.ledger import Candidate, Preparation
from certs.rekeying import Rekeyed, read_record, require_acceptable, write_record
from certs.revoking import LIST_DAYS, ListMade, find_entries, make_lists, revoke_entries
from certs.rosters import (
    DEFAULT_WEIGHT_CAP,
    RosterPlan,
    plan_roster,
    publish_roster,
    revoked_parties,
    sign_planned,
    without_revoked_former,
)
from certs.rotating import PRESENT, Hosts, Rotated, finish_rotation, retire, rotate_issuing, rotate_root
from certs.rotating_classical import retire_classical, rotate_classical
from certs.staging import restored_on_failure, staged_folder
from certs.twins import TwinFolder, make_issuer, make_twin, make_twin_of, renew_twin
from pqfl_transport.errors import CertificateError, ConfigurationError
from pqfl_transport.pki import keystore
from pqfl_transport.pki.advisory import sign_advisory
from pqfl_transport.pki.authority import Host, Issuer, create_issuing, create_root
from pqfl_transport.pki.profiles import DAY_SECONDS, Usage, find_profile
from pqfl_transport.pki.roster import MAX_WEIGHT_CAP, Party
from pqfl_transport.pki.spiffe import Role, SpiffeId
from pqfl_transport.pki.statements import open_statement
from pqfl_transport.pki.twin_renewal import TwinGrant, TwinRenewal
from pqfl_transport.policy import DEFAULT_LEVEL, Advisory, SecurityLevel, Withdrawal, for_level

DEFAULT_FEDERATION = "pqfl"


@dataclass(frozen=True, slots=True)
class Authority(AuthorityFolder):
    """An authority, by its folder."""

    @classmethod
    def create(
        cls,
        folder: Path,
        *,
        federation: str = DEFAULT_FEDERATION,
        level: SecurityLevel | str = DEFAULT_LEVEL,
        hosts: Sequence[str] | None = None,
        passphrase: bytes | None = None,
        now: datetime | None = None,
    ) -> Self:
        """Make root, issuing authority and an empty roster number 1; the folder appears whole or not at all.

        ``hosts`` are the domains and networks that the issuing authority permits, any unless given. With a passphrase
        all private keys are encrypted. ``now`` is the system's clock unless given. Raises
        ``ConfigurationError``: ``exists`` for a folder that holds anything, ``unknown_level``; ``CertificateError``
        (``bad_name``) for a name outside the grammar.
        """
        now = now or datetime.now(UTC)
        authority = cls(folder, federation, for_level(level).level)
        root = create_root(federation, now=now)
        issuing = create_issuing(root, authority.level, now=now, hosts=hosts)
        with staged_folder(folder) as stage:
            found(replace(authority, folder=stage), root, issuing, now, passphrase=passphrase)
        return authority

    def issue(  # noqa: PLR0913 -- one call says everything, in keywords
        self,
        *,
        profile: str,
        name: str,
        out: Path,
        hosts: Sequence[Host] = (),
        days: int | None = None,
        weight_cap: int = DEFAULT_WEIGHT_CAP,
        passphrase: bytes | None = None,
        reissue: bool = False,
        twin: bool = False,
        now: datetime | None = None,
    ) -> Issued:
        """Make a party's keys and certificates as the folder ``out`` and enter it in ledger and roster: all or nothing.

        ``days`` is the profile's default unless given, or what remains of the issuer's life where that is less. With a
        passphrase the party's private keys are encrypted. ``reissue`` gives a name again that was revoked; ``twin``
        adds a classical certificate for a migration.
        Raises ``ConfigurationError``: ``exists`` (``out`` holds something), ``already_issued``, ``was_revoked``,
        ``unknown_profile``, ``bad_host``, ``bad_validity``, ``bad_weight_cap``, ``missing`` for a private key that is
        not in the folder, ``no_twin``, ``no_classical_issuer``; ``CertificateError`` (``bad_name``) for a name outside
        the grammar.
        """
        now = now or datetime.now(UTC)
        row = find_profile(profile, self.profiles)
        party_id = SpiffeId(self.federation, row.role, name)
        if not 0 <= weight_cap <= MAX_WEIGHT_CAP:
            raise ConfigurationError(f"weight cap {weight_cap} is not 0 to {MAX_WEIGHT_CAP}", reason="bad_weight_cap")
        request = describe_request(row, party_id, out, hosts, days, weight_cap, twin=twin)
        with self._changing(now) as finished:
            if request in finished:
                return self._issued(party_id, out)
            require_free_name(self.ledger, party_id, reissue=reissue, now=now)
            issuer = self.issuer("issuing", now)
            seconds = default_seconds(issuer.certificate, row, now) if days is None else days * DAY_SECONDS
            identity = make_identity(issuer, row, party_id, self.policy, now=now, seconds=seconds, hosts=hosts)
            if twin:
                life = None if days is None else seconds
                made = make_twin(self, row, party_id, now=now, seconds=life, hosts=hosts)
                identity = replace(identity, twin=made)
            entries = identity.entries(row, issuer.certificate, now)
            party = identity.party(weight_cap=weight_cap if row.role is Role.SITE else 0)
            roster = None if party is None else self._following(party, now)
            publish(self, identity, entries, out, request=request, roster=roster, passphrase=passphrase, now=now)
            finish(self, Preparation(str(party_id), request, "", str(out), roster), now)
            return self._issued(party_id, out)

    def create_classical(self, *, passphrase: bytes | None = None, now: datetime | None = None) -> Entry:
        """Make the classical issuer, for a migration; it permits the hosts that the issuing authority permits now.

        Raises ``ConfigurationError`` (``exists``).
        """
        now = now or datetime.now(UTC)
        with self._changing(now):
            return make_issuer(self, now, passphrase=passphrase)

    def issue_twin(
        self, party_id: SpiffeId, *, out: Path, days: int | None = None, passphrase: bytes | None = None,
        now: datetime | None = None,
    ) -> Issued:  # fmt: skip
        """Make a classical twin of a party that was issued before as the folder ``out``: all of it or nothing.

        Raises ``ConfigurationError``: ``exists``, ``bad_validity``, and what `twins.make_twin_of` raises.
        """
        now = now or datetime.now(UTC)
        request = json.dumps({"twin_of": str(party_id), "out": str(out.absolute()), "days": days}, sort_keys=True)
        with self._changing(now) as finished:
            if request not in finished:
                seconds = None if days is None else days * DAY_SECONDS
                twin, row = make_twin_of(self, party_id, now=now, seconds=seconds)
                made, entries = TwinFolder(party_id, twin), [twin.entry(row, party_id, now)]
                publish(self, made, entries, out, request=request, roster=None, passphrase=passphrase, now=now)
                finish(self, Preparation(str(party_id), request, "", str(out), None), now)
            issued = self._issued(party_id, out)
            return replace(issued, entries=tuple(one for one in issued.entries if one.is_twin), roster_number=None)

    def renew_twin(self, request: TwinRenewal, *, seconds: int | None = None, now: datetime | None = None) -> TwinGrant:
        """Certify the new key of a party's twin. Raises what `twins.renew_twin` raises."""
        now = now or datetime.now(UTC)
        row = find_profile(request.party.role.value, self.profiles)
        with self._changing(now):
            return renew_twin(self, request, row, now=now, seconds=seconds)

    def certify(
        self,
        request: CertificationRequest,
        *,
        now: datetime | None = None,
        seconds: int | None = None,
        renews: Renewal | None = None,
        reissue: bool = False,
    ) -> Certified:
        """Certify keys that a party made itself, for ``seconds``, the profile's default or the rest of the issuer's.

        The ledger has the certificates when this returns, and the same request again is given the same ones. A party
        with content keys is a candidate: no roster names its key yet. Without ``renews`` the name has to be new, or
        revoked and to be ``reissue``-d. Raises what `require_certifiable`, `require_free_name`, `require_renewal`,
        `require_fresh_keys` and `certifying.certify` raise, and ``ConfigurationError`` (``missing``) without the
        issuing key.
        """
        now = now or datetime.now(UTC)
        row = find_profile(request.profile, self.profiles)
        require_certifiable(request, row, self.policy)
        with self._changing(now):
            if renews is None:
                require_keys_of_profile(request, row)
            else:
                request = require_renewal(request, row, renews, self.ledger.entries(party=str(request.id)), now)
                member = self.roster().parties.get(str(request.id))
                if member is not None:
                    require_succession(request, renews, member, self.ledger, now)
            ca_pem = keystore.read_public(self.ca_path)
            before = certified_before(request, row, self.ledger, ca_pem, now, evidence=renews)
            if before is not None:
                return before
            if renews is None:
                require_free_name(self.ledger, request.id, reissue=reissue, now=now)
            require_fresh_keys(request, row, self.ledger)
            issuer = self.issuer("issuing", now)
            seconds = default_seconds(issuer.certificate, row, now) if seconds is None else seconds
            made = certify(issuer, request, row, ca_pem, now=now, seconds=seconds)
            self._enter(made, request, row.tls_usage, issuer, now, kind="issue" if renews is None else "renew")
        return made

    def names_of(self, role: Role) -> frozenset[str]:
        """Return the names of all parties of a role that were ever issued to."""
        ids = {SpiffeId.parse(entry.id) for entry in self.ledger.entries() if entry.id}
        return frozenset(party.name for party in ids if party.role is role)

    def rekey(self, data: bytes, *, now: datetime | None = None) -> tuple[Rekeyed, int]:
        """Take a party's statement of a new receiving key; return the record of it and the new roster's number.

        Raises ``MessageError``: what `open_statement` and `require_acceptable` raise; ``PolicyError`` (``wrong_kem``);
        ``ConfigurationError`` where the root's key is not there.
        """
        now = now or datetime.now(UTC)
        with self._changing(now):
            roster, record = without_revoked_former(self.roster(), self.ledger.entries()), read_record(self.record_path)
            party, statement = open_statement(data, roster, now=now.timestamp())
            require_acceptable(
                party, statement, roster=roster, record=record, ledger=self.ledger.entries(),
                policy=self.policy,
            )  # fmt: skip
            if str(party.id) in revoked_parties(self.ledger.entries(), roster):
                raise CertificateError(f"{party.id} was revoked: the next roster does not name it", reason="revoked")
            taken = Rekeyed.of(party, statement, data, now)
            renewed = replace(
                party,
                receiving_key=statement.receiving_key,
                receiving_fingerprint=statement.receiving_fingerprint,
            )
            following = self._following(renewed, now)
            write_record(self.record_path, record)
            with restored_on_failure(self.record_path, self.roster_path):
                # The record first: a statement that is in a roster and not in the record could be taken again.
                write_record(self.record_path, (*record, taken))
                with self.ledger.writing(now) as book:
                    book.record("rekey", **asdict(taken))
                number = publish_roster(self, following, now)
        return taken, number

    def advise(
        self,
        withdrawals: Sequence[Withdrawal],
        *,
        expires_at: int,
        restored: Sequence[str] = (),
        now: datetime | None = None,
    ) -> Advisory:
        """Sign the next advisory: the former one's withdrawals, these in addition, and without the ``restored`` ones.

        Nothing that was withdrawn comes back by being left out. Raises ``ConfigurationError``: ``not_withdrawn`` for a
        restored name that the former advisory does not have, ``missing`` for the root's private key; ``MessageError``
        where no reader would take it.
        """
        now = now or datetime.now(UTC)
        with self._changing(now):
            former = self.advisory()
            known = {} if former is None else {one.algorithm: one for one in former.withdrawals}
            for name in restored:
                if known.pop(name, None) is None:
                    raise ConfigurationError(f"{name} is not withdrawn by the current advisory", reason="not_withdrawn")
            known |= {one.algorithm: one for one in withdrawals}
            number = 1 if former is None else former.number + 1
            advisory = Advisory(self.federation, number, int(now.timestamp()), expires_at, tuple(known.values()))
            data = sign_advisory(advisory, self.issuer("root", now).key)
            with self.ledger.writing(now) as book:
                book.record("advisory", number=number, sha256=hashlib.sha256(data).hexdigest())
            keystore.write_public(self.advisory_path, data)
        return advisory

    def revoke(self, word: str, reason: str, *, now: datetime | None = None) -> tuple[Entry, ...]:
        """Revoke every certificate of a party, or the one of a serial number; the next roster leaves the party out.

        Others learn it by ``make_crl``. Raises what `find_entries` and `revoke_entries` raise.
        """
        now = now or datetime.now(UTC)
        with self._changing(now):
            return revoke_entries(self, find_entries(self, word), reason, now)

    def make_crl(
        self, *, days: int = LIST_DAYS, at_least_number: int = 0, now: datetime | None = None
    ) -> tuple[ListMade, ...]:
        """Sign the next revocation lists into ``crl.pem``. Raises what `make_lists` raises."""
        now = now or datetime.now(UTC)
        with self._changing(now):
            return make_lists(self, now, days=days, at_least_number=at_least_number)

    def plan_roster(
        self, *, only: Iterable[str] | None = None, weight_caps: Mapping[str, int] = MappingProxyType({}),
        level: SecurityLevel | None = None, former_until: int | None = None, now: datetime | None = None,
    ) -> RosterPlan:  # fmt: skip
        """Return what the next roster would change. Raises what `rosters.plan_roster` raises."""
        now = now or datetime.now(UTC)
        return plan_roster(
            self, now=now, only=only, weight_caps=weight_caps, level=level, former_until=former_until
        )  # fmt: skip

    def sign_roster(self, plan: RosterPlan, *, now: datetime | None = None) -> int:
        """Sign the roster that was planned, with the root's key, and return its number.

        Raises ``ConfigurationError``: ``missing`` without the root's key, ``stale_plan`` where there was another roster
        or a revocation since; ``MessageError`` where no reader would take it.
        """
        now = now or datetime.now(UTC)
        with self._changing(now):
            entries = self.ledger.entries()
            gone = revoked_parties(entries, plan.following)
            changed = without_revoked_former(plan.following, entries) != plan.following
            if self.roster() != plan.present or gone or changed:
                raise ConfigurationError(
                    f"{self.roster_path}: something changed since; look again", reason="stale_plan"
                )
            return publish_roster(self, sign_planned(self, plan.following, now), now)

    def rotate_issuing(
        self, *, level: SecurityLevel | None = None, hosts: Hosts = PRESENT, announce: bool = False,
        passphrase: bytes | None = None, now: datetime | None = None,
    ) -> Rotated:  # fmt: skip
        """Replace the issuing authority, or announce the next one. Raises what `rotating.rotate_issuing` raises."""
        now = now or datetime.now(UTC)
        with self._changing(now):
            return rotate_issuing(self, now, level=level, hosts=hosts, announce=announce, passphrase=passphrase)

    def rotate_classical(
        self, *, announce: bool = False, passphrase: bytes | None = None, now: datetime | None = None
    ) -> Rotated:
        """Replace the classical issuer, or announce the next one. Raises what `rotate_classical` raises."""
        now = now or datetime.now(UTC)
        with self._changing(now):
            return rotate_classical(self, now, announce=announce, passphrase=passphrase)

    def rotate_root(self, *, passphrase: bytes | None = None, now: datetime | None = None) -> Rotated:
        """Replace the root. Raises what `rotating.rotate_root` raises."""
        now = now or datetime.now(UTC)
        with self._changing(now):
            return rotate_root(self, now, passphrase=passphrase)

    def retire(self, *, force: bool = False, classical: bool = False, now: datetime | None = None) -> tuple[str, ...]:
        """Take replaced authorities out of ``ca.pem``, or ``classical`` ones out of ``classical-ca.pem``.

        Raises what `rotating.retire` and `rotating_classical.retire_classical` raise.
        """
        now = now or datetime.now(UTC)
        with self._changing(now):
            return (retire_classical if classical else retire)(self, now, force=force)

    def log_head(self, *, now: datetime | None = None) -> bytes:
        """Return the signed head of the ledger, one JSON line: what peers keep, and later hold against the ledger.

        Raises ``ConfigurationError`` (``missing``) where ``log.pub`` is there and ``log.key`` is not.
        """
        now = now or datetime.now(UTC)
        with self._changing(now):
            # Folders of a former version have none yet.
            if not (self.folder / "log.pub").exists():
                write_log_key(self.folder, None)
            key = self.private_key(self.folder / "log.key")
            with self.ledger.writing(now) as book:
                return book.sign_head(key).encode() + b"\n"

    def _enter(
        self, made: Certified, request: CertificationRequest, usage: Usage, issuer: Issuer, now: datetime, *, kind: str
    ) -> None:
        holder = str(request.id)
        with self.ledger.writing(now) as book:
            signing = (made.signing_certificate, made.next_certificate)
            for certificate, use in ((made.tls_certificate, usage), *((one, Usage.SIGNING) for one in signing)):
                if certificate is not None:
                    entry = Entry.of(certificate, holder=holder, usage=use, now=now, issuer=issuer.certificate)
                    book.enter(entry, certificate, kind=kind)
            proposed = request.signing_key
            if kind == "renew":
                # A key that is only certified again changes nothing about who is to be named next.
                proposed, member = request.next_signing_key, self.roster().parties.get(holder)
                if member is not None and member.signing_key == proposed:
                    return
            if proposed is not None:
                book.propose(Candidate(holder, proposed.spki, request.receiving_key, to_text(now)))

    def _issued(self, party_id: SpiffeId, out: Path) -> Issued:
        entries = [one for one in self.ledger.entries(party=str(party_id)) if one.state == State.ISSUED]
        latest = {entry.usage: entry for entry in entries if not entry.revoked_at}
        roster = self.roster()
        listed = str(party_id) in roster.parties
        return Issued(party_id, out, tuple(latest.values()), roster.number if listed else None)

    def _following(self, party: Party, now: datetime) -> bytes:
        """Return the next roster, signed, with this party in it and without whoever was revoked."""
        return sign_planned(self, plan_roster(self, now=now, parties=(party,), only=()).following, now)

    @contextmanager
    def _changing(self, now: datetime) -> Iterator[dict[str, Preparation]]:
        """Hold the lock, with nothing left half-done; give what a former command had left to be finished."""
        with self.locked():
            finish_rotation(self)
            yield recover(self, now)
