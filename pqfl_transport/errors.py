"""The whole error tree: one class for each party that can be at fault.

Every error carries a ``reason``: a short, stable word for logs, metrics and problem documents. The message is a
sentence for a person and names the file, flag, field or peer; it never holds a secret.
"""

from typing import ClassVar


class PqflError(Exception):
    """Base of all errors raised on purpose by this software.

    ``exit_status`` is what the command line ends with: 1 failed, 2 wrong usage or configuration, 3 refused by policy.
    """

    exit_status: ClassVar[int] = 1

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class ConfigurationError(PqflError):
    """The operator or the calling program is at fault: a flag, a file, a key that does not fit."""

    exit_status = 2

    def __init__(self, message: str, *, reason: str = "configuration") -> None:
        super().__init__(message, reason=reason)


class PolicyError(PqflError):
    """Somebody asked for an algorithm or a level that the policy in force does not list."""

    exit_status = 3

    def __init__(self, message: str, *, reason: str = "policy") -> None:
        super().__init__(message, reason=reason)


class CertificateError(PqflError):
    """A certificate or its chain cannot be accepted: usage, name, validity, signature, issuer."""


class PeerError(PqflError):
    """The other end of a TLS connection misbehaved or is not who it has to be."""


class MessageError(PqflError):
    """An envelope or a signed document is malformed, forged, truncated or not for us."""


class RoundError(PqflError):
    """An authentic message that this round cannot take: stale, replayed, of the wrong shape, not finite."""


class TransportError(PqflError):
    """The network or the process behind it failed: target down, connection cut, deadline passed."""

    def __init__(self, message: str, *, reason: str = "transport") -> None:
        super().__init__(message, reason=reason)


class PlatformError(PqflError):
    """This machine cannot do it: an algorithm missing in libcrypto, a port in use, a full disk, a failed self-test."""

    def __init__(self, message: str, *, reason: str = "platform") -> None:
        super().__init__(message, reason=reason)
