"""Whom one end of TLS connections accepts, among the peers whose certificate is good: rules that an operator writes.

Rules name what a certificate says. None of them replaces its verification, and one that matches is enough. Every rule
is parsed when it is written down, so that one which can match nothing is an error at the start and not a peer locked
out at night; on a connection there is nothing left but comparisons.
"""

import base64
import binascii
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Protocol

from pqfl_transport.errors import CertificateError, ConfigurationError, PeerError
from pqfl_transport.pki.spiffe import Role, SpiffeId, require_label

_PIN = "sha256/"
_PIN_BYTES = 32
_SCHEME = "spiffe://"
_MAX_PATH_SEGMENTS = 2
_MAX_DNS_CHARACTERS = 253
_DNS = re.compile(r"(?:\*\.)?[a-z0-9_](?:[a-z0-9_-]{0,62})(?:\.[a-z0-9_](?:[a-z0-9_-]{0,62}))*", re.ASCII)

Matcher = Callable[[str], bool]


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
    """Common names; ``*`` stands for any run of characters. Letter case counts."""
    ous: tuple[str, ...] = ()
    """Organisational units; ``*`` stands for any run of characters. Letter case counts."""
    spki_pins: tuple[str, ...] = ()
    """``sha256/`` and the base64 of SHA-256 over the SubjectPublicKeyInfo (RFC 7469 §2.4)."""
    any_of_federation: bool = False
    """Everybody whom an authority of this end certified for the other role: with a SPIFFE ID, those of this end's own
    federation; without one, as only classical peers may be, whomever the classical trust store vouches for.
    """
    _uris: tuple["_UriPattern", ...] = field(init=False, repr=False, compare=False)
    _dns: tuple[Matcher, ...] = field(init=False, repr=False, compare=False)
    _networks: tuple[IPv4Network | IPv6Network, ...] = field(init=False, repr=False, compare=False)
    _cns: tuple[Matcher, ...] = field(init=False, repr=False, compare=False)
    _ous: tuple[Matcher, ...] = field(init=False, repr=False, compare=False)
    _pins: frozenset[bytes] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_uris", tuple(_UriPattern.parse(text) for text in self.uris))
        object.__setattr__(self, "_dns", tuple(_dns_matcher(text) for text in self.dns))
        object.__setattr__(self, "_networks", tuple(_network(text) for text in self.ips))
        object.__setattr__(self, "_cns", tuple(_text_matcher("common name", text) for text in self.cns))
        object.__setattr__(self, "_ous", tuple(_text_matcher("organisational unit", text) for text in self.ous))
        object.__setattr__(self, "_pins", frozenset(_pin(text) for text in self.spki_pins))

    def __bool__(self) -> bool:
        rules = (self.uris, self.dns, self.ips, self.cns, self.ous, self.spki_pins)
        return self.any_of_federation or any(rules)

    def check(self, peer: Named, *, federation: str | None) -> None:
        """Raise ``PeerError`` (``not_allowed``) unless a rule matches; ``federation`` is this end's own."""
        if self.any_of_federation and (peer.id is None or peer.id.federation == federation):
            return
        if not self._matches(peer):
            raise PeerError(f"{peer.name} is not on the list of allowed peers", reason="not_allowed")

    def _matches(self, peer: Named) -> bool:
        party, cn = peer.id, peer.cn
        return (
            (party is not None and any(pattern.matches(party) for pattern in self._uris))
            or any(matches(name) for matches in self._dns for name in peer.dns)
            or (bool(self._networks) and any(self._is_within(address) for address in peer.ip))
            or (cn is not None and any(matches(cn) for matches in self._cns))
            or any(matches(unit) for matches in self._ous for unit in peer.ous)
            or peer.spki_sha256 in self._pins
        )

    def _is_within(self, address: str) -> bool:
        parsed = ip_address(address)
        return any(parsed in network for network in self._networks)


@dataclass(frozen=True, slots=True)
class _UriPattern:
    """The federation, and what role and name have to be; None where any will do."""

    federation: str
    role: str | None
    name: str | None

    @classmethod
    def parse(cls, text: str) -> "_UriPattern":
        federation, *path = text.removeprefix(_SCHEME).split("/")
        if path and path[-1] == "**" and len(path) <= _MAX_PATH_SEGMENTS:
            # The rest is at least one segment and an ID has two, so there is one way to fill it.
            path = [*path[:-1], *["*"] * (_MAX_PATH_SEGMENTS + 1 - len(path))]
        try:
            if not text.startswith(_SCHEME) or len(path) != _MAX_PATH_SEGMENTS:
                raise _bad_uri_pattern(text)
            require_label("federation", federation)
            role, name = (None if segment == "*" else segment for segment in path)
            if role is not None and role not in set(Role):
                raise _bad_uri_pattern(text)
            if name is not None:
                require_label("name", name)
        except CertificateError as error:
            raise _bad_uri_pattern(text) from error
        return cls(federation, role, name)

    def matches(self, party: SpiffeId) -> bool:
        return (
            self.federation == party.federation
            and self.role in {None, party.role.value}
            and self.name in {None, party.name}
        )


def _bad_uri_pattern(text: str) -> ConfigurationError:
    return ConfigurationError(
        f"allowed peer {text!r}: expected spiffe://FEDERATION/({'|'.join(Role)})/NAME, where `*` may stand for the role"
        " or the name as a whole, and a final `**` for what is left of the path; the federation is always named",
        reason="bad_name",
    )


def _dns_matcher(text: str) -> Matcher:
    pattern = text.removesuffix(".").lower()
    if not _DNS.fullmatch(pattern) or len(pattern) > _MAX_DNS_CHARACTERS:
        raise ConfigurationError(
            f"allowed DNS name {text!r}: expected a host name in ASCII, perhaps with `*.` at its beginning",
            reason="bad_name",
        )

    def matches(name: str) -> bool:
        name = name.removesuffix(".")
        # A letter outside ASCII can have one inside as its lower case, as the Kelvin sign has.
        if not name.isascii():
            return False
        name = name.lower()
        if not pattern.startswith("*."):
            return name == pattern
        label, _, rest = name.partition(".")
        return bool(label) and rest == pattern[2:]

    return matches


def _text_matcher(what: str, text: str) -> Matcher:
    if not text:
        raise ConfigurationError(f"allowed {what} '': an empty one matches nobody", reason="bad_name")
    if "*" not in text:
        return lambda value: value == text
    first, *between, last = text.split("*")

    def matches(value: str) -> bool:
        if not value or len(value) < len(first) + len(last):
            return False
        if not value.startswith(first) or not value.endswith(last):
            return False
        # The leftmost place for every part leaves the most to the others, so nothing is ever tried twice.
        at, end = len(first), len(value) - len(last)
        for part in between:
            found = value.find(part, at, end)
            if found < 0:
                return False
            at = found + len(part)
        return True

    return matches


def _network(text: str) -> IPv4Network | IPv6Network:
    try:
        return ip_network(text)
    except ValueError as error:
        raise ConfigurationError(f"allowed IP address {text!r}: {error}", reason="bad_name") from None


def _pin(text: str) -> bytes:
    try:
        digest = base64.b64decode(text.removeprefix(_PIN).encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError):
        digest = b""
    if not text.startswith(_PIN) or len(digest) != _PIN_BYTES:
        raise ConfigurationError(
            f"pin {text!r}: expected sha256/ and the base64 of 32 bytes (RFC 7469 §2.4)", reason="bad_pin"
        )
    return digest
