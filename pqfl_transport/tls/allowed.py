"""Whom one end of TLS connections accepts, among the peers whose certificate is good: rules that an operator writes.

Rules name what a certificate says. None of them replaces its verification, and one that matches is enough.
"""

import base64
import binascii
import re
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Protocol

from pqfl_transport.errors import CertificateError, ConfigurationError, PeerError
from pqfl_transport.pki.spiffe import SpiffeId, require_label

_PIN = "sha256/"
_PIN_BYTES = 32
_SCHEME = "spiffe://"


class Named(Protocol):
    """Whoever has the names of a certificate."""

    @property
    def id(self) -> SpiffeId | None:
        """The SPIFFE ID; only a classical peer may have none."""

    @property
    def name(self) -> str:
        """The name in logs and messages."""

    @property
    def dns(self) -> tuple[str, ...]:
        """The DNS names."""

    @property
    def ip(self) -> tuple[str, ...]:
        """The IP addresses, in their shortest text form."""

    @property
    def cn(self) -> str | None:
        """The common name of the subject."""

    @property
    def ous(self) -> tuple[str, ...]:
        """The organisational units of the subject."""

    @property
    def spki_sha256(self) -> bytes:
        """SHA-256 over the SubjectPublicKeyInfo, 32 bytes."""


@dataclass(frozen=True, slots=True)
class AllowedPeers:
    """Whom this end accepts. No rule accepts none; a client without any checks the host name it connects to instead.

    Raises ``ConfigurationError`` (``bad_name``, ``bad_pin``) naming a rule that can match nothing.
    """

    uris: tuple[str, ...] = ()
    """SPIFFE IDs. ``*`` stands for one whole segment of the path, ``**`` at the end for any rest of it."""
    dns: tuple[str, ...] = ()
    """DNS names; ``*.`` at the beginning stands for one label."""
    ips: tuple[str, ...] = ()
    """IP addresses, or networks as ``10.0.0.0/8``."""
    cns: tuple[str, ...] = ()
    """Common names; ``*`` stands for any run of characters."""
    ous: tuple[str, ...] = ()
    """Organisational units; ``*`` stands for any run of characters."""
    spki_pins: tuple[str, ...] = ()
    """``sha256/`` and the base64 of SHA-256 over the SubjectPublicKeyInfo (RFC 7469 §2.4)."""
    any_of_federation: bool = False
    """Everybody whom the authorities of this end's federation certified for the other role."""
    _networks: tuple[IPv4Network | IPv6Network, ...] = field(init=False, repr=False, compare=False)
    _pins: frozenset[bytes] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for uri in self.uris:
            _require_uri_pattern(uri)
        for name in self.dns:
            if "*" in name.removeprefix("*.") or not name.removeprefix("*."):
                raise ConfigurationError(
                    f"allowed DNS name {name!r}: `*.` may stand at its beginning", reason="bad_name"
                )
        object.__setattr__(self, "_networks", tuple(_network(text) for text in self.ips))
        object.__setattr__(self, "_pins", frozenset(_pin(text) for text in self.spki_pins))

    def __bool__(self) -> bool:
        rules = (self.uris, self.dns, self.ips, self.cns, self.ous, self.spki_pins)
        return self.any_of_federation or any(rules)

    def check(self, peer: Named, *, federation: str | None = None) -> None:
        """Raise ``PeerError`` (``not_allowed``) unless a rule matches; ``federation`` is this end's own, if known."""
        if self.any_of_federation and (peer.id is None or federation in {None, peer.id.federation}):
            return
        if not self._matches(peer):
            raise PeerError(f"{peer.name} is not on the list of allowed peers", reason="not_allowed")

    def _matches(self, peer: Named) -> bool:
        uri = "" if peer.id is None else str(peer.id)
        return (
            any(_uri_matches(pattern, uri) for pattern in self.uris)
            or any(dns_matches(pattern, name) for pattern in self.dns for name in peer.dns)
            or any(ip_address(address) in network for network in self._networks for address in peer.ip)
            or any(_text_matches(pattern, peer.cn or "") for pattern in self.cns)
            or any(_text_matches(pattern, unit) for pattern in self.ous for unit in peer.ous)
            or peer.spki_sha256 in self._pins
        )


def dns_matches(pattern: str, name: str) -> bool:
    """Whether a DNS name is the pattern, letter case aside; ``*.`` at its beginning stands for exactly one label."""
    pattern, name = pattern.rstrip(".").casefold(), name.rstrip(".").casefold()
    if not pattern.startswith("*."):
        return pattern == name
    label, dot, rest = name.partition(".")
    return bool(label and dot) and rest == pattern[2:]


def _require_uri_pattern(pattern: str) -> None:
    try:
        if "*" not in pattern:
            SpiffeId.parse(pattern)
            return
    except CertificateError as error:
        raise ConfigurationError(f"allowed peer: {error}", reason="bad_name") from error
    segments = pattern.removeprefix(_SCHEME).split("/")
    whole = all("*" not in segment or segment == "*" for segment in segments[1:-1])
    if not pattern.startswith(_SCHEME) or "*" in segments[0] or not whole or len(segments) < 2:  # noqa: PLR2004
        raise _bad_uri_pattern(pattern)
    if "*" in segments[-1] and segments[-1] not in {"*", "**"}:
        raise _bad_uri_pattern(pattern)
    try:
        require_label("federation", segments[0])
    except CertificateError as error:
        raise _bad_uri_pattern(pattern) from error


def _bad_uri_pattern(pattern: str) -> ConfigurationError:
    return ConfigurationError(
        f"allowed peer {pattern!r}: `*` stands for one whole segment of the path, `**` for the rest of it; the"
        " federation is always named",
        reason="bad_name",
    )


def _uri_matches(pattern: str, uri: str) -> bool:
    if "*" not in pattern:
        return pattern == uri
    wanted, found = pattern.split("/"), uri.split("/")
    if wanted[-1] == "**":
        wanted, found = wanted[:-1], found[: len(wanted) - 1] if len(found) >= len(wanted) else []
    return len(wanted) == len(found) and all(one in {"*", other} for one, other in zip(wanted, found, strict=True))


def _text_matches(pattern: str, text: str) -> bool:
    expression = ".*".join(re.escape(part) for part in pattern.split("*"))
    return bool(text) and re.fullmatch(expression, text, re.DOTALL) is not None


def _network(text: str) -> IPv4Network | IPv6Network:
    try:
        return ip_network(text)
    except ValueError as error:
        raise ConfigurationError(f"allowed IP address {text!r}: {error}", reason="bad_name") from None


def _pin(text: str) -> bytes:
    try:
        digest = base64.b64decode(text.removeprefix(_PIN), validate=True)
    except binascii.Error:
        digest = b""
    if not text.startswith(_PIN) or len(digest) != _PIN_BYTES:
        raise ConfigurationError(
            f"pin {text!r}: expected sha256/ and the base64 of 32 bytes (RFC 7469)", reason="bad_pin"
        )
    return digest
