"""The enrolment service as a process: its own certificate, its listener, its log and audit log, until TERM.

It is the only listener of a federation that clients without a certificate may talk to. Its own certificate is that of
``spiffe://FEDERATION/gateway/enrolment``, in the folder ``enrolment`` of the authority; it makes and renews it itself.
"""

import asyncio
import gc
import os
import signal
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from certs.accepting import Acceptor
from certs.app import make_app
from certs.authority import Authority
from certs.certifying import CertificationRequest, Renewal
from certs.enrolling import Desk, Report
from certs.enrolments import Enrolments
from certs.entry import to_text
from certs.fresh_lists import keep_fresh
from certs.identity import to_key_file
from certs.revoking import LIST_DAYS
from pqfl_transport.audit import AuditLog, EventKind
from pqfl_transport.crypto.pyca import SigningKey
from pqfl_transport.crypto.selftest import run_self_test
from pqfl_transport.errors import PqflError
from pqfl_transport.hardening import forbid_core_dumps
from pqfl_transport.net.address import Address
from pqfl_transport.net.listening import bound_address, listen
from pqfl_transport.net.logs import EventLog
from pqfl_transport.pki import chain, keystore
from pqfl_transport.pki.renewing import renew_at
from pqfl_transport.pki.swapping import STORE, clear_up, replace_together, store_of
from pqfl_transport.pki.tokens import SERVICE_NAME, service_id
from pqfl_transport.policy import Policy, leaf_algorithm
from pqfl_transport.tls.config import AllowedPeers, Role, TlsConfig, TlsIdentity
from pqfl_transport.tls.context import PostQuantumContext

AUDIT_FILE = "enrolment.audit.jsonl"
DEFAULT_REQUESTS_PER_MINUTE = 60
_PROFILE = "gateway"
_WAITING_KEY = "waiting.key"
_LOOK_SECONDS = 60.0
_EVENTS = frozenset({"crl_signed", "joined", "renewed", "twin_renewed", "join_pending"})


@dataclass(frozen=True, slots=True)
class ServiceConfig:
    """What the operator says."""

    authority: Authority
    listen: Address
    by_hand: bool = False
    """Whether somebody has to approve every new party."""
    seconds: int | None = None
    """Validity of what is issued; the profile's where nobody says otherwise."""
    gateway: str = ""
    """HOST:PORT that new sites are told to connect to."""
    gateway_id: str = ""
    requests_per_minute: int = DEFAULT_REQUESTS_PER_MINUTE
    list_days: int = LIST_DAYS
    """How long revocation lists are current that this service signs."""
    policy: Policy | None = None
    """What peers may show, and this service itself; the level's unless given. New keys are of the level always."""


def serve(config: ServiceConfig, log: EventLog) -> None:
    """Serve until TERM or INT. Raises ``PqflError`` when it cannot start."""
    forbid_core_dumps()
    run_self_test()
    # What is there by now stays: the collections that `accepting` asks for need not look at it each time.
    gc.freeze()
    with AuditLog(config.authority.folder / AUDIT_FILE) as audit:
        asyncio.run(_serve(config, log, audit))


async def _serve(config: ServiceConfig, log: EventLog, audit: AuditLog) -> None:
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)

    def report(event: str, facts: Mapping[str, object]) -> None:
        audit.event(EventKind.CERTIFICATE if event in _EVENTS else EventKind.REFUSAL, event=event, **facts)
        log.event(event, **facts)

    authority = config.authority
    desk = Desk(
        authority, Enrolments(authority.folder), report, by_hand=config.by_hand, seconds=config.seconds,
        gateway=config.gateway, gateway_id=config.gateway_id, policy=config.policy,
    )  # fmt: skip
    own = OwnIdentity(authority, policy=config.policy)
    context = PostQuantumContext(own.load())
    runner = web.AppRunner(make_app(desk, requests_per_minute=config.requests_per_minute), access_log=None)
    listener = listen(config.listen, "--listen")
    await runner.setup()
    assert runner.server is not None  # noqa: S101 -- it was set up in the line before
    acceptor = Acceptor(listener, context, runner.server, lambda event, facts: log.event(event, **facts))
    look = asyncio.Event()
    loop.add_signal_handler(signal.SIGHUP, look.set)
    lists = _Lists(authority, config.list_days, report, log)
    await lists.keep()
    renewing = loop.create_task(_keep_fresh(own, context, lists, log, look))
    try:
        acceptor.start()
        address = str(bound_address(listener, config.listen))
        audit.event(EventKind.START, address=address)
        log.event("listening", address=address, id=str(own.id), federation=authority.federation, pid=os.getpid())
        await stop.wait()
    finally:
        renewing.cancel()
        with suppress(asyncio.CancelledError):
            await renewing
        await acceptor.close()
        await runner.cleanup()
    audit.event(EventKind.STOP)
    log.event("stop")


def _system_clock() -> datetime:
    return datetime.now(UTC)


async def _keep_fresh(
    own: "OwnIdentity", context: PostQuantumContext, lists: "_Lists", log: EventLog, look: asyncio.Event
) -> None:
    """Renew the service's own certificate and the lists in time, and take on what others did to the authority's files.

    Once a minute, and at once when ``look`` is set.
    """
    while True:
        with suppress(TimeoutError):
            await asyncio.wait_for(look.wait(), _LOOK_SECONDS)
        look.clear()
        try:
            config = await asyncio.to_thread(own.load)
            if config != context.config:
                context.take_on(config)
                log.event("reload", result="ok")
        except PqflError as error:
            log.event("reload", result="failed", detail=str(error))
        await lists.keep()


@dataclass(slots=True)
class _Lists:
    """Keeps the revocation lists current, and says so."""

    authority: Authority
    days: int
    report: Report
    log: EventLog
    failure: str = ""

    async def keep(self) -> None:
        """Sign the next ones where that is due. A failure is said once; the lists that are there are served on."""
        try:
            made = await asyncio.to_thread(keep_fresh, self.authority.current(), _system_clock(), days=self.days)
        except PqflError as error:
            if str(error) != self.failure:
                self.log.event("crl_failed", reason=error.reason, detail=str(error))
            self.failure = str(error)
            return
        self.failure = ""
        for one in made:
            facts = {"authority": one.authority, "number": one.number, "revoked": one.revoked}
            self.report("crl_signed", {**facts, "next_update": to_text(one.next_update)})


class OwnIdentity:
    """The service's certificate and key: made when it is first started, renewed at two thirds of their life.

    And as soon as another issuing authority is in use, which every party knows by then.
    """

    def __init__(
        self, authority: Authority, clock: Callable[[], datetime] = _system_clock, *, policy: Policy | None = None
    ) -> None:
        self._authority, self._clock, self._policy = authority, clock, policy
        self.id = service_id(authority.federation)
        self.folder: Path = authority.folder / SERVICE_NAME

    def load(self) -> TlsConfig:
        """Return the configuration of the listener. Raises what `Authority.issue` and `Authority.certify` raise."""
        now, self._authority = self._clock(), self._authority.current()
        if not self.folder.exists():
            self._authority.issue(profile=_PROFILE, name=SERVICE_NAME, out=self.folder, now=now)
        identity = self._identity()
        if self._is_due(identity.leaf, now) and now <= identity.leaf.not_valid_after_utc:
            self._renew(identity, now)
            identity = self._identity()
        else:
            self._clear_up(identity)
        allowed = AllowedPeers(uris=(f"spiffe://{self._authority.federation}/**",))
        return TlsConfig(
            Role.SERVER, identity, self._policy or self._authority.policy, allowed, admits_strangers=True,
            clock=self._clock,
        )  # fmt: skip

    def _is_due(self, leaf: x509.Certificate, now: datetime) -> bool:
        # One of an issuing authority that was replaced ends for every party when that authority is retired.
        issuing = keystore.load_certificate(self._authority.folder / "issuing.pem", now=now)
        return renew_at(leaf) <= now or not chain.is_signed_by(leaf, issuing)

    def _identity(self) -> TlsIdentity:
        # The authorities as they are now: after a rotation there are more of them than in the service's own folder.
        return TlsIdentity.load(self.folder / "tls.pem", self.folder / "tls.key", self._authority.ca_path)

    def _renew(self, identity: TlsIdentity, now: datetime) -> None:
        waiting = store_of(self.folder) / _WAITING_KEY
        key = self._waiting_key(waiting, identity)
        renews = Renewal(identity.leaf)
        made = self._authority.certify(
            CertificationRequest(self.id, _PROFILE, key.verifying_key), now=now, renews=renews
        )
        pem = made.tls_certificate.public_bytes(Encoding.PEM)
        replace_together(self.folder, {"tls.pem": pem, "tls.key": to_key_file(key, None)})
        waiting.unlink()

    def _clear_up(self, identity: TlsIdentity) -> None:
        """Do what a renewal that was killed after its one step had still to do."""
        clear_up(self.folder)
        waiting = self.folder / STORE / _WAITING_KEY
        if waiting.exists() and _is_key_of(waiting, identity):
            waiting.unlink()

    def _waiting_key(self, path: Path, identity: TlsIdentity) -> SigningKey:
        """Return the next key: the one of a renewal that was cut off, so that it gets the same certificate, or another.

        It is on the disk before anything is certified.
        """
        algorithm = leaf_algorithm(self._authority.policy)
        if path.exists() and not _is_key_of(path, identity):
            key = keystore.load_signing_key(path)
            if key.algorithm == algorithm:
                return key
        key = SigningKey.generate(algorithm)
        keystore.write_secret(path, to_key_file(key, None), overwrite=True)
        return key


def _is_key_of(path: Path, identity: TlsIdentity) -> bool:
    return keystore.load_signing_key(path).verifying_key == chain.verifying_key(identity.leaf)
