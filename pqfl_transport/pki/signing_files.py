"""The signing keys of an identity folder: the ordinary one, and the next one where a renewal has made it.

``signing.pem`` and ``signing.key`` are what a party signs with. ``signing-next.pem`` and ``signing-next.key`` wait for
a roster that names them. It names the key before as well, for a while, and as long as it does that one is used:
everybody knows it, also those whose roster is an earlier one. A little before its time is over, when everybody has the
new roster, the next key takes its place.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pqfl_transport.crypto.pyca import VerifyingKey
from pqfl_transport.errors import CertificateError, ConfigurationError
from pqfl_transport.pki import chain, keystore
from pqfl_transport.pki.keystore import SigningCertificate
from pqfl_transport.pki.profiles import Usage
from pqfl_transport.pki.roster import Party

ORDINARY, NEXT = "signing", "signing-next"
SWITCH_SECONDS = 600
"""So long before the end of the former key the present one is used: clocks differ, and what is signed takes its way."""


@dataclass(frozen=True, slots=True)
class HeldKey:
    """One of the keys in a folder, as its certificate says; whether that is valid now was not asked."""

    name: str
    """`ORDINARY` or `NEXT`: the files' names without their endings."""
    signer: SigningCertificate

    @property
    def key(self) -> VerifyingKey:
        """Its public half."""
        return self.signer.key

    def is_valid(self, now: float) -> bool:
        """Whether the certificate has begun and not ended; ``now`` is in Unix seconds."""
        certificate = self.signer.certificate
        moment = datetime.fromtimestamp(now, UTC)
        return certificate.not_valid_before_utc <= moment <= certificate.not_valid_after_utc


def has_next(folder: Path) -> bool:
    """Whether a next key is there: its certificate, whose key is replaced together with it."""
    return (folder / f"{NEXT}.pem").exists()


def held_keys(folder: Path) -> tuple[HeldKey, ...]:
    """Return the ordinary key of a folder and then the next one, where it has one.

    Raises ``ConfigurationError`` naming the file: what `read_certificate_file` raises, ``bad_usage``, ``bad_name`` for
    one that names no party, or another than the first.
    """
    names = (ORDINARY, NEXT) if has_next(folder) else (ORDINARY,)
    held = tuple(HeldKey(name, _read(folder / f"{name}.pem")) for name in names)
    if held[0].signer.id != held[-1].signer.id:
        raise ConfigurationError(
            f"{folder / NEXT}.pem: is of {held[-1].signer.id} and not of {held[0].signer.id}", reason="bad_name"
        )
    return held


def key_in_use(held: Sequence[HeldKey], party: Party, now: float) -> HeldKey | None:
    """Return the key that this party signs with at ``now``, in Unix seconds: one that its roster entry names.

    ``None`` where the entry names none of those that are held.
    """
    former = party.former
    keys = party.signing_keys(now)
    if former is not None and not is_ending(party, now):
        keys = (former.key, party.signing_key)
    found = [one for key in keys for one in held if one.key == key]
    return next((one for one in found if one.is_valid(now)), found[0] if found else None)


def is_ending(party: Party, now: float) -> bool:
    """Whether a party's former key is used no more, though it may count still; ``now`` is in Unix seconds."""
    return party.former is not None and now + SWITCH_SECONDS > party.former.until


def _read(path: Path) -> SigningCertificate:
    certificate = keystore.read_certificate_file(path)
    try:
        chain.require_usage(certificate, Usage.SIGNING)
        return SigningCertificate(chain.spiffe_id(certificate), chain.verifying_key(certificate), certificate)
    except CertificateError as error:
        raise ConfigurationError(f"{path}: {error}", reason=error.reason) from error
