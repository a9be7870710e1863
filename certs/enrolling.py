"""The rules of the enrolment service: what it answers to a request to join or to renew. No network in here.

A process that is killed anywhere leaves a state from which the same request, sent again, goes on: a token is bound to
its first request before anything is issued, and the authority gives the same keys the same certificates again.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from certs.authority import Authority
from certs.certifying import CertificationRequest, Renewal, require_certifiable
from certs.enrolments import Enrolment, Enrolments
from pqfl_transport.errors import CertificateError, ConfigurationError, MessageError, PeerError
from pqfl_transport.pki import keystore
from pqfl_transport.pki.chain import ChainVerifier
from pqfl_transport.pki.enrolment import (
    Grant,
    NewKeys,
    PresentCertificates,
    State,
    grant_payload,
    join_answer,
    open_grant,
    open_join,
    open_renewal,
    token_of,
)
from pqfl_transport.pki.profiles import Profile, Usage, find_profile
from pqfl_transport.pki.spiffe import SpiffeId
from pqfl_transport.pki.twin_renewal import open_twin_renewal, twin_answer
from pqfl_transport.policy import Policy

Report = Callable[[str, Mapping[str, object]], None]
"""Takes what happened and its facts, for log and audit."""


def _system_clock() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Desk:
    """Answers requests in the name of one authority. Blocking; one request at a time."""

    authority: Authority
    enrolments: Enrolments
    report: Report
    by_hand: bool = False
    """Whether somebody has to approve every new party."""
    seconds: int | None = None
    """Validity of what is issued; the profile's where nobody says otherwise."""
    gateway: str = ""
    """HOST:PORT that new sites are told to connect to."""
    gateway_id: str = ""
    policy: Policy | None = None
    """Under which a party may be known that renews; the level's unless given. New keys are of the level always."""
    clock: Callable[[], datetime] = field(default=_system_clock, compare=False)

    def join(self, data: bytes, binding: bytes) -> bytes:
        """Return the answer to a joining request that came over a connection with this exporter.

        Raises ``MessageError``: what `open_join` and `Enrolments.claim` raise, ``unknown_token``; and what
        `Authority.certify` raises.
        """
        enrolment = self.enrolments.find(token_of(data))
        keys = enrolment.keys
        now = int(self.clock().timestamp())
        payload, new = open_join(data, keys, enrolment.party, binding, now=now)
        request = _request(new)
        # Before the token is spent: whoever asks for something impossible may ask again.
        require_certifiable(request, find_profile(request.profile), self.authority.current().policy)
        fingerprint = "" if new.signing is None else new.signing.fingerprint.hex()
        before = enrolment.state
        enrolment = self.enrolments.claim(keys.token_id, payload, fingerprint, now=now, by_hand=self.by_hand)
        if enrolment.state is State.PENDING and before is State.OPEN:
            self.report("join_pending", {"party": str(new.party), "signing": fingerprint})
        return join_answer(keys, payload, self._answer_to(enrolment, request), binding)

    def renew(self, data: bytes, binding: bytes, peer_certificate: bytes) -> bytes:
        """Return the answer to a renewal; ``peer_certificate`` is the DER that the client showed, empty for none.

        Raises ``MessageError`` and ``CertificateError``: what `open_renewal` and `ChainVerifier.verify` raise;
        ``PeerError`` (``wrong_certificate``) where a party that dials with a certificate has not shown the one that it
        renews; and what `Authority.certify` raises.
        """
        present, new = open_renewal(data, binding)
        profile = find_profile(new.party.role.value)
        self._require_present(present, new, profile)
        _require_shown(new.party, present.tls, profile, peer_certificate)
        answer = self._certify(_request(new), Renewal(present.tls, present.signing))
        self.report("renewed", _facts(str(new.party), answer))
        return answer

    def renew_twin(self, data: bytes, binding: bytes, peer_certificate: bytes) -> bytes:
        """Return the answer to the renewal of a classical twin; ``peer_certificate`` is as in `renew`.

        Raises ``MessageError`` and ``CertificateError``: what `open_twin_renewal` and `ChainVerifier.verify` raise;
        ``PeerError`` (``wrong_certificate``) as `renew` does; ``ConfigurationError`` (``no_classical_issuer``); and
        what `Authority.renew_twin` raises.
        """
        request = open_twin_renewal(data, binding)
        profile = find_profile(request.party.role.value)
        self._verifier().verify(request.tls, usage=profile.tls_usage, now=self.clock())
        _require_shown(request.party, request.tls, profile, peer_certificate)
        if not self.authority.classical_anchors():
            raise ConfigurationError("this federation has no classical issuer (any more)", reason="no_classical_issuer")
        grant = self.authority.current().renew_twin(request, seconds=self.seconds, now=self.clock())
        self.report("twin_renewed", {"party": str(request.party), **_certificate_facts(grant.twin)})
        return twin_answer(grant)

    def _answer_to(self, enrolment: Enrolment, request: CertificationRequest) -> bytes:
        if enrolment.answer is not None:
            return enrolment.answer
        if enrolment.state is not State.APPROVED:
            return grant_payload(enrolment.state)
        answer = self._certify(request, None, reissue=enrolment.reissue)
        # Before it is final: a process that is killed in between reports it twice rather than never.
        self.report("joined", _facts(str(request.id), answer))
        self.enrolments.finish(enrolment.keys.token_id, answer)
        return answer

    def _certify(self, request: CertificationRequest, renews: Renewal | None, *, reissue: bool = False) -> bytes:
        made = self.authority.current().certify(
            request, now=self.clock(), seconds=self.seconds, renews=renews, reissue=reissue
        )
        grant = Grant(
            made.tls_certificate, made.signing_certificate, made.ca_pem, self.gateway, self.gateway_id,
            made.next_certificate,
        )  # fmt: skip
        return grant_payload(State.ISSUED, grant)

    def _require_present(self, present: PresentCertificates, new: NewKeys, profile: Profile) -> None:
        """Verify that what a renewal rests on holds now and names the party that asks."""
        now, verifier = self.clock(), self._verifier()
        holders = {verifier.verify(present.tls, usage=profile.tls_usage, now=now)}
        if present.signing is not None:
            holders.add(verifier.verify(present.signing, usage=Usage.SIGNING, now=now))
        if holders != {new.party}:
            raise CertificateError(f"the certificates are not all of {new.party}", reason="bad_name")
        if present.signing is not None and not profile.has_content_keys:
            raise MessageError(f"{new.party} signs no content", reason="malformed")

    def _verifier(self) -> ChainVerifier:
        policy = self.policy or self.authority.current().policy
        return ChainVerifier(keystore.load_anchors(self.authority.ca_path), policy)


def _request(new: NewKeys) -> CertificationRequest:
    return CertificationRequest(
        new.party, new.party.role.value, new.tls, new.signing, new.receiving, next_signing_key=new.next_signing
    )  # fmt: skip


def _require_shown(party: SpiffeId, tls: x509.Certificate, profile: Profile, shown: bytes) -> None:
    """Raise ``PeerError`` (``wrong_certificate``) where a party that dials with a certificate showed another one."""
    if profile.tls_usage is Usage.CLIENT and shown != tls.public_bytes(Encoding.DER):
        raise PeerError(f"{party} renews over its present certificate", reason="wrong_certificate")


def _facts(party: str, answer: bytes) -> dict[str, object]:
    _, grant = open_grant(answer)
    if grant is None:
        return {"party": party}
    return {
        "party": party, **_certificate_facts(grant.tls), "signing": grant.signing is not None,
        "next_signing": grant.next_signing is not None,
    }  # fmt: skip


def _certificate_facts(certificate: x509.Certificate) -> dict[str, object]:
    return {
        "serial": f"{certificate.serial_number:x}",
        "not_after": certificate.not_valid_after_utc.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
