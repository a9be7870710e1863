"""What one sidecar is told, parsed once and checked: addresses, who is allowed, how long to wait."""

import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pqfl_transport.errors import ConfigurationError
from pqfl_transport.tls.config import Role, TlsConfig

HANDSHAKE_TIMEOUT_SECONDS = 10.0
_MAX_PORT = 65535


@dataclass(frozen=True, slots=True)
class Address:
    """``HOST:PORT``, ``[IPV6]:PORT`` or ``unix:PATH``; either ``path`` is set, or ``host`` and ``port`` are."""

    host: str = ""
    port: int = 0
    path: str | None = None

    @classmethod
    def parse(cls, text: str, flag: str) -> Self:
        """Parse an address. Raises ``ConfigurationError`` naming the flag and what it takes."""
        if text.startswith("unix:"):
            if len(text) == len("unix:"):
                raise _bad_address(text, flag)
            return cls(path=text.removeprefix("unix:"))
        host, colon, port = text.rpartition(":")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host:
            raise _bad_address(text, flag)
        if not (colon and host and port.isascii() and port.isdigit() and int(port) <= _MAX_PORT):
            raise _bad_address(text, flag)
        return cls(host=host, port=int(port))

    @property
    def is_local(self) -> bool:
        """Whether nobody outside this machine reaches it: a unix socket, a loopback address, ``localhost``."""
        if self.path is not None or self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        if self.path is not None:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class SidecarConfig:
    """One sidecar, complete. The role decides which side speaks TLS: a server's ``listen``, a client's ``target``."""

    listen: Address
    target: Address
    tls: TlsConfig
    status: Address | None = None
    audit: Path | None = None
    connect_timeout_seconds: float = 10.0
    handshake_timeout_seconds: float = HANDSHAKE_TIMEOUT_SECONDS
    shutdown_timeout_seconds: float = 30.0
    unsafe_listen: bool = False
    unsafe_target: bool = False

    def __post_init__(self) -> None:
        # The plain side carries what TLS protects on the other one, so it must not leave the machine by accident.
        if self.role is Role.SERVER:
            _require_local(self.target, "--target", unsafe=self.unsafe_target)
        else:
            _require_local(self.listen, "--listen", unsafe=self.unsafe_listen)
        if self.status is not None:
            _require_local(self.status, "--status", unsafe=False)
        for flag, seconds in (
            ("--connect-timeout", self.connect_timeout_seconds),
            ("--shutdown-timeout", self.shutdown_timeout_seconds),
        ):
            if not seconds > 0:
                raise ConfigurationError(f"{flag} {seconds:g}: has to be more than 0 seconds")

    @property
    def role(self) -> Role:
        """Which end of the channel this sidecar is."""
        return self.tls.role


def _require_local(address: Address, flag: str, *, unsafe: bool) -> None:
    if not unsafe and not address.is_local:
        escape = "" if flag == "--status" else f"; --unsafe-{flag.removeprefix('--')} allows it all the same"
        raise ConfigurationError(
            f"{flag} {address}: this side is not encrypted and has to be a loopback address or a unix socket{escape}",
            reason="not_local",
        )


def _bad_address(text: str, flag: str) -> ConfigurationError:
    return ConfigurationError(f"{flag} {text!r}: expected HOST:PORT, [IPV6]:PORT or unix:PATH", reason="bad_address")
