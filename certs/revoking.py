"""Revoking: who is meant, what is marked, and the numbered lists that tell everybody.

Every issuing authority, replaced ones included, speaks for what it issued. The root has a list where an issuing
authority was revoked, and from then on always: a reader that had one refuses to be without. The classical issuer of a
migration has its own. Numbers come from the ledger and only rise.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from certs.entry import CLASSICAL_AUTHORITY, Entry, State, key_sha256_of, sha256_of, to_time
from certs.folder import AuthorityFolder
from certs.twins import load_issuer
from pqfl_transport.crypto.pyca import MLDSAPrivateKey
from pqfl_transport.errors import ConfigurationError
from pqfl_transport.pki import chain, keystore
from pqfl_transport.pki.lists import Revoked, sign_crl
from pqfl_transport.pki.profiles import Usage
from pqfl_transport.pki.spiffe import SpiffeId

LIST_DAYS = 7
"""How long a list of an issuing authority is current where nobody says otherwise."""
ROOT_LIST_DAYS = 365
"""The root is offline, so its list has to last."""
ROOT_LIST = "crl-root.pem"
FORMER_AUTHORITIES = "former"

_AFTER_END = timedelta(days=30)
"""RFC 5280 §3.3: a certificate stays in the list beyond its end, here for so long."""


@dataclass(frozen=True, slots=True)
class ListMade:
    """One list of one authority."""

    authority: str
    """Its subject."""
    number: int
    revoked: int
    next_update: datetime


def find_entries(authority: AuthorityFolder, word: str) -> tuple[Entry, ...]:
    """Return the certificates that an operator's word means: a name, ROLE/NAME, a SPIFFE ID, or a serial number.

    Raises ``ConfigurationError``: ``unknown_name``; ``ambiguous_name`` where several parties have it.
    """
    entries = [entry for entry in authority.ledger.entries() if entry.state != State.WITHDRAWN]
    by_serial = [entry for entry in entries if entry.serial == word.lower().lstrip("0")]
    meant = [entry for entry in entries if entry.id and _is_called(word, entry.id)]
    ids = sorted({entry.id for entry in meant})
    if len(ids) > 1:
        raise ConfigurationError(f"{word}: is {' and '.join(ids)}; say which", reason="ambiguous_name")
    found = meant or by_serial
    if not found:
        raise ConfigurationError(
            f"{word[:100]!r}: no party of this name and no certificate of this serial number was issued",
            reason="unknown_name",
        )
    return tuple(found)


def find_party(authority: AuthorityFolder, word: str) -> SpiffeId:
    """Return the party that an operator's word means. Raises what `find_entries` raises."""
    ids = {entry.id for entry in find_entries(authority, word) if entry.id and _is_called(word, entry.id)}
    if not ids:
        raise ConfigurationError(f"{word[:100]!r}: no party of this name was issued", reason="unknown_name")
    return SpiffeId.parse(ids.pop())


def revoke_entries(
    authority: AuthorityFolder, entries: tuple[Entry, ...], reason: str, now: datetime
) -> tuple[Entry, ...]:
    """Mark the certificates that are not yet revoked, and forget the party's candidacy. The caller holds the lock.

    A next signing key stays a candidate where only certificates of the key that it replaces are revoked.
    Raises ``ConfigurationError``: ``already_revoked`` where nothing is left to revoke, ``is_root`` for a root, which
    nobody above it can revoke.
    """
    if any(entry.usage == CLASSICAL_AUTHORITY for entry in entries):
        raise ConfigurationError(
            "nobody can revoke the classical issuer: take it out of everybody's --classical-cacert, and remove it here",
            reason="is_root",
        )
    if any(entry.usage in {"root", "cross"} for entry in entries):
        raise ConfigurationError(
            "nobody can revoke a root: replace it (pqfl ca rotate root), and give everybody a ca.pem without it",
            reason="is_root",
        )
    left = [entry for entry in entries if not entry.revoked_at]
    if not left:
        raise ConfigurationError(
            f"{entries[-1].id or entries[-1].usage} was revoked {entries[-1].revoked_at}: {entries[-1].reason}",
            reason="already_revoked",
        )
    kept = set(_replacing(authority, left))
    with authority.ledger.writing(now) as book:
        revoked = tuple(book.revoke(entry, reason) for entry in left)
        for party in {entry.id for entry in left if entry.id} - kept:
            book.forget_candidate(party)
    return revoked


def _replacing(authority: AuthorityFolder, entries: Iterable[Entry]) -> Iterator[str]:
    """Yield the parties whose candidate is another key than all of these certificates, which are for signing."""
    for candidate in authority.ledger.candidates():
        own = [entry for entry in entries if entry.id == candidate.id]
        key = hashlib.sha256(candidate.signing_key).hexdigest()
        if own and all(entry.usage == Usage.SIGNING and entry.key_sha256 != key for entry in own):
            yield candidate.id


def make_lists(
    authority: AuthorityFolder, now: datetime, *, days: int = LIST_DAYS, at_least_number: int = 0
) -> tuple[ListMade, ...]:
    """Sign the next list of every issuing authority, and of the root where it has one; replace ``crl.pem``.

    ``at_least_number`` is for a ledger that was restored: what peers have seen already. The caller holds the lock.
    Raises ``ConfigurationError``: ``missing`` for a private key that is needed and not there, ``bad_validity``,
    ``expired`` where no issuing authority is left.
    """
    made, pems = [], []
    for certificate, key_path in issuing_authorities(authority, now):
        key = authority.private_key(key_path)
        one, pem = _next_list(authority, certificate, key.pyca_key, now, timedelta(days=days), at_least_number)
        made.append(one)
        pems.append(pem)
    if not made:
        raise ConfigurationError(
            f"{authority.crl_path}: every issuing authority has expired, and nobody takes a list of theirs; replace it"
            " (pqfl ca rotate issuing)",
            reason="expired",
        )
    root_pem = _root_list(authority, now, at_least_number, made)
    pem = b"".join([*pems, root_pem])
    keystore.write_public(authority.crl_path, pem)
    return (*made, *_dual_lists(authority, now, timedelta(days=days), at_least_number, pem))


def _dual_lists(
    authority: AuthorityFolder, now: datetime, validity: timedelta, at_least_number: int, pem: bytes
) -> tuple[ListMade, ...]:
    """Sign the lists of the classical issuers, former ones too, and put them with the others into a file of its own.

    Who does not trust the classical issuer refuses a file that has its list.
    """
    if not authority.classical_path.exists():
        authority.dual_crl_path.unlink(missing_ok=True)
        return ()
    former = sorted((authority.folder / FORMER_AUTHORITIES).glob(f"{CLASSICAL_AUTHORITY}-*.pem"))
    trusted, made = authority.classical_anchors(), []
    for path in (authority.classical_path, *former):
        certificate = keystore.read_certificate_file(path)
        # Readers refuse a list of an issuer that they do not trust.
        if certificate in trusted and certificate.not_valid_after_utc > now:
            issuer = load_issuer(authority, now, path)
            one, classical_pem = _next_list(authority, certificate, issuer.key, now, validity, at_least_number)
            made.append(one)
            pem += classical_pem
    keystore.write_public(authority.dual_crl_path, pem)
    return tuple(made)


def _is_called(word: str, party: str) -> bool:
    role_and_name = party.removeprefix("spiffe://").partition("/")[2]
    return word in {party, role_and_name, role_and_name.partition("/")[2]}


def issuing_authorities(authority: AuthorityFolder, now: datetime) -> Iterator[tuple[x509.Certificate, Path]]:
    """Yield every authority that may have leaves which are still valid, with the path of its private key."""
    former = sorted((authority.folder / FORMER_AUTHORITIES).glob("*.pem"))
    seen: set[str] = set()
    trusted = authority.anchor_fingerprints()
    for path in (authority.folder / "issuing.pem", *former):
        certificate = chain.load_certificates(keystore.read_public(path))[0]
        # A new certificate for the same key goes on with the same list; a root's leaves are issuing authorities.
        key = key_sha256_of(certificate)
        if sha256_of(certificate) not in trusted:
            # Readers refuse a list of an authority that they do not trust.
            continue
        if not chain.is_self_signed(certificate) and certificate.not_valid_after_utc > now and key not in seen:
            seen.add(key)
            yield certificate, path.with_suffix(".key")


def _next_list(
    authority: AuthorityFolder,
    certificate: x509.Certificate,
    key: MLDSAPrivateKey | ec.EllipticCurvePrivateKey,
    now: datetime,
    validity: timedelta,
    at_least_number: int,
) -> tuple[ListMade, bytes]:
    ledger, name = authority.ledger, sha256_of(certificate)
    issuers = _same_authority(authority, certificate)
    revoked = [
        Revoked(int(entry.serial, 16), to_time(entry.revoked_at), entry.reason)
        for entry in ledger.entries()
        if entry.issuer in issuers and entry.revoked_at and entry.sha256 != entry.issuer
        # A roster names signing certificates, and goes on doing so when they have ended: they stay in the list.
        and (entry.usage == Usage.SIGNING or to_time(entry.not_after) + _AFTER_END > now)
    ]  # fmt: skip
    number = max(at_least_number, 1 + max(ledger.list_number(issuer) for issuer in issuers))
    pem = sign_crl(certificate, key, revoked, number=number, now=now, next_update=now + validity)
    with ledger.writing(now) as book:
        book.number_list(name, number, now + validity)
        book.record("crl", issuer=name, number=number, revoked=len(revoked))
    return ListMade(certificate.subject.rfc4514_string(), number, len(revoked), now + validity), pem


def _same_authority(authority: AuthorityFolder, certificate: x509.Certificate) -> set[str]:
    """Return the fingerprints of all certificates of this authority's key: a list speaks for the key and the name."""
    entry = next((one for one in authority.ledger.entries() if one.sha256 == sha256_of(certificate)), None)
    if entry is None or not entry.key_sha256:
        return {sha256_of(certificate)}
    return {one.sha256 for one in authority.ledger.entries_of_key(entry.key_sha256)}


def _root_list(authority: AuthorityFolder, now: datetime, at_least_number: int, made: list[ListMade]) -> bytes:
    """Return the root's list, a new one where the root's key is there or an issuing authority was revoked since."""
    path, key_path = authority.folder / ROOT_LIST, authority.folder / "root.key"
    root = keystore.load_certificate(authority.folder / "root.pem", now=now)
    revoked = {
        entry.serial for entry in authority.ledger.entries()
        if entry.issuer == sha256_of(root) and entry.revoked_at
    }  # fmt: skip
    if not revoked and not path.exists():
        return b""
    listed = _serials(path)
    if listed is not None and revoked <= listed and not key_path.exists():
        return keystore.read_public(path)
    key = authority.private_key(key_path)
    one, pem = _next_list(authority, root, key.pyca_key, now, timedelta(days=ROOT_LIST_DAYS), at_least_number)
    keystore.write_public(path, pem)
    made.append(one)
    return pem


def _serials(path: Path) -> set[str] | None:
    if not path.exists():
        return None
    try:
        return {f"{one.serial_number:x}" for one in x509.load_pem_x509_crl(keystore.read_public(path))}
    except ValueError as error:
        raise ConfigurationError(f"{path}: not a revocation list: {error}", reason="malformed") from error
