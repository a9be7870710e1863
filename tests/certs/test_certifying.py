"""Certifying a party's own keys: what is granted, what is refused, and that the ledger knows it first."""

import json
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.hashes import SHA256

from certs.authority import Authority
from certs.certifying import CertificationRequest, Certified, Renewal, hosts_of
from pqfl_transport.content.recipients import ReceivingKey
from pqfl_transport.crypto.pyca import SigningKey, VerifyingKey
from pqfl_transport.errors import CertificateError, ConfigurationError, PolicyError, PqflError
from pqfl_transport.pki import chain, keystore
from pqfl_transport.pki.profiles import Usage
from pqfl_transport.pki.spiffe import Role, SpiffeId
from pqfl_transport.policy import for_level

NOW = datetime(2026, 7, 1, 12, 0, 0, tzinfo=UTC)
ROOT_FOLDER = Path(__file__).resolve().parents[2]
SITE = SpiffeId("fed", Role.SITE, "one")
HUB = SpiffeId("fed", Role.GATEWAY, "hub")
RECEIVING = ReceivingKey.generate("ML-KEM-768+X25519").public.to_bytes()


def key(number: int, algorithm: str = "ML-DSA-65") -> VerifyingKey:
    """A public key of its own for each number."""
    return SigningKey.from_seed(algorithm, bytes([number]) * 32).verifying_key


SITE_REQUEST = CertificationRequest(SITE, "site", key(1), key(2), RECEIVING)
HUB_REQUEST = CertificationRequest(HUB, "gateway", key(3), hosts=("fl.example", ip_address("192.0.2.7")))


@pytest.fixture
def ca(tmp_path: Path) -> Authority:
    """A new authority."""
    return Authority.create(tmp_path / "ca", federation="fed", now=NOW)


def verified(made: Certified, usage: Usage, now: datetime = NOW) -> SpiffeId:
    """The party that the certificate of this usage names, under the anchors that came with it."""
    leaf = made.signing_certificate if usage is Usage.SIGNING else made.tls_certificate
    assert leaf is not None
    anchors = chain.load_certificates(made.ca_pem)
    return chain.verify_chain(leaf, anchors, policy=for_level("high"), usage=usage, now=now)


def reason(ca: Authority, request: CertificationRequest, **named: object) -> str:
    """The reason of a refusal, after which the ledger is what it was."""
    before = ca.ledger.entries()
    with pytest.raises(PqflError) as caught:
        ca.certify(request, now=NOW, **named)  # type: ignore[arg-type]
    assert ca.ledger.entries() == before
    assert isinstance(caught.value, ConfigurationError | CertificateError | PolicyError)
    return caught.value.reason


def test_a_site_gets_two_certificates_over_its_own_keys_and_no_place_in_the_roster(ca: Authority) -> None:
    """Ledger and anchors know them; the roster waits for the root, whose key is not needed."""
    (ca.folder / "root.key").unlink()
    roster = ca.roster_path.read_bytes()
    made = ca.certify(SITE_REQUEST, now=NOW)
    assert verified(made, Usage.CLIENT) == verified(made, Usage.SIGNING) == SITE
    assert made.signing_certificate is not None
    assert chain.verifying_key(made.tls_certificate) == key(1)
    assert chain.verifying_key(made.signing_certificate) == key(2)
    assert made.tls_certificate.not_valid_after_utc == NOW + timedelta(days=90)
    assert ca.roster_path.read_bytes() == roster
    fingerprints = [
        made.tls_certificate.fingerprint(SHA256()).hex(),
        made.signing_certificate.fingerprint(SHA256()).hex(),
    ]
    assert [entry.sha256 for entry in ca.ledger.entries()[-2:]] == fingerprints


def test_a_gateway_gets_one_certificate_with_its_hosts(ca: Authority) -> None:
    """Names and addresses come back in their types."""
    made = ca.certify(HUB_REQUEST, now=NOW)
    assert verified(made, Usage.SERVER) == HUB
    assert made.signing_certificate is None
    assert hosts_of(made.tls_certificate) == HUB_REQUEST.hosts


def test_one_minute_is_the_shortest_validity_and_most_of_it_is_ahead(ca: Authority) -> None:
    """Two thirds of a life of one minute end after its making, so that a renewal is not due at once."""
    leaf = ca.certify(SITE_REQUEST, now=NOW, seconds=60).tls_certificate
    assert leaf.not_valid_after_utc == NOW + timedelta(seconds=60)
    life = leaf.not_valid_after_utc - leaf.not_valid_before_utc
    assert leaf.not_valid_before_utc + life * 2 / 3 > NOW
    assert reason(ca, HUB_REQUEST, seconds=59) == "bad_validity"


def test_the_default_ends_with_the_issuer(ca: Authority) -> None:
    """In the last month of an issuing authority certificates are valid as long as it is."""
    issuing = keystore.load_certificate(ca.folder / "issuing.pem", now=NOW)
    late = issuing.not_valid_after_utc - timedelta(days=30)
    assert ca.certify(SITE_REQUEST, now=late).tls_certificate.not_valid_after_utc == issuing.not_valid_after_utc


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (replace(SITE_REQUEST, profile="gateway"), "bad_name"),
        (replace(SITE_REQUEST, profile="hospital"), "unknown_profile"),
        (replace(SITE_REQUEST, id=SpiffeId("other", Role.SITE, "one")), "bad_name"),
        (replace(SITE_REQUEST, tls_key=key(1, "ML-DSA-44")), "bad_sigalg"),
        (replace(SITE_REQUEST, signing_key=key(2, "ML-DSA-44")), "bad_sigalg"),
        (replace(SITE_REQUEST, signing_key=key(1)), "bad_keys"),
        (replace(SITE_REQUEST, signing_key=None), "bad_keys"),
        (replace(SITE_REQUEST, receiving_key=None), "bad_keys"),
        (replace(SITE_REQUEST, receiving_key=b"junk"), "bad_key"),
        (
            replace(SITE_REQUEST, receiving_key=ReceivingKey.generate("ML-KEM-1024").public.to_bytes()),
            "wrong_kem",
        ),
        (replace(HUB_REQUEST, signing_key=key(4)), "bad_keys"),
        (replace(HUB_REQUEST, receiving_key=RECEIVING), "bad_keys"),
        (replace(HUB_REQUEST, hosts=("two words",)), "bad_host"),
    ],
)
def test_what_is_not_of_the_profile_is_refused(ca: Authority, request_: CertificationRequest, expected: str) -> None:
    """Every key is of the level and the profile, and none has two uses; the ledger hears of no refusal."""
    assert reason(ca, request_) == expected


def test_a_name_in_use_is_refused_unless_it_is_renewed(ca: Authority) -> None:
    """Whoever has a token for a name that somebody holds gets nothing under it."""
    ca.certify(SITE_REQUEST, now=NOW)
    again = replace(SITE_REQUEST, tls_key=key(5), signing_key=key(6))
    assert reason(ca, again) == "already_issued"


def test_a_renewal_changes_the_tls_key_and_leaves_the_rest(ca: Authority) -> None:
    """Without a signing key in the request there is one new certificate, with the hosts of the old one."""
    present = ca.certify(HUB_REQUEST, now=NOW)
    later = NOW + timedelta(days=60)
    request = CertificationRequest(HUB, "gateway", key(7))
    made = ca.certify(request, now=later, renews=Renewal(present.tls_certificate))
    assert verified(made, Usage.SERVER, later) == HUB
    assert hosts_of(made.tls_certificate) == HUB_REQUEST.hosts
    wider = replace(request, hosts=("fl.example", "bank.example"))
    assert reason(ca, wider, renews=Renewal(present.tls_certificate)) == "bad_host"


def test_a_signing_key_is_renewed_only_with_the_present_ones_signature(ca: Authority) -> None:
    """A stolen TLS key renews no signing key."""
    present = ca.certify(SITE_REQUEST, now=NOW)
    evidence = Renewal(present.tls_certificate, present.signing_certificate)
    again = CertificationRequest(SITE, "site", key(8), key(2))
    following = CertificationRequest(SITE, "site", key(8), next_signing_key=key(9))
    for request in (again, following):
        assert reason(ca, request, renews=Renewal(present.tls_certificate)) == "bad_keys"
    # Another key does not take the present one's place, and the same one is not the next.
    assert reason(ca, replace(again, signing_key=key(9)), renews=evidence) == "bad_keys"
    assert reason(ca, replace(again, next_signing_key=key(2)), renews=evidence) == "bad_keys"
    assert reason(ca, replace(following, next_signing_key=key(8)), renews=evidence) == "bad_keys"
    made = ca.certify(replace(again, next_signing_key=key(9)), now=NOW, renews=evidence)
    assert made.signing_certificate is not None
    assert made.next_certificate is not None
    assert chain.verifying_key(made.signing_certificate) == key(2)
    assert chain.verifying_key(made.next_certificate) == key(9)
    assert verified(Certified(made.tls_certificate, made.next_certificate, made.ca_pem), Usage.SIGNING) == SITE
    alone = ca.certify(replace(following, tls_key=key(10)), now=NOW, renews=evidence)
    assert (alone.signing_certificate, alone.next_certificate is None) == (None, False)


def test_a_first_request_has_no_next_key(ca: Authority) -> None:
    """Nor has a gateway's, which signs nothing."""
    assert reason(ca, replace(SITE_REQUEST, next_signing_key=key(9))) == "bad_keys"
    present = ca.certify(HUB_REQUEST, now=NOW)
    renewal = CertificationRequest(HUB, "gateway", key(7), next_signing_key=key(9))
    assert reason(ca, renewal, renews=Renewal(present.tls_certificate)) == "bad_keys"


def member(ca: Authority) -> Renewal:
    """Make the site a member of the roster; return what its renewals rest on."""
    present = ca.certify(SITE_REQUEST, now=NOW)
    ca.sign_roster(ca.plan_roster(now=NOW), now=NOW)
    return Renewal(present.tls_certificate, present.signing_certificate)


def with_next(number: int, **changes: Any) -> CertificationRequest:
    """A renewal that brings a next key."""
    good = CertificationRequest(SITE, "site", key(1), key(2), next_signing_key=key(number))
    return replace(good, **changes)


def candidate_of(ca: Authority) -> bytes | None:
    return next((one.signing_key for one in ca.ledger.candidates() if one.id == str(SITE)), None)


def test_the_next_key_is_the_candidate_until_a_roster_names_it(ca: Authority) -> None:
    """Renewals with and without it leave it the candidate; another takes its place; afterwards none waits."""
    evidence = member(ca)
    assert candidate_of(ca) is None
    ca.certify(with_next(9, next_signing_key=None), now=NOW, renews=evidence)
    assert candidate_of(ca) is None
    first = ca.certify(with_next(9), now=NOW, renews=evidence)
    assert candidate_of(ca) == key(9).spki
    ca.certify(with_next(9, next_signing_key=None, tls_key=key(11)), now=NOW, renews=evidence)
    assert candidate_of(ca) == key(9).spki
    later = NOW + timedelta(days=60)
    second = ca.certify(with_next(9), now=later, renews=evidence)
    assert second.next_certificate not in {None, first.next_certificate}
    ca.certify(with_next(10), now=later, renews=evidence)
    assert candidate_of(ca) == key(10).spki
    ca.sign_roster(ca.plan_roster(now=later), now=later)
    assert candidate_of(ca) is None
    ca.certify(with_next(10), now=later, renews=evidence)
    assert candidate_of(ca) is None


def test_what_was_replaced_does_not_come_back(ca: Authority) -> None:
    """A former key has its certificates renewed while it counts, brings no key of its own, and is over then."""
    evidence = member(ca)
    made = ca.certify(with_next(9), now=NOW, renews=evidence)
    ca.sign_roster(ca.plan_roster(now=NOW), now=NOW)
    later = Renewal(made.tls_certificate, made.next_certificate)
    assert reason(ca, with_next(10), renews=evidence) == "key_reused"
    # Neither the former one nor another that waited once and was replaced before any roster named it.
    for request in (with_next(2, signing_key=key(9)), with_next(2, signing_key=None)):
        assert reason(ca, request, renews=later) == "key_reused"
    ca.certify(with_next(9), now=NOW, renews=evidence)
    over = NOW + timedelta(days=15)
    with pytest.raises(CertificateError, match="was replaced") as caught:
        ca.certify(with_next(9), now=over, renews=evidence)
    assert caught.value.reason == "key_replaced"
    ca.certify(with_next(10, signing_key=key(9)), now=over, renews=later)
    assert candidate_of(ca) == key(10).spki
    ca.certify(with_next(11, signing_key=key(9)), now=over, renews=later)
    with pytest.raises(ConfigurationError) as caught:
        ca.certify(with_next(10, signing_key=key(9)), now=over, renews=later)
    assert caught.value.reason == "key_reused"


def test_the_same_renewal_with_a_next_key_is_given_the_same_certificates(ca: Authority) -> None:
    """Both signing keys have certificates that are newer than others' of this party."""
    evidence = member(ca)
    made = ca.certify(with_next(9), now=NOW, renews=evidence)
    known = ca.ledger.entries()
    assert ca.certify(with_next(9, tls_key=key(1)), now=NOW, renews=evidence) == made
    assert ca.ledger.entries() == known
    # The certificate that is to be renewed is never the answer, not for a signing key either.
    renewed = ca.certify(with_next(9), now=NOW, renews=replace(evidence, signing_certificate=made.signing_certificate))
    assert renewed.signing_certificate != made.signing_certificate


def test_a_receiving_key_is_not_changed_by_a_renewal(ca: Authority) -> None:
    """That takes a statement, which cannot be played again."""
    present = ca.certify(SITE_REQUEST, now=NOW)
    evidence = Renewal(present.tls_certificate, present.signing_certificate)
    assert reason(ca, replace(SITE_REQUEST, tls_key=key(8)), renews=evidence) == "bad_keys"


def test_evidence_has_to_be_the_partys_own_and_of_the_ledger(ca: Authority, tmp_path: Path) -> None:
    """Another party's certificate, one for another use, a stranger's and an expired one renew nothing."""
    present = ca.certify(SITE_REQUEST, now=NOW)
    other = ca.certify(
        replace(SITE_REQUEST, id=SpiffeId("fed", Role.SITE, "two"), tls_key=key(5), signing_key=key(6)), now=NOW
    )
    stranger = Authority.create(tmp_path / "stranger", federation="fed", now=NOW).certify(SITE_REQUEST, now=NOW)
    assert present.signing_certificate is not None
    request = CertificationRequest(SITE, "site", key(8), key(2))
    mine = Renewal(present.tls_certificate, present.signing_certificate)
    for evidence in (
        replace(mine, tls_certificate=other.tls_certificate),
        replace(mine, signing_certificate=other.signing_certificate),
        replace(mine, tls_certificate=stranger.tls_certificate),
        replace(mine, tls_certificate=present.signing_certificate),
        replace(mine, signing_certificate=present.tls_certificate),
    ):
        assert reason(ca, request, renews=evidence) == "not_ours"
    with pytest.raises(CertificateError) as caught:
        ca.certify(request, now=NOW + timedelta(days=91), renews=mine)
    assert caught.value.reason == "expired"


def test_the_same_request_again_is_given_the_same_certificates(ca: Authority) -> None:
    """Whoever was cut off before the answer asks again; nothing is issued twice, and not for other keys."""
    first = ca.certify(SITE_REQUEST, now=NOW)
    before = ca.ledger.entries()
    assert ca.certify(SITE_REQUEST, now=NOW + timedelta(hours=1)) == first
    assert ca.ledger.entries() == before
    assert reason(ca, replace(SITE_REQUEST, receiving_key=b"")) == "bad_key"
    other = ReceivingKey.generate("ML-KEM-768+X25519").public.to_bytes()
    assert reason(ca, replace(SITE_REQUEST, receiving_key=other)) == "already_issued"
    late = NOW + timedelta(days=61)
    with pytest.raises(ConfigurationError):
        ca.certify(SITE_REQUEST, now=late)


def test_the_same_renewal_again_is_given_the_same_certificates(ca: Authority) -> None:
    """Also with the same keys as before; the certificate that is to be renewed is never the answer."""
    present = ca.certify(SITE_REQUEST, now=NOW)
    evidence = Renewal(present.tls_certificate, present.signing_certificate)
    same_keys = replace(SITE_REQUEST, receiving_key=None)
    later = NOW + timedelta(days=60)
    renewed = ca.certify(same_keys, now=later, renews=evidence)
    assert renewed.tls_certificate != present.tls_certificate
    assert ca.certify(same_keys, now=later, renews=evidence) == renewed
    kinds = [json.loads(line)["kind"] for line in ca.ledger.lines()]
    assert kinds == ["issue"] * 4 + ["renew"] * 2


def test_a_key_has_one_holder_and_one_use(ca: Authority) -> None:
    """Nobody is certified another party's key, nor his own in a second use."""
    ca.certify(SITE_REQUEST, now=NOW)
    other = CertificationRequest(SpiffeId("fed", Role.SITE, "two"), "site", key(5), key(6), RECEIVING)
    assert reason(ca, replace(other, tls_key=key(1))) == "key_in_use"
    assert reason(ca, replace(other, tls_key=key(2))) == "key_in_use"
    assert reason(ca, replace(other, signing_key=key(2))) == "key_in_use"


def test_a_party_with_content_keys_is_a_candidate(ca: Authority) -> None:
    """The keys wait in the ledger for the root; a gateway has none."""
    ca.certify(SITE_REQUEST, now=NOW)
    ca.certify(HUB_REQUEST, now=NOW)
    (candidate,) = ca.ledger.candidates()
    assert (candidate.id, candidate.signing_key, candidate.receiving_key) == (str(SITE), key(2).spki, RECEIVING)


def test_what_was_revoked_renews_nothing(ca: Authority) -> None:
    """Neither the certificate nor a new one for its key; and the name is given again only when told to."""
    present = ca.certify(SITE_REQUEST, now=NOW)
    with ca.ledger.writing(NOW) as book:
        for entry in ca.ledger.entries(party=str(SITE)):
            book.revoke(entry, "key_compromise")
    evidence = Renewal(present.tls_certificate, present.signing_certificate)
    assert reason(ca, CertificationRequest(SITE, "site", key(8)), renews=evidence) == "revoked"
    assert reason(ca, SITE_REQUEST) == "was_revoked"
    assert reason(ca, SITE_REQUEST, reissue=True) == "key_revoked"
    made = ca.certify(replace(SITE_REQUEST, tls_key=key(8), signing_key=key(9)), now=NOW, reissue=True)
    assert verified(made, Usage.CLIENT) == SITE


def test_killed_after_the_ledger_the_request_is_answered_when_it_is_made_again(ca: Authority) -> None:
    """A certificate that is in the ledger and never left is what the party gets in the end."""
    script = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom certs.authority import Authority\n"
        "from tests.certs.test_certifying import NOW, SITE_REQUEST, CertificationRequest\n"
        "Authority.open(Path(sys.argv[1])).certify(SITE_REQUEST, now=NOW)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(ca.folder)], check=False, cwd=ROOT_FOLDER)
    assert done.returncode == -9
    before = ca.ledger.entries()
    assert len(before) == 4
    # The other process made a receiving key of its own, so its very request is put together from the ledger.
    (candidate,) = ca.ledger.candidates()
    made = ca.certify(replace(SITE_REQUEST, receiving_key=candidate.receiving_key), now=NOW)
    assert ca.ledger.entries() == before
    assert verified(made, Usage.SIGNING) == SITE
