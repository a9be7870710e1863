"""Certificates named by issuer and serial number: what goes out comes back, and there is one spelling."""

from datetime import datetime
from pathlib import Path

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from pqfl_transport.crypto.pyca import SigningKey
from pqfl_transport.errors import CertificateError, MessageError
from pqfl_transport.pki.references import CertificateReference, identifier_of
from tests.support.classical import make_root
from tests.support.pki import make_federation

_DATES = (datetime(2026, 1, 1), datetime(2027, 1, 1))  # noqa: DTZ001 -- the library's way
SERIALS = st.integers(1, 2**160 - 1)


@given(st.binary(min_size=1, max_size=64), SERIALS)
def test_what_is_encoded_is_decoded(issuer: bytes, serial: int) -> None:
    """Every reference comes back as it was."""
    reference = CertificateReference(issuer, serial)
    assert CertificateReference.decode(reference.encode(), "here") == reference


def test_a_certificate_is_named_by_its_authority_and_serial(tmp_path: Path) -> None:
    """The reference is that of the issuing authority's key, and the roster of a new federation has it."""
    federation = make_federation(tmp_path, sites=("one",))
    leaf = x509.load_pem_x509_certificate((federation.site("one") / "signing.pem").read_bytes())
    issuing = x509.load_pem_x509_certificate((federation.ca / "issuing.pem").read_bytes())
    reference = CertificateReference.of(leaf)
    assert reference.serial == leaf.serial_number
    assert reference.issuer == issuing.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    assert federation.authority.roster().party(federation.site_uri("one")).certificate == reference


def test_a_certificate_that_names_no_authority_cannot_be_named() -> None:
    """Without the authority's key identifier two authorities of one name could not be told apart."""
    with pytest.raises(CertificateError) as caught:
        CertificateReference.of(make_root("root", SigningKey.generate("ML-DSA-65").pyca_key).certificate)
    assert caught.value.reason == "malformed"


@pytest.mark.parametrize(
    "value",
    [
        {"issuer": "aa", "serial": "00"},
        {"issuer": "aa", "serial": "00aa"},
        {"issuer": "AA", "serial": "01"},
        {"issuer": "a a", "serial": "01"},
        {"issuer": "", "serial": "01"},
        {"issuer": "aa" * 65, "serial": "01"},
        {"issuer": "aa", "serial": "01" * 21},
        {"issuer": "aa", "serial": 1},
        {"issuer": "aa"},
        {"issuer": "aa", "serial": "01", "more": ""},
    ],
    ids=str,
)
def test_any_other_spelling_is_refused(value: dict[str, str]) -> None:
    """Capitals, spaces, leading zeros, too much and too little are malformed."""
    with pytest.raises(MessageError) as caught:
        CertificateReference.decode(value, "here")
    assert caught.value.reason == "malformed"


def test_an_authority_is_named_by_the_identifier_of_its_key(tmp_path: Path) -> None:
    """It is what references to its certificates begin with; whoever has none is named by nothing."""
    federation = make_federation(tmp_path, sites=("one",))
    issuing = x509.load_pem_x509_certificate((federation.ca / "issuing.pem").read_bytes())
    leaf = x509.load_pem_x509_certificate((federation.site("one") / "signing.pem").read_bytes())
    assert identifier_of(issuing) == CertificateReference.of(leaf).issuer
    bare = x509.CertificateBuilder(issuing.subject, issuing.subject, issuing.public_key(), 1, *_DATES)
    assert identifier_of(bare.sign(SigningKey.generate("ML-DSA-44").pyca_key, None)) is None
