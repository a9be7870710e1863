"""Replacing the classical issuer of a migration with overlap, as `certs.rotating` does it with the others.

While both are in ``classical-ca.pem``, classical peers accept twins of either; ``crl-dual.pem`` has a list of each. No
key of the root is needed: nobody above it signs this issuer.
"""

from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from certs.entry import CLASSICAL_AUTHORITY, sha256_of
from certs.folder import AuthorityFolder
from certs.rotating import Rotated, enter, keep_former, next_name, require_unneeded, switch, to_pem, write
from certs.staging import staged_folder
from certs.twins import CERTIFICATE, KEY, present_hosts, require_issuer, to_key_file
from pqfl_transport.errors import ConfigurationError
from pqfl_transport.pki import keystore
from pqfl_transport.pki.twins import create_classical


def rotate_classical(
    authority: AuthorityFolder, now: datetime, *, announce: bool = False, passphrase: bytes | None = None
) -> Rotated:
    """Make the next classical issuer and put it into ``classical-ca.pem`` beside the present one.

    With ``announce`` it signs nothing yet; the next call takes that one into use. The caller holds the lock. Raises
    ``ConfigurationError``: ``already_announced``, ``no_classical_issuer``.
    """
    present, announced = keystore.read_certificate_file(require_issuer(authority)), authority.announced_classical_path
    if announced.exists() and announce:
        raise ConfigurationError(
            f"{announced}: was announced before; take it into use first", reason="already_announced"
        )
    if announced.exists():
        files = {CERTIFICATE: keystore.read_public(announced / CERTIFICATE), KEY: keystore.read_secret(announced / KEY)}
    else:
        files = _new_issuer(authority, now, passphrase)
    certificate = x509.load_pem_x509_certificate(files[CERTIFICATE])
    leading = [present, certificate] if announce else [certificate]
    trusted = [one for one in authority.classical_anchors() if one not in leading and one.not_valid_after_utc > now]
    anchors = to_pem([*leading, *trusted])
    if announce:
        with staged_folder(announced) as stage:
            write(stage, files)
        keystore.write_public(authority.classical_ca_path, anchors)
    else:
        keep_former(authority, CLASSICAL_AUTHORITY)
        switch(authority, {**files, authority.classical_ca_path.name: anchors})
    entry = next(one for one in authority.ledger.entries() if one.sha256 == sha256_of(certificate))
    return Rotated(entry, not announce)


def retire_classical(authority: AuthorityFolder, now: datetime, *, force: bool = False) -> tuple[str, ...]:
    """Take the replaced issuers out of ``classical-ca.pem``; return their subjects. The caller holds the lock.

    Raises ``ConfigurationError``: ``still_needed`` where the latest twin of a party is of one of them, unless
    ``force``; ``nothing_to_retire``, ``no_classical_issuer``.
    """
    kept = [keystore.read_certificate_file(require_issuer(authority))]
    kept += map(keystore.read_certificate_file, sorted(authority.announced_classical_path.glob(CERTIFICATE)))
    gone = [one for one in authority.classical_anchors() if one not in kept]
    if not gone:
        raise ConfigurationError(f"{authority.classical_ca_path}: holds no replaced issuer", reason="nothing_to_retire")
    twins = [one for one in authority.ledger.entries() if one.is_twin or one.is_authority]
    require_unneeded(twins, kept, now, force=force)
    with authority.ledger.writing(now) as book:
        book.record("rotation", step="retire", retired=[sha256_of(one) for one in gone])
    keystore.write_public(authority.classical_ca_path, to_pem(kept))
    return tuple(one.subject.rfc4514_string() for one in gone)


def _new_issuer(authority: AuthorityFolder, now: datetime, passphrase: bytes | None) -> dict[str, bytes]:
    name = next_name(authority, CLASSICAL_AUTHORITY)
    made = create_classical(authority.federation, now=now, name=name, hosts=present_hosts(authority))
    enter(authority, made.certificate, CLASSICAL_AUTHORITY, made.certificate, now)
    return {CERTIFICATE: made.certificate.public_bytes(Encoding.PEM), KEY: to_key_file(made.key, passphrase)}
