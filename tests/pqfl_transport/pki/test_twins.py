"""Twins: good for classical peers, for one use and one federation, and for nothing on the post-quantum side."""

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from pqfl_transport.crypto.pyca import SigningKey
from pqfl_transport.errors import CertificateError, ConfigurationError
from pqfl_transport.pki import chain
from pqfl_transport.pki.authority import create_issuing, create_root, issue_tls
from pqfl_transport.pki.classical import verify_classical
from pqfl_transport.pki.constraints import permitted_federations
from pqfl_transport.pki.profiles import PROFILES, Usage
from pqfl_transport.pki.spiffe import SpiffeId
from pqfl_transport.pki.twins import (
    create_classical,
    generate_key,
    is_twin_of,
    issue_twin,
    key_from_pem,
    key_to_pem,
    require_twin_granted,
    with_issuers,
)
from pqfl_transport.policy import SecurityLevel, for_level, for_name
from tests.support.classical import key_pem, make_leaf, make_root

NOW = datetime.now(UTC)
ISSUER = create_classical("fed", now=NOW)
SETS = for_name("pq-prefer-2026").classical


def make(profile: str = "site", federation: str = "fed") -> x509.Certificate:
    """The twin of a party of this profile."""
    row = PROFILES[profile]
    party = SpiffeId(federation, row.role, "one")
    return issue_twin(ISSUER, row, party, generate_key().public_key(), now=NOW, seconds=3600)


def verify(leaf: x509.Certificate, usage: Usage) -> None:
    """As a listener of both kinds does."""
    assert SETS is not None
    verify_classical(leaf, [], [ISSUER.certificate], classical=SETS, usage=usage, now=NOW)


@pytest.mark.parametrize(("profile", "usage"), [("gateway", Usage.SERVER), ("site", Usage.CLIENT)])
def test_a_twin_has_its_partys_name_and_its_one_use(profile: str, usage: Usage) -> None:
    """Classical peers accept it for that, and for the other direction nobody does."""
    twin = make(profile)
    assert str(chain.spiffe_id(twin)) == f"spiffe://fed/{profile}/one"
    assert chain.key_algorithm_name(twin) == "ECDSA-P256"
    verify(twin, usage)
    other = Usage.CLIENT if usage is Usage.SERVER else Usage.SERVER
    with pytest.raises(CertificateError) as caught:
        verify(twin, other)
    assert caught.value.reason == "bad_usage"


def test_neither_half_vouches_for_the_other() -> None:
    """A twin is nothing to a post-quantum verifier, even where its issuer is trusted there; nor the other way round."""
    policy = for_level(SecurityLevel.HIGH)
    with pytest.raises(CertificateError):
        chain.verify_chain(make(), [ISSUER.certificate], policy=policy, usage=Usage.CLIENT, now=NOW)
    row, key = PROFILES["site"], SigningKey.generate("ML-DSA-65")
    issuing = create_issuing(create_root("fed", now=NOW), SecurityLevel.HIGH, now=NOW)
    party = SpiffeId("fed", row.role, "one")
    leaf = issue_tls(issuing, row, party, key.verifying_key, now=NOW, seconds=3600)
    with pytest.raises(CertificateError) as caught:
        verify(leaf, Usage.CLIENT)
    assert caught.value.reason == "bad_sigalg"


@pytest.mark.parametrize("profile", ["aggregator", "operator"])
def test_who_meets_no_classical_peers_has_no_twin(profile: str) -> None:
    """Content is never signed classically, so whoever lives by content has no use for one."""
    with pytest.raises(ConfigurationError) as caught:
        make(profile)
    assert caught.value.reason == "no_twin"


def test_another_federations_party_is_not_certified() -> None:
    """The issuer is constrained as the post-quantum ones are."""
    assert permitted_federations(ISSUER.certificate) == ("fed",)
    with pytest.raises(ConfigurationError) as caught:
        make(federation="other")
    assert caught.value.reason == "bad_name"


def test_the_name_has_to_be_of_the_profiles_role() -> None:
    """A site's name with a gateway's use would be a site that poses as one."""
    party = SpiffeId("fed", PROFILES["site"].role, "one")
    with pytest.raises(ConfigurationError) as caught:
        issue_twin(ISSUER, PROFILES["gateway"], party, generate_key().public_key(), now=NOW, seconds=3600)
    assert caught.value.reason == "bad_name"


def test_another_curve_is_refused_as_key_and_as_file() -> None:
    """P-256 it is, for twins and for their issuer."""
    key = ec.generate_private_key(ec.SECP384R1())
    party = SpiffeId("fed", PROFILES["site"].role, "one")
    with pytest.raises(ConfigurationError) as caught:
        issue_twin(ISSUER, PROFILES["site"], party, key.public_key(), now=NOW, seconds=3600)
    assert caught.value.reason == "bad_key"
    for pem in (key_pem(key), SigningKey.generate("ML-DSA-44").to_pem(), b"nothing"):
        with pytest.raises(ConfigurationError) as caught:
            key_from_pem(pem)
        assert caught.value.reason == "bad_key"


def test_a_key_comes_back_from_its_file() -> None:
    """PKCS#8, as every program reads it."""
    pem = key_to_pem(ISSUER.key)
    assert pem.startswith(b"-----BEGIN PRIVATE KEY-----")
    assert key_from_pem(pem).public_key() == ISSUER.certificate.public_key()


def test_a_twin_is_known_by_its_issuer_and_its_name() -> None:
    """Not by the name alone: an own authority may write any."""
    party = SpiffeId("fed", PROFILES["site"].role, "one")
    other = create_classical("other", now=NOW)
    assert is_twin_of(party, make(), [other.certificate, ISSUER.certificate])
    assert not is_twin_of(SpiffeId("fed", PROFILES["site"].role, "two"), make(), [ISSUER.certificate])
    assert not is_twin_of(party, make(), [other.certificate])
    own = make_root("own")
    leaf, _ = make_leaf(own, uris=(str(party),))
    assert not is_twin_of(party, leaf, [own.certificate])
    assert not is_twin_of(party, make_leaf(own)[0], [own.certificate])


def test_what_is_granted_has_to_be_what_was_asked_for() -> None:
    """Its key, its use, its dates, and no foreign issuer beside it."""
    row, key = PROFILES["site"], generate_key()
    party = SpiffeId("fed", row.role, "one")
    made = issue_twin(ISSUER, row, party, key.public_key(), now=NOW, seconds=3600)
    anchors = [ISSUER.certificate]

    def reason(usage: Usage = Usage.CLIENT, now: datetime = NOW, **changes: object) -> str | None:
        asked = {"anchors": anchors, "key": key.public_key()} | changes
        try:
            require_twin_granted(made, asked["anchors"], party, asked["key"], usage=usage, now=now)  # type: ignore[arg-type]
        except CertificateError as error:
            return error.reason
        return None

    assert reason() is None
    assert reason(key=generate_key().public_key()) == "wrong_answer"
    assert reason(anchors=[*anchors, make_root("own").certificate]) == "wrong_answer"
    assert reason(anchors=[]) == "wrong_answer"
    assert reason(Usage.SERVER) == "bad_usage"
    assert reason(now=NOW + timedelta(hours=2)) == "expired"


def test_a_store_gets_the_issuers_of_now() -> None:
    """Former ones of the federation go, others' stay."""
    own, new = make_root("own").certificate, create_classical("fed", now=NOW).certificate
    assert with_issuers([own, ISSUER.certificate], [new], "fed") == (new, own)
