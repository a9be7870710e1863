"""What one sidecar is told, parsed once and checked: addresses, who is allowed, how long to wait."""

from dataclasses import dataclass
from pathlib import Path

from pqfl_transport.errors import ConfigurationError
from pqfl_transport.net.address import Address
from pqfl_transport.tls.config import Role, TlsConfig

HANDSHAKE_TIMEOUT_SECONDS = 10.0


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
