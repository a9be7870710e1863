"""What fetching revocation lists has in common for gateway, aggregator and sites: asking a source, the first list."""

from collections.abc import Callable
from pathlib import Path

from pqfl_transport.errors import TransportError
from pqfl_transport.net.crl_fetch import CrlPoller, Fetch, Fetched, fetch_crl
from pqfl_transport.policy import Policy
from pqfl_transport.tls.context import fetching_context

Trust = Callable[[], tuple[bytes, Policy, str | None]]
"""Gives the trusted authorities as PEM, the policy and the federation of the moment."""


def asking(trust: Trust) -> Fetch:
    """Return what asks a source: https is our own TLS, without a client certificate, to a server of the federation."""

    async def fetch(url: str, tag: str, wait_seconds: float) -> Fetched:
        context = fetching_context(*trust()) if url.startswith("https:") else None
        return await fetch_crl(url, context, tag=tag, wait_seconds=wait_seconds)

    return fetch


def require_first(poller: CrlPoller, path: Path) -> None:
    """Raise ``TransportError`` (``crl_unavailable``) where fetching failed and no earlier list is there."""
    if poller.failures and not path.exists():
        raise TransportError(
            f"there is no revocation list at {path} yet, and none could be fetched: {poller.failure}",
            reason="crl_unavailable",
        )
