"""Certificate revocation lists: verified when they are read, asked on every connection (RFC 5280 §5).

A list counts for the certificates of the authority that signed it. An authority without a list among those that were
read revokes nothing; once it has one, the list has to be current: past its next update nobody can know who was revoked
since, and then the authority's certificates are refused.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.x509.oid import ExtensionOID

from pqfl_transport.errors import CertificateError, ConfigurationError, PolicyError
from pqfl_transport.pki.chain import describe, find_extension, key_algorithm_name
from pqfl_transport.policy import Policy

MAX_CRL_BYTES = 16 * 1024 * 1024
MAX_CRLS = 64
_BEGIN, _END = b"-----BEGIN X509 CRL-----", b"-----END X509 CRL-----"
_UNDERSTOOD = frozenset({ExtensionOID.CRL_NUMBER, ExtensionOID.AUTHORITY_KEY_IDENTIFIER})


@dataclass(frozen=True, slots=True)
class RevocationList:
    """One authority's list."""

    issuer: x509.Certificate
    number: int
    next_update: datetime
    revoked: Mapping[int, tuple[datetime, str]]
    """By serial number: since when, and the reason's word."""


@dataclass(frozen=True, slots=True)
class Revocations:
    """The lists of all authorities that have one."""

    lists: tuple[RevocationList, ...] = ()
    _by_issuer: Mapping[bytes, tuple[RevocationList, ...]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        found: dict[bytes, tuple[RevocationList, ...]] = {}
        for one in self.lists:
            name = one.issuer.subject.public_bytes()
            found[name] = (*found.get(name, ()), one)
        object.__setattr__(self, "_by_issuer", MappingProxyType(found))

    @property
    def numbers(self) -> Mapping[str, int]:
        """The number of every list by its authority: the next reading takes no lower one."""
        return {one.issuer.subject.rfc4514_string(): one.number for one in self.lists}

    def check(self, leaf: x509.Certificate, now: datetime) -> None:
        """Raise ``CertificateError``: ``revoked`` with date and reason, or ``stale_crl``."""
        for one in self._by_issuer.get(leaf.issuer.public_bytes(), ()):
            found = one.revoked.get(leaf.serial_number)
            if found is not None:
                since, why = found
                raise CertificateError(
                    f"{describe(leaf)} was revoked {since:%Y-%m-%d %H:%M} UTC: {why}", reason="revoked"
                )
            if now > one.next_update:
                raise CertificateError(
                    f"the revocation list of {one.issuer.subject.rfc4514_string()!r} was due to be replaced"
                    f" {one.next_update:%Y-%m-%d %H:%M} UTC, so nobody knows who was revoked since",
                    reason="stale_crl",
                )


def open_crls(
    data: bytes,
    anchors: Sequence[x509.Certificate],
    *,
    policy: Policy,
    now: datetime,
    at_least: Mapping[str, int] | None = None,
) -> Revocations:
    """Parse and verify one list in DER, or one or more in PEM, at most 64 in 16 MiB.

    ``anchors`` are the authorities, ``at_least`` the numbers of the lists read before. Raises ``ConfigurationError``:
    ``malformed``, ``untrusted`` (no anchor signed it), ``bad_sigalg``, ``not_yet_valid``, ``stale_crl`` (a lower number).
    """
    parsed = [_verified(one, anchors, policy, now) for one in _parse(data)]
    for one in parsed:
        name = one.issuer.subject.rfc4514_string()
        if one.number < (at_least or {}).get(name, 0):
            raise ConfigurationError(
                f"the revocation list of {name!r} has number {one.number}, and {(at_least or {})[name]} was read before",
                reason="stale_crl",
            )
    return Revocations(tuple(parsed))


def _parse(data: bytes) -> list[x509.CertificateRevocationList]:
    if len(data) > MAX_CRL_BYTES or data.count(_BEGIN) > MAX_CRLS:
        raise ConfigurationError(f"more than {MAX_CRLS} lists or {MAX_CRL_BYTES} bytes", reason="malformed")
    try:
        if _BEGIN not in data:
            return [x509.load_der_x509_crl(data)]
        blocks = [_BEGIN + part.partition(_END)[0] + _END for part in data.split(_BEGIN)[1:]]
        return [x509.load_pem_x509_crl(block) for block in blocks]
    except ValueError as error:
        raise ConfigurationError(f"not a revocation list: {error}", reason="malformed") from error


def _verified(
    crl: x509.CertificateRevocationList, anchors: Sequence[x509.Certificate], policy: Policy, now: datetime
) -> RevocationList:
    issuer = next((anchor for anchor in anchors if _is_signed_by(crl, anchor)), None)
    name = crl.issuer.rfc4514_string()
    if issuer is None:
        raise ConfigurationError(f"no trusted authority signed the revocation list of {name!r}", reason="untrusted")
    _require_listed(crl, issuer, policy, name)
    unknown = [extension.oid.dotted_string for extension in crl.extensions if extension.critical]
    if set(unknown) - {oid.dotted_string for oid in _UNDERSTOOD} or crl.next_update_utc is None:
        raise ConfigurationError(
            f"the revocation list of {name!r} has no next update, or covers only some certificates ({', '.join(unknown)})",
            reason="malformed",
        )
    if now < crl.last_update_utc:
        raise ConfigurationError(f"the revocation list of {name!r} is not valid yet", reason="not_yet_valid")
    try:
        number = crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    except x509.ExtensionNotFound:
        raise ConfigurationError(f"the revocation list of {name!r} has no number", reason="malformed") from None
    revoked = {entry.serial_number: (entry.revocation_date_utc, _why(entry)) for entry in crl}
    return RevocationList(issuer, number, crl.next_update_utc, revoked)


def _require_listed(crl: x509.CertificateRevocationList, issuer: x509.Certificate, policy: Policy, name: str) -> None:
    oid = crl.signature_algorithm_oid
    try:
        # The key fixes the signature for ML-DSA and Ed25519; for the others its family was checked with the issuer.
        policy.require_ca_signature(key_algorithm_name(issuer))
    except PolicyError as error:
        if policy.classical is None or key_algorithm_name(issuer) not in policy.classical.leaf_keys:
            raise ConfigurationError(
                f"the revocation list of {name!r} ({oid.dotted_string}): {error}", reason="bad_sigalg"
            ) from error
    key_usage = find_extension(issuer, x509.KeyUsage)
    if key_usage is None or not key_usage.crl_sign:
        raise ConfigurationError(f"{describe(issuer)} may not sign revocation lists", reason="bad_usage")


def _is_signed_by(crl: x509.CertificateRevocationList, issuer: x509.Certificate) -> bool:
    if crl.issuer != issuer.subject:
        return False
    try:
        return crl.is_signature_valid(issuer.public_key())  # type: ignore[arg-type]
    except (InvalidSignature, ValueError, TypeError, UnsupportedAlgorithm):
        return False


def _why(entry: x509.RevokedCertificate) -> str:
    try:
        return entry.extensions.get_extension_for_class(x509.CRLReason).value.reason.value
    except (x509.ExtensionNotFound, ValueError):
        return "no reason was given"
