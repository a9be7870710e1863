"""One certificate as the ledger knows it."""

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Self

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.hashes import SHA256, Hash
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from pqfl_transport.pki.chain import key_algorithm_name
from pqfl_transport.pki.profiles import Usage

TIME_FORMAT = "%Y-%m-%dT%H:%M:%SZ"
CLASSICAL_AUTHORITY = "classical"
AUTHORITY_USAGES = ("root", "issuing", "cross", CLASSICAL_AUTHORITY)
"""What the ledger calls the use of an authority's own certificate."""
_TWIN = "classical-"


class AuthorityUse(StrEnum):
    """What an authority does at the moment; while one is replaced there are two of a kind."""

    SIGNS = "signs"
    ANNOUNCED = "announced"
    """Everybody trusts it already, and it signs nothing yet."""
    FORMER = "former"
    """It signs no certificates any more, and lists for those that it signed until it is retired."""


class State(StrEnum):
    """How far a certificate has come."""

    PREPARED = "prepared"
    """Signed and in the ledger, while its folder is being published."""
    ISSUED = "issued"
    WITHDRAWN = "withdrawn"
    """It never left: whoever was to get it got nothing, and its name is free again."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One certificate. Times are RFC 3339 in UTC, serial number and fingerprints lower-case hex.

    What an older ledger did not keep is empty: ``issuer``, ``key_sha256`` and ``not_before``.
    """

    issued_at: str
    id: str
    """The SPIFFE ID of its holder; empty for an authority."""
    usage: str
    """``server``, ``client`` or ``signing``; `classical_usage` of a twin; one of `AUTHORITY_USAGES`."""
    algorithm: str
    serial: str
    sha256: str
    """Over the certificate's DER."""
    not_after: str
    not_before: str = ""
    issuer: str = ""
    """SHA-256 of the certificate of the authority that signed it; its own for a root."""
    key_sha256: str = ""
    """Over the key's SPKI."""
    state: str = State.ISSUED.value
    revoked_at: str = ""
    reason: str = ""
    """RFC 5280's word for why it was revoked."""

    @classmethod
    def of(
        cls, certificate: x509.Certificate, *, holder: str, usage: Usage | str, now: datetime,
        issuer: x509.Certificate | None = None, state: State = State.ISSUED,
    ) -> Self:  # fmt: skip
        """Describe a certificate that was just made; without ``issuer`` it is its own."""
        return cls(
            issued_at=to_text(now),
            id=holder,
            usage=str(usage),
            algorithm=key_algorithm_name(certificate),
            serial=f"{certificate.serial_number:x}",
            sha256=sha256_of(certificate),
            not_after=to_text(certificate.not_valid_after_utc),
            not_before=to_text(certificate.not_valid_before_utc),
            issuer=sha256_of(issuer or certificate),
            key_sha256=key_sha256_of(certificate),
            state=state.value,
        )

    @property
    def is_authority(self) -> bool:
        """Whether it is the certificate of a root or of an issuing authority."""
        return self.usage in AUTHORITY_USAGES

    @property
    def is_twin(self) -> bool:
        """Whether it is a party's classical certificate."""
        return self.usage.startswith(_TWIN)

    def is_good(self, now: datetime) -> bool:
        """Whether it is neither revoked, nor withdrawn, nor over."""
        return not self.revoked_at and to_time(self.not_after) > now

    def facts(self) -> dict[str, Any]:
        """Return what it is in JSON's types."""
        return asdict(self)

    def event_facts(self) -> dict[str, str]:
        """Return what the chain of events says of its issuing: all that never changes."""
        names = ("id", "usage", "algorithm", "serial", "sha256", "not_before", "not_after", "issuer", "key_sha256")
        return {name: getattr(self, name) for name in names}


def classical_usage(usage: Usage) -> str:
    """Return what the ledger calls the use of a twin."""
    return f"{_TWIN}{usage}"


def to_text(moment: datetime) -> str:
    """Return a time as the ledger writes it: RFC 3339 in UTC, whole seconds."""
    return moment.astimezone(UTC).strftime(TIME_FORMAT)


def to_time(text: str) -> datetime:
    """Return the time that `to_text` wrote. Raises ``ValueError`` for anything else."""
    return datetime.strptime(text + "+0000", f"{TIME_FORMAT}%z")


def sha256_of(certificate: x509.Certificate) -> str:
    """Return a certificate's fingerprint in hex."""
    return certificate.fingerprint(SHA256()).hex()


def key_sha256_of(certificate: x509.Certificate) -> str:
    """Return the fingerprint of a certificate's key in hex: SHA-256 over its SPKI."""
    return key_sha256(certificate.public_key())


def key_sha256(key: CertificatePublicKeyTypes) -> str:
    """Return the fingerprint of a public key in hex: SHA-256 over its SPKI."""
    digest = Hash(SHA256())
    digest.update(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
    return digest.finalize().hex()
