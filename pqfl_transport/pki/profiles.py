"""Certificate profiles as rows of data: what each kind of party is given, and for how long.

`certs/profiles.toml` states them, and `parse_profiles` reads it: validity and host names are a federation's own choice,
the rest is what all its programs rely on.

Every leaf has exactly one use. A site dials and never listens, so its TLS certificate is for clients only; a gateway
listens and never dials, so its own is for servers only; an aggregator listens, and where it stands behind the gateway
on the same host it needs no TLS at all, so its certificate is for servers only as well; an operator dials. What a party
signs (updates, rounds, models) it signs under a second certificate of the same name that no TLS handshake accepts.
"""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address, ip_network
from types import MappingProxyType
from typing import NoReturn

from cryptography.x509.oid import ExtendedKeyUsageOID, ObjectIdentifier

from pqfl_transport.errors import ConfigurationError
from pqfl_transport.pki.spiffe import Role

DAY_SECONDS = 24 * 3600
LEAF_DAYS = 90
ISSUING_DAYS = 5 * 365
ROOT_DAYS = 10 * 365

BACKDATE_SECONDS = 5 * 60
"""Certificates begin this much before they are made, so that a site whose clock is a little slow accepts them.

One that is valid for less than twice as long begins half its validity before.
"""

MAX_PROFILES_BYTES = 64 * 1024
MAX_LEAF_DAYS = 825

MIN_LEAF_SECONDS = 60
"""The shortest validity that anybody is given."""


class Usage(StrEnum):
    """The one thing a leaf may be used for."""

    SERVER = "server"
    CLIENT = "client"
    SIGNING = "signing"

    @property
    def oid(self) -> ObjectIdentifier:
        """The only member of the certificate's extended key usage (RFC 5280 §4.2.1.12, RFC 9336 §3)."""
        return _USAGE_OIDS[self]


ID_KP_DOCUMENT_SIGNING = ObjectIdentifier("1.3.6.1.5.5.7.3.36")

_USAGE_OIDS = MappingProxyType(
    {
        Usage.SERVER: ExtendedKeyUsageOID.SERVER_AUTH,
        Usage.CLIENT: ExtendedKeyUsageOID.CLIENT_AUTH,
        Usage.SIGNING: ID_KP_DOCUMENT_SIGNING,
    }
)


# The last label has a letter first, so that no address passes for a domain.
_DOMAIN = re.compile(r"(?:[a-z0-9](?:[a-z0-9-]*[a-z0-9])?\.)*[a-z](?:[a-z0-9-]*[a-z0-9])?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Profile:
    """What one kind of party gets."""

    name: str
    role: Role
    tls_usage: Usage
    """The use of ``tls.pem``."""
    has_content_keys: bool
    """Whether it gets a signing certificate and a receiving key, and with them an entry in the roster."""
    leaf_days: int = LEAF_DAYS
    """How long its certificates are valid where nobody says otherwise."""
    hosts: tuple[str, ...] | None = None
    """The domains and networks that further names have to lie in; none at all where it is empty, any where ``None``."""

    def require_host(self, host: str | IPv4Address | IPv6Address) -> None:
        """Raise ``ConfigurationError`` (``bad_host``) for a host that this profile may not name."""
        if self.hosts is None or any(_lies_in(host, one) for one in self.hosts):
            return
        may = f"only hosts in {', '.join(self.hosts)}" if self.hosts else "no hosts"
        raise ConfigurationError(f"{host}: a {self.name} may name {may}", reason="bad_host")


PROFILES = MappingProxyType(
    {
        profile.name: profile
        for profile in (
            Profile("gateway", Role.GATEWAY, Usage.SERVER, has_content_keys=False),
            Profile("site", Role.SITE, Usage.CLIENT, has_content_keys=True, hosts=()),
            Profile("aggregator", Role.AGGREGATOR, Usage.SERVER, has_content_keys=True),
            Profile("operator", Role.OPERATOR, Usage.CLIENT, has_content_keys=False, leaf_days=30, hosts=()),
        )
    }
)


def find_profile(name: str, profiles: Mapping[str, Profile] = PROFILES) -> Profile:
    """Return the profile of this name among these. Raises ``ConfigurationError`` for a word that names none."""
    try:
        return profiles[name]
    except KeyError:
        raise ConfigurationError(
            f"unknown profile {name!r}; profiles are {', '.join(profiles)}", reason="unknown_profile"
        ) from None


def parse_profiles(data: bytes, where: str) -> Mapping[str, Profile]:
    """Parse the profiles of a federation, all of them, from TOML. ``where`` is the file in messages.

    Raises ``ConfigurationError`` (``bad_profiles``) naming the table and the key: for what is malformed, missing or
    unknown, and for a role, a usage or content keys other than every program relies on.
    """
    if len(data) > MAX_PROFILES_BYTES:
        _refuse(where, f"more than {MAX_PROFILES_BYTES} bytes")
    try:
        tables = tomllib.loads(data.decode())
    except (ValueError, RecursionError) as error:
        _refuse(where, f"not TOML: {error}")
    if tables.keys() != PROFILES.keys():
        _refuse(where, f"expected exactly the tables {', '.join(PROFILES)}")
    return MappingProxyType({name: _parse(name, tables[name], f"{where}: [{name}]") for name in PROFILES})


def _parse(name: str, table: object, where: str) -> Profile:
    row = PROFILES[name]
    fixed = {"role": row.role.value, "usage": row.tls_usage.value, "content_keys": row.has_content_keys}
    if not isinstance(table, dict) or table.keys() != {*fixed, "days", "hosts"}:
        _refuse(where, f"expected exactly the keys {', '.join(fixed)}, days, hosts")
    for key, value in fixed.items():
        # In Python 0 is False: the type has to fit as well.
        if type(table[key]) is not type(value) or table[key] != value:
            _refuse(where, f"{key} is {table[key]!r} and has to be {value!r}")
    days = table["days"]
    if not isinstance(days, int) or isinstance(days, bool) or not 1 <= days <= MAX_LEAF_DAYS:
        _refuse(where, f"days has to be 1 to {MAX_LEAF_DAYS}")
    try:
        return replace(row, leaf_days=days, hosts=parse_hosts(table["hosts"]))
    except ConfigurationError as error:
        _refuse(where, str(error))


def parse_hosts(value: object) -> tuple[str, ...] | None:
    """Return what ``"any"``, ``"none"`` or a list of domains and networks means: ``None`` for any, none at all empty.

    Raises ``ConfigurationError`` (``bad_hosts``).
    """
    if value in ("any", "none"):
        return None if value == "any" else ()
    if not isinstance(value, list) or not value or not all(isinstance(one, str) for one in value):
        raise ConfigurationError('hosts has to be "any", "none", or a list of domains and networks', reason="bad_hosts")
    for one in value:
        if not is_domain(one):
            try:
                ip_network(one)
            except ValueError:
                raise ConfigurationError(
                    f"hosts: {one[:80]!r} is neither a domain in lower case nor a network", reason="bad_hosts"
                ) from None
    return tuple(value)


def is_domain(text: str) -> bool:
    """Whether one of `parse_hosts` is a domain and no network."""
    return _DOMAIN.fullmatch(text) is not None


def _lies_in(host: str | IPv4Address | IPv6Address, allowed: str) -> bool:
    if is_domain(allowed):
        return isinstance(host, str) and f".{host.lower()}".endswith(f".{allowed}")
    return not isinstance(host, str) and host in ip_network(allowed)


def _refuse(where: str, why: str) -> NoReturn:
    raise ConfigurationError(f"{where}: {why}", reason="bad_profiles")
