"""Classical twins for a migration: their issuer in the authority's folder, and what a party is handed over.

    authority   classical.pem  classical.key  SECRET       the issuer; never in ca.pem, signs nothing post-quantum
                classical-ca.pem                           whom classical peers trust: it, and a former or a next one
    party       classical.pem  classical.key  SECRET       classical-ca.pem

The ledger calls a twin's use ``classical-server`` or ``classical-client``, so that no program takes it for its party's
certificate. It is revoked with its party. Removing ``classical.pem`` and ``classical.key`` ends the migration here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from certs.certifying import default_seconds, hosts_of, latest_of_key, require_fresh_key, require_ours
from certs.entry import CLASSICAL_AUTHORITY, Entry, State, classical_usage, key_sha256, sha256_of
from certs.folder import AuthorityFolder
from pqfl_transport.crypto import pkcs8
from pqfl_transport.errors import ConfigurationError
from pqfl_transport.pki import keystore
from pqfl_transport.pki.authority import Host
from pqfl_transport.pki.constraints import permitted_hosts
from pqfl_transport.pki.profiles import Profile
from pqfl_transport.pki.spiffe import SpiffeId
from pqfl_transport.pki.twin_renewal import TwinGrant, TwinRenewal
from pqfl_transport.pki.twins import (
    ClassicalIssuer,
    create_classical,
    generate_key,
    issue_twin,
    key_from_pem,
    key_to_pem,
    require_twin,
)

CERTIFICATE, KEY, ANCHOR = "classical.pem", "classical.key", "classical-ca.pem"


@dataclass(frozen=True, slots=True)
class Twin:
    """A party's classical certificate with its key, its issuer, and the issuers that its peers have to trust."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey
    issuer: x509.Certificate
    anchors: tuple[x509.Certificate, ...]

    def write(self, folder: Path, passphrase: bytes | None) -> None:
        """Write the three files; the key gets mode 0600. Raises ``ConfigurationError`` over an existing key."""
        keystore.write_public(folder / CERTIFICATE, self.certificate.public_bytes(Encoding.PEM))
        keystore.write_public(folder / ANCHOR, b"".join(one.public_bytes(Encoding.PEM) for one in self.anchors))
        keystore.write_secret(folder / KEY, to_key_file(self.key, passphrase))

    def entry(self, profile: Profile, holder: SpiffeId, now: datetime) -> Entry:
        """Return what the ledger has of it before its folder is published."""
        return Entry.of(
            self.certificate, holder=str(holder), usage=classical_usage(profile.tls_usage), now=now,
            issuer=self.issuer, state=State.PREPARED,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class TwinFolder:
    """The twin of a party that has its own certificates already, as a folder to be handed over."""

    id: SpiffeId
    twin: Twin

    @property
    def certificates(self) -> tuple[x509.Certificate, ...]:
        """The one certificate."""
        return (self.twin.certificate,)

    def write(self, folder: Path, anchors_pem: bytes, passphrase: bytes | None = None) -> None:
        """Write the twin's files, and ``ca.pem`` beside them as in every party's folder."""
        keystore.write_public(folder / "ca.pem", anchors_pem)
        self.twin.write(folder, passphrase)


def make_issuer(authority: AuthorityFolder, now: datetime, *, passphrase: bytes | None = None) -> Entry:
    """Make the classical issuer. The caller holds the lock. Raises ``ConfigurationError`` (``exists``)."""
    path = authority.classical_path
    if path.exists():
        raise ConfigurationError(f"{path}: exists already; a federation has one classical issuer", reason="exists")
    # One that was removed keeps its name: who still trusts it has to be able to tell the two apart.
    former = sum(one.usage == CLASSICAL_AUTHORITY for one in authority.ledger.entries())
    name = f"{CLASSICAL_AUTHORITY}-{former + 1}" if former else CLASSICAL_AUTHORITY
    made = create_classical(authority.federation, now=now, name=name, hosts=present_hosts(authority))
    entry = Entry.of(made.certificate, holder="", usage=CLASSICAL_AUTHORITY, now=now)
    keystore.write_public(authority.classical_ca_path, made.certificate.public_bytes(Encoding.PEM))
    # The certificate last: before it is there nothing is signed, and a killed making leaves a key that is made again.
    keystore.write_secret(path.with_suffix(".key"), to_key_file(made.key, passphrase), overwrite=True)
    with authority.ledger.writing(now) as book:
        book.enter(entry, made.certificate)
    keystore.write_public(path, made.certificate.public_bytes(Encoding.PEM))
    return entry


def present_hosts(authority: AuthorityFolder) -> tuple[str, ...] | None:
    """Return the domains and networks that the issuing authority permits: a classical issuer permits the same."""
    return permitted_hosts(keystore.read_certificate_file(authority.folder / "issuing.pem"))


def load_issuer(authority: AuthorityFolder, now: datetime, path: Path | None = None) -> ClassicalIssuer:
    """Load the classical issuer, or a former one by the path of its certificate.

    Raises ``ConfigurationError``: ``no_classical_issuer``, ``missing``, ``bad_key``, ``key_mismatch``, ``expired``.
    """
    path = path or require_issuer(authority)
    certificate = keystore.load_certificate(path, now=now)
    key = load_key(path.with_suffix(".key"), authority)
    if key.public_key() != certificate.public_key():
        raise ConfigurationError(f"{path.with_suffix('.key')}: is not the private key of {path}", reason="key_mismatch")
    return ClassicalIssuer(certificate, key)


def require_issuer(authority: AuthorityFolder) -> Path:
    """Return the path of the issuer's certificate. Raises ``ConfigurationError`` (``no_classical_issuer``)."""
    path = authority.classical_path
    if not path.exists():
        raise ConfigurationError(
            f"{path}: this authority has no classical issuer; pqfl ca twin init makes one", reason="no_classical_issuer"
        )
    return path


def load_key(path: Path, authority: AuthorityFolder) -> ec.EllipticCurvePrivateKey:
    """Load a classical private key. Raises ``ConfigurationError`` naming the file."""
    pem = keystore.load_private_pem(path, authority.passphrases)
    try:
        return key_from_pem(pem)
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: {error}", reason=error.reason) from error


def make_twin(
    authority: AuthorityFolder, profile: Profile, party: SpiffeId, *, now: datetime, seconds: int | None,
    hosts: Sequence[Host] = (),
) -> Twin:  # fmt: skip
    """Make a twin's key and certificate, for the profile's validity unless told otherwise.

    Raises what `load_issuer` and `pki.twins.issue_twin` raise.
    """
    issuer, key = load_issuer(authority, now), generate_key()
    seconds = default_seconds(issuer.certificate, profile, now) if seconds is None else seconds
    made = issue_twin(issuer, profile, party, key.public_key(), now=now, seconds=seconds, hosts=hosts)
    return Twin(made, key, issuer.certificate, authority.classical_anchors())


def make_twin_of(
    authority: AuthorityFolder, party: SpiffeId, *, now: datetime, seconds: int | None
) -> tuple[Twin, Profile]:
    """Make the twin of a party that was issued before, with the hosts of its present TLS certificate.

    Raises ``ConfigurationError``: ``no_twin``, ``not_issued`` where it has no good certificate.
    """
    require_twin(party.role)
    profile = next(one for one in authority.profiles.values() if one.role is party.role)
    entries = authority.ledger.entries(party=str(party))
    good = [one for one in entries if one.usage == profile.tls_usage and one.state == State.ISSUED and one.is_good(now)]
    if not good:
        raise ConfigurationError(
            f"{party}: has no certificate that is good, and a twin is only of a party that has", reason="not_issued"
        )
    present = authority.ledger.certificate(good[-1].sha256)
    hosts = () if present is None else hosts_of(present)
    return make_twin(authority, profile, party, now=now, seconds=seconds, hosts=hosts), profile


def renew_twin(
    authority: AuthorityFolder, request: TwinRenewal, profile: Profile, *, now: datetime, seconds: int | None
) -> TwinGrant:
    """Certify the new key of a party's twin, with the hosts of its TLS certificate. The caller holds the lock.

    The caller has authenticated the request. The ledger has the twin when this returns, and the same request again is
    given the same one. Raises what `certifying.require_ours` and `certifying.require_fresh_key` raise;
    ``ConfigurationError``: ``no_twin``, ``no_classical_issuer``, ``bad_key``, ``bad_validity``.
    """
    issuer, usage = load_issuer(authority, now), classical_usage(profile.tls_usage)
    entries = authority.ledger.entries(party=str(request.party))
    require_ours(request.tls, request.party, profile.tls_usage, entries, now)
    require_ours(request.twin, request.party, usage, entries, now)
    new_key = key_sha256(request.new_key)
    made_before = latest_of_key(entries, new_key, usage, now)
    if made_before is not None and made_before.sha256 != sha256_of(request.twin):
        twin = authority.ledger.certificate(made_before.sha256)
    else:
        require_fresh_key(new_key, request.party, usage, authority.ledger)
        if seconds is None:
            seconds = default_seconds(issuer.certificate, profile, now)
        hosts = hosts_of(request.tls)
        twin = issue_twin(issuer, profile, request.party, request.new_key, now=now, seconds=seconds, hosts=hosts)
        with authority.ledger.writing(now) as book:
            entry = Entry.of(twin, holder=str(request.party), usage=usage, now=now, issuer=issuer.certificate)
            book.enter(entry, twin, kind="renew")
    assert twin is not None  # noqa: S101 -- twins are younger than ledgers that kept no certificates
    return TwinGrant(twin, authority.classical_anchors())


def to_key_file(key: ec.EllipticCurvePrivateKey, passphrase: bytes | None) -> bytes:
    """Return a classical private key as its file holds it: PKCS#8, encrypted where there is a passphrase."""
    pem = key_to_pem(key)
    return pem if passphrase is None else pkcs8.encrypt(pem, passphrase)
