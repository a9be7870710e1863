"""What the bindings are asked directly: versions, errors, certificates."""

from cryptography import x509
from OpenSSL import SSL, crypto

from pqfl_transport.tls import probe
from pqfl_transport.tls.bindings import address_of, certificate_der, drain_errors, ffi, lib, openssl_version, said


def test_the_version_is_that_of_the_library_in_use() -> None:
    """The text names OpenSSL and a version that has ML-KEM."""
    assert openssl_version().startswith("OpenSSL ")


def test_errors_are_read_to_the_end() -> None:
    """A queue that was drained is empty, and what was in it has numbers and words."""
    drain_errors()
    assert lib.BIO_new_file(b"/nowhere/at/all", b"r") == ffi.NULL
    found = drain_errors()
    assert "no such file" in [error.text for error in found]
    assert drain_errors() == ()


def test_a_certificate_comes_out_as_it_went_in() -> None:
    """Owned or borrowed, the bytes are the same, and a borrowed one is still there afterwards."""
    certificate, _ = probe._throw_away("ML-DSA-65")
    held = crypto.X509.from_cryptography(certificate)
    for _ in range(2):
        der = certificate_der(held._x509, owned=False)
        assert x509.load_der_x509_certificate(der) == certificate


def test_addresses_tell_pointers_apart() -> None:
    """Two objects have two numbers, one has one."""
    one, two = ffi.new("char[1]"), ffi.new("char[1]")
    assert address_of(one) == address_of(one) != address_of(two)


def test_what_openssl_said_is_found_in_its_errors() -> None:
    """The last words of every entry, or whatever the exception is."""
    assert said(SSL.Error([("lib", "func", "no luck"), ("lib", "", "at all")])) == "no luck; at all"
    assert said(SSL.Error()) == "Error"
