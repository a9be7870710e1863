"""The channel: TLS 1.3 with hybrid key exchange and ML-DSA certificates, checked after every handshake."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pqfl_transport.tls.context import client_context, connect, server_context

__all__ = ["client_context", "connect", "server_context"]


def __getattr__(name: str) -> Any:
    # Loaded when asked for: `pqfl_transport.tls.environment` has to run before anything imports OpenSSL.
    if name in __all__:
        from pqfl_transport.tls import context  # noqa: PLC0415

        return getattr(context, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
