"""Renewing a party's certificates over the present ones: the files, the request, and the proof that the answer is good.

Nothing on the disk changes before the new certificates were verified as what was asked for, and then all of it changes
in one step (`pki.swapping`). A new key waits in the store of the folder until then, so an attempt that was cut off is
made again with the same key and gets the same certificate.
"""

import contextlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from pqfl_transport.crypto import pkcs8
from pqfl_transport.crypto.pyca import SigningKey
from pqfl_transport.errors import CertificateError, ConfigurationError, MessageError
from pqfl_transport.hub import TIMEOUT_SECONDS, Hub
from pqfl_transport.net.address import Address
from pqfl_transport.pki import chain, keystore
from pqfl_transport.pki.enrolment import CA_PATH, RENEW_PATH, Grant, Holder, open_grant, renewal_request
from pqfl_transport.pki.passphrases import PassphraseSource, from_environment, unlocked
from pqfl_transport.pki.profiles import Usage, find_profile
from pqfl_transport.pki.rooted import require_vouched_for
from pqfl_transport.pki.spiffe import SpiffeId
from pqfl_transport.pki.swapping import replace_together, store_of
from pqfl_transport.pki.tokens import service_id
from pqfl_transport.policy import Policy
from pqfl_transport.tls.config import TlsIdentity

_WAITING_KEY = "waiting.key"
_WAITING_SIGNING_KEY = "waiting-signing.key"


def _system_clock() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class RenewalFiles:
    """The files of one certificate; all of them in one folder, because they change together."""

    certificate: Path
    key: Path
    anchors: Path | None = None
    """``ca.pem`` where it is to be brought up to date as well."""

    @classmethod
    def within(cls, cert: Path, key: Path, anchors: Path) -> "RenewalFiles":
        """Return the files of a sidecar. Raises ``ConfigurationError`` (``two_folders``)."""
        if cert.parent.absolute() != key.parent.absolute():
            raise ConfigurationError(
                f"{cert} and {key} lie in two folders and could not be replaced together", reason="two_folders"
            )
        return cls(cert, key, anchors if anchors.parent.absolute() == cert.parent.absolute() else None)

    @property
    def folder(self) -> Path:
        """Where they lie."""
        return self.certificate.parent


@dataclass(frozen=True, slots=True)
class Renewed:
    """What a renewal brought."""

    party: SpiffeId
    tls: x509.Certificate
    signing: x509.Certificate | None


@dataclass(frozen=True, slots=True)
class Renewer:
    """Renews the certificates of one party at one enrolment service. Blocking."""

    address: Address
    policy: Policy
    keep_keys: bool = False
    passphrases: PassphraseSource = from_environment
    timeout_seconds: float = TIMEOUT_SECONDS
    clock: Callable[[], datetime] = field(default=_system_clock, compare=False)

    def renew_tls(self, files: RenewalFiles, anchors: Path) -> Renewed:
        """Renew a TLS certificate, with a new key unless keys are kept. Raises as `_exchange` and `_Secret.load` do."""
        return self._renew(files, anchors, None)

    def renew_folder(self, folder: Path) -> Renewed:
        """Renew the TLS certificate of an identity folder and, where there is one, the signing certificate.

        The signing key stays: it counts because the roster names it, and a new one would count for nothing before the
        root has signed another roster. Only where the federation moves to another level there is a new one.
        """
        files = RenewalFiles(folder / "tls.pem", folder / "tls.key", folder / "ca.pem")
        signing = folder / "signing.pem"
        signs = RenewalFiles(signing, folder / "signing.key") if signing.exists() else None
        return self._renew(files, folder / "ca.pem", signs)

    def _renew(self, files: RenewalFiles, anchors: Path, signing: RenewalFiles | None) -> Renewed:
        identity = TlsIdentity.load(files.certificate, files.key, anchors, self.passphrases)
        party = _party(identity.leaf, files.certificate)
        secret = _Secret.load(files.key, self.passphrases)
        hub = renewing_hub(
            self.address, identity, party, self.policy, timeout_seconds=self.timeout_seconds, clock=self.clock
        )
        algorithm = self._algorithm(hub, secret.key.algorithm)
        new_key = secret.key if self.keep_keys else self._waiting_key(files, secret, _WAITING_KEY, algorithm)
        tls = Holder(identity.leaf, secret.key, new_key)
        signs = None if signing is None else self._signing(signing, algorithm)
        body, _ = hub.post(RENEW_PATH, lambda binding: renewal_request(party, binding, tls, signs))
        _, grant = open_grant(body)
        if grant is None:
            raise MessageError(f"{self.address}: answers a renewal with no certificate", reason="malformed")
        self._require_good(grant, party, tls, signs, identity)
        new = {files.certificate.name: _pem(grant.tls), files.key.name: secret.stored(new_key)}
        if files.anchors is not None:
            new[files.anchors.name] = grant.ca_pem
        if signing is not None and signs is not None and grant.signing is not None:
            new[signing.certificate.name] = _pem(grant.signing)
            if signs.new_key is not signs.key:
                new[signing.key.name] = _Secret.load(signing.key, self.passphrases).stored(signs.new_key)
        replace_together(files.folder, new)
        for name in (_WAITING_KEY, _WAITING_SIGNING_KEY):
            with contextlib.suppress(FileNotFoundError):
                (store_of(files.folder) / name).unlink()
        return Renewed(party, grant.tls, grant.signing)

    def _algorithm(self, hub: Hub, present: str) -> str:
        """Return what new keys are of: the present kind or, while the policy lists several, what the authority has.

        A federation that moves to another level has two issuing authorities for a while. The one in use stands first
        in ``ca.pem`` (`certs.rotating`), and what it certifies are keys of its own kind.
        """
        if len(self.policy.leaf_keys) == 1:
            return present
        anchors = chain.load_certificates(hub.get(CA_PATH))
        issuing = next((one for one in anchors if not chain.is_self_signed(one)), None)
        algorithm = present if issuing is None else chain.key_algorithm_name(issuing)
        self.policy.require_leaf_key(algorithm)
        return algorithm

    def _waiting_key(self, files: RenewalFiles, secret: "_Secret", name: str, algorithm: str) -> SigningKey:
        path = store_of(files.folder) / name
        if path.exists():
            waiting = _Secret.load(path, self.passphrases).key
            if waiting.algorithm == algorithm and waiting.verifying_key != secret.key.verifying_key:
                return waiting
        key = SigningKey.generate(algorithm)
        keystore.write_secret(path, secret.stored(key), overwrite=True)
        return key

    def _signing(self, files: RenewalFiles, algorithm: str) -> Holder:
        certificate = keystore.load_certificate(files.certificate, now=self.clock())
        secret = _Secret.load(files.key, self.passphrases)
        stays = self.keep_keys or secret.key.algorithm == algorithm
        new_key = secret.key if stays else self._waiting_key(files, secret, _WAITING_SIGNING_KEY, algorithm)
        return Holder(certificate, secret.key, new_key)

    def _require_good(
        self, grant: Grant, party: SpiffeId, tls: Holder, signing: Holder | None, identity: TlsIdentity
    ) -> None:
        anchors = chain.load_certificates(grant.ca_pem)
        require_vouched_for(anchors, identity.anchors)
        usage = find_profile(party.role.value).tls_usage
        require_granted(grant.tls, anchors, party, tls.new_key, usage=usage, policy=self.policy, now=self.clock())
        if (signing is None) is not (grant.signing is None):
            raise MessageError(f"{self.address}: answers with another set of certificates", reason="malformed")
        if signing is not None and grant.signing is not None:
            require_granted(
                grant.signing, anchors, party, signing.new_key, usage=Usage.SIGNING, policy=self.policy,
                now=self.clock(),
            )  # fmt: skip


def renewing_hub(
    address: Address, identity: TlsIdentity, party: SpiffeId, policy: Policy, *, timeout_seconds: float,
    clock: Callable[[], datetime],
) -> Hub:  # fmt: skip
    """Describe the enrolment service as a party that renews dials it. Raises as `TlsConfig` does."""
    # Whoever only listens has a certificate that is no client's: it is known by the signature of its request.
    dials = find_profile(party.role.value).tls_usage is Usage.CLIENT
    shown = identity if dials else TlsIdentity.of_nobody(identity.anchors_pem, identity.anchors_name)
    return Hub.known(address, shown, service_id(party.federation), policy, timeout_seconds=timeout_seconds, clock=clock)


def require_granted(
    certificate: x509.Certificate, anchors: Iterable[x509.Certificate], party: SpiffeId, key: SigningKey, *,
    usage: Usage, policy: Policy, now: datetime,
) -> None:  # fmt: skip
    """Raise ``CertificateError`` unless this is the party's certificate for this key: what was asked for."""
    named = chain.verify_chain(certificate, tuple(anchors), policy=policy, usage=usage, now=now)
    if named != party or chain.verifying_key(certificate) != key.verifying_key:
        raise CertificateError(f"{chain.describe(certificate)} is not what {party} asked for", reason="wrong_answer")


@dataclass(frozen=True, slots=True)
class _Secret:
    """A private key, and how its file is encrypted."""

    key: SigningKey
    passphrase: bytes | None

    @classmethod
    def load(cls, path: Path, passphrases: PassphraseSource) -> "_Secret":
        """Read a key file. Raises ``ConfigurationError`` naming it."""
        pem = keystore.read_secret(path)
        if not pkcs8.is_encrypted(pem):
            return cls(keystore.load_signing_key(path), None)

        def opened(passphrase: bytes) -> "_Secret":
            return cls(SigningKey.from_pem(pkcs8.decrypt(pem, passphrase)), passphrase)

        return unlocked(str(path), passphrases, opened)

    def stored(self, key: SigningKey) -> bytes:
        """Return another key as its file holds it, encrypted as this one is."""
        return key.to_pem() if self.passphrase is None else pkcs8.encrypt(key.to_pem(), self.passphrase)


def _party(certificate: x509.Certificate, path: Path) -> SpiffeId:
    try:
        return chain.spiffe_id(certificate)
    except CertificateError as error:
        raise ConfigurationError(f"{path}: {error}", reason=error.reason) from error


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.PEM)
