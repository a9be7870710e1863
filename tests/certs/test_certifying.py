"""Certifying a party's own keys: what is granted, what is refused, and that the ledger knows it first."""

import json
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

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
    request = CertificationRequest(SITE, "site", key(8), key(9))
    assert reason(ca, request, renews=Renewal(present.tls_certificate)) == "bad_keys"
    made = ca.certify(request, now=NOW, renews=Renewal(present.tls_certificate, present.signing_certificate))
    assert made.signing_certificate is not None
    assert chain.verifying_key(made.signing_certificate) == key(9)


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
    request = CertificationRequest(SITE, "site", key(8), key(9))
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
