"""Founding an authority: everything that its folder has on the first day."""

from datetime import datetime
from pathlib import Path
from types import MappingProxyType

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from certs.entry import Entry
from certs.folder import AuthorityFolder
from certs.identity import to_key_file
from pqfl_transport.crypto.pyca import SigningKey
from pqfl_transport.pki import keystore
from pqfl_transport.pki.authority import Issuer
from pqfl_transport.pki.roster import Roster, sign_roster

_LOG_ALGORITHM = "ML-DSA-65"


def found(
    authority: AuthorityFolder, root: Issuer, issuing: Issuer, now: datetime, *, passphrase: bytes | None = None
) -> None:
    """Write keys, certificates, an empty roster number 1 and the ledger's first entries into an empty folder."""
    keystore.write_public(authority.folder / "federation.json", authority.settings())
    pems = []
    for name, issuer in (("root", root), ("issuing", issuing)):
        pems.append(issuer.certificate.public_bytes(Encoding.PEM))
        keystore.write_public(authority.folder / f"{name}.pem", pems[-1])
        keystore.write_secret(authority.folder / f"{name}.key", to_key_file(issuer.key, passphrase))
    keystore.write_public(authority.ca_path, b"".join(pems))
    write_log_key(authority.folder, passphrase)
    roster = Roster(authority.federation, authority.level, 1, int(now.timestamp()), MappingProxyType({}))
    keystore.write_public(authority.roster_path, sign_roster(roster, root.key))
    with authority.ledger.creating(now) as book:
        for usage, issuer in (("root", root), ("issuing", issuing)):
            entry = Entry.of(issuer.certificate, holder="", usage=usage, now=now, issuer=root.certificate)
            book.enter(entry, issuer.certificate)


def write_log_key(folder: Path, passphrase: bytes | None) -> None:
    """Make the key that signs the heads of the ledger."""
    key = SigningKey.generate(_LOG_ALGORITHM)
    keystore.write_secret(folder / "log.key", to_key_file(key, passphrase), overwrite=True)
    public = key.verifying_key.pyca_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    keystore.write_public(folder / "log.pub", public)
