"""What the service manager wants to be told: sd_notify(3). Without one, nothing is said."""

import contextlib
import os
import re
import socket
import time
from collections.abc import Mapping
from typing import Self

from pqfl_transport.errors import ConfigurationError

_MICROSECONDS = 1_000_000
_SEND_TIMEOUT_SECONDS = 1.0
_NUMBER = re.compile(r"[0-9]{1,20}", re.ASCII)


class Notifier:
    """Tells the service manager how the service is.

    ``address`` is a path or, with an ``@`` in front, an abstract name; without one every call does nothing.
    """

    def __init__(self, address: str | None, watchdog_interval_seconds: float = 0.0) -> None:
        self._address = address
        self.watchdog_interval_seconds = watchdog_interval_seconds
        """How often `watchdog` has to be called, half of what the service manager waits; 0 for never."""

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> Self:
        """Read ``NOTIFY_SOCKET``, ``WATCHDOG_USEC`` and ``WATCHDOG_PID`` (sd_watchdog_enabled(3)).

        Raises ``ConfigurationError`` (``notify``) where one of them is none of what a service manager sets.
        """
        address = environ.get("NOTIFY_SOCKET")
        if not address:
            return cls(None)
        if address[0] not in "/@":
            raise ConfigurationError(f"NOTIFY_SOCKET {address!r}: expected /PATH or @NAME", reason="notify")
        text, pid = environ.get("WATCHDOG_USEC", "0"), environ.get("WATCHDOG_PID")
        if not _NUMBER.fullmatch(text):
            raise ConfigurationError(f"WATCHDOG_USEC {text!r}: expected microseconds", reason="notify")
        # Another process's watchdog is inherited in the environment of those it starts.
        meant = pid is None or pid == str(os.getpid())
        return cls(address, int(text) / _MICROSECONDS / 2 if meant else 0.0)

    def ready(self) -> None:
        """The service serves."""
        self._say("READY=1")

    def reloading(self) -> None:
        """The configuration is being read again; `ready` follows."""
        self._say(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """The service ends."""
        self._say("STOPPING=1")

    def status(self, text: str) -> None:
        """One line that ``systemctl status`` shows."""
        # A second line would be another message.
        self._say("STATUS=" + " ".join(text.split()))

    def watchdog(self) -> None:
        """The service is alive."""
        self._say("WATCHDOG=1")

    def _say(self, message: str) -> None:
        if self._address is None:
            return
        # An abstract socket's name begins with a zero byte, which the environment cannot carry.
        where = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        # A manager that does not listen, or not in time, is no reason to stop serving.
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.settimeout(_SEND_TIMEOUT_SECONDS)
            sender.connect(where)
            sender.send(message.encode())
