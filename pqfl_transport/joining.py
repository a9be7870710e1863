"""Joining a federation with a token: keys are made here, certified there, and the folder appears whole.

    token ──▶ root and service verified ──▶ request, kept with its keys ──▶ answer verified ──▶ folder

Until then everything waits in a folder beside the one that it becomes. Whoever runs the same command again, after a
crash or while somebody has still to approve, goes on with the same keys and the same request. The request is what makes
a folder one to go on with: it is written after all keys, and removed when there is nothing left to do.
"""

import glob
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from pqfl_transport.content.receiving_keys import KeyEntry, ReceivingKeys
from pqfl_transport.content.recipients import ReceivingKey
from pqfl_transport.crypto.pyca import SigningKey
from pqfl_transport.errors import ConfigurationError, MessageError, PqflError, TransportError
from pqfl_transport.hub import TIMEOUT_SECONDS, Hub
from pqfl_transport.net.address import Address
from pqfl_transport.pki import chain
from pqfl_transport.pki.enrolment import (
    CRL_PATH,
    JOIN_PATH,
    ROSTER_PATH,
    Grant,
    State,
    join_payload,
    join_request,
    open_join_answer,
)
from pqfl_transport.pki.files import read_public, read_secret, remove_torn, sync_folder, write_public, write_secret
from pqfl_transport.pki.keystore import root_keys
from pqfl_transport.pki.profiles import Usage, find_profile
from pqfl_transport.pki.revocation import MAX_CRL_BYTES, open_crls
from pqfl_transport.pki.rooted import require_vouched_for
from pqfl_transport.pki.roster import MAX_ROSTER_BYTES, Roster, open_roster
from pqfl_transport.pki.tokens import JoinToken
from pqfl_transport.policy import Policy, for_level, leaf_algorithm
from pqfl_transport.renewal import require_granted

SIDECAR_FILE = "sidecar.toml"
DEFAULT_LISTEN = "127.0.0.1:8080"
DEFAULT_GATEWAY_PORT = 8443
_REQUEST = "request.json"
_LISTS = "crl.pem"
_FINAL = frozenset({"token_used", "token_expired", "denied", "from_the_future"})
"""Refusals after which nothing can come of the same request any more."""


def _system_clock() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Joined:
    """What joining brought."""

    token: JoinToken
    folder: Path
    tls: x509.Certificate
    target: str
    """The gateway that the sidecar connects to."""
    gateway_id: str
    signing_fingerprint: bytes
    """Of the key that the roster will name; the receiving key is signed with it."""
    receiving_fingerprint: bytes
    roster: Roster | None
    """The present one, kept in the folder; joining does not depend on it."""
    no_roster_because: str
    """Why there is none."""


@dataclass(frozen=True, slots=True)
class Joiner:
    """One party that joins. Blocking."""

    token: JoinToken
    hub: Address
    out: Path
    listen: str = DEFAULT_LISTEN
    target: str = ""
    """HOST:PORT of the gateway, where the enrolment service does not say or says what is not right from here."""
    timeout_seconds: float = TIMEOUT_SECONDS
    clock: Callable[[], datetime] = field(default=_system_clock, compare=False)

    def join(self) -> Joined:
        """Join, or go on with joining.

        Raises ``ConfigurationError``: ``exists`` where the folder holds something, ``bad_token`` for a token of a party
        that does not join so; ``CertificateError`` (``wrong_root``) and ``PeerError`` where the other end is not the
        service of the token, before anything was sent; ``TransportError`` (``pending``) while somebody has to approve,
        and where the network fails; ``MessageError`` with the service's reason, ``denied``.
        """
        stage = self._stage
        if stage != self.out.absolute():
            _require_free(self.out)
        if find_profile(self.token.party.role.value).tls_usage is not Usage.CLIENT:
            raise ConfigurationError(f"{self.token.party} does not join with a token", reason="bad_token")
        if not (stage / _REQUEST).exists():
            self.token.require_current(self.clock().timestamp())
        policy = for_level(self.token.level)
        hub = Hub.pinned(
            self.hub, self.token.root_sha256, self.token.service, policy, timeout_seconds=self.timeout_seconds
        )
        grant, keys = self._ask(hub, policy, stage)
        if grant is None:
            raise TransportError(
                f"{self.hub}: {self.token.party} waits for approval, with the signing key"
                f" {keys.signing.verifying_key.fingerprint.hex()}; run the same command again later",
                reason="pending",
            )
        self._require_good(grant, keys, policy)
        return self._finish(grant, keys, stage, self._roster(hub, grant), self._lists(hub, grant, policy))

    def _ask(self, hub: Hub, policy: Policy, stage: Path) -> tuple[Grant | None, "_Keys"]:
        made: list[_Keys] = []

        def request(binding: bytes) -> bytes:
            # Called once the other end is known to be the right one: before, not even a key is made.
            made.append(_Keys.load_or_make(stage, self.token, policy, int(self.clock().timestamp())))
            return join_request(self.token, made[0].payload, binding)

        try:
            answer, binding = hub.post(JOIN_PATH, request)
            state, grant = open_join_answer(answer, self.token.keys, made[0].payload, binding)
            self._require_let_in(state)
        except MessageError as error:
            if error.reason in _FINAL and stage != self.out.absolute():
                # Secrets that are of no use should not lie about.
                shutil.rmtree(stage, ignore_errors=True)
            raise
        return grant, made[0]

    def _require_let_in(self, state: State) -> None:
        if state is State.DENIED:
            raise MessageError(f"{self.hub}: {self.token.party} was not let in", reason="denied")

    @property
    def _stage(self) -> Path:
        """The folder to work in: the one to be made where an attempt was cut off when it had it all but done."""
        out = self.out.absolute()
        if not out.is_symlink() and (out / _REQUEST).exists():
            return out
        # Another token is another attempt, with keys of its own.
        return out.with_name(f"{self._stages}{self.token.keys.token_id[:16]}")

    @property
    def _stages(self) -> str:
        return f".{self.out.absolute().name}.joining-"

    def _require_good(self, grant: Grant, keys: "_Keys", policy: Policy) -> None:
        anchors, now, party = chain.load_certificates(grant.ca_pem), self.clock(), self.token.party
        pinned = [one for one in anchors if one.fingerprint(SHA256()) == self.token.root_sha256]
        require_vouched_for(anchors, pinned)
        usage = find_profile(party.role.value).tls_usage
        require_granted(grant.tls, anchors, party, keys.tls, usage=usage, policy=policy, now=now)
        if grant.signing is None:
            raise MessageError(f"{self.hub}: answers without a signing certificate", reason="malformed")
        require_granted(grant.signing, anchors, party, keys.signing, usage=Usage.SIGNING, policy=policy, now=now)

    def _roster(self, hub: Hub, grant: Grant) -> "tuple[bytes, Roster] | PqflError":
        try:
            data = hub.get(ROSTER_PATH, max_bytes=MAX_ROSTER_BYTES)
            roots = root_keys(chain.load_certificates(grant.ca_pem))
            return data, open_roster(data, roots, federation=self.token.party.federation)
        except PqflError as error:
            return error

    def _lists(self, hub: Hub, grant: Grant, policy: Policy) -> bytes:
        """Return the revocation lists of now, none where the service has no good ones."""
        try:
            data = hub.get(CRL_PATH, max_bytes=MAX_CRL_BYTES)
            open_crls(data, chain.load_certificates(grant.ca_pem), policy=policy, now=self.clock())
        except PqflError:
            return b""
        return data

    def _finish(
        self, grant: Grant, keys: "_Keys", stage: Path, roster: "tuple[bytes, Roster] | PqflError", lists: bytes
    ) -> Joined:  # fmt: skip
        party = self.token.party
        said = str(Address.parse_target(grant.gateway, f"{self.hub}: the gateway's address")) if grant.gateway else ""
        target = self.target or said or str(Address(self.hub.host, DEFAULT_GATEWAY_PORT))
        gateway_id = grant.gateway_id or f"spiffe://{party.federation}/gateway/*"
        write_public(stage / "ca.pem", grant.ca_pem)
        write_public(stage / "tls.pem", grant.tls.public_bytes(Encoding.PEM))
        if grant.signing is not None:
            write_public(stage / "signing.pem", grant.signing.public_bytes(Encoding.PEM))
        write_public(stage / SIDECAR_FILE, self._sidecar(target, gateway_id, has_lists=bool(lists)).encode())
        if lists:
            write_public(stage / _LISTS, lists)
        if not isinstance(roster, PqflError):
            write_public(stage / "roster.json", roster[0])
        self._publish(stage)
        listed, why_not = (None, str(roster)) if isinstance(roster, PqflError) else (roster[1], "")
        return Joined(
            self.token, self.out, grant.tls, target, gateway_id, keys.signing.verifying_key.fingerprint,
            keys.receiving.fingerprint, listed, why_not,
        )  # fmt: skip

    def _publish(self, stage: Path) -> None:
        out = self.out.absolute()
        remove_torn(stage)
        sync_folder(stage)
        if stage != out:
            try:
                stage.rename(out)
            except OSError as error:
                raise ConfigurationError(f"{self.out}: cannot be made: {error.strerror}", reason="exists") from error
            sync_folder(out.parent)
        for other in out.parent.glob(f"{glob.escape(self._stages)}*"):
            # Attempts with other tokens: what they would become exists now, and their keys are secrets without a use.
            shutil.rmtree(other, ignore_errors=True)
        self._forget_request()

    def _forget_request(self) -> None:
        # Last: while it is there the same command goes on.
        out = self.out.absolute()
        (out / _REQUEST).unlink()
        sync_folder(out)

    def _sidecar(self, target: str, gateway_id: str, *, has_lists: bool) -> str:
        folder = self.out.absolute()
        # A JSON string is a TOML basic string.
        lines = {
            "listen": self.listen, "target": target, "level": self.token.level.value, "cert": str(folder / "tls.pem"),
            "key": str(folder / "tls.key"), "cacert": str(folder / "ca.pem"), "verify-uri": gateway_id,
            "renew": str(self.hub),
        }  # fmt: skip
        if has_lists:
            lines |= {"crl": str(folder / _LISTS), "crl-url": f"https://{self.hub}{CRL_PATH}"}
        text = "".join(f"{name} = {json.dumps(value, ensure_ascii=False)}\n" for name, value in lines.items())
        return f"# pqfl client --config {folder / SIDECAR_FILE}\n{text}"


@dataclass(frozen=True, slots=True)
class _Keys:
    """The private keys of an attempt to join, and the request that was made with them."""

    tls: SigningKey
    signing: SigningKey
    receiving: ReceivingKey
    payload: bytes

    @classmethod
    def load_or_make(cls, stage: Path, token: JoinToken, policy: Policy, now: int) -> "_Keys":
        """Return what an earlier attempt left, or new keys with a request; the request is written last."""
        if (stage / _REQUEST).exists():
            return cls.load(stage)
        # Keys that no request was made with, perhaps torn ones.
        shutil.rmtree(stage, ignore_errors=True)
        try:
            stage.mkdir(mode=0o700, parents=True)
        except OSError as error:
            raise ConfigurationError(f"{stage}: cannot be made: {error.strerror}", reason="not_writable") from error
        algorithm = leaf_algorithm(policy)
        tls, signing = SigningKey.generate(algorithm), SigningKey.generate(algorithm)
        receiving = ReceivingKey.generate(policy.content_suite.kem)
        payload = join_payload(token.party, tls, signing, receiving.public.to_bytes(), made=now)
        write_secret(stage / "tls.key", tls.to_pem(), overwrite=True)
        write_secret(stage / "signing.key", signing.to_pem(), overwrite=True)
        write_secret(stage / "receiving.key", KeyEntry.of(receiving, made=now).to_pem(), overwrite=True)
        write_public(stage / "receiving.pub", receiving.public.to_pem())
        write_public(stage / _REQUEST, payload)
        return cls(tls, signing, receiving, payload)

    @classmethod
    def load(cls, stage: Path) -> "_Keys":
        receiving = ReceivingKeys.from_pem(read_secret(stage / "receiving.key")).newest.opened
        tls, signing = (SigningKey.from_pem(read_secret(stage / f"{name}.key")) for name in ("tls", "signing"))
        return cls(tls, signing, receiving, read_public(stage / _REQUEST))


def _require_free(out: Path) -> None:
    if os.path.lexists(out) and (not out.is_dir() or out.is_symlink() or any(out.iterdir())):
        raise ConfigurationError(f"{out}: exists already and is not an empty folder", reason="exists")
