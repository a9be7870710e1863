"""Certificate profiles as rows of data: what each kind of party is given, and for how long.

Every leaf has exactly one use. A site dials and never listens, so its TLS certificate is for clients only; a gateway
listens and never dials, so its own is for servers only; an aggregator listens, and where it stands behind the gateway
on the same host it needs no TLS at all, so its certificate is for servers only as well. What a party signs (updates,
rounds, models) it signs under a second certificate of the same name that no TLS handshake accepts.
"""

from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

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


PROFILES = MappingProxyType(
    {
        profile.name: profile
        for profile in (
            Profile("gateway", Role.GATEWAY, Usage.SERVER, has_content_keys=False),
            Profile("site", Role.SITE, Usage.CLIENT, has_content_keys=True),
            Profile("aggregator", Role.AGGREGATOR, Usage.SERVER, has_content_keys=True),
        )
    }
)


def find_profile(name: str) -> Profile:
    """Return the profile of this name. Raises ``ConfigurationError`` for a word that names none."""
    try:
        return PROFILES[name]
    except KeyError:
        raise ConfigurationError(
            f"unknown profile {name!r}; profiles are {', '.join(PROFILES)}", reason="unknown_profile"
        ) from None
