"""Renewing a classical twin over the party's post-quantum certificate: the files, the request, the proof of the answer.

As in `renewal`, nothing on the disk changes before the new twin was verified as what was asked for, then all of it
changes in one step, and a new key waits in the store of the folder until then.
"""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from pqfl_transport.crypto import pkcs8
from pqfl_transport.errors import CertificateError, ConfigurationError
from pqfl_transport.hub import TIMEOUT_SECONDS
from pqfl_transport.net.address import Address
from pqfl_transport.pki import chain, keystore
from pqfl_transport.pki.passphrases import PassphraseSource, from_environment, unlocked
from pqfl_transport.pki.profiles import find_profile
from pqfl_transport.pki.spiffe import SpiffeId
from pqfl_transport.pki.swapping import replace_together, store_of
from pqfl_transport.pki.twin_renewal import RENEW_TWIN_PATH, make_twin_renewal, open_twin_answer
from pqfl_transport.pki.twins import (
    generate_key,
    is_twin_of,
    key_from_pem,
    key_to_pem,
    require_twin_granted,
    with_issuers,
)
from pqfl_transport.policy import Policy
from pqfl_transport.renewal import RenewalFiles, renewing_hub
from pqfl_transport.tls.config import TlsIdentity

_WAITING_KEY = "waiting-classical.key"


def _system_clock() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class TwinFiles:
    """The files of a second, classical certificate, and whom its peers are trusted by."""

    certificate: Path
    key: Path
    store: Path
    """The classical trust store; brought up to date where it lies beside the certificate."""

    @property
    def files(self) -> RenewalFiles:
        """What a renewal replaces. Raises ``ConfigurationError`` (``two_folders``)."""
        return RenewalFiles.within(self.certificate, self.key, self.store)

    @classmethod
    def in_folder(cls, folder: Path) -> "TwinFiles | None":
        """Return those of an identity folder; ``None`` where it has no twin."""
        if not (folder / "classical.pem").exists():
            return None
        return cls(folder / "classical.pem", folder / "classical.key", folder / "classical-ca.pem")

    def present(self, party: SpiffeId) -> x509.Certificate | None:
        """Return the certificate where it is the party's twin; ``None`` where another authority issued it.

        Raises ``ConfigurationError`` naming the file that is missing or malformed.
        """
        certificate = keystore.read_certificate_file(self.certificate)
        return certificate if is_twin_of(party, certificate, self.anchors()) else None

    def anchors(self) -> list[x509.Certificate]:
        """Return the trust store. Raises ``ConfigurationError`` naming the file."""
        try:
            return chain.load_certificates(keystore.read_public(self.store))
        except CertificateError as error:
            raise ConfigurationError(f"{self.store}: {error}", reason=error.reason) from error


@dataclass(frozen=True, slots=True)
class TwinRenewer:
    """Renews the twin of one party at one enrolment service. Blocking."""

    address: Address
    policy: Policy
    passphrases: PassphraseSource = from_environment
    timeout_seconds: float = TIMEOUT_SECONDS
    clock: Callable[[], datetime] = field(default=_system_clock, compare=False)

    def renew(self, tls: RenewalFiles, anchors: Path, twin: TwinFiles) -> x509.Certificate:
        """Renew a twin with a new key, in the name of the TLS certificate of its party; return the new one.

        Raises ``ConfigurationError``: ``no_twin`` where it is none of this party's federation, ``two_folders``, and
        what loading the files raises; ``CertificateError`` (``wrong_answer``); what `Hub.post` raises.
        """
        identity = TlsIdentity.load(tls.certificate, tls.key, anchors, self.passphrases)
        key, party = keystore.load_signing_key(tls.key, self.passphrases), chain.spiffe_id(identity.leaf)
        present, files = twin.present(party), twin.files
        if present is None:
            raise ConfigurationError(
                f"{twin.certificate}: is no twin of {party} under an issuer in {twin.store}", reason="no_twin"
            )
        passphrase = self._passphrase(files.key)
        new_key = self._waiting_key(files, passphrase)
        hub = renewing_hub(
            self.address, identity, party, self.policy, timeout_seconds=self.timeout_seconds, clock=self.clock
        )
        body, _ = hub.post(
            RENEW_TWIN_PATH,
            lambda binding: make_twin_renewal(party, binding, identity.leaf, key, present, new_key),
        )
        grant = open_twin_answer(body)
        usage = find_profile(party.role.value).tls_usage
        require_twin_granted(grant.twin, grant.anchors, party, new_key.public_key(), usage=usage, now=self.clock())
        new = {files.certificate.name: _pem(grant.twin), files.key.name: _stored(new_key, passphrase)}
        if files.anchors is not None:
            store = with_issuers(twin.anchors(), grant.anchors, party.federation)
            new[files.anchors.name] = b"".join(map(_pem, store))
        replace_together(files.folder, new)
        with contextlib.suppress(FileNotFoundError):
            (store_of(files.folder) / _WAITING_KEY).unlink()
        return grant.twin

    def _passphrase(self, path: Path) -> bytes | None:
        """Return what the present key is encrypted under, so that the new one is too."""
        pem = keystore.read_secret(path)
        if not pkcs8.is_encrypted(pem):
            return None

        def opened(passphrase: bytes) -> bytes:
            pkcs8.decrypt(pem, passphrase)
            return passphrase

        return unlocked(str(path), self.passphrases, opened)

    def _waiting_key(self, files: RenewalFiles, passphrase: bytes | None) -> ec.EllipticCurvePrivateKey:
        path = store_of(files.folder) / _WAITING_KEY
        if path.exists():
            return key_from_pem(keystore.load_private_pem(path, self.passphrases))
        key = generate_key()
        keystore.write_secret(path, _stored(key, passphrase))
        return key


def _stored(key: ec.EllipticCurvePrivateKey, passphrase: bytes | None) -> bytes:
    pem = key_to_pem(key)
    return pem if passphrase is None else pkcs8.encrypt(pem, passphrase)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.PEM)
