"""The folder of an authority: which files it has, its keys, its lock, and what stands in them.

    federation.json   name and security level          ledger.db      all that was ever signed and done
    root.pem          root.key       SECRET, offline   log.pub        log.key  SECRET: signs the heads of the ledger
    issuing.pem       issuing.key    SECRET            roster.json    who belongs, signed by the root
    former/           authorities that were replaced   ca.pem         root and issuing certificates, for everybody
                                                       rekeyed.jsonl  new receiving keys that parties announced

`advisory.json` is there once the root withdrew an algorithm, ``crl.pem`` once somebody was revoked, and what
`certs.twins` says while a migration goes on. The ceremony around it is in `certs/README.md`.
"""

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Self

from cryptography import x509

from certs.entry import AuthorityUse, sha256_of
from certs.ledger import Ledger
from certs.migration import FORMER, migrate_ledger
from pqfl_transport.crypto.pyca import SigningKey, VerifyingKey
from pqfl_transport.errors import CertificateError, ConfigurationError, MessageError
from pqfl_transport.pki import chain, keystore
from pqfl_transport.pki.advisory import open_advisory
from pqfl_transport.pki.authority import Issuer
from pqfl_transport.pki.documents import parse_object, require_fields
from pqfl_transport.pki.passphrases import PassphraseSource, from_environment
from pqfl_transport.pki.profiles import Profile, parse_profiles
from pqfl_transport.pki.roster import MAX_ROSTER_BYTES, Roster, open_roster
from pqfl_transport.pki.spiffe import require_label
from pqfl_transport.policy import Advisory, Policy, SecurityLevel, for_level

_TAG = "federation/v1"
_SETTINGS_FIELDS = {"pqfl": str, "federation": str, "level": str}


@dataclass(frozen=True, slots=True)
class AuthorityFolder:
    """An authority's folder. Private keys are read when they are needed and kept no longer."""

    folder: Path
    federation: str
    level: SecurityLevel
    passphrases: PassphraseSource = field(default=from_environment, compare=False, repr=False)
    """Asked where a private key is encrypted."""

    @classmethod
    def open(cls, folder: Path, passphrases: PassphraseSource = from_environment) -> Self:
        """Open an existing authority. Raises ``ConfigurationError`` naming the file that is missing or malformed.

        A folder of a former version is brought to the present one, and the log says so.
        """
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
            opened = cls(folder, settings["federation"], for_level(settings["level"]).level, passphrases)
        except (CertificateError, ConfigurationError) as error:
            raise ConfigurationError(f"{path}: {error}", reason="malformed") from error
        if (folder / FORMER).exists():
            with opened.locked():
                migrate_ledger(folder, opened.ledger, datetime.now(UTC))
        return opened

    def current(self) -> Self:
        """Return the authority as it is now: another process may have moved it to another level."""
        return self.open(self.folder, self.passphrases)

    @property
    def ca_path(self) -> Path:
        """Root and issuing certificates, for every party."""
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
    def crl_path(self) -> Path:
        """The current revocation lists of all authorities, to be given to every party before they end."""
        return self.folder / "crl.pem"

    @property
    def dual_crl_path(self) -> Path:
        """The same lists and that of the classical issuer, for listeners of both kinds: others trust no such issuer."""
        return self.folder / "crl-dual.pem"

    @property
    def classical_path(self) -> Path:
        """The classical issuer's certificate, there only while a migration goes on; its key is beside it."""
        return self.folder / "classical.pem"

    @property
    def classical_ca_path(self) -> Path:
        """The classical issuers that classical peers trust, two of them while one is replaced."""
        return self.folder / "classical-ca.pem"

    @property
    def announced_path(self) -> Path:
        """Where the next issuing authority waits, in ``ca.pem`` already, until it is taken into use."""
        return self.folder / "announced"

    @property
    def announced_classical_path(self) -> Path:
        """Where the next classical issuer waits, in ``classical-ca.pem`` already."""
        return self.folder / "announced-classical"

    @property
    def record_path(self) -> Path:
        """Every new receiving key that was taken into a roster."""
        return self.folder / "rekeyed.jsonl"

    @property
    def ledger(self) -> Ledger:
        """Every certificate that was ever signed, and all that was done."""
        return Ledger(self.folder / "ledger.db")

    @property
    def profiles(self) -> Mapping[str, Profile]:
        """The profiles in the folder's own ``profiles.toml``, or else those that come with this program.

        Raises ``ConfigurationError`` (``bad_profiles``) naming file, table and key.
        """
        path = self.folder / "profiles.toml"
        path = path if path.exists() else Path(__file__).with_name("profiles.toml")
        return parse_profiles(keystore.read_public(path), str(path))

    @property
    def policy(self) -> Policy:
        """The policy of the federation's level."""
        return for_level(self.level)

    def advisory(self) -> Advisory | None:
        """Return the current advisory, verified, also where it is past its end; ``None`` before there was any."""
        if not self.advisory_path.exists():
            return None
        try:
            # Whatever its dates, the next one begins with what it says.
            return open_advisory(
                keystore.read_public(self.advisory_path), self._roots(), now=0, federation=self.federation
            )
        except MessageError as error:
            raise ConfigurationError(f"{self.advisory_path}: {error}", reason="malformed") from error

    def roster(self) -> Roster:
        """Return the current roster, verified. Raises ``ConfigurationError`` naming the file."""
        data = keystore.read_public(self.roster_path, max_bytes=MAX_ROSTER_BYTES)
        try:
            return _open_roster(data, tuple(self._roots()), self.federation)
        except MessageError as error:
            raise ConfigurationError(f"{self.roster_path}: {error}", reason=error.reason) from error

    def anchor_fingerprints(self) -> frozenset[str]:
        """Return the fingerprints of all authorities in ``ca.pem``."""
        return frozenset(sha256_of(one) for one in keystore.load_anchors(self.ca_path))

    def classical_anchors(self) -> tuple[x509.Certificate, ...]:
        """Return the classical issuers that count, the one that signs first; none where there is no migration."""
        if not self.classical_path.exists():
            return ()
        # Before issuers were replaced with overlap there was the one, and no file for several.
        path = self.classical_ca_path if self.classical_ca_path.exists() else self.classical_path
        return tuple(chain.load_certificates(keystore.read_public(path)))

    def trusted_fingerprints(self) -> frozenset[str]:
        """Return the fingerprints of all authorities in ``ca.pem`` and of the classical issuers."""
        return self.anchor_fingerprints() | {sha256_of(one) for one in self.classical_anchors()}

    def uses(self) -> Mapping[str, AuthorityUse]:
        """Return which authorities sign now, and which were announced and will, by their fingerprints."""
        named = {AuthorityUse.SIGNS: [self.folder / "root.pem", self.folder / "issuing.pem", self.classical_path],
                 AuthorityUse.ANNOUNCED: [self.announced_path / "issuing.pem",
                                          self.announced_classical_path / "classical.pem"]}  # fmt: skip
        return {
            sha256_of(keystore.read_certificate_file(path)): use
            for use, paths in named.items()
            for path in paths
            if path.exists()
        }

    def issuer(self, name: str, now: datetime) -> Issuer:
        """Load an authority's certificate and private key.

        Raises ``ConfigurationError``: ``expired``, ``key_mismatch``, and what reading the files raises.
        """
        certificate_path, key_path = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        try:
            certificate = keystore.load_certificate(certificate_path, now=now)
        except ConfigurationError as error:
            if error.reason != "expired" or name != "issuing":
                raise
            raise ConfigurationError(f"{error}; replace it (pqfl ca rotate issuing)", reason="expired") from error
        key = self.private_key(key_path)
        if key.verifying_key != chain.verifying_key(certificate):
            raise ConfigurationError(f"{key_path}: is not the private key of {certificate_path}", reason="key_mismatch")
        return Issuer(certificate, key)

    def private_key(self, path: Path) -> SigningKey:
        """Load a private key. Raises ``ConfigurationError``: ``missing``, and what `load_signing_key` raises."""
        if path.name == "root.key" and not path.exists():
            raise ConfigurationError(
                f"{path}: the root signs rosters and advisories, so its private key has to be present while a party is"
                " admitted or an algorithm withdrawn; bring it from where it is kept offline",
                reason="missing",
            )
        return keystore.load_signing_key(path, self.passphrases)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Let one process at a time change this folder; another one waits."""
        descriptor = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def settings(self) -> bytes:
        """Return name and level as ``federation.json`` has them."""
        settings = {"pqfl": _TAG, "federation": self.federation, "level": self.level.value}
        return json.dumps(settings, indent=1).encode() + b"\n"

    def _roots(self) -> list[VerifyingKey]:
        return keystore.root_keys(keystore.load_anchors(self.ca_path))


@lru_cache(maxsize=1)
def _open_roster(data: bytes, roots: tuple[VerifyingKey, ...], federation: str) -> Roster:
    """Verify a roster; the same bytes under the same roots once, because one of 10,000 parties takes seconds."""
    return open_roster(data, roots, federation=federation)
