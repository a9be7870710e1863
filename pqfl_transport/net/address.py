"""Addresses as operators write them, one grammar for every flag and every configuration file."""

import ipaddress
from dataclasses import dataclass
from typing import Self

from pqfl_transport.errors import ConfigurationError

_UNIX = "unix:"
_MAX_PORT = 65535
_MAX_HOST_CHARACTERS = 255


@dataclass(frozen=True, slots=True)
class Address:
    """``HOST:PORT``, ``[IPV6]:PORT`` or ``unix:PATH``; either ``path`` is set, or ``host`` and ``port`` are.

    Port 0 lets the kernel choose one when listening.
    """

    host: str = ""
    port: int = 0
    path: str | None = None

    @classmethod
    def parse(cls, text: str, where: str) -> Self:
        """Parse an address. Raises ``ConfigurationError`` that begins with ``where``, the flag or key it stands at."""
        if text.startswith(_UNIX):
            path = text.removeprefix(_UNIX)
            if not path or "\0" in path:
                raise _bad_address(text, where)
            return cls(path=path)
        host, colon, port = text.rpartition(":")
        bracketed = host.startswith("[") and host.endswith("]")
        host = host[1:-1] if bracketed else host
        # Brackets are what tells an IPv6 address from a port: both or neither.
        if not colon or not _is_host(host) or (":" in host) is not bracketed:
            raise _bad_address(text, where)
        if not (port.isascii() and port.isdigit() and int(port) <= _MAX_PORT):
            raise _bad_address(text, where)
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
            return f"{_UNIX}{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def _is_host(host: str) -> bool:
    """Tell whether this can be an address or a name; whether the name exists is the resolver's to say."""
    if ":" in host:
        try:
            return ipaddress.ip_address(host.partition("%")[0]).version == 6  # noqa: PLR2004 -- the version of IP
        except ValueError:
            return False
    letters = host.replace("-", "").replace(".", "").replace("_", "")
    return 0 < len(host) <= _MAX_HOST_CHARACTERS and letters.isascii() and letters.isalnum()


def _bad_address(text: str, where: str) -> ConfigurationError:
    return ConfigurationError(f"{where} {text!r}: expected HOST:PORT, [IPV6]:PORT or unix:PATH", reason="bad_address")
