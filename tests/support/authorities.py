"""Authorities with one thing wrong, of which the real code makes none."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.x509.oid import NameOID

from pqfl_transport.crypto.pyca import SigningKey
from pqfl_transport.pki.authority import Issuer


@dataclass(frozen=True)
class Shape:
    """What an odd authority's certificate says; the defaults make a good one."""

    name: str = "odd authority"
    is_authority: bool = True
    signs_certificates: bool = True
    path_length: int | None = None
    has_key_usage: bool = True
    constraints: x509.NameConstraints | None = None
    extra: x509.ExtensionType | None = None
    days: int = 365


def odd_authority(shape: Shape, *, begin: datetime, parent: Issuer | None = None) -> Issuer:
    """An authority of this shape, self-signed unless it has a parent."""
    key = SigningKey.generate("ML-DSA-65")
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, shape.name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(parent.certificate.subject if parent else subject)
        .public_key(key.pyca_key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(begin + timedelta(days=shape.days))
    )
    length = shape.path_length if shape.is_authority else None
    builder = builder.add_extension(x509.BasicConstraints(shape.is_authority, length), critical=True)
    if shape.has_key_usage:
        usage = x509.KeyUsage(
            not shape.signs_certificates, False, False, False, False, shape.signs_certificates, False, False, False
        )
        builder = builder.add_extension(usage, critical=True)
    for extension in (shape.constraints, shape.extra):
        if extension is not None:
            builder = builder.add_extension(extension, critical=True)
    return Issuer(builder.sign((parent.key if parent else key).pyca_key, None), key)
