"""Where a sidecar's revocation lists come from: a file, and where a source is named, what keeps that file current.

Lists are fetched by the process that answers to the operator: the only one, or the supervisor of several. It verifies
what came, keeps it in the file, and then lets the configuration be read again, as HUP does.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from gateway.config import CrlConfig, ListenerConfig, ServiceConfig
from gateway.journal import Journal
from gateway.options import Values
from pqfl_transport.audit import EventKind
from pqfl_transport.crl_source import asking, require_first
from pqfl_transport.errors import ConfigurationError, TransportError
from pqfl_transport.net.crl_fetch import WAIT_SECONDS, CrlPoller, Report, require_url
from pqfl_transport.pki.crl_files import CrlFile, load_crls
from pqfl_transport.pki.revocation import Revocations, Stale
from pqfl_transport.pki.trust import Trust
from pqfl_transport.policy import Policy
from pqfl_transport.tls.config import ClassicalSide, TlsConfig, TlsIdentity
from pqfl_transport.tls.peers import read_certificate


def crl_config(values: Values) -> CrlConfig | None:
    """Return what is said of revocation lists. Raises ``ConfigurationError`` naming the flag."""
    if "crl" not in values:
        for name in ("crl-url", "crl-poll", "crl-stale", "crl-state"):
            if name in values:
                raise ConfigurationError(
                    f"--{name} needs --crl, the file of revocation lists (with --crl-url the last good ones are kept"
                    " there)",
                    reason="missing",
                )
        return None
    for url in values.get("crl-url", ()):
        require_url(url, "--crl-url")
    optional: dict[str, Any] = {"poll_seconds": values["crl-poll"]} if "crl-poll" in values else {}
    return CrlConfig(
        values["crl"], values.get("crl-url", ()), Stale(values.get("crl-stale", Stale.REFUSE)),
        values.get("crl-state"), **optional,
    )  # fmt: skip


def read_revocations(
    crl: CrlConfig,
    identity: TlsIdentity,
    classical: ClassicalSide | None,
    policy: Policy,
    numbers: Mapping[str, int],
) -> Revocations:
    """Read the file. Raises ``ConfigurationError`` that begins with the flag."""
    anchors = (*identity.anchors, *(classical.anchors if classical else ()))
    try:
        return load_crls(
            crl.path, anchors, policy=policy, now=datetime.now(UTC), at_least=numbers, stale=crl.stale,
            seen_path=crl.state,
        )  # fmt: skip
    except ConfigurationError as error:
        flag = "--crl-state" if error.reason == "not_writable" else "--crl"
        raise ConfigurationError(f"{flag}: {error}", reason=error.reason) from error


def is_to_be_fetched(crl: CrlConfig) -> bool:
    """Whether no list was kept yet, and there are sources to get one from."""
    return bool(crl.urls) and not crl.path.exists()


def fetch_first(crl: CrlConfig, identity: TlsIdentity, classical: ClassicalSide | None, policy: Policy) -> None:
    """Fetch lists where none were kept yet: nobody is let in before it is known who was revoked.

    Raises ``TransportError`` (``crl_unavailable`` and others) where no source gives a good one.
    """
    if not is_to_be_fetched(crl):
        return
    poller = _poller(crl, lambda: (identity, classical, policy), lambda: None, _tell_nobody)
    asyncio.run(poller.poll())
    try:
        require_first(poller, crl.path)
    except TransportError as error:
        raise TransportError(f"--crl-url: {error}", reason=error.reason) from error


def _tell_nobody(_event: str, _facts: dict[str, object]) -> None:
    """Whoever asked is told by an error."""


def with_lists_of_now(config: ServiceConfig) -> ServiceConfig:
    """Return the configuration with what the files of revocation lists say now, and nothing else changed."""
    return replace(config, listeners=tuple(_with_lists_of_now(one) for one in config.listeners))


def crl_facts(config: ServiceConfig) -> list[dict[str, Any]]:
    """Return which lists are in force, for status and metrics."""
    return [
        {
            "listener": one.name,
            "issuer": found.issuer.subject.rfc4514_string(),
            "number": found.number,
            "next_update": int(found.next_update.timestamp()),
            "revoked": len(found.revoked),
        }
        for one in config.listeners
        if one.tls.revocations is not None
        for found in one.tls.revocations.lists
    ]


@dataclass(slots=True)
class Polling:
    """Fetches for all listeners of a service. ``config`` gives the configuration of the moment."""

    config: Callable[[], ServiceConfig]
    journal: Journal
    changed: Callable[[], object]
    """Called after something new was fetched."""
    counts: Counter[str] = field(default_factory=Counter)

    def start(self) -> list[asyncio.Task[None]]:
        """Begin; the tasks go on until they are cancelled. Listeners that share a file share its fetching."""
        loop = asyncio.get_running_loop()
        sources = {
            (one.crl.path, one.crl.urls): one for one in self.config().listeners if one.crl is not None and one.crl.urls
        }
        return [loop.create_task(self._poller(one).run(self.changed)) for one in sources.values()]

    def snapshot(self) -> dict[str, Any]:
        """Return the counts as ``/_status`` gives them."""
        return {"crl_fetches": dict(self.counts)}

    def _poller(self, listener: ListenerConfig) -> CrlPoller:
        assert listener.crl is not None  # noqa: S101 -- only such listeners are asked for

        def now() -> TlsConfig:
            return next(one.tls for one in self.config().listeners if one.name == listener.name)

        def inputs() -> tuple[TlsIdentity, ClassicalSide | None, Policy]:
            tls = now()
            return tls.identity, tls.classical, tls.policy

        return _poller(listener.crl, inputs, lambda: now().revocations, self._report)

    def _report(self, event: str, facts: dict[str, object]) -> None:
        is_news = facts.pop("is_news", event == "crl_fetched")
        self.counts["failed" if event == "crl_fetch_failed" else "ok"] += 1
        if event == "crl_fetch_failed" and is_news:
            self.journal.record(EventKind.RELOAD, event, result="failed", **facts)
        elif is_news:
            self.journal.say(event, **facts)


def _with_lists_of_now(config: ListenerConfig) -> ListenerConfig:
    tls = config.tls
    if config.crl is None:
        return config
    numbers = {} if tls.revocations is None else tls.revocations.numbers
    found = read_revocations(config.crl, tls.identity, tls.classical, tls.policy, numbers)
    return config if found == tls.revocations else replace(config, tls=replace(tls, revocations=found))


Inputs = Callable[[], tuple[TlsIdentity, ClassicalSide | None, Policy]]


def _poller(crl: CrlConfig, inputs: Inputs, current: Callable[[], Revocations | None], report: Report) -> CrlPoller:
    def trust() -> tuple[bytes, Policy, str | None]:
        identity, _, policy = inputs()
        own = read_certificate(identity.leaf).id
        return identity.anchors_pem, policy, None if own is None else own.federation

    def store(data: bytes) -> bool:
        identity, classical, policy = inputs()
        anchors = (*identity.anchors, *(classical.anchors if classical else ()))
        return CrlFile(crl.path, Trust.of(anchors), crl.stale, crl.state).store(data, policy)

    return CrlPoller(crl.urls, asking(trust), store, current, report, crl.poll_seconds, WAIT_SECONDS)
