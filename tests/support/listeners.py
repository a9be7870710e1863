"""Configurations of listeners for tests, from a federation's files."""

from pathlib import Path
from typing import Any

from gateway.config import ListenerConfig, ServiceConfig, Source
from pqfl_transport.net.address import Address
from pqfl_transport.policy import for_level
from pqfl_transport.tls.config import AllowedPeers, Role, TlsConfig, TlsIdentity
from tests.support.pki import Federation

LOCAL, REMOTE = Address("127.0.0.1", 1), Address("10.0.0.1", 1)
ANYWHERE = Address("127.0.0.1", 0)


def identity(folder: Path) -> TlsIdentity:
    """What an identity folder holds."""
    return TlsIdentity.load(folder / "tls.pem", folder / "tls.key", folder / "ca.pem")


def tls(federation: Federation, role: Role = Role.SERVER, **options: Any) -> TlsConfig:
    """A gateway that lets everybody in, or a site that expects the gateway."""
    folder = federation.gateway if role is Role.SERVER else federation.site(federation.sites[0])
    everybody = AllowedPeers(any_of_federation=True) if role is Role.SERVER else AllowedPeers((federation.gateway_uri,))
    facts: dict[str, Any] = {
        "role": role, "identity": identity(folder), "policy": for_level("high"), "allowed": everybody,
    }  # fmt: skip
    return TlsConfig(**(facts | options))


def listener(federation: Federation, role: Role = Role.SERVER, **options: Any) -> ListenerConfig:
    """One listener; anything can be changed."""
    facts: dict[str, Any] = {"listen": ANYWHERE, "targets": (LOCAL,)}
    if "tls" not in options:
        facts["tls"] = tls(federation, role)
    return ListenerConfig(**(facts | options))


def source(*listeners: ListenerConfig, **options: Any) -> Source:
    """A service that is the same however often it is read."""
    config = ServiceConfig(listeners, **options)
    return Source(config, lambda: config)
