"""Renewing a party's certificates over the present ones: the files, the request, and the proof that the answer is good.

Nothing on the disk changes before the new certificates were verified as what was asked for, and then all of it changes
in one step (`pki.swapping`). A new key waits in the store of the folder until then, so an attempt that was cut off is
made again with the same key and gets the same certificate.

A signing key counts because the roster names it, so it is not exchanged like a TLS key: the present one is certified
again, and the next one is made beside it and waits for a roster (`pki.signing_files`). A later renewal sees by the
roster that the next key has taken over, and makes it the ordinary one.
"""

import contextlib
from collections.abc import Callable, Iterable, Sequence
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
from pqfl_transport.pki.enrolment import (
    CA_PATH,
    RENEW_PATH,
    ROSTER_PATH,
    Grant,
    Holder,
    open_grant,
    renewal_request,
)
from pqfl_transport.pki.extensions import describe
from pqfl_transport.pki.keystore import load_signing_identity
from pqfl_transport.pki.passphrases import PassphraseSource, from_environment, unlocked
from pqfl_transport.pki.profiles import Usage, find_profile
from pqfl_transport.pki.rooted import require_vouched_for
from pqfl_transport.pki.roster import MAX_ROSTER_BYTES, Party, open_roster
from pqfl_transport.pki.signing_files import NEXT, ORDINARY, HeldKey, held_keys, key_in_use
from pqfl_transport.pki.spiffe import SpiffeId
from pqfl_transport.pki.swapping import replace_together, store_of
from pqfl_transport.pki.tokens import service_id
from pqfl_transport.policy import Policy
from pqfl_transport.tls.config import TlsIdentity

_WAITING_KEY = "waiting.key"
_WAITING_SIGNING_KEY = "waiting-signing.key"
_NEXT_FILES = (f"{NEXT}.pem", f"{NEXT}.key")


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
    """None where there is no signing key, and where the authority certifies keys of its kind no more."""
    next_signing: x509.Certificate | None = None
    """Of the key that waits for a roster, or that a roster names and that will take over."""
    took_over: bool = False
    """Whether the next signing key has become the ordinary one, and the one before was erased."""


@dataclass(frozen=True, slots=True)
class _Signing:
    """The signing keys of a folder, and what certificates are asked for."""

    holder: Holder
    secret: "_Secret"
    took_over: bool


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

        The next signing key is made where none waits, unless keys are kept; the one that waits is certified again. It
        becomes the ordinary one where the roster that the service gives out says that the present one is over. Raises
        as `renew_tls`, and what `open_roster` raises.
        """
        files = RenewalFiles(folder / "tls.pem", folder / "tls.key", folder / "ca.pem")
        return self._renew(files, folder / "ca.pem", folder if (folder / f"{ORDINARY}.pem").exists() else None)

    def _renew(self, files: RenewalFiles, anchors: Path, signing: Path | None) -> Renewed:
        identity = TlsIdentity.load(files.certificate, files.key, anchors, self.passphrases)
        party = _party(identity.leaf, files.certificate)
        secret = _Secret.load(files.key, self.passphrases)
        hub = renewing_hub(
            self.address, identity, party, self.policy, timeout_seconds=self.timeout_seconds, clock=self.clock
        )
        authorities = self._authorities(hub, identity, wanted=signing is not None)
        algorithm = self._algorithm(authorities, secret.key.algorithm)
        new_key = secret.key if self.keep_keys else self._waiting_key(files.folder, secret, _WAITING_KEY, algorithm)
        tls = Holder(identity.leaf, secret.key, new_key)
        signs = None if signing is None else self._signing(hub, signing, party, authorities, algorithm)
        holder = None if signs is None else signs.holder
        body, _ = hub.post(RENEW_PATH, lambda binding: renewal_request(party, binding, tls, holder))
        _, grant = open_grant(body)
        if grant is None:
            raise MessageError(f"{self.address}: answers a renewal with no certificate", reason="malformed")
        self._require_good(grant, party, tls, holder, identity)
        new: dict[str, bytes | None] = {
            files.certificate.name: _pem(grant.tls), files.key.name: secret.stored(new_key)
        }  # fmt: skip
        if files.anchors is not None:
            new[files.anchors.name] = grant.ca_pem
        if signs is not None:
            new |= _signing_files(grant, signs)
        replace_together(files.folder, new, new=_NEXT_FILES)
        for name in (_WAITING_KEY, _WAITING_SIGNING_KEY):
            with contextlib.suppress(FileNotFoundError):
                (store_of(files.folder) / name).unlink()
        took_over = signs is not None and signs.took_over
        return Renewed(party, grant.tls, grant.signing, grant.next_signing, took_over)

    def _authorities(self, hub: Hub, identity: TlsIdentity, *, wanted: bool) -> tuple[x509.Certificate, ...]:
        """Return the authorities of now where they are needed: a new root signs rosters that the old one did not."""
        if not wanted and len(self.policy.leaf_keys) == 1:
            return ()
        found = tuple(chain.load_certificates(hub.get(CA_PATH)))
        require_vouched_for(found, identity.anchors)
        return found

    def _algorithm(self, authorities: Sequence[x509.Certificate], present: str) -> str:
        """Return what new keys are of: the present kind or, while the policy lists several, what the authority has.

        A federation that moves to another level has two issuing authorities for a while. The one in use stands first
        in ``ca.pem`` (`certs.rotating`), and what it certifies are keys of its own kind.
        """
        if len(self.policy.leaf_keys) == 1:
            return present
        issuing = next((one for one in authorities if not chain.is_self_signed(one)), None)
        algorithm = present if issuing is None else chain.key_algorithm_name(issuing)
        self.policy.require_leaf_key(algorithm)
        return algorithm

    def _waiting_key(self, folder: Path, secret: "_Secret", name: str, algorithm: str) -> SigningKey:
        path = store_of(folder) / name
        if path.exists():
            waiting = _Secret.load(path, self.passphrases).key
            if waiting.algorithm == algorithm and waiting.verifying_key != secret.key.verifying_key:
                return waiting
        key = SigningKey.generate(algorithm)
        keystore.write_secret(path, secret.stored(key), overwrite=True)
        return key

    def _signing(
        self, hub: Hub, folder: Path, party: SpiffeId, authorities: Sequence[x509.Certificate], algorithm: str
    ) -> _Signing:
        """Let the next key take over where it is time, and say which signing keys are to be certified."""
        now, held = self.clock(), held_keys(folder)
        roster = open_roster(
            hub.get(ROSTER_PATH, max_bytes=MAX_ROSTER_BYTES),
            keystore.root_keys(authorities),
            federation=party.federation,
        )
        member = roster.parties.get(str(party))
        took_over = member is not None and _is_over(held, member, now)
        if took_over:
            _take_over(folder)
            held = held_keys(folder)
        present = load_signing_identity(folder, now=now, passphrases=self.passphrases)
        secret = _Secret.load(folder / f"{ORDINARY}.key", self.passphrases)
        certified = self.keep_keys or present.key.algorithm == algorithm
        named = member is not None and present.key.verifying_key in member.signing_keys(now.timestamp())
        following = None
        if len(held) > 1 and (self.keep_keys or held[-1].key.algorithm == algorithm):
            following = _Secret.load(folder / f"{NEXT}.key", self.passphrases).key
        elif not self.keep_keys and (named or not certified):
            following = self._waiting_key(folder, secret, _WAITING_SIGNING_KEY, algorithm)
        holder = Holder(present.certificate, present.key, present.key if certified else None, following)
        return _Signing(holder, secret, took_over)

    def _require_good(
        self, grant: Grant, party: SpiffeId, tls: Holder, signing: Holder | None, identity: TlsIdentity
    ) -> None:
        anchors = chain.load_certificates(grant.ca_pem)
        require_vouched_for(anchors, identity.anchors)
        usage = find_profile(party.role.value).tls_usage
        asked: tuple[tuple[x509.Certificate | None, SigningKey | None, Usage], ...] = (
            (grant.tls, tls.new_key, usage),
            (grant.signing, None if signing is None else signing.new_key, Usage.SIGNING),
            (grant.next_signing, None if signing is None else signing.next_key, Usage.SIGNING),
        )
        for certificate, key, use in asked:
            if (certificate is None) is not (key is None):
                raise MessageError(f"{self.address}: answers with another set of certificates", reason="malformed")
            if certificate is not None and key is not None:
                require_granted(certificate, anchors, party, key, usage=use, policy=self.policy, now=self.clock())


def _is_over(held: Sequence[HeldKey], member: Party, now: datetime) -> bool:
    """Whether the roster names the next key of a folder, and the ordinary one not at all or not for long."""
    in_use = key_in_use(held, member, now.timestamp())
    return in_use is not None and in_use.name == NEXT and in_use.key == member.signing_key


def _take_over(folder: Path) -> None:
    """Make the next signing key the ordinary one, in one step."""
    replace_together(folder, {
        f"{ORDINARY}.pem": keystore.read_public(folder / f"{NEXT}.pem"),
        f"{ORDINARY}.key": keystore.read_secret(folder / f"{NEXT}.key"),
        f"{NEXT}.pem": None,
        f"{NEXT}.key": None,
    })  # fmt: skip


def _signing_files(grant: Grant, signs: _Signing) -> dict[str, bytes | None]:
    new: dict[str, bytes | None] = {}
    if grant.signing is not None:
        new[f"{ORDINARY}.pem"] = _pem(grant.signing)
    if grant.next_signing is not None and signs.holder.next_key is not None:
        new[f"{NEXT}.pem"] = _pem(grant.next_signing)
        new[f"{NEXT}.key"] = signs.secret.stored(signs.holder.next_key)
    return new


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
        raise CertificateError(f"{describe(certificate)} is not what {party} asked for", reason="wrong_answer")


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
