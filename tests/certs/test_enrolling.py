import json
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from certs.authority import Authority
from certs.enrolling import Desk
from certs.enrolments import Enrolments
from certs.ledger import Writing
from pqfl_transport.content.recipients import ReceivingKey
from pqfl_transport.crypto.pyca import SigningKey
from pqfl_transport.errors import (
    CertificateError,
    ConfigurationError,
    MessageError,
    PeerError,
    PolicyError,
    PqflError,
)
from pqfl_transport.pki import chain, keystore
from pqfl_transport.pki.enrolment import (
    Grant,
    Holder,
    State,
    join_payload,
    join_request,
    open_grant,
    open_join_answer,
    renewal_request,
)
from pqfl_transport.pki.spiffe import Role, SpiffeId
from pqfl_transport.pki.tokens import JoinToken
from pqfl_transport.pki.twin_renewal import make_twin_renewal, open_twin_answer
from pqfl_transport.pki.twins import generate_key
from tests.support.enrolment import Reports, make_token
from tests.support.pki import Federation, make_federation, other_authority

BINDING = b"b" * 32
WEST = SpiffeId("fed", Role.SITE, "west")
NORTH = SpiffeId("fed", Role.SITE, "north")


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    return make_federation(tmp_path / "fed", sites=("north", "south"), level="standard")


def make_desk(federation: Federation, **options: object) -> Desk:
    return Desk(federation.authority, Enrolments(federation.ca), Reports(), **options)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Applicant:
    """Somebody who joins, with keys and a request."""

    token: JoinToken
    payload: bytes
    tls: SigningKey

    @classmethod
    def with_token(cls, token: JoinToken, algorithm: str = "ML-DSA-44", *, made: int = 1_000) -> "Applicant":
        tls, signing = SigningKey.generate(algorithm), SigningKey.generate(algorithm)
        receiving = ReceivingKey.generate("ML-KEM-768+X25519").public.to_bytes()
        return cls(token, join_payload(token.party, tls, signing, receiving, made=made), tls)

    def ask(self, desk: Desk) -> tuple[State, Grant | None]:
        answer = desk.join(join_request(self.token, self.payload, BINDING), BINDING)
        return open_join_answer(answer, self.token.keys, self.payload, BINDING)


def issued(grant: tuple[State, Grant | None]) -> Grant:
    assert grant[0] is State.ISSUED
    assert grant[1] is not None
    return grant[1]


def test_a_token_becomes_certificates(federation: Federation) -> None:
    """Both certificates are the party's, for its keys, and the ledger has them; the roster does not."""
    roster = federation.roster.read_bytes()
    applicant = Applicant.with_token(make_token(federation, "west"))
    desk = make_desk(federation, gateway="hub:8443", gateway_id=federation.gateway_uri)
    grant = issued(applicant.ask(desk))
    assert chain.spiffe_id(grant.tls) == WEST
    assert chain.verifying_key(grant.tls) == applicant.tls.verifying_key
    assert grant.signing is not None
    assert certificates_of(federation, WEST) == {grant.tls, grant.signing}
    assert federation.roster.read_bytes() == roster
    assert (grant.gateway, grant.gateway_id) == ("hub:8443", federation.gateway_uri)


def test_the_same_request_gets_the_same_certificates(federation: Federation) -> None:
    """However often it is sent, there is one set; another request with the same token is refused."""
    token = make_token(federation, "west")
    applicant, desk = Applicant.with_token(token), make_desk(federation)
    assert issued(applicant.ask(desk)) == issued(applicant.ask(make_desk(federation)))
    with pytest.raises(MessageError) as caught:
        Applicant.with_token(token).ask(desk)
    assert caught.value.reason == "token_used"


def test_a_token_of_another_authority_is_unknown(federation: Federation, tmp_path: Path) -> None:
    """Two authorities with one name do not know each other's tokens."""
    other = make_federation(tmp_path / "other", sites=(), level="standard")
    applicant = Applicant.with_token(make_token(other, "west"))
    with pytest.raises(MessageError) as caught:
        applicant.ask(make_desk(federation))
    assert caught.value.reason == "unknown_token"


def test_a_forged_request_spends_nothing(federation: Federation) -> None:
    """Who knows a token's name but not the token is refused, and the token is as good as before."""
    token = make_token(federation, "west")
    forger = Applicant.with_token(replace(token, secret=bytes(32)))
    data = json.loads(join_request(forger.token, forger.payload, BINDING)) | {"token": token.keys.token_id}
    desk = make_desk(federation)
    with pytest.raises(MessageError) as caught:
        desk.join(json.dumps(data).encode(), BINDING)
    assert caught.value.reason == "bad_mac"
    assert desk.enrolments.find(token.keys.token_id).state is State.OPEN


def test_keys_of_another_level_spend_nothing(federation: Federation) -> None:
    """A request for keys that the policy does not list is refused before the token is bound to it."""
    token = make_token(federation, "west")
    desk = make_desk(federation)
    with pytest.raises(PolicyError):
        Applicant.with_token(token, "ML-DSA-87").ask(desk)
    issued(Applicant.with_token(token).ask(desk))


def test_a_clock_that_is_ahead_spends_nothing(federation: Federation) -> None:
    """A receiving key of a time to come is refused before the token is bound to it."""
    token, desk = make_token(federation, "west"), make_desk(federation)
    ahead = Applicant.with_token(token, made=int(datetime.now(UTC).timestamp()) + 400)
    with pytest.raises(MessageError, match="s ahead") as caught:
        ahead.ask(desk)
    assert caught.value.reason == "from_the_future"
    issued(Applicant.with_token(token).ask(desk))


@pytest.mark.parametrize("reissue", [False, True])
def test_a_revoked_name_is_given_again_only_where_the_token_says_so(federation: Federation, reissue: bool) -> None:
    """What counts is what the operator said when the token was made."""
    desk = make_desk(federation)
    issued(Applicant.with_token(make_token(federation, "west")).ask(desk))
    federation.authority.revoke("west", "superseded")
    again = Applicant.with_token(make_token(federation, "west", reissue=reissue))
    if not reissue:
        with pytest.raises(ConfigurationError) as caught:
            again.ask(desk)
        assert caught.value.reason == "was_revoked"
        return
    grant = issued(again.ask(desk))
    assert issued(again.ask(desk)) == grant
    assert chain.verifying_key(grant.tls) == again.tls.verifying_key


def test_a_name_in_use_is_not_given_again(federation: Federation) -> None:
    """A token that was made for a name meanwhile issued by hand gives nothing."""
    applicant = Applicant.with_token(make_token(federation, "north"))
    with pytest.raises(ConfigurationError) as caught:
        applicant.ask(make_desk(federation))
    assert caught.value.reason == "already_issued"


def certificates_of(federation: Federation, party: SpiffeId) -> set[x509.Certificate | None]:
    """Everything that the ledger has of a party."""
    ledger = federation.authority.ledger
    return {ledger.certificate(entry.sha256) for entry in ledger.entries(party=str(party))}


class Killed(BaseException):
    """The process ends here."""


def kill_at(monkeypatch: pytest.MonkeyPatch, owner: type, step: str, *, after: bool) -> None:
    """Let the process die before or after one step of issuing."""
    function = getattr(owner, step)

    def dying(*arguments: object, **options: object) -> None:
        if after:
            function(*arguments, **options)
        raise Killed

    monkeypatch.setattr(owner, step, dying)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(
    ("owner", "step"),
    [(Enrolments, "claim"), (Authority, "certify"), (Writing, "enter"), (Writing, "propose"), (Enrolments, "finish")],
)
def test_killed_at_any_step_the_same_request_goes_on(
    federation: Federation, owner: type, step: str, after: bool
) -> None:
    """Joining ends with one set of certificates in the ledger, wherever the process died the first time."""
    applicant = Applicant.with_token(make_token(federation, "west"))
    with pytest.MonkeyPatch.context() as monkeypatch:
        kill_at(monkeypatch, owner, step, after=after)
        with pytest.raises(Killed):
            applicant.ask(make_desk(federation))
    grant = issued(applicant.ask(make_desk(federation)))
    assert certificates_of(federation, WEST) == {grant.tls, grant.signing}
    assert issued(applicant.ask(make_desk(federation))) == grant


def holder(folder: Path, name: str, new_key: SigningKey | None = None) -> Holder:
    key = keystore.load_signing_key(folder / f"{name}.key")
    certificate = x509.load_pem_x509_certificate((folder / f"{name}.pem").read_bytes())
    return Holder(certificate, key, new_key or key)


def shown(folder: Path) -> bytes:
    return x509.load_pem_x509_certificate((folder / "tls.pem").read_bytes()).public_bytes(Encoding.DER)


def renew(desk: Desk, folder: Path, new_key: SigningKey, next_key: SigningKey | None = None) -> Grant:
    signing = replace(holder(folder, "signing"), next_key=next_key)
    data = renewal_request(NORTH, BINDING, holder(folder, "tls", new_key), signing)
    return issued(open_grant(desk.renew(data, BINDING, shown(folder))))


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(("owner", "step"), [(Authority, "certify"), (Writing, "enter"), (Writing, "propose")])
def test_killed_at_any_step_the_same_renewal_goes_on(
    federation: Federation, owner: type, step: str, after: bool
) -> None:
    """Renewing gives certificates that the ledger has, and the same ones for the same request."""
    north, key, following = federation.site("north"), *(SigningKey.generate("ML-DSA-44") for _ in range(2))
    with pytest.MonkeyPatch.context() as monkeypatch:
        kill_at(monkeypatch, owner, step, after=after)
        with pytest.raises(Killed):
            renew(make_desk(federation), north, key, following)
    former = certificates_of(federation, NORTH)
    grant = renew(make_desk(federation), north, key, following)
    # Before it died it had given these, or nothing.
    assert certificates_of(federation, NORTH) == former | {grant.tls, grant.signing, grant.next_signing}
    assert len(certificates_of(federation, NORTH)) == 5
    assert renew(make_desk(federation), north, key, following) == grant
    (candidate,) = [one for one in federation.authority.ledger.candidates() if one.id == str(NORTH)]
    assert candidate.signing_key == following.verifying_key.spki


def test_a_party_renews_over_its_own_certificate(federation: Federation) -> None:
    """A site that shows no certificate, or another one, renews nothing, whatever it signed."""
    north, south = federation.site("north"), federation.site("south")
    data = renewal_request(NORTH, BINDING, holder(north, "tls"))
    for certificate in (b"", shown(south)):
        with pytest.raises(PeerError) as caught:
            make_desk(federation).renew(data, BINDING, certificate)
        assert caught.value.reason == "wrong_certificate"


def test_a_stranger_renews_nothing(federation: Federation, tmp_path: Path) -> None:
    """A certificate of the same name from another authority, and one that has ended, are refused."""
    stranger = other_authority(federation, tmp_path / "stranger")
    data = renewal_request(NORTH, BINDING, holder(stranger, "tls"))
    with pytest.raises(CertificateError) as caught:
        make_desk(federation).renew(data, BINDING, shown(stranger))
    assert caught.value.reason == "untrusted"
    north = federation.site("north")
    late = datetime.now(UTC) + timedelta(days=200)
    data = renewal_request(NORTH, BINDING, holder(north, "tls"))
    with pytest.raises(CertificateError) as caught:
        make_desk(federation, clock=lambda: late).renew(data, BINDING, shown(north))
    assert caught.value.reason == "expired"


def test_validity_is_the_operators(federation: Federation) -> None:
    """A service may give short certificates, to those who join and those who renew."""
    desk = make_desk(federation, seconds=60)
    joined = issued(Applicant.with_token(make_token(federation, "west")).ask(desk))
    renewed = renew(desk, federation.site("north"), SigningKey.generate("ML-DSA-44"))
    limit = datetime.now(UTC) + timedelta(seconds=61)
    assert joined.tls.not_valid_after_utc < limit
    assert renewed.tls.not_valid_after_utc < limit


def test_a_twin_is_renewed_in_the_name_of_its_partys_tls_certificate(federation: Federation, tmp_path: Path) -> None:
    """A site has to show that certificate; a stranger of the same name, and a time after its end, are refused."""
    federation.authority.create_classical()
    federation.authority.issue_twin(NORTH, out=tmp_path / "twin")
    twin = x509.load_pem_x509_certificate((tmp_path / "twin" / "classical.pem").read_bytes())
    north, south = federation.site("north"), federation.site("south")

    def ask(folder: Path, certificate: bytes, **options: object) -> x509.Certificate:
        tls = holder(folder, "tls")
        data = make_twin_renewal(NORTH, BINDING, tls.certificate, tls.key, twin, generate_key())
        return open_twin_answer(make_desk(federation, **options).renew_twin(data, BINDING, certificate)).twin

    def reason(folder: Path, certificate: bytes, **options: object) -> str:
        with pytest.raises(PqflError) as caught:
            ask(folder, certificate, **options)
        return caught.value.reason

    stranger = other_authority(federation, tmp_path / "stranger")
    assert reason(north, b"") == reason(north, shown(south)) == "wrong_certificate"
    assert reason(stranger, shown(stranger)) == "untrusted"
    assert reason(north, shown(north), clock=lambda: datetime.now(UTC) + timedelta(days=200)) == "expired"
    limit = datetime.now(UTC) + timedelta(seconds=61)
    assert ask(north, shown(north), seconds=60).not_valid_after_utc < limit
    (federation.ca / "classical.pem").unlink()
    assert reason(north, shown(north)) == "no_classical_issuer"
