"""The certificate authority of a federation as a folder, and what is done with it: make it, issue from it, renew keys.

    federation.json   name and security level          issued.jsonl   every certificate ever signed
    root.pem          root.key       SECRET, offline   roster.json    who belongs, signed by the root
    issuing.pem       issuing.key    SECRET            ca.pem         both certificates, for everybody
                                                       rekeyed.jsonl  new receiving keys that parties announced

`advisory.json` is there once the root withdrew an algorithm. The ceremony around it is in `certs/README.md`.
"""

import fcntl
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from certs.certifying import (
    CertificationRequest,
    Certified,
    Renewal,
    certify,
    default_seconds,
    require_certifiable,
    require_first,
    require_renewal,
)
from certs.identity import Identity, make_identity, to_key_file
from certs.ledger import Entry, read_ledger, write_ledger
from certs.rekeying import Rekeyed, read_record, require_acceptable, write_record
from certs.staging import restored_on_failure, staged_folder
from pqfl_transport.crypto.pyca import SigningKey
from pqfl_transport.errors import CertificateError, ConfigurationError, MessageError
from pqfl_transport.pki import chain, keystore
from pqfl_transport.pki.advisory import open_advisory, sign_advisory
from pqfl_transport.pki.authority import Host, Issuer, create_issuing, create_root
from pqfl_transport.pki.documents import parse_object, require_fields
from pqfl_transport.pki.passphrases import PassphraseSource, from_environment
from pqfl_transport.pki.profiles import DAY_SECONDS, Profile, Usage, find_profile
from pqfl_transport.pki.roster import MAX_WEIGHT_CAP, Party, Roster, sign_roster
from pqfl_transport.pki.spiffe import Role, SpiffeId, require_label
from pqfl_transport.pki.statements import open_statement
from pqfl_transport.policy import DEFAULT_LEVEL, Advisory, Policy, SecurityLevel, Withdrawal, for_level

DEFAULT_FEDERATION = "pqfl"
DEFAULT_WEIGHT_CAP = 1_000_000
"""The most samples one update of a site may claim where nobody says otherwise."""

_TAG = "federation/v1"
_SETTINGS_FIELDS = {"pqfl": str, "federation": str, "level": str}


@dataclass(frozen=True, slots=True)
class Issued:
    """What ``Authority.issue`` did."""

    id: SpiffeId
    folder: Path
    entries: tuple[Entry, ...]
    """The new lines of the ledger, one a certificate."""
    roster_number: int | None
    """The number of the new roster; ``None`` where the party is not in it and the roster stayed as it was."""


@dataclass(frozen=True, slots=True)
class Authority:
    """An authority's folder. Private keys are read when they are needed and kept no longer."""

    folder: Path
    federation: str
    level: SecurityLevel
    passphrases: PassphraseSource = field(default=from_environment, compare=False, repr=False)
    """Asked where ``root.key`` or ``issuing.key`` is encrypted."""

    @classmethod
    def create(
        cls,
        folder: Path,
        *,
        federation: str = DEFAULT_FEDERATION,
        level: SecurityLevel | str = DEFAULT_LEVEL,
        passphrase: bytes | None = None,
        now: datetime | None = None,
    ) -> Self:
        """Make root, issuing authority and an empty roster number 1; the folder appears whole or not at all.

        With a passphrase both private keys are encrypted. ``now`` is the system's clock unless given. Raises
        ``ConfigurationError``: ``exists`` for a folder that holds anything, ``unknown_level``; ``CertificateError``
        (``bad_name``) for a name outside the grammar.
        """
        now = now or datetime.now(UTC)
        authority = cls(folder, federation, for_level(level).level)
        root = create_root(federation, now=now)
        issuing = create_issuing(root, authority.level, now=now)
        with staged_folder(folder) as stage:
            replace(authority, folder=stage)._write_new(root, issuing, passphrase, now)  # noqa: SLF001 -- the same class
        return authority

    @classmethod
    def open(cls, folder: Path, passphrases: PassphraseSource = from_environment) -> Self:
        """Open an existing authority. Raises ``ConfigurationError`` naming the file that is missing or malformed."""
        path = folder / "federation.json"
        data = keystore.read_public(path)
        try:
            settings = require_fields(parse_object(data, str(path)), _SETTINGS_FIELDS, str(path))
        except MessageError as error:
            raise ConfigurationError(str(error), reason="malformed") from error
        if settings["pqfl"] != _TAG:
            raise ConfigurationError(f"{path}: says {settings['pqfl'][:40]!r} and not {_TAG!r}", reason="malformed")
        try:
            require_label("federation", settings["federation"])
            return cls(folder, settings["federation"], for_level(settings["level"]).level, passphrases)
        except (CertificateError, ConfigurationError) as error:
            raise ConfigurationError(f"{path}: {error}", reason="malformed") from error

    @property
    def ca_path(self) -> Path:
        """Root and issuing certificate, for every party."""
        return self.folder / "ca.pem"

    @property
    def roster_path(self) -> Path:
        """The current roster, to be given to every party again whenever its number changes."""
        return self.folder / "roster.json"

    @property
    def advisory_path(self) -> Path:
        """The current advisory, to be given to every party again whenever its number changes."""
        return self.folder / "advisory.json"

    @property
    def ledger_path(self) -> Path:
        """Every certificate that was ever signed."""
        return self.folder / "issued.jsonl"

    @property
    def record_path(self) -> Path:
        """Every new receiving key that was taken into a roster."""
        return self.folder / "rekeyed.jsonl"

    @property
    def policy(self) -> Policy:
        """The policy of the federation's level."""
        return for_level(self.level)

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
        now: datetime | None = None,
    ) -> Issued:
        """Make a party's keys and certificates as the folder ``out`` and enter it in ledger and roster: all or nothing.

        ``days`` is the profile's default unless given, or what remains of the issuer's life where that is less. With a
        passphrase the party's private keys are encrypted.
        Raises ``ConfigurationError``: ``exists`` (``out`` holds something), ``already_issued``, ``unknown_profile``,
        ``bad_host``, ``bad_validity``, ``bad_weight_cap``, ``missing`` for a private key that is not in the folder;
        ``CertificateError`` (``bad_name``) for a name outside the grammar.
        """
        now = now or datetime.now(UTC)
        row = find_profile(profile)
        party_id = SpiffeId(self.federation, row.role, name)
        if not 0 <= weight_cap <= MAX_WEIGHT_CAP:
            raise ConfigurationError(f"weight cap {weight_cap} is not 0 to {MAX_WEIGHT_CAP}", reason="bad_weight_cap")
        with self._locked():
            ledger = self._ledger_without(party_id)
            issuer = self._issuer("issuing", now)
            seconds = default_seconds(issuer, row, now) if days is None else days * DAY_SECONDS
            identity = make_identity(issuer, row, party_id, self.policy, now=now, seconds=seconds, hosts=hosts)
            entries = _entries(identity, row, now)
            cap = weight_cap if row.role is Role.SITE else 0
            with restored_on_failure(self.ledger_path, self.roster_path), staged_folder(out) as stage:
                identity.write(stage, keystore.read_public(self.ca_path), passphrase)
                # The ledger first: a certificate that it does not know could never be revoked.
                write_ledger(self.ledger_path, (*ledger, *entries))
                number = self._admit(identity.party(weight_cap=cap), now)
        return Issued(party_id, out, entries, number)

    def certify(
        self,
        request: CertificationRequest,
        *,
        now: datetime | None = None,
        seconds: int | None = None,
        renews: Renewal | None = None,
        keep: Callable[[Certified], None] = lambda _made: None,
    ) -> Certified:
        """Certify keys that a party made itself, for ``seconds``, the profile's default or the rest of the issuer's.

        The ledger has the certificates when this returns. A new party is a candidate: no roster names it yet. Without
        ``renews`` the name has to be new. ``keep`` is given the certificates before the ledger has them, so that they
        are not lost if the process dies in between; whether they count, `knows` tells. Raises what
        `require_certifiable`, `require_first`, `require_renewal` and `certifying.certify` raise, and
        ``ConfigurationError`` (``missing``) without the issuing key.
        """
        now = now or datetime.now(UTC)
        row = find_profile(request.profile)
        require_certifiable(request, row, self.policy)
        with self._locked():
            ledger = read_ledger(self.ledger_path)
            if renews is None:
                require_first(request, row, ledger)
            else:
                request = require_renewal(request, row, renews, ledger, now)
            issuer = self._issuer("issuing", now)
            seconds = default_seconds(issuer, row, now) if seconds is None else seconds
            made = certify(issuer, request, row, keystore.read_public(self.ca_path), now=now, seconds=seconds)
            entries = [Entry.of(made.tls_certificate, holder=str(request.id), usage=row.tls_usage, now=now)]
            if made.signing_certificate is not None:
                signing = Entry.of(made.signing_certificate, holder=str(request.id), usage=Usage.SIGNING, now=now)
                entries.append(signing)
            keep(made)
            write_ledger(self.ledger_path, (*ledger, *entries))
        return made

    def knows(self, certificate: x509.Certificate) -> bool:
        """Whether the ledger has this certificate: one that it has not was never given to anybody."""
        sha256 = certificate.fingerprint(SHA256()).hex()
        return any(entry.sha256 == sha256 for entry in read_ledger(self.ledger_path))

    def has_issued(self, party_id: SpiffeId) -> bool:
        """Whether the ledger has certificates of this party."""
        return any(entry.id == str(party_id) for entry in read_ledger(self.ledger_path))

    def names_of(self, role: Role) -> frozenset[str]:
        """Return the names of all parties of a role that were ever issued to."""
        ids = {SpiffeId.parse(entry.id) for entry in read_ledger(self.ledger_path) if entry.id}
        return frozenset(party.name for party in ids if party.role is role)

    def rekey(self, data: bytes, *, now: datetime | None = None) -> tuple[Rekeyed, int]:
        """Take a party's statement of a new receiving key; return the record of it and the new roster's number.

        Raises ``MessageError``: what `open_statement` and `require_acceptable` raise; ``PolicyError`` (``wrong_kem``);
        ``ConfigurationError`` where the root's key is not there.
        """
        now = now or datetime.now(UTC)
        with self._locked():
            roster, record = self.roster(), read_record(self.record_path)
            party, statement = open_statement(data, roster, now=now.timestamp())
            require_acceptable(
                party, statement, roster=roster, record=record, ledger=read_ledger(self.ledger_path),
                policy=self.policy,
            )  # fmt: skip
            taken = Rekeyed.of(party, statement, data, now)
            renewed = replace(
                party,
                receiving_key=statement.receiving_key,
                receiving_fingerprint=statement.receiving_fingerprint,
            )
            write_record(self.record_path, record)
            with restored_on_failure(self.record_path, self.roster_path):
                # The record first: a statement that is in a roster and not in the record could be taken again.
                write_record(self.record_path, (*record, taken))
                number = self._admit(renewed, now)
        return taken, number or 0

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
        with self._locked():
            former = self.advisory()
            known = {} if former is None else {one.algorithm: one for one in former.withdrawals}
            for name in restored:
                if known.pop(name, None) is None:
                    raise ConfigurationError(f"{name} is not withdrawn by the current advisory", reason="not_withdrawn")
            known |= {one.algorithm: one for one in withdrawals}
            number = 1 if former is None else former.number + 1
            advisory = Advisory(self.federation, number, int(now.timestamp()), expires_at, tuple(known.values()))
            keystore.write_public(self.advisory_path, sign_advisory(advisory, self._issuer("root", now).key))
        return advisory

    def advisory(self) -> Advisory | None:
        """Return the current advisory, verified, also where it is past its end; ``None`` before there was any."""
        if not self.advisory_path.exists():
            return None
        roots = keystore.root_keys(keystore.load_anchors(self.folder / "root.pem"))
        try:
            # Whatever its dates, the next one begins with what it says.
            return open_advisory(keystore.read_public(self.advisory_path), roots, now=0, federation=self.federation)
        except MessageError as error:
            raise ConfigurationError(f"{self.advisory_path}: {error}", reason="malformed") from error

    def roster(self) -> Roster:
        """Return the current roster, verified. Raises what ``keystore.load_roster`` raises."""
        roots = keystore.root_keys(keystore.load_anchors(self.folder / "root.pem"))
        return keystore.load_roster(self.roster_path, roots, federation=self.federation)

    def _write_new(self, root: Issuer, issuing: Issuer, passphrase: bytes | None, now: datetime) -> None:
        settings = {"pqfl": _TAG, "federation": self.federation, "level": self.level.value}
        keystore.write_public(self.folder / "federation.json", json.dumps(settings, indent=1).encode() + b"\n")
        pems = []
        for name, issuer in (("root", root), ("issuing", issuing)):
            pems.append(issuer.certificate.public_bytes(Encoding.PEM))
            keystore.write_public(self.folder / f"{name}.pem", pems[-1])
            keystore.write_secret(self.folder / f"{name}.key", to_key_file(issuer.key, passphrase))
        keystore.write_public(self.ca_path, b"".join(pems))
        roster = Roster(self.federation, self.level, 1, int(now.timestamp()), MappingProxyType({}))
        keystore.write_public(self.roster_path, sign_roster(roster, root.key))
        write_ledger(
            self.ledger_path,
            (
                Entry.of(root.certificate, holder="", usage="root", now=now),
                Entry.of(issuing.certificate, holder="", usage="issuing", now=now),
            ),
        )

    def _ledger_without(self, party_id: SpiffeId) -> tuple[Entry, ...]:
        ledger = read_ledger(self.ledger_path)
        for entry in ledger:
            if entry.id == str(party_id):
                raise ConfigurationError(
                    f"{party_id} was already issued on {entry.issued_at[:10]}; see {self.ledger_path}",
                    reason="already_issued",
                )
        return ledger

    def _admit(self, party: Party | None, now: datetime) -> int | None:
        """Sign the next roster, with this party in it, and return its number."""
        if party is None:
            return None
        root = self._issuer("root", now)
        roster = self.roster()
        parties = MappingProxyType({**roster.parties, str(party.id): party})
        following = replace(roster, number=roster.number + 1, issued_at=int(now.timestamp()), parties=parties)
        keystore.write_public(self.roster_path, sign_roster(following, root.key))
        return following.number

    def _issuer(self, name: str, now: datetime) -> Issuer:
        """Load an authority's certificate and private key. Raises ``ConfigurationError`` where they do not fit."""
        certificate_path, key_path = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        certificate = keystore.load_certificate(certificate_path, now=now)
        key = self._private_key(key_path)
        if key.verifying_key != chain.verifying_key(certificate):
            raise ConfigurationError(f"{key_path}: is not the private key of {certificate_path}", reason="key_mismatch")
        return Issuer(certificate, key)

    def _private_key(self, path: Path) -> SigningKey:
        if path.name == "root.key" and not path.exists():
            raise ConfigurationError(
                f"{path}: the root signs rosters and advisories, so its private key has to be present while a party is"
                " admitted or an algorithm withdrawn; bring it from where it is kept offline",
                reason="missing",
            )
        return keystore.load_signing_key(path, self.passphrases)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Let one process at a time change this folder; another one waits."""
        descriptor = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _entries(identity: Identity, profile: Profile, now: datetime) -> tuple[Entry, ...]:
    holder = str(identity.id)
    tls = Entry.of(identity.tls_certificate, holder=holder, usage=profile.tls_usage, now=now)
    if identity.content is None:
        return (tls,)
    return (tls, Entry.of(identity.content.signing_certificate, holder=holder, usage=Usage.SIGNING, now=now))
