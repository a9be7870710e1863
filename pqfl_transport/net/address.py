"""Addresses as operators write them, one grammar for every flag and every configuration file."""

import ipaddress
import re
from dataclasses import dataclass
from typing import Self

from pqfl_transport.errors import ConfigurationError

_UNIX = "unix:"
_SYSTEMD = "systemd:"
_PORT = re.compile(r"[0-9]{1,5}", re.ASCII)
_MAX_PORT = 65535
_MAX_HOST_CHARACTERS = 255
# The unreserved characters of RFC 6874 §2, at most what the kernel lets an interface be called.
_ZONE = re.compile(r"[A-Za-z0-9._~-]{1,15}", re.ASCII)
# What systemd takes for a name of a descriptor: printable ASCII without the colon that separates names.
_ACTIVATION = re.compile(r"[ -9;-~]{1,255}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Address:
    """``HOST:PORT``, ``[IPV6]:PORT``, ``[IPV6%ZONE]:PORT``, ``unix:PATH`` or, to listen, ``systemd:NAME``.

    Either ``path`` is set, or ``activation``, or ``host`` and ``port`` are. Port 0 lets the kernel choose one when
    listening.
    """

    host: str = ""
    port: int = 0
    path: str | None = None
    activation: str | None = None
    """The name of a socket that the service manager opened (``FileDescriptorName=`` of the socket unit)."""

    @classmethod
    def parse(cls, text: str, where: str) -> Self:
        """Parse an address. Raises ``ConfigurationError`` that begins with ``where``, the flag or key it stands at."""
        if text.startswith(_UNIX):
            path = text.removeprefix(_UNIX)
            if not path or "\0" in path:
                raise _bad_address(text, where)
            return cls(path=path)
        if text.startswith(_SYSTEMD):
            name = text.removeprefix(_SYSTEMD)
            if not _ACTIVATION.fullmatch(name):
                raise _bad_address(text, where)
            return cls(activation=name)
        host, colon, port = text.rpartition(":")
        bracketed = host.startswith("[") and host.endswith("]")
        host = host[1:-1] if bracketed else host
        # Brackets are what tells an IPv6 address from a port: both or neither.
        if not colon or not _is_host(host) or (":" in host) is not bracketed:
            raise _bad_address(text, where)
        if not _PORT.fullmatch(port) or int(port) > _MAX_PORT:
            raise _bad_address(text, where)
        return cls(host=host, port=int(port))

    @classmethod
    def parse_target(cls, text: str, where: str) -> Self:
        """Parse an address to connect to: a port that exists, and nothing that only the service manager can open.

        Raises ``ConfigurationError`` that begins with ``where``.
        """
        address = cls.parse(text, where)
        if address.activation is not None or (address.path is None and not address.port):
            raise ConfigurationError(
                f"{where} {text!r}: expected something to connect to: HOST:PORT, [IPV6]:PORT or unix:PATH",
                reason="bad_address",
            )
        return address

    @property
    def is_local(self) -> bool:
        """Whether nobody outside this machine reaches it: a unix socket, a loopback address, ``localhost``.

        What the service manager opened may be anything, so it is not.
        """
        if self.path is not None or self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        if self.path is not None:
            return f"{_UNIX}{self.path}"
        if self.activation is not None:
            return f"{_SYSTEMD}{self.activation}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def _is_host(host: str) -> bool:
    """Tell whether this can be an address or a name; whether the name exists is the resolver's to say."""
    if ":" in host:
        literal, percent, zone = host.partition("%")
        try:
            ipaddress.IPv6Address(literal)
        except ValueError:
            return False
        return not percent or _ZONE.fullmatch(zone) is not None
    letters = host.replace("-", "").replace(".", "").replace("_", "")
    return 0 < len(host) <= _MAX_HOST_CHARACTERS and letters.isascii() and letters.isalnum()


def _bad_address(text: str, where: str) -> ConfigurationError:
    return ConfigurationError(
        f"{where} {text!r}: expected HOST:PORT, [IPV6]:PORT, unix:PATH or systemd:NAME", reason="bad_address"
    )
