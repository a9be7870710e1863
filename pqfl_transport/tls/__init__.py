"""The channel: TLS 1.3 with hybrid key exchange and ML-DSA certificates, checked after every handshake."""

from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pqfl_transport.tls.context import client_context, server_context
    from pqfl_transport.tls.streams import connect

__all__ = ["client_context", "connect", "server_context"]

_MODULES = MappingProxyType({"client_context": "context", "server_context": "context", "connect": "streams"})


def __getattr__(name: str) -> Any:
    # Loaded when asked for: `pqfl_transport.tls.environment` has to run before anything imports OpenSSL.
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
