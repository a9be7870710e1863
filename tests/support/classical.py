"""Classical authorities, certificates and revocation lists of anybody, for tests of a migration.

    authority = make_root("ecdsa root")                  # a `Signer`: certificate and key
    leaf, key = make_leaf(authority, dns=("a.example",))
    crl = make_crl(authority, number=3, revoked={leaf.serial_number: x509.ReasonFlags.key_compromise})

`make_crl` signs with ML-DSA authorities as well.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

from pqfl_transport.crypto.pyca import MLDSAPrivateKey
from pqfl_transport.pki import keystore

ClassicalKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey
AnyKey = ClassicalKey | MLDSAPrivateKey

BOTH_USAGES = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)
BEGIN = datetime.now(UTC).replace(microsecond=0)
"""When everything made here begins to be valid, a minute's grace aside."""


class Signer:
    """An authority of any algorithm: certificate, private key, and how it signs."""

    def __init__(
        self,
        certificate: x509.Certificate,
        key: AnyKey,
        *,
        digest: hashes.HashAlgorithm | None = None,
        rsa_padding: padding.PSS | padding.PKCS1v15 | None = None,
    ) -> None:
        self.certificate = certificate
        self.key = key
        self.digest = digest or default_digest(key)
        self.rsa_padding = rsa_padding


def default_digest(key: AnyKey) -> hashes.HashAlgorithm | None:
    """The digest that a key signs with unless told otherwise; None for keys that bring their own."""
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return hashes.SHA384() if key.curve.name == "secp384r1" else hashes.SHA256()
    return hashes.SHA256() if isinstance(key, rsa.RSAPrivateKey) else None


def p256() -> ec.EllipticCurvePrivateKey:
    """Return a new key on P-256, which is the quickest to make."""
    return ec.generate_private_key(ec.SECP256R1())


def make_root(
    name: str,
    key: AnyKey | None = None,
    *,
    parent: Signer | None = None,
    days: float = 365,
    begin: datetime = BEGIN,
    path_length: int | None = None,
    is_authority: bool = True,
    extensions: Sequence[tuple[x509.ExtensionType, bool]] = (),
) -> Signer:
    """Make an authority: a root, or an intermediate one under ``parent``."""
    key = key or p256()
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = _builder(subject, parent.certificate.subject if parent else subject, key, begin, days)
    builder = builder.add_extension(
        x509.BasicConstraints(ca=is_authority, path_length=path_length if is_authority else None), critical=True
    )
    builder = builder.add_extension(key_usage(signs_certificates=is_authority, signs_lists=is_authority), critical=True)
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical=critical)
    signer = parent or Signer(None, key)  # type: ignore[arg-type]  # a root signs itself before it exists
    return Signer(_sign(builder, signer), key)


def make_leaf(
    signer: Signer,
    key: ClassicalKey | MLDSAPrivateKey | None = None,
    *,
    dns: Sequence[str] = ("localhost",),
    uris: Sequence[str] = (),
    usages: Sequence[ObjectIdentifier] = BOTH_USAGES,
    days: float = 30,
    begin: datetime = BEGIN,
    subject: x509.Name | None = None,
    extensions: Sequence[tuple[x509.ExtensionType, bool]] = (),
) -> tuple[x509.Certificate, AnyKey]:
    """Make a leaf that says exactly this, and its key; no ``usages`` means no such extension."""
    key = key or p256()
    if subject is None:
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "classical leaf")])
    builder = _builder(subject, signer.certificate.subject, key, begin, days)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_authority_key_identifier(signer.certificate), critical=False)
    if usages:
        builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri) for uri in uris]
    names += [x509.DNSName(name) for name in dns]
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical=critical)
    return _sign(builder, signer), key


def make_crl(
    signer: Signer,
    *,
    number: int | None = 1,
    revoked: Mapping[int, x509.ReasonFlags | None] | None = None,
    begin: datetime = BEGIN,
    days: float = 7,
    extensions: Sequence[tuple[x509.ExtensionType, bool]] = (),
    entry_extensions: Sequence[tuple[x509.ExtensionType, bool]] = (),
) -> x509.CertificateRevocationList:
    """Make a revocation list; ``revoked`` maps serial numbers to reasons."""
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(signer.certificate.subject)
        .last_update(begin - timedelta(minutes=1))
        .next_update(begin + timedelta(days=days))
    )
    if number is not None:
        builder = builder.add_extension(x509.CRLNumber(number), critical=False)
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical=critical)
    for serial, reason in (revoked or {}).items():
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(begin)
        if reason is not None:
            entry = entry.add_extension(x509.CRLReason(reason), critical=False)
        for extension, critical in entry_extensions:
            entry = entry.add_extension(extension, critical=critical)
        builder = builder.add_revoked_certificate(entry.build())
    return builder.sign(signer.key, signer.digest)  # type: ignore[arg-type]


def pem(*objects: x509.Certificate | x509.CertificateRevocationList) -> bytes:
    """Return certificates or lists as one PEM file."""
    return b"".join(one.public_bytes(Encoding.PEM) for one in objects)


def key_pem(key: AnyKey) -> bytes:
    """Return a private key as PKCS#8 PEM, unencrypted."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def write_classical(out: Path, signer: Signer, leaf: x509.Certificate, key: AnyKey, *between: x509.Certificate) -> Path:
    """Write ``tls.pem`` (with the certificates ``between``), ``tls.key`` (0600) and ``ca.pem`` into ``out``."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "tls.pem").write_bytes(pem(leaf, *between))
    (out / "ca.pem").write_bytes(pem(signer.certificate))
    keystore.write_secret(out / "tls.key", key_pem(key))
    return out


def key_usage(*, signs_certificates: bool, signs_lists: bool) -> x509.KeyUsage:
    """Return the key usage of an authority, or of an end entity where it signs neither."""
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_lists,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, key: AnyKey, begin: datetime, days: float
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin - timedelta(minutes=1))
        .not_valid_after(begin + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _sign(builder: x509.CertificateBuilder, signer: Signer) -> x509.Certificate:
    return builder.sign(signer.key, signer.digest, rsa_padding=signer.rsa_padding)  # type: ignore[arg-type]


def _authority_key_identifier(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    own = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own)
