"""A sidecar renews its own certificate: at two thirds of its life, over the present one, and nobody has to know.

Certificates are renewed by the process that answers to the operator: the only one, or the supervisor of several. After
that the configuration is read again, as HUP does, and connections that are open go on.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from gateway.config import ListenerConfig, RenewalConfig, ServiceConfig
from gateway.journal import Journal
from gateway.options import Values
from pqfl_transport.audit import EventKind
from pqfl_transport.errors import ConfigurationError, PqflError
from pqfl_transport.net.address import Address
from pqfl_transport.pki import keystore
from pqfl_transport.pki.passphrases import chosen
from pqfl_transport.pki.renewing import Schedule
from pqfl_transport.renewal import RenewalFiles, Renewed, Renewer
from pqfl_transport.tls.peers import read_certificate

_LONGEST_SLEEP_SECONDS = 60.0
"""A clock may be set, and somebody else may renew: the plan is made again at least this often."""


def renewal_config(values: Values) -> RenewalConfig | None:
    """Return what is said of renewing. Raises ``ConfigurationError`` that begins with the flag."""
    if "renew" not in values:
        return None
    address = Address.parse_target(values["renew"], "--renew")
    if "keystore" in values:
        raise ConfigurationError("--renew needs --cert and --key: a keystore is not renewed", reason="bad_config")
    try:
        files = RenewalFiles.within(values["cert"][0], values["key"][0], values["cacert"])
    except ConfigurationError as error:
        raise ConfigurationError(f"--renew: {error}", reason=error.reason) from error
    return RenewalConfig(address, files, values["cacert"])


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

    def start(self) -> list[asyncio.Task[None]]:
        """Begin; the tasks go on until they are cancelled. Listeners that share a certificate share its renewal."""
        loop = asyncio.get_running_loop()
        plans = {one.renewal.files.certificate: one.name for one in self.config().listeners if one.renewal is not None}
        return [loop.create_task(self._run(name)) for name in plans.values()]

    def snapshot(self) -> dict[str, Any]:
        """Return the counts as ``/_status`` gives them."""
        return {"renewals": dict(self.counts)}

    async def _run(self, name: str) -> None:
        schedule: Schedule | None = None
        while True:
            listener = self._listener(name)
            schedule = await asyncio.to_thread(self._schedule, listener, schedule)
            wait_seconds = _LONGEST_SLEEP_SECONDS
            if schedule is not None:
                wait_seconds = (schedule.due - self.clock()).total_seconds()
                if wait_seconds <= 0:
                    schedule = await self._attempt(listener, schedule)
                    continue
            await self.sleep(min(wait_seconds, _LONGEST_SLEEP_SECONDS))

    def _listener(self, name: str) -> ListenerConfig:
        return next(one for one in self.config().listeners if one.name == name)

    def _schedule(self, listener: ListenerConfig, before: Schedule | None) -> Schedule | None:
        """Return the plan for the certificate that is there now; none while its file is broken."""
        assert listener.renewal is not None  # noqa: S101 -- only such listeners are asked for
        try:
            certificate = keystore.read_certificate_file(listener.renewal.files.certificate)
        except PqflError:
            return before
        if before is not None and before.certificate == certificate:
            return before
        return Schedule(certificate, self.jitter())

    async def _attempt(self, listener: ListenerConfig, schedule: Schedule) -> Schedule:
        try:
            renewed = await asyncio.to_thread(self._renew, listener)
        except PqflError as error:
            schedule = schedule.failed(self.clock())
            self.counts["failed"] += 1
            self.journal.record(
                EventKind.CERTIFICATE, "renewal", listener=listener.name, result="failed", reason=error.reason,
                detail=str(error), not_after=_text(schedule.certificate.not_valid_after_utc), again=_text(schedule.due),
            )  # fmt: skip
            return schedule
        self.counts["ok"] += 1
        found = read_certificate(renewed.tls)
        self.journal.record(
            EventKind.CERTIFICATE, "renewal", listener=listener.name, result="ok", id=found.name,
            serial=f"{found.serial_number:x}", not_after=_text(found.not_after),
        )  # fmt: skip
        self.changed()
        return Schedule.renewed(renewed.tls, self.jitter(), self.clock())

    def _renew(self, listener: ListenerConfig) -> Renewed:
        renewal = listener.renewal
        assert renewal is not None  # noqa: S101 -- only such listeners are asked for
        passphrases = chosen(self.config().passphrase_file)
        renewer = Renewer(renewal.address, listener.tls.policy, passphrases=passphrases, clock=self.clock)
        return renewer.renew_tls(renewal.files, renewal.anchors)


def _text(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"
