"""A party's identity: fresh keys, their certificates, and the folder in which they are handed over.

tls.pem tls.key ca.pem                                        every party
signing.pem signing.key receiving.pub receiving.key           sites and aggregators
classical.pem classical.key classical-ca.pem                  gateways and sites with a twin
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from certs.entry import Entry, State
from certs.twins import Twin
from pqfl_transport.content.receiving_keys import KeyEntry
from pqfl_transport.content.recipients import ReceivingKey
from pqfl_transport.crypto import pkcs8
from pqfl_transport.crypto.pyca import SigningKey
from pqfl_transport.pki.authority import Host, Issuer, issue_signing, issue_tls
from pqfl_transport.pki.keystore import write_public, write_secret
from pqfl_transport.pki.profiles import Profile, Usage
from pqfl_transport.pki.references import CertificateReference
from pqfl_transport.pki.roster import Party
from pqfl_transport.pki.spiffe import SpiffeId
from pqfl_transport.policy import Policy, leaf_algorithm


@dataclass(frozen=True, slots=True)
class ContentKeys:
    """What a party signs and opens content with."""

    signing_certificate: x509.Certificate
    signing_key: SigningKey
    receiving_key: ReceivingKey


@dataclass(frozen=True, slots=True)
class Identity:
    """Everything that is secret of one party, in memory between its making and its folder."""

    id: SpiffeId
    tls_certificate: x509.Certificate
    tls_key: SigningKey
    content: ContentKeys | None
    twin: Twin | None = None

    @property
    def certificates(self) -> tuple[x509.Certificate, ...]:
        """Its certificates: that for TLS, and those for signing and for classical peers where it has them."""
        signing = [] if self.content is None else [self.content.signing_certificate]
        return (self.tls_certificate, *signing, *([] if self.twin is None else [self.twin.certificate]))

    def entries(self, profile: Profile, issuer: x509.Certificate, now: datetime) -> list[Entry]:
        """Return what the ledger has of each of its certificates before its folder is published."""
        usages = [profile.tls_usage, *([] if self.content is None else [Usage.SIGNING])]
        entries = [
            Entry.of(certificate, holder=str(self.id), usage=usage, now=now, issuer=issuer, state=State.PREPARED)
            for usage, certificate in zip(usages, self.certificates, strict=False)
        ]
        return [*entries, *([] if self.twin is None else [self.twin.entry(profile, self.id, now)])]

    def write(self, folder: Path, anchors_pem: bytes, passphrase: bytes | None = None) -> None:
        """Write the folder's files; private keys get mode 0600, and are encrypted where there is a passphrase.

        Raises ``ConfigurationError`` over existing keys.
        """
        write_public(folder / "ca.pem", anchors_pem)
        write_public(folder / "tls.pem", self.tls_certificate.public_bytes(Encoding.PEM))
        write_secret(folder / "tls.key", to_key_file(self.tls_key, passphrase))
        if self.twin is not None:
            self.twin.write(folder, passphrase)
        if self.content is None:
            return
        write_public(folder / "signing.pem", self.content.signing_certificate.public_bytes(Encoding.PEM))
        write_secret(folder / "signing.key", to_key_file(self.content.signing_key, passphrase))
        write_public(folder / "receiving.pub", self.content.receiving_key.public.to_pem())
        receiving = KeyEntry.of(self.content.receiving_key)
        encrypted = receiving if passphrase is None else receiving.encrypted(passphrase)
        write_secret(folder / "receiving.key", encrypted.to_pem())

    def party(self, *, weight_cap: int) -> Party | None:
        """Return this party's entry in the roster; ``None`` where it has no content keys."""
        if self.content is None:
            return None
        content, public = self.content, self.content.receiving_key.public
        return Party(
            self.id, content.signing_key.verifying_key, public.to_bytes(), public.fingerprint, weight_cap,
            CertificateReference.of(content.signing_certificate),
        )  # fmt: skip


def to_key_file(key: SigningKey, passphrase: bytes | None) -> bytes:
    """Return a signing or TLS key as its file holds it: PKCS#8, encrypted where there is a passphrase."""
    return key.to_pem() if passphrase is None else pkcs8.encrypt(key.to_pem(), passphrase)


def make_identity(
    issuer: Issuer,
    profile: Profile,
    spiffe_id: SpiffeId,
    policy: Policy,
    *,
    now: datetime,
    seconds: int,
    hosts: Sequence[Host] = (),
) -> Identity:
    """Make the keys that ``profile`` asks for, by the first choices of ``policy``, and have them certified."""
    algorithm = leaf_algorithm(policy)
    tls_key = SigningKey.generate(algorithm)
    tls = issue_tls(issuer, profile, spiffe_id, tls_key.verifying_key, now=now, seconds=seconds, hosts=hosts)
    if not profile.has_content_keys:
        return Identity(spiffe_id, tls, tls_key, None)
    signing_key = SigningKey.generate(algorithm)
    signing = issue_signing(issuer, spiffe_id, signing_key.verifying_key, now=now, seconds=seconds)
    receiving_key = ReceivingKey.generate(policy.content_suite.kem)
    return Identity(spiffe_id, tls, tls_key, ContentKeys(signing, signing_key, receiving_key))
