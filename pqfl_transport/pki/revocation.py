"""Certificate revocation lists: verified when they are read, asked on every connection (RFC 5280 §5).

A list speaks for the authority that signed it. It is asked about the peer's certificate and, where the list of the
authority above is there, about the authorities over it: who revokes an issuing authority revokes what it issued.

- An authority without a list among those that were read revokes nothing: classical trust stores rarely have lists for
  all of their authorities, and an offline root seldom makes one.
- An authority that had a list when lists were read before has to have one again, with no lower number: a file that was
  cut short or rolled back brings nobody back.
- A list has to be current. Past its next update nobody can know who was revoked since, so the certificates of its
  authority are refused, unless `Revocations.stale` says otherwise. Clocks may differ by `CLOCK_SKEW`.

Whoever signs content is known by a key of the roster and shows no certificate; the roster says which one certified it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from types import MappingProxyType

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import CRLEntryExtensionOID, ExtensionOID

from pqfl_transport.errors import CertificateError, ConfigurationError, PolicyError
from pqfl_transport.pki.chain import key_algorithm_name, signature_algorithm_name
from pqfl_transport.pki.extensions import describe, find_extension
from pqfl_transport.pki.references import CertificateReference, identifier_of
from pqfl_transport.pki.roster import Party
from pqfl_transport.policy import Policy

CLOCK_SKEW = timedelta(minutes=5)
"""How far a reader's clock may be from the authority's in either direction."""
MAX_CRL_BYTES = 16 * 1024 * 1024
MAX_CRLS = 64
_BEGIN, _END = b"-----BEGIN X509 CRL-----", b"-----END X509 CRL-----"
_UNDERSTOOD = frozenset({ExtensionOID.CRL_NUMBER, ExtensionOID.AUTHORITY_KEY_IDENTIFIER})
# These change what a list speaks about; they are critical where the standard is kept, and refused where it is not.
_PARTIAL = frozenset({ExtensionOID.ISSUING_DISTRIBUTION_POINT, ExtensionOID.DELTA_CRL_INDICATOR})
_ENTRY_UNDERSTOOD = frozenset({CRLEntryExtensionOID.CRL_REASON, CRLEntryExtensionOID.INVALIDITY_DATE})


class Stale(StrEnum):
    """What becomes of the certificates of an authority whose list is past its next update."""

    REFUSE = "refuse"
    ALLOW = "allow"


@dataclass(frozen=True, slots=True)
class RevocationList:
    """One authority's list."""

    issuer: x509.Certificate
    number: int
    next_update: datetime
    digest: bytes
    """SHA-256 over the list as it was signed: two with the same say the same."""
    revoked: Mapping[int, tuple[datetime, str]] = field(compare=False)
    """By serial number: since when, and the reason's word."""


Authority = tuple[x509.Certificate, RevocationList | None]
Question = tuple[x509.Certificate, RevocationList]


@dataclass(frozen=True, slots=True)
class Revocations:
    """The lists of all authorities that have one."""

    lists: tuple[RevocationList, ...] = ()
    authorities: tuple[x509.Certificate, ...] = ()
    """The trusted authorities, which can be revoked themselves."""
    stale: Stale = Stale.REFUSE
    _by_subject: Mapping[bytes, tuple[Authority, ...]] = field(init=False, repr=False, compare=False)
    _above: Mapping[Authority, tuple[Question, ...]] = field(init=False, repr=False, compare=False)
    _by_key: Mapping[bytes, tuple[Authority, ...]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        listed = {one.issuer: one for one in self.lists}
        found: dict[bytes, tuple[Authority, ...]] = {}
        for certificate in dict.fromkeys((*listed, *self.authorities)):
            name = certificate.subject.public_bytes()
            found[name] = (*found.get(name, ()), (certificate, listed.get(certificate)))
        by_key: dict[bytes, tuple[Authority, ...]] = {}
        for authority in (one for named in found.values() for one in named):
            identifier = identifier_of(authority[0])
            if identifier is not None:
                by_key[identifier] = (*by_key.get(identifier, ()), authority)
        object.__setattr__(self, "_by_subject", MappingProxyType(found))
        object.__setattr__(self, "_by_key", MappingProxyType(by_key))
        # Who is above an authority does not change, so a connection climbs no chain.
        above = {authority: self._climb(authority[0]) for named in found.values() for authority in named}
        object.__setattr__(self, "_above", MappingProxyType(above))

    @property
    def numbers(self) -> Mapping[str, int]:
        """The number of every list by its authority: the next reading takes no lower one and misses none."""
        return {_key_of(one.issuer): one.number for one in self.lists}

    def check(self, leaf: x509.Certificate, now: datetime) -> None:
        """Raise ``CertificateError``: ``revoked`` with date and reason, or ``stale_crl``.

        The leaf's chain was verified before; nothing is verified here.
        """
        self._require_good(self._issuers(leaf), leaf.serial_number, describe(leaf), now)

    def check_party(self, party: Party, now: datetime) -> None:
        """Raise ``CertificateError`` unless the signing certificate of a member is good: that of its present key.

        The reasons are those of `check`, ``no_certificate`` where the roster does not say which certificate it is, and
        ``untrusted`` where none of the authorities of now issued it.
        """
        self._check_reference(party.certificate, f"the signing certificate of {party.id}", now)

    def check_former(self, party: Party, now: datetime) -> None:
        """Raise as `check_party` does unless the certificate of a member's former key, if there is one, is good too."""
        if party.former is not None:
            name = f"the signing certificate of the former key of {party.id}"
            self._check_reference(party.former.certificate, name, now)

    def _check_reference(self, reference: CertificateReference | None, name: str, now: datetime) -> None:
        if reference is None:
            raise CertificateError(
                f"the roster does not say which is {name}, so nobody knows whether it was revoked: the authority has to"
                " sign the roster again",
                reason="no_certificate",
            )
        authorities = self._by_key.get(reference.issuer, ())
        if not authorities:
            raise CertificateError(f"{name} was issued by none of the trusted authorities", reason="untrusted")
        self._require_good(authorities, reference.serial, name, now)

    def with_good_keys(self, party: Party, now: datetime) -> Party:
        """Return a member without its former key where that one's certificate is not good.

        Raises as `check_party` does where the present key's is not: then neither counts.
        """
        self.check_party(party, now)
        try:
            self.check_former(party, now)
        except CertificateError:
            return replace(party, former=None)
        return party

    def stale_at(self) -> datetime | None:
        """Return when the first of the lists will be too old to count; ``None`` where none ever is."""
        if self.stale is not Stale.REFUSE:
            return None
        return min((one.next_update + CLOCK_SKEW for one in self.lists), default=None)

    def _require_good(self, issuers: Sequence[Authority], serial: int, name: str, now: datetime) -> None:
        for authority in issuers:
            if authority[1] is not None:
                self._ask(serial, name, authority[1], now)
            for certificate, one in self._above[authority]:
                self._ask(certificate.serial_number, describe(certificate), one, now)

    def _ask(self, serial: int, name: str, one: RevocationList, now: datetime) -> None:
        revoked = one.revoked.get(serial)
        if revoked is not None:
            since, why = revoked
            raise CertificateError(f"{name} was revoked {since:%Y-%m-%d %H:%M} UTC: {why}", reason="revoked")
        if now > one.next_update + CLOCK_SKEW and self.stale is Stale.REFUSE:
            raise CertificateError(
                f"the revocation list of {one.issuer.subject.rfc4514_string()!r} was due to be replaced"
                f" {one.next_update:%Y-%m-%d %H:%M} UTC, so nobody knows who was revoked since",
                reason="stale_crl",
            )

    def _climb(self, lowest: x509.Certificate) -> tuple[Question, ...]:
        """Return the authorities from this one up, each with every list that speaks about it."""
        questions: list[Question] = []
        unfinished, seen = [lowest], {lowest}
        while unfinished:
            certificate = unfinished.pop()
            for issuer, one in self._issuers(certificate):
                if one is not None:
                    questions.append((certificate, one))
                if issuer not in seen:
                    seen.add(issuer)
                    unfinished.append(issuer)
        return tuple(questions)

    def _issuers(self, certificate: x509.Certificate) -> Sequence[Authority]:
        named = self._by_subject.get(certificate.issuer.public_bytes(), ())
        if len(named) < 2:  # noqa: PLR2004 -- with one of the name there is nothing to tell apart
            return named
        # An authority that was renewed keeps its name, and its old list says nothing about the new one's leaves. Where
        # the identifiers tell nobody apart, all of the name are asked.
        identifier = find_extension(certificate, x509.AuthorityKeyIdentifier)
        wanted = None if identifier is None else identifier.key_identifier
        return [one for one in named if identifier_of(one[0]) in {None, wanted}] or named


def open_crls(
    data: bytes,
    anchors: Sequence[x509.Certificate],
    *,
    policy: Policy,
    now: datetime,
    at_least: Mapping[str, int] | None = None,
    stale: Stale = Stale.REFUSE,
) -> Revocations:
    """Parse and verify one list in DER, or one or more in PEM, at most 64 in 16 MiB.

    ``anchors`` are the authorities, ``at_least`` is `Revocations.numbers` of the lists read before. A list that is past
    its next update already is taken, because it still says who was revoked. Raises ``ConfigurationError``:
    ``malformed``, ``untrusted`` (no anchor signed it), ``bad_sigalg``, ``bad_usage`` (its authority may sign no lists),
    ``not_yet_valid``, ``stale_crl`` (a lower number than before, or no list any more).
    """
    lists: dict[x509.Certificate, RevocationList] = {}
    for parsed in split_crls(data):
        one = _verified(parsed, anchors, policy, now)
        if one.issuer in lists:
            raise ConfigurationError(
                f"there are two revocation lists of {one.issuer.subject.rfc4514_string()!r}", reason="malformed"
            )
        lists[one.issuer] = one
    found = Revocations(tuple(lists.values()), tuple(anchors), stale)
    _require_no_step_back(found.numbers, anchors, at_least or {})
    return found


def _require_no_step_back(
    numbers: Mapping[str, int], anchors: Sequence[x509.Certificate], at_least: Mapping[str, int]
) -> None:
    for anchor in anchors:
        key, name = _key_of(anchor), anchor.subject.rfc4514_string()
        before = at_least.get(key)
        if before is None:
            continue
        if key not in numbers:
            raise ConfigurationError(
                f"there is no revocation list of {name!r}, and one with number {before} was read before",
                reason="stale_crl",
            )
        if numbers[key] < before:
            raise ConfigurationError(
                f"the revocation list of {name!r} has number {numbers[key]}, and {before} was read before",
                reason="stale_crl",
            )


def _key_of(authority: x509.Certificate) -> str:
    # Its name alone would be that of its successor too, whose numbers may begin anew; a new certificate for the same
    # key goes on with them.
    identifier = identifier_of(authority) or authority.fingerprint(SHA256())
    return f"{authority.subject.rfc4514_string()} {identifier.hex()}"


def split_crls(data: bytes) -> Iterator[x509.CertificateRevocationList]:
    """Parse one list in DER, or one or more in PEM, and verify nothing.

    Raises ``ConfigurationError`` (``malformed``).
    """
    if len(data) > MAX_CRL_BYTES or data.count(_BEGIN) > MAX_CRLS:
        raise ConfigurationError(f"more than {MAX_CRLS} revocation lists or {MAX_CRL_BYTES} bytes", reason="malformed")
    try:
        if _BEGIN not in data:
            yield x509.load_der_x509_crl(data)
            return
        for part in data.split(_BEGIN)[1:]:
            block, end, _ = part.partition(_END)
            yield x509.load_pem_x509_crl(_BEGIN + block + end)
    except (ValueError, x509.InvalidVersion) as error:
        raise ConfigurationError(f"not a revocation list: {error}", reason="malformed") from error


def _verified(
    crl: x509.CertificateRevocationList, anchors: Sequence[x509.Certificate], policy: Policy, now: datetime
) -> RevocationList:
    try:
        name = crl.issuer.rfc4514_string()
        issuer = next((anchor for anchor in anchors if _is_signed_by(crl, anchor)), None)
        if issuer is None:
            raise ConfigurationError(f"no trusted authority signed the revocation list of {name!r}", reason="untrusted")
        _require_may_sign(crl, issuer, policy)
        next_update = _require_whole(crl, name)
        if now + CLOCK_SKEW < crl.last_update_utc:
            raise ConfigurationError(
                f"the revocation list of {name!r} is not valid before {crl.last_update_utc:%Y-%m-%d %H:%M} UTC",
                reason="not_yet_valid",
            )
        number = crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
        revoked = {entry.serial_number: (entry.revocation_date_utc, _why(entry, name)) for entry in crl}
    except x509.ExtensionNotFound:
        raise ConfigurationError(f"the revocation list of {name!r} has no number", reason="malformed") from None
    except (ValueError, TypeError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
        raise ConfigurationError(f"malformed revocation list: {error}", reason="malformed") from error
    return RevocationList(issuer, number, next_update, crl.fingerprint(SHA256()), MappingProxyType(revoked))


def _require_may_sign(crl: x509.CertificateRevocationList, issuer: x509.Certificate, policy: Policy) -> None:
    key, signature = key_algorithm_name(issuer), signature_algorithm_name(crl)
    half = policy.post_quantum_half
    try:
        if key in half.ca_signatures:
            # For ML-DSA the key fixes the signature.
            half.require_ca_signature(signature)
        else:
            policy.require_leaf_key(key)
            policy.require_ca_signature(signature)
    except PolicyError as error:
        raise ConfigurationError(
            f"the revocation list of {crl.issuer.rfc4514_string()!r}: {error}", reason="bad_sigalg"
        ) from error
    key_usage = find_extension(issuer, x509.KeyUsage)
    if key_usage is None or not key_usage.crl_sign:
        raise ConfigurationError(f"{describe(issuer)} may not sign revocation lists", reason="bad_usage")


def _require_whole(crl: x509.CertificateRevocationList, name: str) -> datetime:
    """Return the next update of a list that speaks about all certificates of its authority, and about no others."""
    for extension in crl.extensions:
        if extension.oid in _PARTIAL or (extension.critical and extension.oid not in _UNDERSTOOD):
            raise ConfigurationError(
                f"the revocation list of {name!r} has the extension {extension.oid.dotted_string}: it may not be about"
                " all certificates of its authority",
                reason="malformed",
            )
    if crl.next_update_utc is None:
        raise ConfigurationError(f"the revocation list of {name!r} has no next update", reason="malformed")
    return crl.next_update_utc


def _is_signed_by(crl: x509.CertificateRevocationList, issuer: x509.Certificate) -> bool:
    if crl.issuer != issuer.subject:
        return False
    try:
        return crl.is_signature_valid(issuer.public_key())  # type: ignore[arg-type]
    except (InvalidSignature, ValueError, TypeError, UnsupportedAlgorithm):
        return False


def _why(entry: x509.RevokedCertificate, name: str) -> str:
    reason = "no reason was given"
    for extension in entry.extensions:
        if isinstance(extension.value, x509.CRLReason):
            reason = extension.value.reason.value
        elif extension.critical and extension.oid not in _ENTRY_UNDERSTOOD:
            # One of these is that the entry is another authority's certificate (RFC 5280 §5.3.3).
            raise ConfigurationError(
                f"the revocation list of {name!r} has an entry with the critical extension"
                f" {extension.oid.dotted_string}",
                reason="malformed",
            )
    return reason
