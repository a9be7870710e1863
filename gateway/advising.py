"""What an advisory leaves of a sidecar's configuration, at one moment; no file is read here.

An advisory that is authentic and newer always counts, also where it leaves a listener nothing to work with: its own
certificate may be of an algorithm that fell. That is a ``PolicyError`` with the reason ``withdrawn``, and whoever runs
the listener closes it: going on with the former policy would be going on with what was withdrawn.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from gateway.config import ListenerConfig, ServiceConfig
from pqfl_transport.errors import ConfigurationError, PolicyError
from pqfl_transport.policy import Advised, Policy, advise
from pqfl_transport.tls.config import ClassicalSide, TlsConfig

WITHDRAWN = "withdrawn"

Make = Callable[[Policy, ClassicalSide | None], TlsConfig]


def advised_tls(make: Make, advised: Advised, classical: ClassicalSide | None) -> TlsConfig:
    """Return one end of TLS under what an advisory leaves of its policy.

    A classical certificate that fell is not shown any more, and classical peers have to do without it. Raises what
    ``make`` raises for the policy as it was, ``PolicyError`` (``withdrawn``) where only the advisory is the obstacle.
    """
    try:
        return make(advised.policy, classical)
    except ConfigurationError as error:
        if not advised.changes:
            raise
        # Raises where something else is wrong: that is for the operator to mend, and no effect of the advisory.
        make(advised.base, classical)
        if classical is not None and classical.identity is not None:
            try:
                return make(advised.policy, replace(classical, identity=None))
            except ConfigurationError:
                pass
        raise PolicyError(
            f"advisory {advised.advisory.number} withdraws what this end itself uses: {error}. It needs keys and"
            f" certificates of other algorithms. {'; '.join(change.why for change in advised.changes)}",
            reason=WITHDRAWN,
        ) from error


def at_moment(config: ServiceConfig, now: float) -> ServiceConfig:
    """Return the configuration as its advisories leave it at ``now``, Unix seconds. Raises as `advised_tls` does."""
    return replace(config, listeners=tuple(_listener(one, now) for one in config.listeners))


def next_change(config: ServiceConfig, now: float) -> float | None:
    """Return when an advisory that is in force will say something else, in Unix seconds."""
    moments = [one.advised.advisory.next_change(now) for one in config.listeners if one.advised is not None]
    return min((moment for moment in moments if moment is not None), default=None)


def policy_events(before: ServiceConfig | None, after: ServiceConfig) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the listener's name and the facts of each policy that is another one now: old, new and why."""
    former = {} if before is None else {one.name: one for one in before.listeners}
    for listener in after.listeners:
        known, advised = former.get(listener.name), listener.advised
        if known is None and advised is None and not listener.preferences:
            continue
        if known is not None and _ruled_by(known) == _ruled_by(listener):
            continue
        old = advised.base if known is None and advised is not None else (known or listener).tls.policy
        yield listener.name, {"old": old.name, "new": listener.tls.policy.name} | _why(listener, known)


def _ruled_by(listener: ListenerConfig) -> tuple[object, ...]:
    return listener.tls.policy, listener.advised, listener.preferences


def advisory_facts(config: ServiceConfig) -> list[dict[str, Any]]:
    """Return what is in force, for status and metrics."""
    return [
        {
            "listener": one.name,
            "number": one.advised.advisory.number,
            "expires_at": one.advised.advisory.expires_at,
            "stale": one.advised.stale,
            "withdrawn": [entry.sentence() for entry in one.advised.advisory.withdrawals],
        }
        for one in config.listeners
        if one.advised is not None
    ]


def _listener(config: ListenerConfig, now: float) -> ListenerConfig:
    if config.advised is None:
        return config
    advised = advise(config.advised.base, config.advised.advisory, now)
    if advised == config.advised:
        return config
    tls = config.tls

    def make(policy: Policy, classical: ClassicalSide | None) -> TlsConfig:
        return replace(tls, policy=policy, classical=classical)

    return replace(config, tls=advised_tls(make, advised, tls.classical), advised=advised)


def _why(listener: ListenerConfig, known: ListenerConfig | None) -> dict[str, Any]:
    place = "; ".join(listener.preferences) or None
    if listener.advised is not None:
        return listener.advised.facts() | {"preferred": place}
    if known is not None and known.advised is not None:
        return {"why": "no advisory is configured any more", "preferred": place}
    return {"why": "the configuration says another policy" if place is None else place}
