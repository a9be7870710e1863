"""Revocation lists: whose they are, what they are about, how old they are, and that nobody comes back by them."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st

from pqfl_transport.crypto.pyca import MLDSAPrivateKey, SigningKey
from pqfl_transport.errors import CertificateError, ConfigurationError
from pqfl_transport.pki import keystore, revocation
from pqfl_transport.pki.references import CertificateReference
from pqfl_transport.pki.revocation import Revocations, Stale, open_crls
from pqfl_transport.pki.roster import FormerKey, Party
from pqfl_transport.pki.spiffe import SpiffeId
from pqfl_transport.policy import for_name
from tests.support import pki
from tests.support.classical import BEGIN, Signer, key_usage, make_crl, make_leaf, make_root, p256, pem

REQUIRE, PREFER = for_name("pq-require-2026"), for_name("pq-prefer-2026")
REASON = x509.ReasonFlags


def ml_dsa(level: str = "ML-DSA-65") -> MLDSAPrivateKey:
    return SigningKey.generate(level).pyca_key


ROOT = make_root("root", ml_dsa("ML-DSA-87"))
ISSUING = make_root("issuing", ml_dsa(), parent=ROOT)
CLASSICAL = make_root("classical root")
LEAF, _ = make_leaf(ISSUING, ml_dsa())
OTHER, _ = make_leaf(ISSUING, ml_dsa())
OLD, _ = make_leaf(CLASSICAL)
ANCHORS = (ROOT.certificate, ISSUING.certificate)
BOTH = (*ANCHORS, CLASSICAL.certificate)


def read(
    *lists: x509.CertificateRevocationList, anchors: Sequence[x509.Certificate] = ANCHORS, **how: Any
) -> Revocations:
    """`open_crls` on a PEM file of these lists, with this file's defaults."""
    facts: dict[str, Any] = {"policy": REQUIRE, "now": BEGIN}
    return open_crls(pem(*lists), anchors, **(facts | how))


def refused(*lists: x509.CertificateRevocationList, **how: Any) -> str:
    """The reason for which a file is refused."""
    with pytest.raises(ConfigurationError) as caught:
        read(*lists, **how)
    return caught.value.reason


def verdict(revocations: Revocations, leaf: x509.Certificate, *, days: float = 0) -> str:
    """What a list says of a leaf so many days later: a reason, or "good"."""
    try:
        revocations.check(leaf, BEGIN + timedelta(days=days))
    except CertificateError as error:
        return error.reason
    return "good"


def verdict_by_root(
    federation: pki.Federation, root: x509.Certificate, issuing: x509.Certificate, leaf: x509.Certificate
) -> str:
    """What is said of a leaf when the federation's root has revoked the issuing authority."""
    key = keystore.load_signing_key(federation.ca / "root.key").pyca_key
    crl = make_crl(Signer(root, key), revoked={issuing.serial_number: REASON.ca_compromise})
    return verdict(read(crl, anchors=(root, issuing)), leaf)


def test_a_revoked_certificate_is_refused_with_date_and_reason() -> None:
    """The sentence is enough to find out what happened; others of the same authority are good."""
    found = read(make_crl(ISSUING, revoked={LEAF.serial_number: REASON.key_compromise}))
    with pytest.raises(CertificateError, match=rf"revoked {BEGIN:%Y-%m-%d %H:%M} UTC: keyCompromise") as caught:
        found.check(LEAF, BEGIN)
    assert caught.value.reason == "revoked"
    assert verdict(found, OTHER) == "good"


def test_a_federations_own_authority_signs_lists_about_its_parties(tmp_path: Path) -> None:
    """The issuing authority that every federation has may revoke: its sites by its own list, itself by the root's."""
    federation = pki.make_federation(tmp_path / "fed", sites=["bank-a", "bank-b"])
    first, second = (
        x509.load_pem_x509_certificate((federation.site(name) / "tls.pem").read_bytes()) for name in federation.sites
    )
    anchors = x509.load_pem_x509_certificates(federation.ca_pem.read_bytes())
    own = pki.federation_signer(federation)
    crl = make_crl(Signer(own.certificate, own.key), revoked={first.serial_number: REASON.key_compromise})
    found = read(crl, anchors=anchors)
    assert verdict(found, first) == "revoked"
    assert verdict(found, second) == "good"
    (root,) = (anchor for anchor in anchors if anchor != own.certificate)
    assert verdict_by_root(federation, root, own.certificate, second) == "revoked"


def test_a_reason_is_optional() -> None:
    """An entry without one revokes like any other."""
    found = read(make_crl(ISSUING, revoked={LEAF.serial_number: None}))
    with pytest.raises(CertificateError, match="no reason was given"):
        found.check(LEAF, BEGIN)


def test_lists_come_as_der_or_as_pem_with_text_between() -> None:
    """One list in DER, or several in PEM, whatever a tool has written around them."""
    revoked = {LEAF.serial_number: REASON.superseded}
    crl, above = make_crl(ISSUING, revoked=revoked), make_crl(ROOT, number=7)
    der = open_crls(crl.public_bytes(Encoding.DER), ANCHORS, policy=REQUIRE, now=BEGIN)
    assert verdict(der, LEAF) == "revoked"
    text = b"# issuing\n" + pem(crl) + b"# root\n" + pem(above) + b"# end\n"
    both = open_crls(text, ANCHORS, policy=REQUIRE, now=BEGIN)
    assert verdict(both, LEAF) == "revoked"
    assert sorted(both.numbers.values()) == [1, 7]


def test_past_its_next_update_a_list_refuses_everybody_of_its_authority() -> None:
    """Nobody knows who was revoked since; the revoked are still told so, and other authorities are not concerned."""
    found = read(make_crl(ISSUING, days=7, revoked={OTHER.serial_number: None}), anchors=BOTH, policy=PREFER)
    assert verdict(found, LEAF, days=6.9) == "good"
    assert verdict(found, LEAF, days=7.1) == "stale_crl"
    assert verdict(found, OTHER, days=7.1) == "revoked"
    assert verdict(found, OLD, days=7.1) == "good"


def test_who_asks_for_it_goes_on_with_a_stale_list() -> None:
    """Then it still revokes those that it names."""
    found = read(make_crl(ISSUING, days=7, revoked={OTHER.serial_number: None}), stale=Stale.ALLOW)
    assert verdict(found, LEAF, days=300) == "good"
    assert verdict(found, OTHER, days=300) == "revoked"
    assert verdict(replace(found, stale=Stale.REFUSE), LEAF, days=300) == "stale_crl"


def test_a_list_that_is_stale_when_it_is_read_still_revokes() -> None:
    """A restart with the last list there is lets nobody in, and says why."""
    found = read(make_crl(ISSUING, days=1), now=BEGIN + timedelta(days=2))
    assert verdict(found, LEAF, days=2) == "stale_crl"


def test_an_authority_without_a_list_revokes_nothing() -> None:
    """Neither no lists at all nor the list of another authority say anything about a leaf."""
    assert verdict(Revocations(), LEAF) == "good"
    found = read(make_crl(ISSUING, revoked={OLD.serial_number: None}), anchors=BOTH, policy=PREFER)
    assert verdict(found, OLD) == "good"


def test_revoking_an_authority_revokes_what_it_issued() -> None:
    """The root's list is asked about the issuing authority, and has to be current for that."""
    found = read(make_crl(ROOT, revoked={ISSUING.certificate.serial_number: REASON.ca_compromise}))
    with pytest.raises(CertificateError, match=r"CN=issuing.*cACompromise"):
        found.check(LEAF, BEGIN)
    assert verdict(read(make_crl(ROOT, days=1), make_crl(ISSUING, days=9)), LEAF, days=2) == "stale_crl"


def test_a_renewed_authority_of_the_same_name_is_another_one() -> None:
    """Revoking the old one, or letting its list go stale, does not touch the leaves of the new one."""
    renewed = make_root("issuing", ml_dsa(), parent=ROOT)
    anchors = (*ANCHORS, renewed.certificate)
    new, _ = make_leaf(renewed, ml_dsa())
    revoked = {ISSUING.certificate.serial_number: REASON.superseded}
    found = read(make_crl(ROOT, revoked=revoked), make_crl(ISSUING, days=1), make_crl(renewed, days=9), anchors=anchors)
    assert verdict(found, LEAF) == "revoked"
    assert verdict(found, new) == "good"
    assert verdict(found, new, days=2) == "good"
    assert len(found.numbers) == 3


def test_namesakes_that_no_identifier_tells_apart_are_all_asked() -> None:
    """Where a leaf points at none of them, the doubt counts against it."""
    renewed = make_root("issuing", ml_dsa(), parent=ROOT)
    stranger = make_root("issuing", ml_dsa())
    leaf, _ = make_leaf(stranger, ml_dsa())
    anchors = (*ANCHORS, renewed.certificate)
    found = read(make_crl(ISSUING, revoked={leaf.serial_number: None}), anchors=anchors)
    assert verdict(found, leaf) == "revoked"


@pytest.mark.parametrize("signer", [Signer(ISSUING.certificate, ml_dsa()), make_root("stranger", ml_dsa())])
def test_a_list_that_no_anchor_signed_is_refused(signer: Signer) -> None:
    """Another key under the right name, and a stranger's own."""
    assert refused(make_crl(signer)) == "untrusted"


def test_one_bad_list_refuses_the_file() -> None:
    """A file is taken whole or not at all."""
    assert refused(make_crl(ISSUING), make_crl(make_root("stranger", ml_dsa()))) == "untrusted"


def test_a_changed_list_is_refused() -> None:
    """One bit in the serial number of an entry breaks the signature."""
    der = bytearray(make_crl(ISSUING, revoked={0x1234567890ABCDEF: None}).public_bytes(Encoding.DER))
    der[der.index(bytes.fromhex("1234567890abcdef"))] ^= 1
    with pytest.raises(ConfigurationError) as caught:
        open_crls(bytes(der), ANCHORS, policy=REQUIRE, now=BEGIN)
    assert caught.value.reason == "untrusted"


def test_classical_lists_count_under_a_policy_that_serves_classical_peers() -> None:
    """There they revoke classical certificates; elsewhere they are refused, and so are hashes that are in no set."""
    crl = make_crl(CLASSICAL, revoked={OLD.serial_number: None})
    found = read(crl, anchors=BOTH, policy=PREFER)
    assert (verdict(found, OLD), verdict(found, LEAF)) == ("revoked", "good")
    assert refused(crl, anchors=BOTH) == "bad_sigalg"
    odd = Signer(CLASSICAL.certificate, CLASSICAL.key, digest=hashes.SHA512())
    assert refused(make_crl(odd), anchors=BOTH, policy=PREFER) == "bad_sigalg"


def test_a_list_signed_with_a_key_outside_the_policy_is_refused() -> None:
    """An unlisted curve is one although the OID of its signature is a listed row's, and so is ML-DSA-44."""
    odd = make_root("secp256k1", ec.generate_private_key(ec.SECP256K1()))
    assert refused(make_crl(odd), anchors=(odd.certificate,), policy=PREFER) == "bad_sigalg"
    weak = make_root("ML-DSA-44", ml_dsa("ML-DSA-44"))
    assert refused(make_crl(weak), anchors=(weak.certificate,), policy=PREFER) == "bad_sigalg"


def test_an_authority_may_sign_lists_only_if_its_key_usage_says_so() -> None:
    """RFC 5280 §4.2.1.3: cRLSign. A leaf's key signs none either."""
    usage = key_usage(signs_certificates=True, signs_lists=False)
    key = ml_dsa()
    builder = x509.CertificateBuilder(
        ISSUING.certificate.subject, ISSUING.certificate.subject, key.public_key(), 1, BEGIN, BEGIN + timedelta(days=1)
    )
    certificate = builder.add_extension(usage, critical=True).sign(key, None)
    assert refused(make_crl(Signer(certificate, key)), anchors=(certificate,)) == "bad_usage"
    leaf, leaf_key = make_leaf(ISSUING, ml_dsa())
    assert refused(make_crl(Signer(leaf, leaf_key)), anchors=(leaf,)) == "bad_usage"


def test_a_list_from_the_future_is_refused() -> None:
    """Its authority's clock or ours is wrong, and both are worth knowing."""
    assert refused(make_crl(ISSUING), now=BEGIN - timedelta(days=1)) == "not_yet_valid"


_WHERE = x509.UniformResourceIdentifier("http://crl.example/1")
_PART = x509.IssuingDistributionPoint([_WHERE], None, True, False, None, False, False)
_UNKNOWN = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.99999.1"), b"\x05\x00")


@pytest.mark.parametrize(
    "extension", [(_PART, True), (_PART, False), (x509.DeltaCRLIndicator(1), True), (_UNKNOWN, True)],
    ids=["part", "part, not critical", "delta", "unknown"],
)  # fmt: skip
def test_a_list_that_is_not_about_everything_is_refused(extension: tuple[x509.ExtensionType, bool]) -> None:
    """Partial and delta lists, and critical extensions that nobody here evaluates (RFC 5280 §5.2)."""
    assert refused(make_crl(ISSUING, extensions=[extension])) == "malformed"


def test_an_entry_about_another_authoritys_certificate_is_refused() -> None:
    """Indirect lists are not understood, and taking half of one would be wrong both ways (RFC 5280 §5.3.3)."""
    other = x509.CertificateIssuer([x509.DirectoryName(ROOT.certificate.subject)])
    assert refused(make_crl(ISSUING, revoked={1: None}, entry_extensions=[(other, True)])) == "malformed"
    date = x509.InvalidityDate(BEGIN.replace(tzinfo=None))
    read(make_crl(ISSUING, revoked={1: None}, entry_extensions=[(date, False)]))
    read(make_crl(ISSUING, extensions=[(_UNKNOWN, False)]))


def test_a_list_without_a_number_is_refused() -> None:
    """Nobody could tell whether it is older than the last one."""
    assert refused(make_crl(ISSUING, number=None)) == "malformed"


def test_numbers_never_go_down() -> None:
    """The same list again is fine, a newer one as well, an older one is somebody's attempt to undo a revocation."""
    seen = read(make_crl(ISSUING, number=5)).numbers
    for number in (5, 6):
        read(make_crl(ISSUING, number=number), at_least=seen)
    assert refused(make_crl(ISSUING, number=4), at_least=seen) == "stale_crl"


def test_a_list_that_was_there_stays_there() -> None:
    """A file without it would bring everybody back whom it revoked; an authority that is gone takes its list along."""
    seen = read(make_crl(ROOT), make_crl(ISSUING)).numbers
    with pytest.raises(ConfigurationError, match="no revocation list of 'CN=issuing'") as caught:
        read(make_crl(ROOT, number=2), at_least=seen)
    assert caught.value.reason == "stale_crl"
    read(make_crl(ROOT, number=2), anchors=(ROOT.certificate,), at_least=seen)


def test_a_new_certificate_for_the_same_key_goes_on_with_its_numbers() -> None:
    """Renewing an authority's certificate is no way to an older list."""
    key = ml_dsa()
    old, new = make_root("same key", key, days=10), make_root("same key", key, days=90)
    seen = read(make_crl(old, number=9), anchors=(old.certificate,)).numbers
    assert refused(make_crl(new, number=8), anchors=(new.certificate,), at_least=seen) == "stale_crl"


def test_two_lists_of_one_authority_in_a_file_are_refused() -> None:
    """Which one counts would be a guess."""
    assert refused(make_crl(ISSUING, number=1), make_crl(ISSUING, number=2)) == "malformed"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no list",
        b"-----BEGIN X509 CRL-----\n",
        b"-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n",
        pem(ROOT.certificate),
        pem(make_crl(ISSUING))[:-40],
        pem(make_crl(ISSUING)) + b"-----BEGIN X509 CRL-----\n",
    ],
)
def test_what_is_no_list_is_refused(data: bytes) -> None:
    """An empty file, text, a certificate, a list cut short: each is an error and never an empty list."""
    with pytest.raises(ConfigurationError) as caught:
        open_crls(data, ANCHORS, policy=REQUIRE, now=BEGIN)
    assert caught.value.reason == "malformed"


def test_sizes_are_capped_before_anything_is_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Too many bytes and too many lists are refused as such."""
    with pytest.raises(ConfigurationError, match="more than 64 revocation lists"):
        open_crls(pem(make_crl(ISSUING)) * 65, ANCHORS, policy=REQUIRE, now=BEGIN)
    monkeypatch.setattr(revocation, "MAX_CRL_BYTES", 100)
    with pytest.raises(ConfigurationError, match="100 bytes"):
        read(make_crl(ISSUING))


GOOD = make_crl(make_root("short", key := p256()), revoked={7: REASON.key_compromise}).public_bytes(Encoding.DER)


@pytest.mark.parametrize(
    ("old", "new"),
    [(b"\x02\x01\x01\x30", b"\x02\x01\x00\x30"), (b"\x0c\x05short", b"\x03\x05short")],
    ids=["version", "type of a name"],
)
def test_what_the_library_refuses_in_its_own_way_is_malformed(old: bytes, new: bytes) -> None:
    """A version that does not exist and a name that is no text are refused with an error of ours."""
    assert old in GOOD
    with pytest.raises(ConfigurationError) as caught:
        open_crls(GOOD.replace(old, new, 1), ANCHORS, policy=REQUIRE, now=BEGIN)
    assert caught.value.reason == "malformed"


def test_a_kind_of_name_that_the_library_does_not_know_is_malformed() -> None:
    """An X.400 address among the names of the issuer refuses the list with an error of ours."""
    names = x509.UnrecognizedExtension(x509.ExtensionOID.ISSUER_ALTERNATIVE_NAME, bytes.fromhex("3004a3023000"))
    assert refused(make_crl(ISSUING, extensions=[(names, False)])) == "malformed"


@settings(max_examples=150, deadline=None)
@given(st.integers(0, len(GOOD) - 1), st.integers(1, 255))
def test_no_changed_byte_gets_past_and_none_raises_anything_else(at: int, difference: int) -> None:
    """Whatever is changed of what was signed, the list is refused with an error of ours."""
    broken = bytearray(GOOD)
    broken[at] ^= difference
    signer = make_root("short", key)
    try:
        open_crls(bytes(broken), (signer.certificate,), policy=PREFER, now=BEGIN)
    except ConfigurationError:
        return
    # How many bits of the signature's last byte are unused is written outside of what was signed, and says nothing.
    signed, found = (x509.load_der_x509_crl(der) for der in (GOOD, bytes(broken)))
    assert (found.tbs_certlist_bytes, found.signature) == (signed.tbs_certlist_bytes, signed.signature)


def party(reference: CertificateReference | None) -> Party:
    """A member of a roster whose signing certificate this is."""
    key = SigningKey.generate("ML-DSA-65").verifying_key
    return Party(SpiffeId.parse("spiffe://fed/site/one"), key, b"", b"", 1, reference)


def verdict_on(revocations: Revocations, reference: CertificateReference | None, *, days: float = 0) -> str:
    """What a list says of such a member so many days later: a reason, or "good"."""
    try:
        revocations.check_party(party(reference), BEGIN + timedelta(days=days))
    except CertificateError as error:
        return error.reason
    return "good"


def test_a_signer_is_known_by_the_certificate_that_the_roster_names() -> None:
    """Nobody shows a signing certificate: its serial number is on the list, or that of its authority."""
    found = read(make_crl(ISSUING, revoked={LEAF.serial_number: REASON.key_compromise}))
    assert verdict_on(found, CertificateReference.of(LEAF)) == "revoked"
    assert verdict_on(found, CertificateReference.of(OTHER)) == "good"
    assert verdict_on(found, CertificateReference.of(OTHER), days=8) == "stale_crl"
    above = read(make_crl(ROOT, revoked={ISSUING.certificate.serial_number: None}))
    assert verdict_on(above, CertificateReference.of(OTHER)) == "revoked"


def test_a_signer_that_cannot_be_looked_up_is_refused() -> None:
    """A roster without references, or from an authority that is not trusted any more, lets nobody through."""
    found = read(make_crl(ISSUING))
    assert verdict_on(found, None) == "no_certificate"
    assert verdict_on(found, CertificateReference(b"another authority", 1)) == "untrusted"


def test_a_former_key_has_a_certificate_of_its_own() -> None:
    """Revoked, or not to be looked up, it takes its key away and not its party."""
    former = SigningKey.generate("ML-DSA-65").verifying_key
    found = read(make_crl(ISSUING, revoked={LEAF.serial_number: REASON.key_compromise}))
    member = party(CertificateReference.of(OTHER))
    found.check_former(member, BEGIN)
    for reference, reason in ((CertificateReference.of(LEAF), "revoked"), (None, "no_certificate")):
        both = replace(member, former=FormerKey(former, 2**31, reference))
        found.check_party(both, BEGIN)
        with pytest.raises(CertificateError, match="of the former key of") as caught:
            found.check_former(both, BEGIN)
        assert caught.value.reason == reason
        assert found.with_good_keys(both, BEGIN) == member
    good = replace(member, former=FormerKey(former, 2**31, CertificateReference.of(OTHER)))
    assert found.with_good_keys(good, BEGIN) is good
    with pytest.raises(CertificateError):
        found.with_good_keys(replace(good, certificate=CertificateReference.of(LEAF)), BEGIN)


def test_clocks_may_differ_by_five_minutes() -> None:
    """A list is good five minutes before it begins and after it ends, and not six."""
    crl = make_crl(ISSUING)
    five, six = timedelta(minutes=5), timedelta(minutes=6)
    assert read(crl, now=crl.last_update_utc - five)
    assert refused(crl, now=crl.last_update_utc - six) == "not_yet_valid"
    assert crl.next_update_utc is not None
    end, found = (crl.next_update_utc - BEGIN), read(crl)
    assert verdict(found, LEAF, days=(end + five) / timedelta(days=1)) == "good"
    assert verdict(found, LEAF, days=(end + six) / timedelta(days=1)) == "stale_crl"


def test_it_is_known_when_a_list_will_be_too_old() -> None:
    """The first of several ends it; where stale ones are allowed, nothing does."""
    soon, late = make_crl(ISSUING, days=1), make_crl(ROOT, days=9)
    assert read(soon, late).stale_at() == BEGIN + timedelta(days=1, minutes=5)
    assert read(soon, stale=Stale.ALLOW).stale_at() is None
    assert Revocations().stale_at() is None


def test_the_same_list_read_twice_is_the_same() -> None:
    """A reload that finds nothing new closes nothing."""
    crl = make_crl(ISSUING)
    assert read(crl) == read(crl)
    assert read(crl) != read(make_crl(ISSUING, number=2))
