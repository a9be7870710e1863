"""Signing keys that are replaced: the next key of an identity folder, and the roster that names it.

new = prepare_next(federation, folder)              # signing-next.pem and signing-next.key, as `pqfl renew` makes them
name_next(federation, former_until=until)           # the next roster; the key before counts until then
"""

from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding

from certs.certifying import CertificationRequest, Renewal
from pqfl_transport.crypto.pyca import SigningKey, VerifyingKey
from pqfl_transport.pki import chain, keystore
from pqfl_transport.pki.roster import Roster
from tests.support.pki import Federation


def prepare_next(federation: Federation, folder: Path) -> VerifyingKey:
    """Make the next signing key of a party, certified and waiting in the ledger; return its public half."""
    tls, signing = (keystore.load_certificate(folder / name) for name in ("tls.pem", "signing.pem"))
    present, party = chain.verifying_key(signing), chain.spiffe_id(signing)
    key = SigningKey.generate(present.algorithm)
    request = CertificationRequest(
        party, party.role.value, chain.verifying_key(tls), present, next_signing_key=key.verifying_key
    )
    made = federation.authority.certify(request, renews=Renewal(tls, signing))
    assert made.next_certificate is not None
    (folder / "signing-next.pem").write_bytes(made.next_certificate.public_bytes(Encoding.PEM))
    keystore.write_secret(folder / "signing-next.key", key.to_pem(), overwrite=True)
    return key.verifying_key


def name_next(federation: Federation, *, former_until: int | None = None) -> Roster:
    """Sign the next roster, with every key that waits; ``former_until`` is in Unix seconds."""
    federation.authority.sign_roster(federation.authority.plan_roster(former_until=former_until))
    return federation.authority.roster()
