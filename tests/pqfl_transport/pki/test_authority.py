"""Making certificates: what is in them, and what no authority signs."""

from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from pqfl_transport.crypto.pyca import SigningKey
from pqfl_transport.errors import CertificateError, ConfigurationError
from pqfl_transport.pki import chain
from pqfl_transport.pki.authority import (
    Host,
    Issuer,
    create_issuing,
    create_root,
    cross_sign,
    issue_signing,
    issue_tls,
    recertify_issuing,
    require_host,
)
from pqfl_transport.pki.builders import constraints_of
from pqfl_transport.pki.constraints import permitted_federations
from pqfl_transport.pki.extensions import Extension
from pqfl_transport.pki.profiles import PROFILES, Usage
from pqfl_transport.pki.spiffe import Role, SpiffeId
from pqfl_transport.policy import SecurityLevel, for_level

NOW = datetime(2026, 7, 1, 12, 0, 0, tzinfo=UTC)
ROOT = create_root("fed", now=NOW)
ISSUING = create_issuing(ROOT, SecurityLevel.HIGH, now=NOW)
KEY = SigningKey.from_seed("ML-DSA-65", bytes(32)).verifying_key
SITE = SpiffeId("fed", Role.SITE, "hospital-north")
GATEWAY = SpiffeId("fed", Role.GATEWAY, "hub")


def leaf(*, days: int = 90, hosts: tuple[Host, ...] = (), party: SpiffeId = SITE) -> x509.Certificate:
    """A TLS certificate of the profile that belongs to the party."""
    return issue_tls(ISSUING, PROFILES[party.role.value], party, KEY, now=NOW, seconds=days * 86400, hosts=hosts)


def extension(certificate: x509.Certificate, kind: type[Extension]) -> tuple[Extension, bool]:
    """An extension and whether it is critical."""
    found = certificate.extensions.get_extension_for_class(kind)
    return found.value, found.critical


@pytest.mark.parametrize(
    ("level", "algorithm"),
    [("standard", "ML-DSA-44"), ("high", "ML-DSA-65"), ("maximum", "ML-DSA-87"), ("cnsa2", "ML-DSA-87")],
)
def test_the_root_is_the_strongest_and_the_issuer_as_strong_as_its_leaves(level: str, algorithm: str) -> None:
    """Every level's root is ML-DSA-87; its issuing authority's key is of the algorithm of the leaves."""
    root = create_root("fed", now=NOW)
    issuing = create_issuing(root, SecurityLevel(level), now=NOW)
    assert chain.key_algorithm_name(root.certificate) == "ML-DSA-87"
    assert chain.signature_algorithm_name(root.certificate) == "ML-DSA-87"
    assert chain.key_algorithm_name(issuing.certificate) == algorithm
    assert chain.signature_algorithm_name(issuing.certificate) == "ML-DSA-87"
    assert algorithm in for_level(level).leaf_keys


@pytest.mark.parametrize(("issuer", "path_length"), [(ROOT, 1), (ISSUING, 0)], ids=["root", "issuing"])
def test_an_authority_signs_certificates_and_nothing_else(issuer: Issuer, path_length: int) -> None:
    """Authorities have critical basic constraints, key usage and name constraint, and no digitalSignature."""
    certificate = issuer.certificate
    assert extension(certificate, x509.BasicConstraints) == (x509.BasicConstraints(True, path_length), True)
    usage, critical = extension(certificate, x509.KeyUsage)
    assert critical
    assert (usage.key_cert_sign, usage.crl_sign, usage.digital_signature) == (True, True, False)
    constraints, critical = extension(certificate, x509.NameConstraints)
    assert critical
    assert constraints == constraints_of("fed", directory=issuer is ISSUING)
    assert issuer.federation == "fed"
    assert issuer.key.verifying_key == chain.verifying_key(certificate)


def test_a_leaf_is_no_authority_and_has_one_usage_and_one_uri() -> None:
    """A TLS leaf: CA false, digitalSignature only, exactly its profile's usage, its SPIFFE ID as the one URI."""
    for party, usage in ((SITE, Usage.CLIENT), (GATEWAY, Usage.SERVER)):
        certificate = leaf(party=party)
        assert extension(certificate, x509.BasicConstraints) == (x509.BasicConstraints(False, None), True)
        key_usage, critical = extension(certificate, x509.KeyUsage)
        assert critical
        assert key_usage.digital_signature
        assert not any((key_usage.key_cert_sign, key_usage.crl_sign, key_usage.key_encipherment))
        assert list(extension(certificate, x509.ExtendedKeyUsage)[0]) == [usage.oid]
        names = extension(certificate, x509.SubjectAlternativeName)[0]
        assert list(names) == [x509.UniformResourceIdentifier(str(party))]


def test_a_signing_certificate_is_for_documents_only() -> None:
    """Its only usage is id-kp-documentSigning, so no TLS handshake of ours takes it."""
    certificate = issue_signing(ISSUING, SITE, KEY, now=NOW, seconds=90 * 86400)
    assert list(extension(certificate, x509.ExtendedKeyUsage)[0]) == [Usage.SIGNING.oid]
    assert chain.spiffe_id(certificate) == SITE


def test_key_identifiers_link_leaf_to_issuer_to_root() -> None:
    """Each certificate names its own key and its issuer's by 20 bytes, so that chains are found without trying."""
    for certificate, issuer in ((leaf(), ISSUING.certificate), (ISSUING.certificate, ROOT.certificate)):
        own = extension(issuer, x509.SubjectKeyIdentifier)[0].digest
        assert extension(certificate, x509.AuthorityKeyIdentifier)[0].key_identifier == own
        assert len(own) == 20
        assert certificate.issuer == issuer.subject


def test_validity_is_backdated_five_minutes_and_ends_when_asked() -> None:
    """A site whose clock is a little slow accepts a fresh certificate; the end counts from now."""
    certificate = leaf(days=7)
    assert certificate.not_valid_before_utc == NOW - timedelta(minutes=5)
    assert certificate.not_valid_after_utc == NOW + timedelta(days=7)
    assert ROOT.certificate.not_valid_after_utc == NOW + timedelta(days=3650)
    assert ISSUING.certificate.not_valid_after_utc == NOW + timedelta(days=1825)


def test_serial_numbers_differ() -> None:
    """Two certificates of one party under one key are still two certificates."""
    assert leaf().serial_number != leaf().serial_number


def test_hosts_become_names_beside_the_uri() -> None:
    """Host names and addresses stand in the subject alternative name for peers that check them."""
    certificate = leaf(party=GATEWAY, hosts=("fl.example", "*.fl.example", ip_address("127.0.0.1"), ip_address("::1")))
    names = extension(certificate, x509.SubjectAlternativeName)[0]
    assert names.get_values_for_type(x509.DNSName) == ["fl.example", "*.fl.example"]
    assert names.get_values_for_type(x509.IPAddress) == [ip_address("127.0.0.1"), ip_address("::1")]
    assert chain.spiffe_id(certificate) == GATEWAY


@pytest.mark.parametrize("days", [0, -1, 1826, 10**12], ids=str)
def test_a_leaf_never_outlives_its_issuer(days: int) -> None:
    """No validity below a day, beyond the issuer's end, or beyond the calendar."""
    with pytest.raises(ConfigurationError, match=f"{days} days") as caught:
        leaf(days=days)
    assert caught.value.reason == "bad_validity"


def test_the_last_day_of_the_issuer_is_still_given() -> None:
    """A leaf may end exactly when its issuer does."""
    assert leaf(days=1825).not_valid_after_utc == ISSUING.certificate.not_valid_after_utc


def test_an_issuing_authority_never_outlives_the_root() -> None:
    """The same rule one step up."""
    with pytest.raises(ConfigurationError) as caught:
        create_issuing(ROOT, SecurityLevel.HIGH, now=NOW, days=3651)
    assert caught.value.reason == "bad_validity"


def test_another_federations_party_is_refused() -> None:
    """An authority signs for its own federation only, TLS and signing alike."""
    stranger = SpiffeId("other", Role.SITE, "a")
    for issue in (
        lambda: issue_tls(ISSUING, PROFILES["site"], stranger, KEY, now=NOW, seconds=1 * 86400),
        lambda: issue_signing(ISSUING, stranger, KEY, now=NOW, seconds=1 * 86400),
    ):
        with pytest.raises(ConfigurationError, match="spiffe://other/site/a") as caught:
            issue()
        assert caught.value.reason == "bad_name"


def test_a_role_that_is_not_the_profiles_is_refused() -> None:
    """A site's ID under the gateway's profile would be a site that listens."""
    with pytest.raises(ConfigurationError) as caught:
        issue_tls(ISSUING, PROFILES["gateway"], SITE, KEY, now=NOW, seconds=1 * 86400)
    assert caught.value.reason == "bad_name"


def test_a_federation_outside_the_grammar_has_no_root() -> None:
    """The name is checked before a key is made for it."""
    with pytest.raises(CertificateError) as caught:
        create_root("Fed.example", now=NOW)
    assert caught.value.reason == "bad_name"


@pytest.mark.parametrize(
    "host",
    [
        "", ".", "a.", ".a", "a..b", "-a", "a-", "a b", "a_b", "*", "*.", "a.*", "**.a", "ä.example", "a\0", "a\n",
        "a/b", "a:1", "[::1]", "::1", "127.0.0.1", "10", "1.2.3", "a" * 64, "a." * 127 + "aa",
    ],
)  # fmt: skip
def test_what_is_no_host_name_is_refused(host: str) -> None:
    """Neither addresses as text nor anything RFC 1123 does not allow becomes a DNS name of a certificate."""
    with pytest.raises(ConfigurationError) as caught:
        leaf(party=GATEWAY, hosts=(host,))
    assert caught.value.reason == "bad_host"


@pytest.mark.parametrize("host", ["a", "A-1.b", "*.example", "1.example", "xn--bcher-kva.example", "a." * 126 + "a"])
def test_host_names_are_accepted(host: str) -> None:
    """Names in ASCII up to 253 characters, a wildcard as the first label."""
    require_host(host)


@given(host=st.text() | st.from_regex(r"[a-z0-9.*-]{1,70}", fullmatch=True))
def test_any_text_is_a_host_name_or_refused_as_one(host: str) -> None:
    """No text makes the builder fail in its own way: what passes the check is encoded as it is."""
    try:
        require_host(host)
    except ConfigurationError as error:
        assert error.reason == "bad_host"  # noqa: PT017 -- both ends are allowed, this reason only
    else:
        assert x509.DNSName(host).value == host


def test_an_address_with_a_scope_is_refused() -> None:
    """The scope would be lost silently."""
    with pytest.raises(ConfigurationError) as caught:
        leaf(party=GATEWAY, hosts=(ip_address("fe80::1%eth0"),))
    assert caught.value.reason == "bad_host"


def test_an_issuing_authority_has_a_certificate_under_a_second_root() -> None:
    """Its name and key are the same, so what it issued leads to either root."""
    second = create_root("fed", now=NOW, name="root-2")
    again = recertify_issuing(second, ISSUING.certificate, now=NOW, days=30)
    made = leaf()
    for anchors in ((ROOT.certificate, ISSUING.certificate), (second.certificate, again)):
        policy = for_level("high")
        assert chain.verify_chain(made, anchors, policy=policy, usage=Usage.CLIENT, now=NOW) == SITE
    assert second.certificate.subject != ROOT.certificate.subject


def test_the_old_root_certifies_the_new_ones_key() -> None:
    """Until the first of the two ends, and with the same name constraint."""
    later = NOW + timedelta(days=365)
    second = create_root("fed", now=later, name="root-2")
    cross = cross_sign(ROOT, second.certificate, now=later)
    assert chain.is_signed_by(cross, ROOT.certificate)
    assert chain.verifying_key(cross) == second.key.verifying_key
    assert cross.not_valid_after_utc <= ROOT.certificate.not_valid_after_utc
    assert permitted_federations(cross) == ("fed",)
