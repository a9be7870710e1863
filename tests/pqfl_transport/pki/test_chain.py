"""Verifying certificates: what leads to a root of ours is accepted, and each fault has its own reason."""

import base64
import textwrap
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from pqfl_transport.crypto.pyca import SigningKey
from pqfl_transport.errors import CertificateError
from pqfl_transport.pki import chain
from pqfl_transport.pki.authority import Issuer, create_issuing, create_root, issue_signing, issue_tls
from pqfl_transport.pki.profiles import PROFILES, Usage
from pqfl_transport.pki.spiffe import Role, SpiffeId
from pqfl_transport.policy import SecurityLevel, for_level, for_name
from tests.support import pki
from tests.support.authorities import Shape, odd_authority

NOW = datetime(2026, 7, 1, 12, 0, 0, tzinfo=UTC)
HIGH = for_level("high")
ROOT = create_root("fed", now=NOW)
ISSUING = create_issuing(ROOT, SecurityLevel.HIGH, now=NOW)
ANCHORS = (ROOT.certificate, ISSUING.certificate)
KEY = SigningKey.from_seed("ML-DSA-65", bytes(32))
SITE = SpiffeId("fed", Role.SITE, "hospital-north")
LEAF = issue_tls(ISSUING, PROFILES["site"], SITE, KEY.verifying_key, now=NOW, seconds=90 * 86400)
SIGNING_LEAF = issue_signing(ISSUING, SITE, KEY.verifying_key, now=NOW, seconds=90 * 86400)


def verify(
    leaf: x509.Certificate,
    anchors: Sequence[x509.Certificate] = ANCHORS,
    *,
    usage: Usage = Usage.CLIENT,
    now: datetime = NOW,
    level: str = "high",
) -> SpiffeId:
    """`verify_chain` with this file's defaults."""
    return chain.verify_chain(leaf, anchors, policy=for_level(level), usage=usage, now=now)


def refusal(leaf: x509.Certificate, anchors: Sequence[x509.Certificate] = ANCHORS, **how: object) -> str:
    """The reason for which a leaf is refused."""
    with pytest.raises(CertificateError) as caught:
        verify(leaf, anchors, **how)  # type: ignore[arg-type]
    return caught.value.reason


def authority(shape: Shape, parent: Issuer | None = None) -> Issuer:
    """An authority of this shape that begins now."""
    return odd_authority(shape, begin=NOW, parent=parent)


def leaf_under(issuer: Issuer, **changes: object) -> x509.Certificate:
    """A good site's TLS leaf under any issuer, as `tests.support.pki.sign_leaf` makes it."""
    arguments = {"uris": [str(SITE)], "usages": [Usage.CLIENT.oid], "begin": NOW} | changes
    signer = pki.Signer(issuer.certificate, issuer.key.pyca_key)
    return pki.sign_leaf(signer, KEY.pyca_key, **arguments)  # type: ignore[arg-type]


def test_good_certificates_name_their_party() -> None:
    """TLS and signing certificate of one party verify for their own use and give the same ID."""
    assert verify(LEAF) == SITE
    assert verify(SIGNING_LEAF, usage=Usage.SIGNING) == SITE


@pytest.mark.parametrize("level", list(SecurityLevel))
def test_every_level_accepts_its_own(level: SecurityLevel) -> None:
    """What the authority of a level makes, the policy of that level takes."""
    root = create_root("fed", now=NOW)
    issuing = create_issuing(root, level, now=NOW)
    key = SigningKey.generate(for_level(level).leaf_keys[0]).verifying_key
    made = issue_tls(issuing, PROFILES["site"], SITE, key, now=NOW, seconds=90 * 86400)
    assert verify(made, (issuing.certificate, root.certificate), level=level) == SITE


def test_other_levels_refuse_it() -> None:
    """A policy is a set of names: neither weaker nor stronger keys than listed are taken."""
    assert refusal(LEAF, level="standard") == "bad_sigalg"
    assert refusal(LEAF, level="maximum") == "bad_sigalg"


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> pki.Federation:
    """A whole federation on disk, with whose authority the oddities are made."""
    return pki.make_federation(tmp_path_factory.mktemp("fed"))


@pytest.mark.parametrize("profile", ["site", "gateway", "aggregator"])
@pytest.mark.parametrize(
    ("make", "reason"), list(pki.ODDITIES.items()), ids=lambda value: getattr(value, "__name__", "")
)
def test_each_oddity_is_refused_for_what_it_is(
    federation: pki.Federation, tmp_path: Path, make: pki.Oddity, reason: str, profile: str
) -> None:
    """One thing wrong is enough, and the reason says which; where algorithms are wrong, its own root is trusted too."""
    folder = make(federation, tmp_path / "odd", profile)
    (leaf,) = chain.load_certificates((folder / "tls.pem").read_bytes())
    anchors = chain.load_certificates(federation.ca_pem.read_bytes())
    if reason == "bad_sigalg":
        anchors += chain.load_certificates((folder / "ca.pem").read_bytes())
    usage = PROFILES[profile].tls_usage
    assert refusal(leaf, anchors, usage=usage, now=datetime.now(UTC)) == reason


def test_an_ml_dsa_leaf_under_an_ecdsa_root_is_refused_even_when_the_rest_is_post_quantum() -> None:
    """Leaf and issuing authority are ML-DSA, the root is not: the anchor's own signature counts."""
    root = pki.make_authority(ec.generate_private_key(ec.SECP384R1()), "ecdsa root")
    issuing = pki.make_authority(SigningKey.generate("ML-DSA-65").pyca_key, "ml-dsa issuing", parent=root)
    leaf = pki.sign_leaf(issuing, KEY.pyca_key, uris=[str(SITE)], usages=[Usage.CLIENT.oid])
    assert chain.signature_algorithm_name(leaf) == "ML-DSA-65"
    assert refusal(leaf, (root.certificate, issuing.certificate), now=datetime.now(UTC)) == "bad_sigalg"


@pytest.mark.parametrize("usage", list(Usage))
def test_a_certificate_is_refused_in_every_use_but_its_own(usage: Usage) -> None:
    """A signing certificate opens no TLS connection, a TLS certificate signs nothing, a client's serves nobody."""
    for leaf, own in ((LEAF, Usage.CLIENT), (SIGNING_LEAF, Usage.SIGNING)):
        if usage is own:
            assert verify(leaf, usage=usage) == SITE
        else:
            assert refusal(leaf, usage=usage) == "bad_usage"


def test_validity_is_a_closed_interval() -> None:
    """Valid from its first to its last second, and neither a second before nor after."""
    second = timedelta(seconds=1)
    first, last = LEAF.not_valid_before_utc, LEAF.not_valid_after_utc
    # The issuer of this file is exactly as old as the leaf; an older one leaves the leaf's own validity to be seen.
    old = create_root("fed", now=NOW - timedelta(days=1))
    issuing = create_issuing(old, SecurityLevel.HIGH, now=NOW - timedelta(days=1))
    leaf = issue_tls(issuing, PROFILES["site"], SITE, KEY.verifying_key, now=NOW, seconds=90 * 86400)
    anchors = (old.certificate, issuing.certificate)
    assert verify(leaf, anchors, now=first) == verify(leaf, anchors, now=last) == SITE
    assert refusal(leaf, anchors, now=first - second) == "not_yet_valid"
    assert refusal(leaf, anchors, now=last + second) == "expired"


@pytest.mark.parametrize("which", ["root", "issuing"])
def test_an_expired_authority_ends_all_beneath_it(which: str) -> None:
    """The validity of every certificate of the chain counts, the anchor's included."""
    short = Shape("short", days=1)
    root = authority(short if which == "root" else Shape("long"))
    issuing = authority(short if which == "issuing" else Shape("issuing"), root)
    leaf = leaf_under(issuing)
    anchors = (root.certificate, issuing.certificate)
    assert verify(leaf, anchors) == SITE
    assert refusal(leaf, anchors, now=NOW + timedelta(days=2)) == "expired"


@pytest.mark.parametrize(
    "anchors",
    [(), (ROOT.certificate,), (ISSUING.certificate,), (LEAF,), (LEAF, ISSUING.certificate)],
    ids=["none", "root only", "issuing only", "leaf itself", "leaf and issuing"],
)
def test_a_chain_that_does_not_reach_a_root_is_untrusted(anchors: tuple[x509.Certificate, ...]) -> None:
    """Trust ends at a self-signed certificate among the anchors; an issuing certificate alone is no root."""
    assert refusal(LEAF, anchors) == "untrusted"


def test_a_root_is_no_leaf() -> None:
    """A trusted root shown as a party's own certificate names nobody and is refused."""
    for certificate in ANCHORS:
        with pytest.raises(CertificateError):
            verify(certificate, level="maximum" if certificate is ROOT.certificate else "high")


def test_untrusted_says_whether_the_name_is_known() -> None:
    """Another authority of the same name is the puzzle an operator meets; the message tells it from a stranger."""
    namesake = create_root("fed", now=NOW)
    with pytest.raises(CertificateError, match="has that name but did not sign it"):
        verify(LEAF, (namesake.certificate, create_issuing(namesake, SecurityLevel.HIGH, now=NOW).certificate))
    with pytest.raises(CertificateError, match="no trusted authority has that name"):
        verify(LEAF, (create_root("other", now=NOW).certificate,))


def test_one_bad_namesake_does_not_hide_the_good_issuer() -> None:
    """While authorities are exchanged, old and new ones of one name stand side by side in any order."""
    namesake = create_root("fed", now=NOW)
    others = (namesake.certificate, create_issuing(namesake, SecurityLevel.HIGH, now=NOW).certificate)
    assert verify(LEAF, (*others, *ANCHORS)) == verify(LEAF, (*ANCHORS, *others)) == SITE


def test_a_second_certificate_of_the_same_issuer_counts_when_the_first_has_expired() -> None:
    """A renewed issuing certificate with the same key works beside the expired one."""
    root = authority(Shape("root"))
    key = SigningKey.generate("ML-DSA-65")

    def issuing(days: int) -> x509.Certificate:
        signer = pki.Signer(root.certificate, root.key.pyca_key)
        made = pki.make_authority(key.pyca_key, "issuing", parent=signer).certificate
        builder = x509.CertificateBuilder(
            made.issuer, made.subject, made.public_key(), made.serial_number, NOW - timedelta(days=9),
            NOW + timedelta(days=days), list(made.extensions),
        )  # fmt: skip
        return builder.sign(root.key.pyca_key, None)

    leaf = leaf_under(Issuer(issuing(9), key))
    old, new = issuing(-1), issuing(9)
    assert verify(leaf, (root.certificate, old, new)) == verify(leaf, (new, old, root.certificate)) == SITE
    assert refusal(leaf, (root.certificate, old)) == "expired"


BAD_AUTHORITIES = {
    "no CA bit": Shape(is_authority=False),
    "no keyCertSign": Shape(signs_certificates=False),
    "no key usage": Shape(has_key_usage=False),
    "unknown critical extension": Shape(extra=x509.PolicyConstraints(0, None)),
}


@pytest.mark.parametrize("shape", BAD_AUTHORITIES.values(), ids=BAD_AUTHORITIES.keys())
def test_who_signs_must_be_an_authority(shape: Shape) -> None:
    """Any certificate of the chain that may not sign others refuses it, as a root or in between."""
    root = authority(shape)
    assert refusal(leaf_under(root), (root.certificate,)) == "bad_usage"
    between = authority(shape, ROOT)
    assert refusal(leaf_under(between), (ROOT.certificate, between.certificate)) == "bad_usage"


def test_a_party_does_not_sign_certificates() -> None:
    """A site that makes itself an authority with its own leaf gets nowhere, even if its leaf is among the anchors."""
    forged = leaf_under(Issuer(LEAF, KEY), uris=["spiffe://fed/aggregator/main"])
    assert refusal(forged) == "untrusted"
    assert refusal(forged, (*ANCHORS, LEAF)) == "bad_usage"


def test_the_path_length_is_a_limit() -> None:
    """An issuing authority with path length 0 has no authority beneath it."""
    below = authority(Shape("below"), ISSUING)
    assert refusal(leaf_under(below), (*ANCHORS, below.certificate)) == "bad_usage"


def test_no_chain_has_more_than_four_certificates() -> None:
    """The search for a chain is bounded, whatever somebody puts into the trusted certificates."""
    authorities = [authority(Shape("0"))]
    for number in range(1, 4):
        authorities.append(authority(Shape(str(number)), authorities[-1]))
    anchors = [one.certificate for one in authorities]
    assert verify(leaf_under(authorities[2]), anchors) == SITE
    assert refusal(leaf_under(authorities[3]), anchors) == "untrusted"


def test_a_name_constraint_binds_the_federation() -> None:
    """An authority of one federation vouches for nobody of another, whichever step the constraint stands at."""
    uri = "spiffe://other/site/a"
    assert refusal(leaf_under(ISSUING, uris=[uri])) == "bad_name"
    narrow = authority(Shape(constraints=x509.NameConstraints([x509.UniformResourceIdentifier("other")], None)), ROOT)
    anchors = (ROOT.certificate, narrow.certificate)
    assert refusal(leaf_under(narrow), anchors) == "bad_name"
    assert refusal(leaf_under(narrow, uris=[uri]), anchors) == "bad_name"


@pytest.mark.parametrize(
    "constraints",
    [
        x509.NameConstraints([x509.DNSName("example")], None),
        x509.NameConstraints([x509.UniformResourceIdentifier("fed"), x509.DNSName("example")], None),
        x509.NameConstraints([x509.UniformResourceIdentifier("fed")], [x509.DNSName("localhost")]),
        x509.NameConstraints(None, [x509.UniformResourceIdentifier("fed")]),
    ],
    ids=["dns", "uri and dns", "excluded dns", "excluded uri"],
)
def test_constraints_of_every_type_bind(constraints: x509.NameConstraints) -> None:
    """What an authority says of a type is evaluated, at every step of the chain (test_constraints.py)."""
    root = authority(Shape(constraints=constraints))
    assert refusal(leaf_under(root), (root.certificate,)) == "bad_name"
    below = authority(Shape("below"), root)
    assert refusal(leaf_under(below), (root.certificate, below.certificate)) == "bad_name"


def test_a_leaf_has_digital_signature() -> None:
    """A leaf whose key usage lacks digitalSignature signs no handshake."""
    usage = x509.KeyUsage(False, False, False, False, True, False, False, False, False)
    assert refusal(leaf_under(ISSUING, key_usage=usage)) == "bad_usage"


@pytest.mark.parametrize(
    "usages",
    [
        [ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE],
        [Usage.CLIENT.oid, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE],
        [Usage.CLIENT.oid, Usage.CLIENT.oid],
        [Usage.CLIENT.oid, Usage.SIGNING.oid],
        [Usage.SERVER.oid],
    ],
    ids=["any", "own and any", "own twice", "own and signing", "other"],
)
def test_any_other_list_of_usages_is_refused(usages: list[x509.ObjectIdentifier]) -> None:
    """The extended key usage is exactly the one asked for, once."""
    assert refusal(leaf_under(ISSUING, usages=usages)) == "bad_usage"


def test_algorithms_are_named_by_their_rows() -> None:
    """Keys and signatures read back as the names that policies list; others as curve or OID, which no policy lists."""
    keys = {
        "ML-DSA-44": SigningKey.generate("ML-DSA-44").pyca_key,
        "ECDSA-P256": ec.generate_private_key(ec.SECP256R1()),
        "ECDSA-P384": ec.generate_private_key(ec.SECP384R1()),
        "secp521r1": ec.generate_private_key(ec.SECP521R1()),
        "Ed25519": ed25519.Ed25519PrivateKey.generate(),
        "RSA-PSS": rsa.generate_private_key(65537, 2048),
    }
    hashes_of = {"ECDSA-P256": hashes.SHA256(), "ECDSA-P384": hashes.SHA384(), "secp521r1": hashes.SHA512()}
    signed = {"secp521r1": "1.2.840.10045.4.3.4", "RSA-PSS": "RSA-PKCS1-SHA256"}
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "self")])
    for algorithm, key in keys.items():
        builder = x509.CertificateBuilder(name, name, key.public_key(), 1, NOW, NOW + timedelta(days=1))
        # PKCS #1 v1.5 signs the RSA one, which is a row of its own.
        digest = hashes.SHA256() if algorithm == "RSA-PSS" else hashes_of.get(algorithm)
        certificate = builder.sign(key, digest)
        assert chain.key_algorithm_name(certificate) == algorithm
        assert chain.signature_algorithm_name(certificate) == signed.get(algorithm, algorithm)
        assert chain.is_self_signed(certificate)


def test_only_an_ml_dsa_key_verifies_messages() -> None:
    """The key of a classical certificate is refused where a signing key is asked for."""
    classical = pki.make_authority(ec.generate_private_key(ec.SECP256R1()), "ecdsa root").certificate
    assert chain.verifying_key(LEAF) == KEY.verifying_key
    with pytest.raises(CertificateError, match="ECDSA-P256") as caught:
        chain.verifying_key(classical)
    assert caught.value.reason == "bad_sigalg"


def test_pem_files_are_read_in_order() -> None:
    """Several certificates in one file come back as they stand, text between them ignored."""
    pem = b"subject: root\n" + b"\n".join(anchor.public_bytes(Encoding.PEM) for anchor in ANCHORS)
    assert chain.load_certificates(pem) == list(ANCHORS)


@pytest.mark.parametrize(
    "pem",
    [
        b"",
        b"not PEM",
        b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        LEAF.public_bytes(Encoding.PEM)[:-40],
        LEAF.public_bytes(Encoding.DER),
        KEY.to_pem(),
        ROOT.certificate.public_bytes(Encoding.PEM) * 65,
        b" " * (chain.MAX_PEM_BYTES + 1),
    ],
    ids=["empty", "text", "garbage", "cut", "DER", "key", "65 certificates", "too large"],
)
def test_what_is_no_certificate_file_is_malformed(pem: bytes) -> None:
    """Nothing but 1 to 64 whole PEM certificates in at most 1 MiB is accepted."""
    with pytest.raises(CertificateError) as caught:
        chain.load_certificates(pem)
    assert caught.value.reason == "malformed"


LEAF_DER = LEAF.public_bytes(Encoding.DER)


def as_pem(der: bytes) -> bytes:
    """Wrap any bytes as a PEM certificate."""
    text = "\n".join(textwrap.wrap(base64.b64encode(der).decode(), 64))
    return f"-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n".encode()


# The library warns of serial numbers that are not positive before it refuses the signature.
@pytest.mark.filterwarnings("ignore:Parsed a serial number")
@settings(max_examples=300, deadline=None)
@given(
    position=st.integers(0, 900) | st.integers(0, len(LEAF_DER) - 1),
    value=st.integers(1, 255),
    trusted=st.booleans(),
)
def test_no_changed_byte_survives_or_surprises(position: int, value: int, trusted: bool) -> None:
    """A certificate with any signed byte changed is refused, always with our own error, as leaf and as anchor."""
    der = bytearray(LEAF_DER)
    der[position] ^= value
    try:
        (changed,) = chain.load_certificates(as_pem(bytes(der)))
        verify(changed, (*ANCHORS, changed) if trusted else ANCHORS)
    except CertificateError:
        pass
    else:
        # How many bits of the signature's last byte are unused is written outside of what was signed.
        assert changed.tbs_certificate_bytes == LEAF.tbs_certificate_bytes, f"byte {position} may be changed"
        assert changed.signature == LEAF.signature


def test_a_name_that_is_no_text_is_malformed() -> None:
    """The library reads names late and refuses a bit string in its own way: it is refused here with our own error."""
    text, bits = b"\x0c\x0ehospital-north", b"\x03\x0ehospital-north"
    assert text in LEAF_DER
    with pytest.raises(CertificateError) as caught:
        chain.load_certificates(as_pem(LEAF_DER.replace(text, bits, 1)))
    assert caught.value.reason == "malformed"


@given(data=st.binary(max_size=200))
def test_any_bytes_are_certificates_or_malformed(data: bytes) -> None:
    """No input makes the parser fail in its own way."""
    for pem in (data, as_pem(data)):
        with pytest.raises(CertificateError) as caught:
            chain.load_certificates(pem)
        assert caught.value.reason == "malformed"


def test_a_pss_signature_counts_with_the_hashes_of_today_only() -> None:
    """The OID is the same for all hashes, so the parameters decide: anything below SHA-256 has no name here."""
    key = rsa.generate_private_key(65537, 2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "self")])
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, NOW, NOW + timedelta(days=1))
    for digest, expected in ((hashes.SHA256(), "RSA-PSS"), (hashes.SHA224(), "1.2.840.113549.1.1.10")):
        pss = padding.PSS(mgf=padding.MGF1(digest), salt_length=padding.PSS.DIGEST_LENGTH)
        assert chain.signature_algorithm_name(builder.sign(key, digest, rsa_padding=pss)) == expected


@pytest.fixture
def signature_checks(monkeypatch: pytest.MonkeyPatch) -> list[x509.Certificate]:
    """Every certificate whose signature was verified, in order."""
    checked: list[x509.Certificate] = []
    real = chain.is_signed_by

    def counted(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
        checked.append(certificate)
        return real(certificate, issuer)

    monkeypatch.setattr(chain, "is_signed_by", counted)
    return checked


def test_a_good_leaf_is_verified_once_and_found_good_again(signature_checks: list[x509.Certificate]) -> None:
    """Signatures do not change with time: the second connection of a site costs none."""
    verifier = chain.ChainVerifier(ANCHORS, HIGH)
    assert verifier.verify(LEAF, usage=Usage.CLIENT, now=NOW) == SITE
    signature_checks.clear()
    again = x509.load_der_x509_certificate(LEAF.public_bytes(Encoding.DER))
    assert verifier.verify(again, usage=Usage.CLIENT, now=NOW + timedelta(days=1)) == SITE
    assert signature_checks == []


def test_a_good_leaf_is_still_refused_for_another_use() -> None:
    """What is remembered holds for the use it was asked for and for no other."""
    verifier = chain.ChainVerifier(ANCHORS, HIGH)
    verifier.verify(LEAF, usage=Usage.CLIENT, now=NOW)
    for usage in (Usage.SERVER, Usage.SIGNING):
        with pytest.raises(CertificateError) as caught:
            verifier.verify(LEAF, usage=usage, now=NOW)
        assert caught.value.reason == "bad_usage"


@pytest.mark.parametrize("which", ["leaf", "issuing", "root"])
def test_the_end_of_any_certificate_of_the_chain_is_noticed_after_a_success(which: str) -> None:
    """A leaf that was remembered as good is refused once it, its issuer or the root has expired."""
    days = {"leaf": 90, "issuing": 90, "root": 90} | {which: 30}
    root = authority(Shape(name="short root", days=days["root"]))
    issuing = authority(Shape(name="short issuing", days=days["issuing"]), root)
    leaf = leaf_under(issuing, days=days["leaf"])
    verifier = chain.ChainVerifier((root.certificate, issuing.certificate), HIGH)
    for day in (1, 29):
        assert verifier.verify(leaf, usage=Usage.CLIENT, now=NOW + timedelta(days=day)) == SITE
    with pytest.raises(CertificateError) as caught:
        verifier.verify(leaf, usage=Usage.CLIENT, now=NOW + timedelta(days=31))
    assert caught.value.reason == "expired"
    with pytest.raises(CertificateError) as caught:
        verifier.verify(leaf, usage=Usage.CLIENT, now=NOW - timedelta(days=2))
    assert caught.value.reason == "not_yet_valid"
    # A clock that was wrong for a moment locks nobody out.
    assert verifier.verify(leaf, usage=Usage.CLIENT, now=NOW + timedelta(days=1)) == SITE


def test_a_refusal_is_not_remembered() -> None:
    """Whoever came a minute too early is let in a minute later."""
    verifier = chain.ChainVerifier(ANCHORS, HIGH)
    with pytest.raises(CertificateError) as caught:
        verifier.verify(LEAF, usage=Usage.CLIENT, now=NOW - timedelta(days=2))
    assert caught.value.reason == "not_yet_valid"
    assert verifier.verify(LEAF, usage=Usage.CLIENT, now=NOW) == SITE
    stranger = leaf_under(authority(Shape(name="stranger")))
    for _ in range(2):
        with pytest.raises(CertificateError) as caught:
            verifier.verify(stranger, usage=Usage.CLIENT, now=NOW)
        assert caught.value.reason == "untrusted"


def test_only_the_leaves_of_the_last_uses_are_remembered(
    monkeypatch: pytest.MonkeyPatch, signature_checks: list[x509.Certificate]
) -> None:
    """The memory is bounded, and the leaf that goes is the one that was away for the longest."""
    monkeypatch.setattr(chain, "_MAX_REMEMBERED", 2)
    signer = Issuer(ISSUING.certificate, ISSUING.key)
    first, second, third = (leaf_under(signer, days=10 + number) for number in range(3))
    verifier = chain.ChainVerifier(ANCHORS, HIGH)
    for leaf in (first, second, first, third):
        verifier.verify(leaf, usage=Usage.CLIENT, now=NOW)
    signature_checks.clear()
    for leaf in (first, third):
        verifier.verify(leaf, usage=Usage.CLIENT, now=NOW)
    assert signature_checks == []
    verifier.verify(second, usage=Usage.CLIENT, now=NOW)
    assert second in signature_checks


def test_a_migration_never_excuses_a_classical_part_of_a_post_quantum_chain() -> None:
    """Under a policy with a classical half, ECDSA leaves and ECDSA roots among the anchors are refused all the same."""
    key = ec.generate_private_key(ec.SECP256R1())
    root = pki.make_authority(key, "ecdsa root")
    leaf = pki.sign_leaf(root, KEY.pyca_key, uris=[str(SITE)], usages=[Usage.CLIENT.oid])
    old = pki.sign_leaf(root, key, uris=[str(SITE)], usages=[Usage.CLIENT.oid])
    verifier = chain.ChainVerifier((*ANCHORS, root.certificate), for_name("pq-prefer-2026"))
    for refused in (leaf, old):
        with pytest.raises(CertificateError) as caught:
            verifier.verify(refused, usage=Usage.CLIENT, now=datetime.now(UTC))
        assert caught.value.reason == "bad_sigalg"
