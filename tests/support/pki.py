"""Whole federations for tests, and identities with exactly one thing wrong.

    federation = make_federation(tmp_path)              # through the real authority, about 100 ms
    federation.site("hospital-north")                   # an identity folder: tls.pem tls.key ca.pem signing.pem …
    odd = expired(federation, tmp_path / "odd")         # an identity folder with tls.pem tls.key ca.pem

Every maker of an oddity takes ``(federation, out, profile="site")`` and returns ``out``. ``profile`` is ``site`` (a TLS
client), ``gateway`` (a TLS server) or ``aggregator``. The identity bears the name of the federation's own party, fits
its key, and is good in everything but the one thing it is called after. Its ``ca.pem`` holds the anchors that its chain
ends at: where that is another authority's, a test that wants to get as far as the peer's refusal gives the odd party
the good ``federation.ca_pem`` to trust.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path
from types import MappingProxyType
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

from certs.authority import Authority
from pqfl_transport.crypto.pyca import MLDSAPrivateKey, SigningKey
from pqfl_transport.pki import keystore
from pqfl_transport.pki.profiles import PROFILES
from pqfl_transport.pki.roster import sign_roster
from pqfl_transport.policy import leaf_algorithm

SITES = ("hospital-north", "hospital-south", "hospital-east")
GATEWAY_NAME = "hub"
AGGREGATOR_NAME = "main"
HOSTS = ("localhost", IPv4Address("127.0.0.1"))
"""What the gateway's and the aggregator's TLS certificates name beside their SPIFFE ID."""

PrivateKey = MLDSAPrivateKey | ec.EllipticCurvePrivateKey


@dataclass(frozen=True, slots=True)
class Federation:
    """The paths of a federation: one authority, one gateway, one aggregator, and its sites."""

    authority: Authority
    folder: Path
    """Holds ``ca``, ``gateway``, ``aggregator`` and ``sites/NAME``."""
    sites: tuple[str, ...]

    @property
    def name(self) -> str:
        """The federation's name: the host in every SPIFFE ID."""
        return self.authority.federation

    @property
    def ca(self) -> Path:
        """The authority's folder, with the private keys of root and issuing authority."""
        return self.authority.folder

    @property
    def ca_pem(self) -> Path:
        """Root and issuing certificate: what every party trusts."""
        return self.authority.ca_path

    @property
    def roster(self) -> Path:
        """The signed roster."""
        return self.authority.roster_path

    @property
    def gateway(self) -> Path:
        """The gateway's identity folder."""
        return self.folder / "gateway"

    @property
    def aggregator(self) -> Path:
        """The aggregator's identity folder."""
        return self.folder / "aggregator"

    def site(self, name: str) -> Path:
        """A site's identity folder."""
        return self.folder / "sites" / name

    @property
    def gateway_uri(self) -> str:
        """The gateway's SPIFFE ID."""
        return f"spiffe://{self.name}/gateway/{GATEWAY_NAME}"

    @property
    def aggregator_uri(self) -> str:
        """The aggregator's SPIFFE ID."""
        return f"spiffe://{self.name}/aggregator/{AGGREGATOR_NAME}"

    def site_uri(self, name: str) -> str:
        """A site's SPIFFE ID."""
        return f"spiffe://{self.name}/site/{name}"

    def uri(self, profile: str) -> str:
        """The SPIFFE ID of the gateway, of the aggregator or of the first site."""
        name = {"gateway": GATEWAY_NAME, "aggregator": AGGREGATOR_NAME}.get(profile, self.sites[0])
        return f"spiffe://{self.name}/{profile}/{name}"


def make_federation(
    folder: Path, *, federation: str = "fed", level: str = "high", sites: Sequence[str] = SITES
) -> Federation:
    """Make a federation in ``folder``, which is made where it is missing; the parts of it must not exist yet."""
    authority = Authority.create(folder / "ca", federation=federation, level=level)
    authority.issue(profile="gateway", name=GATEWAY_NAME, out=folder / "gateway", hosts=HOSTS)
    authority.issue(profile="aggregator", name=AGGREGATOR_NAME, out=folder / "aggregator", hosts=HOSTS)
    made = Federation(authority, folder, tuple(sites))
    for name in sites:
        authority.issue(profile="site", name=name, out=made.site(name))
    return made


@dataclass(frozen=True, slots=True)
class Signer:
    """An authority of any algorithm: its certificate and its private key."""

    certificate: x509.Certificate
    key: PrivateKey


def publish_roster(signer: Federation, path: Path, **changes: Any) -> Path:
    """Sign the federation's roster with some of its fields changed, as ``number``, into a file."""
    roster = replace(signer.authority.roster(), **changes)
    key = keystore.load_signing_key(signer.ca / "root.key")
    keystore.write_public(path, sign_roster(roster, key))
    return path


def federation_signer(federation: Federation) -> Signer:
    """The federation's own issuing authority, to sign what the real one would refuse to sign."""
    certificate = x509.load_pem_x509_certificate((federation.ca / "issuing.pem").read_bytes())
    return Signer(certificate, keystore.load_signing_key(federation.ca / "issuing.key").pyca_key)


def make_authority(key: PrivateKey, name: str, *, parent: Signer | None = None) -> Signer:
    """Make a good authority without name constraints: self-signed, or under ``parent``."""
    now = datetime.now(UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = _builder(subject, parent.certificate.subject if parent else subject, key, now, days=365)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    builder = builder.add_extension(_key_usage(is_authority=True), critical=True)
    return Signer(_sign(builder, parent.key if parent else key), key)


def sign_leaf(
    signer: Signer,
    key: PrivateKey,
    *,
    uris: Sequence[str],
    usages: Sequence[ObjectIdentifier],
    begin: datetime | None = None,
    days: float = 30,
    key_usage: x509.KeyUsage | None = None,
    subject: x509.Name | None = None,
    names: Sequence[x509.GeneralName] = (x509.DNSName("localhost"), x509.IPAddress(IPv4Address("127.0.0.1"))),
) -> x509.Certificate:
    """Sign a leaf that says exactly this; ``begin`` is now unless given, no ``usages`` means no such extension.

    The subject is of the signer's organization unless given.
    """
    organization = signer.certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
    subject = subject or x509.Name([*organization, x509.NameAttribute(NameOID.COMMON_NAME, "leaf")])
    begin = begin or datetime.now(UTC)
    builder = _builder(subject, signer.certificate.subject, key, begin, days)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(key_usage or _key_usage(is_authority=False), critical=True)
    builder = builder.add_extension(_key_identifier_of(signer.certificate), critical=False)
    if usages:
        builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
    all_names = [*(x509.UniformResourceIdentifier(uri) for uri in uris), *names]
    builder = builder.add_extension(x509.SubjectAlternativeName(all_names), critical=False)
    return _sign(builder, signer.key)


def write_identity(out: Path, leaf: x509.Certificate, key: PrivateKey, anchors: Sequence[x509.Certificate]) -> Path:
    """Write ``tls.pem``, ``tls.key`` (0600) and ``ca.pem`` into the folder ``out`` and return it."""
    out.mkdir(parents=True)
    (out / "tls.pem").write_bytes(leaf.public_bytes(Encoding.PEM))
    keystore.write_secret(out / "tls.key", key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    (out / "ca.pem").write_bytes(b"".join(anchor.public_bytes(Encoding.PEM) for anchor in anchors))
    return out


def other_authority(federation: Federation, out: Path, profile: str = "site") -> Path:
    """Make an identity of a stranger's authority that gave itself and its party the very same names."""
    stranger = Authority.create(
        out.with_name(out.name + "-ca"), federation=federation.name, level=federation.authority.level
    )
    name = federation.uri(profile).rpartition("/")[2]
    stranger.issue(profile=profile, name=name, out=out, hosts=() if profile == "site" else HOSTS)
    return out


def signed_by_ecdsa(federation: Federation, out: Path, profile: str = "site") -> Path:
    """Make an ML-DSA leaf directly under an ECDSA root: all valid, and forgeable by a quantum attacker."""
    root = make_authority(ec.generate_private_key(ec.SECP256R1()), "ecdsa root")
    return _odd(federation, out, profile, signer=root, anchors=[root.certificate])


def under_ecdsa_root(federation: Federation, out: Path, profile: str = "site") -> Path:
    """Make an ML-DSA leaf under an ML-DSA issuing authority under an ECDSA root: only the anchor is classical."""
    root = make_authority(ec.generate_private_key(ec.SECP256R1()), "ecdsa root")
    issuing = make_authority(_leaf_key(federation), "ml-dsa issuing", parent=root)
    return _odd(federation, out, profile, signer=issuing, anchors=[root.certificate, issuing.certificate])


def classical(federation: Federation, out: Path, profile: str = "site") -> Path:
    """Make an ECDSA leaf under an ECDSA root: what a party that was never migrated shows."""
    root = make_authority(ec.generate_private_key(ec.SECP256R1()), "ecdsa root")
    key = ec.generate_private_key(ec.SECP256R1())
    return _odd(federation, out, profile, signer=root, anchors=[root.certificate], key=key)


def expired(federation: Federation, out: Path, profile: str = "site") -> Path:
    """Make an identity whose certificate ended an hour ago."""
    begin = datetime.now(UTC) - timedelta(days=1, hours=1)
    return _odd(federation, out, profile, begin=begin, days=1)


def not_yet_valid(federation: Federation, out: Path, profile: str = "site") -> Path:
    """Make an identity whose certificate begins in an hour."""
    return _odd(federation, out, profile, begin=datetime.now(UTC) + timedelta(hours=1))


def without_usage(federation: Federation, out: Path, profile: str = "site") -> Path:
    """Make an identity without extended key usage, which OpenSSL takes for every use."""
    return _odd(federation, out, profile, usages=[])


def both_usages(federation: Federation, out: Path, profile: str = "site") -> Path:
    """Make an identity for servers and clients alike."""
    return _odd(federation, out, profile, usages=[ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])


def two_uris(federation: Federation, out: Path, profile: str = "site") -> Path:
    """Make an identity that names its party and a second one."""
    return _odd(federation, out, profile, uris=[federation.uri(profile), f"spiffe://{federation.name}/operator/root"])


def without_uri(federation: Federation, out: Path, profile: str = "site") -> Path:
    """Make an identity with host names only."""
    return _odd(federation, out, profile, uris=[])


def bad_uri(federation: Federation, out: Path, profile: str = "site") -> Path:
    """Make an identity whose one URI is outside the grammar by a trailing slash."""
    return _odd(federation, out, profile, uris=[federation.uri(profile) + "/"])


def signing_for_tls(federation: Federation, out: Path, profile: str = "site") -> Path:
    """Make an identity out of a signing certificate and its key; a gateway borrows the aggregator's."""
    source = federation.site(federation.sites[0]) if profile == "site" else federation.aggregator
    leaf = x509.load_pem_x509_certificate((source / "signing.pem").read_bytes())
    key = keystore.load_signing_key(source / "signing.key").pyca_key
    return write_identity(out, leaf, key, keystore.load_anchors(federation.ca_pem))


Oddity = Callable[[Federation, Path, str], Path]

ODDITIES: MappingProxyType[Oddity, str] = MappingProxyType(
    {
        other_authority: "untrusted",
        signed_by_ecdsa: "bad_sigalg",
        under_ecdsa_root: "bad_sigalg",
        classical: "bad_sigalg",
        expired: "expired",
        not_yet_valid: "not_yet_valid",
        without_usage: "bad_usage",
        both_usages: "bad_usage",
        signing_for_tls: "bad_usage",
        two_uris: "bad_name",
        without_uri: "bad_name",
        bad_uri: "bad_name",
    }
)
"""Every oddity, with the reason for which `verify_chain` refuses it.

The verifier trusts the federation's anchors and, where the oddity is about algorithms, the oddity's own as well.
"""


def _odd(
    federation: Federation,
    out: Path,
    profile: str,
    *,
    signer: Signer | None = None,
    anchors: Sequence[x509.Certificate] | None = None,
    key: PrivateKey | None = None,
    uris: Sequence[str] | None = None,
    usages: Sequence[ObjectIdentifier] | None = None,
    begin: datetime | None = None,
    days: float = 30,
) -> Path:
    key = key or _leaf_key(federation)
    leaf = sign_leaf(
        signer or federation_signer(federation),
        key,
        uris=[federation.uri(profile)] if uris is None else uris,
        usages=[PROFILES[profile].tls_usage.oid] if usages is None else usages,
        begin=begin,
        days=days,
    )
    return write_identity(out, leaf, key, anchors or keystore.load_anchors(federation.ca_pem))


def _leaf_key(federation: Federation) -> MLDSAPrivateKey:
    return SigningKey.generate(leaf_algorithm(federation.authority.policy)).pyca_key


def _builder(
    subject: x509.Name, issuer: x509.Name, key: PrivateKey, begin: datetime, days: float
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


def _sign(builder: x509.CertificateBuilder, key: PrivateKey) -> x509.Certificate:
    return builder.sign(key, hashes.SHA256() if isinstance(key, ec.EllipticCurvePrivateKey) else None)


def _key_identifier_of(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    """What a leaf says of its issuer's key: OpenSSL finds no chain where it is not the issuer's own identifier."""
    try:
        own = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except x509.ExtensionNotFound:
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.public_key())  # type: ignore[arg-type]
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own)


def _key_usage(*, is_authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not is_authority,
        key_cert_sign=is_authority,
        crl_sign=is_authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
