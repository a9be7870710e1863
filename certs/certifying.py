"""Certifying keys that a party made for itself: what the enrolment service asks of the authority.

The caller has authenticated the request and verified that whoever sent it holds the private keys (`pki.enrolment`).
Here is decided what may be certified at all, and the ledger knows a certificate before anybody else has it. Nobody
enters the roster in this way: a party with content keys is a candidate until the root signs a roster that names it.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from ipaddress import ip_address

from cryptography import x509

from certs.entry import Entry, State, sha256_of, to_time
from certs.ledger import Ledger
from pqfl_transport.content.recipients import RecipientKey
from pqfl_transport.crypto.pyca import VerifyingKey
from pqfl_transport.errors import CertificateError, ConfigurationError, PolicyError
from pqfl_transport.pki import chain
from pqfl_transport.pki.authority import Host, Issuer, issue_signing, issue_tls
from pqfl_transport.pki.extensions import describe, find_extension
from pqfl_transport.pki.profiles import DAY_SECONDS, Profile, Usage
from pqfl_transport.pki.roster import Party
from pqfl_transport.pki.spiffe import SpiffeId
from pqfl_transport.policy import Policy


@dataclass(frozen=True, slots=True)
class CertificationRequest:
    """Public keys of one party. The caller has verified possession of the private ones."""

    id: SpiffeId
    profile: str
    tls_key: VerifyingKey
    signing_key: VerifyingKey | None = None
    """Needed by the first request of a site or an aggregator. In a renewal the present one, which is certified again;
    None leaves its certificate."""
    receiving_key: bytes | None = None
    """The bytes inside a ``PQFL RECEIVING PUBLIC KEY`` block; comes with the first request and in no other."""
    hosts: tuple[Host, ...] = ()
    """Further names in the TLS certificate. A renewal may name none but those of the present one; none means all."""
    next_signing_key: VerifyingKey | None = None
    """In a renewal only: the key that takes the place of the present one in a roster to come."""

    @property
    def signing_keys(self) -> tuple[VerifyingKey, ...]:
        """The signing keys to be certified."""
        return tuple(key for key in (self.signing_key, self.next_signing_key) if key is not None)


@dataclass(frozen=True, slots=True)
class Renewal:
    """The certificates that a request renews: the evidence that the party itself sent it."""

    tls_certificate: x509.Certificate
    """The one over whose TLS connection the request came."""
    signing_certificate: x509.Certificate | None = None
    """The one whose key signed the request, as the caller has verified. Without it no signing key is certified."""


@dataclass(frozen=True, slots=True)
class Certified:
    """What a party gets."""

    tls_certificate: x509.Certificate
    signing_certificate: x509.Certificate | None
    ca_pem: bytes
    """The trust anchors of the federation, for ``ca.pem``."""
    next_certificate: x509.Certificate | None = None


def require_certifiable(request: CertificationRequest, profile: Profile, policy: Policy) -> None:
    """Raise unless the keys are of the kinds that this profile has at this level.

    ``PolicyError`` for an algorithm outside the policy (``wrong_kem`` for a receiving key's); ``ConfigurationError``:
    ``bad_name``, ``bad_keys`` for a missing, a superfluous or a doubly used key, ``bad_key`` for a malformed one.
    """
    if request.id.role is not profile.role:
        raise ConfigurationError(f"{request.id} is no {profile.role.value}", reason="bad_name")
    keys = (request.tls_key, *request.signing_keys)
    for key in keys:
        policy.post_quantum_half.require_leaf_key(key.algorithm)
    if not profile.has_content_keys and (request.signing_keys or request.receiving_key is not None):
        raise _bad_keys(f"a {profile.name} neither signs nor receives content")
    if len({key.fingerprint for key in keys}) < len(keys):
        raise _bad_keys(f"{request.id} asks for one key in two uses")
    if request.receiving_key is not None:
        kem = RecipientKey.from_bytes(request.receiving_key).kem
        if kem != policy.content_suite.kem:
            raise PolicyError(
                f"a receiving key of {kem}, and here it is {policy.content_suite.kem}", reason="wrong_kem"
            )


def require_keys_of_profile(request: CertificationRequest, profile: Profile) -> None:
    """Raise ``ConfigurationError`` (``bad_keys``) where a first request lacks a key that its profile has."""
    if profile.has_content_keys and (request.signing_key is None or request.receiving_key is None):
        raise _bad_keys(f"a {profile.name} needs a signing and a receiving key")
    if request.next_signing_key is not None:
        raise _bad_keys(f"{request.id}: a next signing key comes with a renewal")


def require_fresh_keys(request: CertificationRequest, profile: Profile, ledger: Ledger) -> None:
    """Raise ``ConfigurationError``: ``key_in_use`` for another party's key or in another use, ``key_revoked``."""
    wanted = [(request.tls_key, str(profile.tls_usage))]
    wanted += [(key, str(Usage.SIGNING)) for key in request.signing_keys]
    for key, usage in wanted:
        require_fresh_key(key.fingerprint.hex(), request.id, usage, ledger)


def require_fresh_key(key_sha256: str, party: SpiffeId, usage: str, ledger: Ledger) -> None:
    """Raise ``ConfigurationError``: ``key_in_use`` for another party's key or in another use, ``key_revoked``."""
    for entry in ledger.entries_of_key(key_sha256):
        if (entry.id, entry.usage) != (str(party), usage):
            raise ConfigurationError(
                f"{party}: its {usage} key is in use by {entry.id or 'an authority'} ({entry.usage})",
                reason="key_in_use",
            )
        if entry.revoked_at:
            raise ConfigurationError(f"{party}: a certificate of this key was revoked", reason="key_revoked")


def certified_before(
    request: CertificationRequest, profile: Profile, ledger: Ledger, ca_pem: bytes, now: datetime,
    *, evidence: Renewal | None,
) -> Certified | None:  # fmt: skip
    """Return what exactly these keys were given before: whoever did not get the answer asks again.

    A certificate counts until two thirds of its life are over, and only where it is not the one that is to be renewed.
    """
    entries = ledger.entries(party=str(request.id))
    tls = latest_of_key(entries, request.tls_key.fingerprint.hex(), profile.tls_usage, now)
    if tls is None or (evidence is not None and tls.sha256 == sha256_of(evidence.tls_certificate)):
        return None
    signing = {}
    for key in request.signing_keys:
        # A party has two signing keys at a time, so what counts is the newest certificate of each.
        of_key = [one for one in entries if one.key_sha256 == key.fingerprint.hex()]
        entry = latest_of_key(of_key, key.fingerprint.hex(), Usage.SIGNING, now)
        if entry is None or _is_renewed(entry, evidence):
            return None
        signing[key] = ledger.certificate(entry.sha256)
    candidate = next((one for one in ledger.candidates() if one.id == str(request.id)), None)
    if evidence is None and candidate is not None and candidate.receiving_key != request.receiving_key:
        return None
    certificate = ledger.certificate(tls.sha256)
    if certificate is None or set(request.hosts) - set(hosts_of(certificate)):
        return None
    present, following = request.signing_key, request.next_signing_key
    return Certified(
        certificate, None if present is None else signing[present], ca_pem,
        None if following is None else signing[following],
    )  # fmt: skip


def _is_renewed(entry: Entry, evidence: Renewal | None) -> bool:
    present = None if evidence is None else evidence.signing_certificate
    return present is not None and entry.sha256 == sha256_of(present)


def latest_of_key(entries: Iterable[Entry], key_sha256: str, usage: str, now: datetime) -> Entry | None:
    """Return the newest certificate of this use where it is this key's, good, and not in the last third of its life."""
    of_use = [entry for entry in entries if entry.usage == usage and entry.state != State.WITHDRAWN]
    if not of_use or of_use[-1].key_sha256 != key_sha256 or not of_use[-1].is_good(now):
        return None
    begin, end = to_time(of_use[-1].not_before), to_time(of_use[-1].not_after)
    return None if now > end - (end - begin) / 3 else of_use[-1]


def require_renewal(
    request: CertificationRequest, profile: Profile, renews: Renewal, known: Iterable[Entry], now: datetime
) -> CertificationRequest:
    """Return the request as it may be granted, with the present host names where it names none.

    Raises ``CertificateError``: ``not_ours`` for evidence that the ledger does not have for this party and use,
    ``revoked``, ``expired``; ``ConfigurationError``: ``bad_keys`` for a signing key without the present one's
    signature, for another one than the present in its place, and for a receiving key, ``bad_host`` for a name that the
    present certificate does not have.
    """
    entries = tuple(known)
    require_ours(renews.tls_certificate, request.id, profile.tls_usage, entries, now)
    signer = renews.signing_certificate
    if signer is not None:
        require_ours(signer, request.id, Usage.SIGNING, entries, now)
    if request.signing_keys and signer is None:
        raise _bad_keys(f"{request.id}: a signing key is renewed only by a request that the present one has signed")
    if request.signing_key not in {None, None if signer is None else chain.verifying_key(signer)}:
        raise _bad_keys(f"{request.id}: another signing key is certified as the next one, and not in the place of this")
    if request.receiving_key is not None:
        raise _bad_keys(f"{request.id}: a receiving key is changed by a statement (pqfl key rotate), not by a renewal")
    present = hosts_of(renews.tls_certificate)
    if new := [str(host) for host in request.hosts if host not in present]:
        raise ConfigurationError(
            f"{request.id}: the present certificate does not name {', '.join(new)[:200]}", reason="bad_host"
        )
    return CertificationRequest(
        request.id, request.profile, request.tls_key, request.signing_key, None, request.hosts or present,
        request.next_signing_key,
    )  # fmt: skip


def require_succession(
    request: CertificationRequest, renews: Renewal, member: Party, ledger: Ledger, now: datetime
) -> None:
    """Raise unless these signing keys may be certified for a member of the roster.

    ``CertificateError`` (``key_replaced``) where the roster names the key that signed the request no more, also not as
    a former one; ``ConfigurationError`` (``key_reused``) for a next key that is neither the one that waits already, nor
    in the roster, nor new: what was replaced does not come back. A former key brings no other next key than the one
    that has taken its place.
    """
    if renews.signing_certificate is None:
        return
    signer, wanted = chain.verifying_key(renews.signing_certificate), request.next_signing_key
    if signer not in member.signing_keys(now.timestamp()):
        raise CertificateError(
            f"{request.id}: the roster names another signing key; this one was replaced", reason="key_replaced"
        )
    if wanted is None or wanted == member.signing_key:
        return
    waiting = {one.signing_key for one in ledger.candidates() if one.id == str(request.id)}
    known = ledger.entries_of_key(wanted.fingerprint.hex()) and wanted.spki not in waiting
    if known or signer != member.signing_key:
        raise ConfigurationError(
            f"{request.id}: this next signing key was replaced before, or the one that asks for it was",
            reason="key_reused",
        )


def certify(
    issuer: Issuer, request: CertificationRequest, profile: Profile, ca_pem: bytes, *, now: datetime, seconds: int
) -> Certified:
    """Sign what was found certifiable. Raises ``ConfigurationError`` (``bad_validity``, ``bad_host``)."""
    tls = issue_tls(issuer, profile, request.id, request.tls_key, now=now, seconds=seconds, hosts=request.hosts)
    signing = None
    if request.signing_key is not None:
        signing = issue_signing(issuer, request.id, request.signing_key, now=now, seconds=seconds)
    following = None
    if request.next_signing_key is not None:
        following = issue_signing(issuer, request.id, request.next_signing_key, now=now, seconds=seconds)
    return Certified(tls, signing, ca_pem, following)


def default_seconds(issuer: x509.Certificate, profile: Profile, now: datetime) -> int:
    """Return the profile's validity, or what remains of the issuer's where that is less."""
    rest = int((issuer.not_valid_after_utc - now).total_seconds())
    return min(profile.leaf_days * DAY_SECONDS, rest)


def hosts_of(certificate: x509.Certificate) -> tuple[Host, ...]:
    """Return the host names and addresses of a certificate that this authority made."""
    names = find_extension(certificate, x509.SubjectAlternativeName)
    if names is None:
        return ()
    addresses = (ip_address(str(value)) for value in names.get_values_for_type(x509.IPAddress))
    return (*names.get_values_for_type(x509.DNSName), *addresses)


def require_ours(
    certificate: x509.Certificate, party: SpiffeId, usage: str, known: Iterable[Entry], now: datetime
) -> None:
    """Raise ``CertificateError`` unless the ledger has it as a good one of this party and use.

    ``revoked``, ``not_ours``, ``expired``, ``not_yet_valid``.
    """
    entry = next((one for one in known if one.sha256 == sha256_of(certificate)), None)
    if entry is not None and entry.revoked_at:
        raise CertificateError(
            f"{describe(certificate)} was revoked {entry.revoked_at}: {entry.reason}", reason="revoked"
        )
    if entry is None or (entry.id, entry.usage) != (str(party), usage):
        raise CertificateError(
            f"{describe(certificate)} is not one that this authority gave {party} for {usage} use",
            reason="not_ours",
        )
    chain.require_valid_now(certificate, now)


def _bad_keys(why: str) -> ConfigurationError:
    return ConfigurationError(why, reason="bad_keys")
