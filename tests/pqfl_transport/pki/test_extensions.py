"""What is in a certificate: found, not there, or malformed in our own words."""

from datetime import UTC, datetime

import pytest
from cryptography import x509

from pqfl_transport.errors import CertificateError
from pqfl_transport.pki.authority import create_root
from pqfl_transport.pki.extensions import all_extensions, describe, find_extension, require_readable
from tests.support.authorities import Shape, odd_authority

ROOT = create_root("fed", now=datetime.now(UTC)).certificate


def test_what_is_there_is_found_and_what_is_not_is_none() -> None:
    """By the class of its value."""
    assert find_extension(ROOT, x509.BasicConstraints) == x509.BasicConstraints(True, 1)
    assert find_extension(ROOT, x509.SubjectAlternativeName) is None
    assert len(list(all_extensions(ROOT))) == 4
    assert describe(ROOT) == "certificate 'CN=root,OU=authority,O=fed'"
    require_readable(ROOT)


def test_a_malformed_extension_is_a_certificate_s_own_fault() -> None:
    """The library finds it late; here it is said at once, with the certificate's name."""
    broken = x509.UnrecognizedExtension(x509.ObjectIdentifier("2.5.29.17"), b"\x30\x03\x82\x01")
    certificate = odd_authority(Shape("broken", extra=broken), begin=datetime.now(UTC)).certificate
    for read in (
        lambda: require_readable(certificate),
        lambda: all_extensions(certificate),
        lambda: find_extension(certificate, x509.BasicConstraints),
    ):
        with pytest.raises(CertificateError, match=r"CN=broken.*malformed extensions") as caught:
            read()
        assert caught.value.reason == "malformed"
