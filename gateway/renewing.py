"""A sidecar renews its own certificate: at two thirds of its life, over the present one, and nobody has to know.

Certificates are renewed by the process that answers to the operator: the only one, or the supervisor of several. After
that the configuration is read again, as HUP does, and connections that are open go on. A classical twin that the
federation issued is renewed as well, at two thirds of its own life and over the post-quantum certificate.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gateway.config import ListenerConfig, RenewalConfig, ServiceConfig
from gateway.journal import Journal
from gateway.options import Values
from pqfl_transport.audit import EventKind
from pqfl_transport.errors import ConfigurationError, PqflError
from pqfl_transport.net.address import Address
from pqfl_transport.pki import keystore
from pqfl_transport.pki.passphrases import chosen
from pqfl_transport.pki.renewing import Schedule
from pqfl_transport.pki.spiffe import SpiffeId
from pqfl_transport.pki.swapping import clear_up
from pqfl_transport.renewal import RenewalFiles, Renewer
from pqfl_transport.tls.peers import read_certificate
from pqfl_transport.twin_renewal import TwinFiles, TwinRenewer

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

_LONGEST_SLEEP_SECONDS = 60.0
"""A clock may be set, and somebody else may renew: the plan is made again at least this often."""


def renewal_config(values: Values, own: SpiffeId | None) -> RenewalConfig | None:
    """Return what is said of renewing; ``own`` is the party of ``--cert``.

    Raises ``ConfigurationError`` that begins with the flag.
    """
    if "renew" not in values:
        return None
    address = Address.parse_target(values["renew"], "--renew")
    if "keystore" in values:
        raise ConfigurationError("--renew needs --cert and --key: a keystore is not renewed", reason="bad_config")
    certs, keys, twin = values["cert"], values["key"], None
    try:
        files = RenewalFiles.within(certs[0], keys[0], values["cacert"])
        if len(certs) > 1 and own is not None:
            twin = TwinFiles(certs[1], keys[1], values["classical-cacert"])
            # Where another authority issued it, it does not matter here how its files lie.
            _ = twin.present(own) is not None and twin.files
    except ConfigurationError as error:
        raise ConfigurationError(f"--renew: {error}", reason=error.reason) from error
    return RenewalConfig(address, files, values["cacert"], twin)


@dataclass(frozen=True, slots=True)
class _Plan:
    """One certificate that renews itself."""

    listener: str
    is_twin: bool = False

    def certificate(self, listener: ListenerConfig) -> "Certificate | None":
        """Return the certificate that is there now; ``None`` for a second one that somebody else issued.

        Raises ``PqflError`` where its file is broken.
        """
        renewal = _renewal(listener)
        if not self.is_twin:
            return keystore.read_certificate_file(renewal.files.certificate)
        own = listener.tls.own.id
        return None if renewal.twin is None or own is None else renewal.twin.present(own)

    @property
    def facts(self) -> dict[str, object]:
        """What the log says of it beside the listener."""
        return {"twin": True} if self.is_twin else {}


def _system_clock() -> datetime:
    return datetime.now(UTC)


@dataclass(slots=True)
class Renewing:
    """Renews for all listeners of a service. ``config`` gives the configuration of the moment."""

    config: Callable[[], ServiceConfig]
    journal: Journal
    changed: Callable[[], object]
    """Called after a certificate was renewed."""
    clock: Callable[[], datetime] = _system_clock
    jitter: Callable[[], float] = lambda: random.uniform(-1, 1)  # noqa: S311 -- spreads load, hides nothing
    sleep: Callable[[float], Any] = asyncio.sleep
    counts: Counter[str] = field(default_factory=Counter)
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    def start(self) -> list[asyncio.Task[None]]:
        """Begin; the tasks go on until they are cancelled. Listeners that share a certificate share its renewal."""
        loop = asyncio.get_running_loop()
        plans: dict[Path, _Plan] = {}
        for one in self.config().listeners:
            if one.renewal is not None:
                plans[one.renewal.files.certificate] = _Plan(one.name)
                if one.renewal.twin is not None:
                    plans[one.renewal.twin.certificate] = _Plan(one.name, is_twin=True)
        return [loop.create_task(self._run(plan)) for plan in plans.values()]

    def snapshot(self) -> dict[str, Any]:
        """Return the counts as ``/_status`` gives them."""
        return {"renewals": dict(self.counts)}

    async def _run(self, plan: _Plan) -> None:
        schedule: Schedule | None = None
        # What was killed in the middle of a renewal may have left the former key.
        with suppress(PqflError):
            await asyncio.to_thread(clear_up, _renewal(self._listener(plan.listener)).files.folder)
        while True:
            listener = self._listener(plan.listener)
            schedule = await asyncio.to_thread(self._schedule, plan, listener, schedule)
            wait_seconds = _LONGEST_SLEEP_SECONDS
            if schedule is not None:
                wait_seconds = (schedule.due - self.clock()).total_seconds()
                if wait_seconds <= 0:
                    # A certificate and its twin may lie in one folder, and its files change one step at a time.
                    async with self._turn:
                        schedule = await self._attempt(plan, listener, schedule)
                    continue
            await self.sleep(min(wait_seconds, _LONGEST_SLEEP_SECONDS))

    def _listener(self, name: str) -> ListenerConfig:
        return next(one for one in self.config().listeners if one.name == name)

    def _schedule(self, plan: _Plan, listener: ListenerConfig, before: Schedule | None) -> Schedule | None:
        """Return when to renew the certificate that is there now; as before while its file is broken."""
        try:
            certificate = plan.certificate(listener)
        except PqflError:
            return before
        if certificate is None:
            return None
        if before is not None and before.certificate == certificate:
            return before
        return Schedule(certificate, self.jitter())

    async def _attempt(self, plan: _Plan, listener: ListenerConfig, schedule: Schedule) -> Schedule:
        try:
            renewed = await asyncio.to_thread(self._renew, plan, listener)
        except PqflError as error:
            schedule = schedule.failed(self.clock())
            self.counts["failed"] += 1
            self.journal.record(
                EventKind.CERTIFICATE, "renewal", listener=listener.name, result="failed", reason=error.reason,
                detail=str(error), not_after=_text(schedule.certificate.not_valid_after_utc), again=_text(schedule.due),
                **plan.facts,
            )  # fmt: skip
            return schedule
        self.counts["ok"] += 1
        found = read_certificate(renewed)
        self.journal.record(
            EventKind.CERTIFICATE, "renewal", listener=listener.name, result="ok", id=found.name,
            serial=f"{found.serial_number:x}", not_after=_text(found.not_after), **plan.facts,
        )  # fmt: skip
        self.changed()
        return Schedule.renewed(renewed, self.jitter(), self.clock())

    def _renew(self, plan: _Plan, listener: ListenerConfig) -> "Certificate":
        renewal, policy = _renewal(listener), listener.tls.policy
        passphrases = chosen(self.config().passphrase_file)
        if plan.is_twin and renewal.twin is not None:
            twins = TwinRenewer(renewal.address, policy, passphrases=passphrases, clock=self.clock)
            return twins.renew(renewal.files, renewal.anchors, renewal.twin)
        renewer = Renewer(renewal.address, policy, passphrases=passphrases, clock=self.clock)
        return renewer.renew_tls(renewal.files, renewal.anchors).tls


def _renewal(listener: ListenerConfig) -> RenewalConfig:
    assert listener.renewal is not None  # noqa: S101 -- only such listeners are asked for
    return listener.renewal


def _text(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"
