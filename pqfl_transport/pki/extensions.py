"""What is in a certificate, read so that one that is malformed is found out at once and said in our own words."""

from typing import TypeVar

from cryptography import x509

from pqfl_transport.errors import CertificateError

Extension = TypeVar("Extension", bound=x509.ExtensionType)


def require_readable(certificate: x509.Certificate) -> None:
    """Raise ``CertificateError`` (``malformed``) here, because the library parses names, dates and extensions late."""
    try:
        _ = (certificate.subject, certificate.issuer)
        _ = (certificate.not_valid_before_utc, certificate.not_valid_after_utc)
    except (ValueError, TypeError) as error:
        raise CertificateError(f"malformed certificate: {error}", reason="malformed") from error
    all_extensions(certificate)


def find_extension(certificate: x509.Certificate, kind: type[Extension]) -> Extension | None:
    """Return an extension's value, None where there is none. Raises ``CertificateError`` (``malformed``)."""
    try:
        return all_extensions(certificate).get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def describe(certificate: x509.Certificate) -> str:
    """Return what a sentence calls a certificate."""
    return f"certificate {certificate.subject.rfc4514_string()!r}"


def all_extensions(certificate: x509.Certificate) -> x509.Extensions:
    """Return all extensions. Raises ``CertificateError`` (``malformed``)."""
    try:
        return certificate.extensions
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
        raise CertificateError(f"{describe(certificate)}: malformed extensions: {error}", reason="malformed") from error
