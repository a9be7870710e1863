"""Classical peers of a migration: a trust store of their own, listed algorithms, and no way around either."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from pqfl_transport.crypto.pyca import SigningKey
from pqfl_transport.errors import CertificateError
from pqfl_transport.pki import classical
from pqfl_transport.pki.classical import verify_classical
from pqfl_transport.pki.profiles import Usage
from pqfl_transport.policy import Classical, for_name
from tests.support.classical import BEGIN, Signer, key_usage, make_leaf, make_root, p256

SETS = for_name("pq-prefer-2026").classical
assert SETS is not None
RSA_KEY = rsa.generate_private_key(65537, 2048)
ROOT = make_root("classical root")
ISSUING = make_root("classical issuing", parent=ROOT)
LEAF, _ = make_leaf(ISSUING)
DIRECT, _ = make_leaf(ROOT)
SERVER, CLIENT = ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH


def verify(
    leaf: x509.Certificate,
    intermediates: Sequence[x509.Certificate] = (),
    anchors: Sequence[x509.Certificate] = (ROOT.certificate,),
    **how: Any,
) -> None:
    """`verify_classical` with this file's defaults."""
    facts: dict[str, Any] = {"classical": SETS, "usage": Usage.CLIENT, "now": BEGIN}
    verify_classical(leaf, intermediates, anchors, **(facts | how))


def refusal(*arguments: Any, **how: Any) -> str:
    """The reason for which a leaf is refused."""
    with pytest.raises(CertificateError) as caught:
        verify(*arguments, **how)
    return caught.value.reason


def test_a_leaf_under_a_classical_authority_is_accepted_for_the_uses_it_lists() -> None:
    """Directly under the root, with an intermediate, and for both roles at once, as other authorities certify."""
    verify(DIRECT)
    verify(LEAF, [ISSUING.certificate])
    verify(LEAF, [ISSUING.certificate], usage=Usage.SERVER)


def test_an_intermediate_authority_may_be_the_anchor() -> None:
    """Whoever an operator lists is trusted, self-signed or not, and nothing above it has to be there."""
    verify(LEAF, anchors=[ISSUING.certificate])
    verify(LEAF, [ROOT.certificate], anchors=[ISSUING.certificate])


def test_the_anchor_may_come_with_the_peers_certificates() -> None:
    """What the peer or OpenSSL repeats of the trust store is no intermediate and counts for no limit."""
    more = [make_root(f"other {number}").certificate for number in range(6)]
    verify(LEAF, [*more, ROOT.certificate, ISSUING.certificate], anchors=[*more, ROOT.certificate])


@pytest.mark.parametrize(
    "signer",
    [
        Signer(make_root("p384", key := ec.generate_private_key(ec.SECP384R1())).certificate, key),
        Signer(make_root("p384 with sha256", key).certificate, key, digest=hashes.SHA256()),
        make_root("ed25519", ed25519.Ed25519PrivateKey.generate()),
        make_root("rsa", RSA_KEY),
        Signer(make_root("rsa 384", RSA_KEY).certificate, RSA_KEY, digest=hashes.SHA384()),
        Signer(
            make_root("rsa pss", RSA_KEY).certificate,
            RSA_KEY,
            rsa_padding=padding.PSS(mgf=padding.MGF1(hashes.SHA256()), salt_length=padding.PSS.DIGEST_LENGTH),
        ),
    ],
    ids=lambda signer: signer.certificate.subject.rfc4514_string(),
)
def test_every_listed_kind_of_authority_is_accepted(signer: Signer) -> None:
    """ECDSA on two curves, Ed25519, and RSA in the padding that ordinary certificates have."""
    for key in (p256(), RSA_KEY, ed25519.Ed25519PrivateKey.generate()):
        verify(make_leaf(signer, key)[0], anchors=[signer.certificate])


def test_a_leaf_that_leads_nowhere_is_untrusted() -> None:
    """A stranger, a missing intermediate, an empty trust store, and a stranger of the very same name."""
    assert refusal(LEAF) == "untrusted"
    assert refusal(DIRECT, anchors=[]) == "untrusted"
    namesake = make_root("classical root")
    assert refusal(DIRECT, anchors=[namesake.certificate]) == "untrusted"
    assert refusal(make_leaf(namesake)[0], [namesake.certificate]) == "untrusted"


def test_what_the_peer_sends_is_never_an_anchor() -> None:
    """A self-signed root among the intermediates ends no path."""
    stranger = make_root("stranger")
    assert refusal(make_leaf(stranger)[0], [stranger.certificate, ROOT.certificate]) == "untrusted"


def test_a_post_quantum_authority_vouches_for_no_classical_leaf() -> None:
    """Neither as the anchor nor above an ECDSA authority that it certified."""
    root = make_root("pq root", SigningKey.generate("ML-DSA-65").pyca_key)
    between = make_root("ecdsa beneath it", parent=root)
    assert refusal(make_leaf(root)[0], anchors=[root.certificate]) == "bad_sigalg"
    assert refusal(make_leaf(between)[0], [between.certificate], anchors=[root.certificate]) == "bad_sigalg"


def test_a_classical_authority_vouches_for_no_post_quantum_leaf() -> None:
    """An ML-DSA certificate under an ECDSA root is as forgeable as the root."""
    leaf, _ = make_leaf(ROOT, SigningKey.generate("ML-DSA-65").pyca_key)
    assert refusal(leaf) == "bad_sigalg"


@pytest.mark.parametrize(
    ("key", "digest"),
    [
        (ec.generate_private_key(ec.SECP521R1()), hashes.SHA512()),
        (ec.generate_private_key(ec.SECP256K1()), hashes.SHA256()),
        (ec.generate_private_key(ec.SECP224R1()), hashes.SHA256()),
        (rsa.generate_private_key(65537, 1024), hashes.SHA256()),  # noqa: S505 -- refused below
    ],
    ids=["P-521", "secp256k1", "P-224", "RSA-1024"],
)
def test_keys_that_are_not_listed_are_refused_at_every_depth(key: Any, digest: hashes.HashAlgorithm) -> None:
    """A small or unlisted key of an authority is found although its signature's OID is that of a listed row."""
    leaf, _ = make_leaf(ROOT, key)
    assert refusal(leaf) == "bad_sigalg"
    weak = make_root("odd", key, parent=ROOT)
    between = Signer(weak.certificate, key, digest=digest)
    assert refusal(make_leaf(between)[0], [between.certificate]) == "bad_sigalg"
    assert refusal(make_leaf(between)[0], anchors=[between.certificate]) == "bad_sigalg"


def test_signatures_that_are_not_listed_are_refused() -> None:
    """ECDSA with SHA-512 and RSA with SHA-512 are good signatures and in no set; an anchor's own does not matter."""
    odd = Signer(ROOT.certificate, ROOT.key, digest=hashes.SHA512())
    assert refusal(make_leaf(odd)[0]) == "bad_sigalg"
    between = make_root("signed oddly", parent=odd)
    leaf, _ = make_leaf(between)
    assert refusal(leaf, [between.certificate]) == "bad_sigalg"
    verify(leaf, anchors=[between.certificate])


def test_the_sets_that_are_given_decide() -> None:
    """Ed25519 is refused where the policy does not list it, whatever else does."""
    signer = make_root("ed25519", ed25519.Ed25519PrivateKey.generate())
    narrow = Classical(groups=(), leaf_keys=("ECDSA-P256",), ca_signatures=("ECDSA-P256",))
    assert refusal(make_leaf(signer)[0], anchors=[signer.certificate], classical=narrow) == "bad_sigalg"
    verify(LEAF, [ISSUING.certificate], classical=narrow)


@pytest.mark.parametrize("which", ["leaf", "issuing", "root"])
def test_validity_is_asked_of_every_certificate(which: str) -> None:
    """The anchor is no exception: an expired root vouches for nobody."""
    days = {"leaf": 90.0, "issuing": 90.0, "root": 90.0} | {which: 10.0}
    root = make_root("short root", days=days["root"])
    issuing = make_root("short issuing", parent=root, days=days["issuing"])
    leaf, _ = make_leaf(issuing, days=days["leaf"])
    verify(leaf, [issuing.certificate], [root.certificate], now=BEGIN + timedelta(days=9))
    for now, reason in ((BEGIN + timedelta(days=11), "expired"), (BEGIN - timedelta(days=1), "not_yet_valid")):
        assert refusal(leaf, [issuing.certificate], [root.certificate], now=now) == reason


def test_a_renewed_intermediate_is_found_beside_the_expired_one() -> None:
    """One good path is enough, in whatever order the peer sends its certificates."""
    key = p256()
    old = make_root("renewed", key, parent=ROOT, days=1)
    new = make_root("renewed", key, parent=ROOT, days=90)
    leaf, _ = make_leaf(old)
    now = BEGIN + timedelta(days=5)
    for order in ([old, new], [new, old]):
        verify(leaf, [one.certificate for one in order], now=now)
    assert refusal(leaf, [old.certificate], now=now) == "expired"


@pytest.mark.parametrize(
    "usages", [(), (SERVER,), (ExtendedKeyUsageOID.CODE_SIGNING,), (ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE,)]
)
def test_a_leaf_has_to_be_for_the_use(usages: Sequence[x509.ObjectIdentifier]) -> None:
    """No extended key usage, another one, and the one for everything are no clientAuth."""
    assert refusal(make_leaf(ROOT, usages=usages)[0]) == "bad_usage"


def test_an_authority_is_no_leaf_and_a_leaf_no_authority() -> None:
    """Basic constraints and keyCertSign are what they say, in the middle of a chain too."""
    eku = (x509.ExtendedKeyUsage([CLIENT]), False)
    assert refusal(make_root("authority as a leaf", parent=ROOT, extensions=[eku]).certificate) == "bad_usage"
    no_authority = make_root("no authority", parent=ROOT, is_authority=False)
    assert refusal(make_leaf(no_authority)[0], [no_authority.certificate]) == "bad_usage"
    leaf, key = make_leaf(ROOT)
    below, _ = make_leaf(Signer(leaf, key))
    assert refusal(below, [leaf]) == "bad_usage"
    assert refusal(below, anchors=[leaf]) == "bad_usage"


def test_a_key_that_may_not_sign_is_refused() -> None:
    """TLS 1.3 proves a key by a signature, so a key usage without digitalSignature is none for it."""
    usage = key_usage(signs_certificates=True, signs_lists=False)
    assert refusal(make_leaf(ROOT, extensions=[(usage, True)])[0]) == "bad_usage"
    good = key_usage(signs_certificates=False, signs_lists=False)
    verify(make_leaf(ROOT, extensions=[(good, True)])[0])


def test_path_lengths_and_the_uses_of_an_authority_hold() -> None:
    """An authority for leaves only, and one for servers only, certify nothing else."""
    narrow = make_root("leaves only", path_length=0)
    between = make_root("one too many", parent=narrow)
    assert refusal(make_leaf(between)[0], [between.certificate], [narrow.certificate]) == "bad_usage"
    verify(make_leaf(narrow)[0], anchors=[narrow.certificate])
    servers = make_root("servers only", parent=ROOT, extensions=[(x509.ExtendedKeyUsage([SERVER]), False)])
    leaf, _ = make_leaf(servers)
    assert refusal(leaf, [servers.certificate]) == "bad_usage"
    verify(leaf, [servers.certificate], usage=Usage.SERVER)


def test_a_critical_extension_that_nobody_evaluates_is_refused() -> None:
    """RFC 5280 §4.2, for leaves and authorities alike; one that is not critical may be there."""
    unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.99999.1"), b"\x05\x00")
    assert refusal(make_leaf(ROOT, extensions=[(unknown, True)])[0]) == "bad_usage"
    verify(make_leaf(ROOT, extensions=[(unknown, False)])[0])
    between = make_root("odd", parent=ROOT, extensions=[(unknown, True)])
    assert refusal(make_leaf(between)[0], [between.certificate]) == "bad_usage"


def _tower(height: int) -> list[Signer]:
    signers = [ROOT]
    for number in range(height):
        signers.append(make_root(f"floor {number}", parent=signers[-1]))
    return signers


def test_four_intermediates_are_looked_at_and_no_more() -> None:
    """A peer cannot make us climb for ever; one certificate sent twice is one."""
    signers = _tower(5)
    fourth, fifth = make_leaf(signers[4])[0], make_leaf(signers[5])[0]
    between = [signer.certificate for signer in signers[1:]]
    verify(fourth, between[:4] * 2)
    assert refusal(fifth, between) == "untrusted"


def test_certificates_that_sign_each_other_cost_one_verification_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four authorities of one name and one key, each signed by all: pairs are verified, never paths."""
    key, calls = p256(), []
    real = classical.is_signed_by

    def counted(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
        calls.append((certificate, issuer))
        return real(certificate, issuer)

    monkeypatch.setattr(classical, "is_signed_by", counted)
    circle = [make_root("circle", key) for _ in range(4)]
    leaf, _ = make_leaf(circle[0])
    assert refusal(leaf, [one.certificate for one in circle]) == "untrusted"
    assert len(calls) == len(set(calls)) <= 5 * 5


def test_a_malformed_certificate_above_the_leaf_is_refused_as_such() -> None:
    """What cannot be parsed is an error with a reason, before any name of it is compared."""
    der = ISSUING.certificate.public_bytes(Encoding.DER)
    name = b"classical issuing"
    at = der.index(name) - 2
    # A UTF-8 string that is none, where the common name of the subject was.
    broken = x509.load_der_x509_certificate(der[: at + 2] + b"\xff" * len(name) + der[at + 2 + len(name) :])
    assert refusal(LEAF, [broken]) == "malformed"


def test_the_sentence_says_what_was_found_and_what_is_listed() -> None:
    """An operator can tell the peer's owner what to change."""
    leaf, _ = make_leaf(ROOT, ec.generate_private_key(ec.SECP521R1()))
    with pytest.raises(CertificateError, match=r"CN=classical leaf.*secp521r1.*ECDSA-P256, ECDSA-P384, Ed25519"):
        verify(leaf)
    with pytest.raises(CertificateError, match="CN=classical issuing"):
        verify(LEAF)
