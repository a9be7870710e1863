"""Replacing authorities: the new one beside the old one for a while, and then without it.

What a rotation changes becomes visible in one step: all new files are written into ``next/``, which gets its name when
it is whole, and are then moved into their places. `finish_rotation`, which every command does first, moves what a
killed one left there. The replaced authorities are kept in ``former/``: an issuing authority still signs revocation
lists for what it issued.
"""

import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import Enum
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from certs.entry import Entry, State, key_sha256_of, sha256_of
from certs.folder import AuthorityFolder
from certs.identity import to_key_file
from certs.revoking import FORMER_AUTHORITIES
from certs.rosters import with_reference
from certs.staging import staged_folder
from pqfl_transport.errors import ConfigurationError, MessageError
from pqfl_transport.pki import chain, keystore
from pqfl_transport.pki.advisory import open_advisory
from pqfl_transport.pki.authority import create_issuing, create_root, cross_sign, recertify_issuing
from pqfl_transport.pki.constraints import permitted_hosts
from pqfl_transport.pki.profiles import ISSUING_DAYS
from pqfl_transport.pki.references import CertificateReference, identifier_of
from pqfl_transport.pki.roster import Party
from pqfl_transport.policy import SecurityLevel

CROSS = "root-cross.pem"
"""The new root's key certified by the old root: whoever trusts the old one can check the new one by it."""
_NEXT = "next"


class Present(Enum):
    """What stays as it is."""

    PRESENT = "present"


PRESENT = Present.PRESENT
Hosts = Sequence[str] | Present | None
"""Domains and networks (`profiles.parse_hosts`), ``None`` for any, ``PRESENT`` for those of the present authority."""


@dataclass(frozen=True, slots=True)
class Rotated:
    """What a rotation made."""

    entry: Entry
    """The new authority's certificate."""
    in_use: bool
    """Whether it signs from now on, or was announced only."""


def rotate_issuing(
    authority: AuthorityFolder,
    now: datetime,
    *,
    level: SecurityLevel | None = None,
    hosts: Hosts = PRESENT,
    announce: bool = False,
    passphrase: bytes | None = None,
) -> Rotated:
    """Make the next issuing authority and put it into ``ca.pem`` beside the present one. Needs the root's key.

    With ``announce`` it signs nothing yet; the next call takes that one into use, and needs no key of the root. The
    caller holds the lock. Raises ``ConfigurationError``: ``already_announced``, ``missing``.
    """
    announced = authority.announced_path
    if announced.exists() and (announce or level is not None or hosts is not PRESENT):
        raise ConfigurationError(
            f"{announced}: was announced before; take it into use first", reason="already_announced"
        )
    files = (
        _announced_files(announced) if announced.exists() else _new_issuing(authority, now, level, hosts, passphrase)
    )
    certificate = chain.load_certificates(files["issuing.pem"])[0]
    root, issuing = _present(authority)[:2]
    leading = [root, issuing, certificate] if announce else [root, certificate]
    ca_pem = to_pem([*leading, *_others(authority, leading, now)])
    if announce:
        with staged_folder(announced) as stage:
            write(stage, files)
        keystore.write_public(authority.ca_path, ca_pem)
    else:
        keep_former(authority, "issuing")
        switch(authority, {**files, "ca.pem": ca_pem})
    entry = next(one for one in authority.ledger.entries() if one.sha256 == sha256_of(certificate))
    return Rotated(entry, not announce)


def _announced_files(folder: Path) -> dict[str, bytes]:
    files = {name: keystore.read_public(folder / name) for name in ("issuing.pem", "federation.json")}
    return {**files, "issuing.key": keystore.read_secret(folder / "issuing.key")}


def _new_issuing(
    authority: AuthorityFolder, now: datetime, level: SecurityLevel | None, hosts: Hosts, passphrase: bytes | None
) -> dict[str, bytes]:
    root = authority.issuer("root", now)
    if isinstance(hosts, Present):
        hosts = permitted_hosts(keystore.read_certificate_file(authority.folder / "issuing.pem"))
    days = min(ISSUING_DAYS, (root.certificate.not_valid_after_utc - now).days)
    name = next_name(authority, "issuing")
    made = create_issuing(root, level or authority.level, now=now, days=days, name=name, hosts=hosts)
    enter(authority, made.certificate, "issuing", root.certificate, now)
    return {
        "issuing.pem": made.certificate.public_bytes(Encoding.PEM),
        "issuing.key": to_key_file(made.key, passphrase),
        "federation.json": replace(authority, level=level or authority.level).settings(),
    }


def rotate_root(authority: AuthorityFolder, now: datetime, *, passphrase: bytes | None = None) -> Rotated:
    """Make a new root, and certify the present issuing authority's key under it. Needs the old root's key.

    Leaves stay as they are: the issuing authority has a certificate under either root. Rosters and advisories are
    signed by the new one from now on, so ``ca.pem`` has to be everywhere before the next of them. The caller holds the
    lock.
    """
    old = authority.issuer("root", now)
    new = create_root(authority.federation, now=now, name=next_name(authority, "root"))
    issuing = chain.load_certificates(keystore.read_public(authority.folder / "issuing.pem"))[0]
    days = min(ISSUING_DAYS, (new.certificate.not_valid_after_utc - now).days)
    renewed = recertify_issuing(new, issuing, now=now, days=days)
    cross = cross_sign(old, new.certificate, now=now)
    enter(authority, new.certificate, "root", new.certificate, now)
    enter(authority, renewed, "issuing", new.certificate, now)
    enter(authority, cross, "cross", old.certificate, now)
    keep_former(authority, "root")
    keep_former(authority, "issuing")
    root_and_issuing = [new.certificate, renewed]
    switch(
        authority,
        {
            "root.pem": new.certificate.public_bytes(Encoding.PEM),
            "root.key": to_key_file(new.key, passphrase),
            "issuing.pem": renewed.public_bytes(Encoding.PEM),
            CROSS: cross.public_bytes(Encoding.PEM),
            "ca.pem": to_pem([*root_and_issuing, *_others(authority, root_and_issuing, now)]),
        },
    )
    return Rotated(next(one for one in authority.ledger.entries() if one.sha256 == sha256_of(new.certificate)), True)


def retire(authority: AuthorityFolder, now: datetime, *, force: bool = False) -> tuple[str, ...]:
    """Take the replaced authorities out of ``ca.pem``; return their subjects. The caller holds the lock.

    Raises ``ConfigurationError``: ``still_needed`` where the latest certificate of a party, the roster or the advisory
    leads to one of them, unless ``force``, which helps with certificates only; ``nothing_to_retire``.
    """
    kept = _present(authority)
    gone = [one for one in keystore.load_anchors(authority.ca_path) if one not in kept]
    if not gone:
        raise ConfigurationError(f"{authority.ca_path}: holds no replaced authority", reason="nothing_to_retire")
    _require_signed_by_present_root(authority, kept)
    _require_current_references(authority, kept)
    # Twins lead to no authority that could be retired here.
    require_unneeded([one for one in authority.ledger.entries() if not one.is_twin], kept, now, force=force)
    with authority.ledger.writing(now) as book:
        book.record("rotation", step="retire", retired=[sha256_of(one) for one in gone])
    keystore.write_public(authority.ca_path, to_pem(kept))
    return tuple(one.subject.rfc4514_string() for one in gone)


def require_unneeded(entries: Sequence[Entry], kept: Sequence[x509.Certificate], now: datetime, *, force: bool) -> None:
    """Raise ``ConfigurationError`` (``still_needed``) naming whose latest certificate is not of a ``kept`` authority.

    Of each use the latest good one counts: whoever has renewed it does not need the one before any more.
    """
    keys = {key_sha256_of(one) for one in kept}
    # What a key signed that a kept certificate has too stays valid, whatever other certificate of it goes.
    issuers = {one.sha256 for one in entries if one.is_authority and one.key_sha256 in keys}
    latest = {(one.id, one.usage): one for one in entries if one.id and one.is_good(now)}
    needed = sorted(f"{party} ({usage})" for (party, usage), one in latest.items() if one.issuer not in issuers)
    if needed and not force:
        raise ConfigurationError(
            f"{', '.join(needed)[:500]}: not renewed since the authority was replaced, and without it no longer good;"
            " renew first",
            reason="still_needed",
        )


def finish_rotation(authority: AuthorityFolder) -> None:
    """Move what is in ``next/`` into its places. The caller holds the lock."""
    # Under the lock whatever is being written there was left by somebody who was killed.
    announced, classical = authority.announced_path, authority.announced_classical_path
    for name in (_NEXT, announced.name, classical.name):
        for stray in authority.folder.glob(f".{name}.partial-*"):
            shutil.rmtree(stray, ignore_errors=True)
    _move(authority, authority.folder / _NEXT)
    if announced.is_dir() and _same_file(announced / "issuing.pem", authority.folder / "issuing.pem"):
        shutil.rmtree(announced)
    present = authority.classical_path
    # Whoever ends a migration removes the present issuer; then the next one has nothing to follow.
    if classical.is_dir() and (not present.exists() or _same_file(classical / present.name, present)):
        shutil.rmtree(classical)


def _move(authority: AuthorityFolder, staged: Path) -> None:
    if not staged.is_dir():
        return
    # Certificates last: while one is missing its key does not fit, and nobody signs.
    for path in sorted(staged.iterdir(), key=lambda path: (path.suffix != ".key", path.name)):
        path.replace(authority.folder / path.name)
    keystore.sync_folder(authority.folder)
    staged.rmdir()


def _same_file(one: Path, other: Path) -> bool:
    return keystore.read_public(one) == keystore.read_public(other)


def switch(authority: AuthorityFolder, files: Mapping[str, bytes]) -> None:
    """Put new contents into files of the folder in one step. The caller holds the lock."""
    with staged_folder(authority.folder / _NEXT) as stage:
        write(stage, files)
    finish_rotation(authority)


def write(stage: Path, files: Mapping[str, bytes]) -> None:
    """Write files into a folder that is being made; ``*.key`` are secrets."""
    for name, data in files.items():
        (keystore.write_secret if name.endswith(".key") else keystore.write_public)(stage / name, data)


def keep_former(authority: AuthorityFolder, name: str) -> None:
    """Copy the present authority of this name into ``former/``, under its fingerprint."""
    folder = authority.folder / FORMER_AUTHORITIES
    folder.mkdir(mode=0o700, exist_ok=True)
    pem = keystore.read_public(authority.folder / f"{name}.pem")
    stem = f"{name}-{sha256_of(chain.load_certificates(pem)[0])[:16]}"
    keystore.write_secret(
        folder / f"{stem}.key", keystore.read_secret(authority.folder / f"{name}.key"), overwrite=True
    )
    keystore.write_public(folder / f"{stem}.pem", pem)


def enter(
    authority: AuthorityFolder, certificate: x509.Certificate, usage: str, issuer: x509.Certificate, now: datetime
) -> None:
    """Enter a new authority in the ledger."""
    with authority.ledger.writing(now) as book:
        book.enter(Entry.of(certificate, holder="", usage=usage, now=now, issuer=issuer), certificate)
        book.record("rotation", step=usage, sha256=sha256_of(certificate))


def next_name(authority: AuthorityFolder, usage: str) -> str:
    """Return a name that no authority of this kind had."""
    keys = {one.key_sha256 for one in authority.ledger.entries() if one.usage == usage and one.state == State.ISSUED}
    return f"{usage}-{len(keys) + 1}"


def _present(authority: AuthorityFolder) -> list[x509.Certificate]:
    paths = [authority.folder / "root.pem", authority.folder / "issuing.pem"]
    paths += sorted(authority.announced_path.glob("issuing.pem"))
    return [chain.load_certificates(keystore.read_public(path))[0] for path in paths]


def _others(authority: AuthorityFolder, leading: Sequence[x509.Certificate], now: datetime) -> list[x509.Certificate]:
    """Return what ``ca.pem`` has beside these and is not over."""
    present = keystore.load_anchors(authority.ca_path)
    return [one for one in present if one not in leading and one.not_valid_after_utc > now]


def to_pem(certificates: Iterable[x509.Certificate]) -> bytes:
    """Return certificates as one file."""
    return b"".join(one.public_bytes(Encoding.PEM) for one in certificates)


def _require_current_references(authority: AuthorityFolder, kept: Sequence[x509.Certificate]) -> None:
    """Refuse where a reader that trusts these alone could not ask about a member that has renewed since the roster."""
    known = {identifier_of(one) for one in kept}
    entries = authority.ledger.entries()
    behind = [
        name for name, party in sorted(authority.roster().parties.items())
        if any(
            before is not None and before.issuer not in known and before != now
            for before, now in zip(
                _references(party), _references(with_reference(authority, entries, party)), strict=True
            )
        )
    ]  # fmt: skip
    if behind:
        raise ConfigurationError(
            "the roster names certificates of a replaced authority, and there are newer ones of"
            f" {', '.join(behind)[:500]}: sign the next one first (pqfl ca roster sign), and give it to everybody",
            reason="still_needed",
        )


def _references(party: Party) -> tuple[CertificateReference | None, ...]:
    """Return the certificates of a member's signing keys, as the roster names them."""
    return (party.certificate,) if party.former is None else (party.certificate, party.former.certificate)


def _require_signed_by_present_root(authority: AuthorityFolder, kept: Sequence[x509.Certificate]) -> None:
    roots = keystore.root_keys(kept)
    try:
        keystore.load_roster(authority.roster_path, roots, federation=authority.federation)
        if authority.advisory_path.exists():
            data = keystore.read_public(authority.advisory_path)
            open_advisory(data, roots, now=0, federation=authority.federation)
    except MessageError as error:
        raise ConfigurationError(
            f"{error}: sign the next one with the present root first (pqfl ca roster sign, pqfl ca advisory)",
            reason="still_needed",
        ) from error
