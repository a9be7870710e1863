"""Which certificate a key was certified by, in a few bytes: what a revocation list names a certificate by.

A roster lists keys, a revocation list lists serial numbers. The reference in the roster connects the two: it is the
authority, by the identifier of its key, and the serial number that it gave (RFC 5280 §4.1.2.2, §4.2.1.1).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from cryptography import x509

from pqfl_transport.errors import CertificateError, MessageError
from pqfl_transport.pki.documents import require_fields
from pqfl_transport.pki.extensions import describe, find_extension

_FIELDS = {"issuer": str, "serial": str}
_MAX_IDENTIFIER_BYTES = 64
_MAX_SERIAL_BYTES = 20


@dataclass(frozen=True, slots=True)
class CertificateReference:
    """One certificate, by who signed it and as which."""

    issuer: bytes
    """The identifier of the authority's key, 1 to 64 bytes."""
    serial: int
    """1 to 20 bytes, positive."""

    @classmethod
    def of(cls, certificate: x509.Certificate) -> Self:
        """Name a certificate. Raises ``CertificateError`` (``malformed``) where it does not say who signed it."""
        identifier = find_extension(certificate, x509.AuthorityKeyIdentifier)
        if identifier is None or not identifier.key_identifier:
            raise CertificateError(f"{describe(certificate)} has no authority key identifier", reason="malformed")
        return cls(identifier.key_identifier, certificate.serial_number)

    @classmethod
    def decode(cls, value: Mapping[str, Any], where: str) -> Self:
        """Read what `encode` gives, and nothing else. Raises ``MessageError`` (``malformed``)."""
        fields = require_fields(value, _FIELDS, where)
        issuer = _from_hex(fields["issuer"], _MAX_IDENTIFIER_BYTES, f"{where}: issuer")
        serial = int.from_bytes(_from_hex(fields["serial"], _MAX_SERIAL_BYTES, f"{where}: serial"), "big")
        found = cls(issuer, serial)
        if not serial or found.encode() != fields:
            raise MessageError(f"{where}: serial is not a positive number in its shortest form", reason="malformed")
        return found

    def encode(self) -> dict[str, str]:
        """Return it as JSON carries it: lower-case hex, the serial number without leading zero bytes."""
        length = (self.serial.bit_length() + 7) // 8
        return {"issuer": self.issuer.hex(), "serial": self.serial.to_bytes(length, "big").hex()}


def identifier_of(authority: x509.Certificate) -> bytes | None:
    """Return what references name an authority by: the identifier of its key, ``None`` where it has none."""
    identifier = find_extension(authority, x509.SubjectKeyIdentifier)
    return None if identifier is None else identifier.digest


def _from_hex(text: str, most_bytes: int, where: str) -> bytes:
    # `bytes.fromhex` takes capitals and white space as well, and one certificate has one spelling.
    try:
        data = bytes.fromhex(text) if len(text) <= 2 * most_bytes else b""
    except ValueError:
        data = b""
    if not data or data.hex() != text:
        raise MessageError(f"{where}: expected 1 to {most_bytes} bytes in lower-case hex", reason="malformed")
    return data
