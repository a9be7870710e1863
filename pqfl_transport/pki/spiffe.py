"""SPIFFE IDs: how a party of a federation is called, in certificates, in the roster and in every message.

The grammar is a narrow, byte-exact subset of the SPIFFE ID specification (§2): no percent-encoding, no upper case, no
port, no trailing slash. Two IDs are therefore the same party exactly when their bytes are the same.
"""

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from pqfl_transport.errors import CertificateError

_LABEL_PATTERN = "[a-z0-9][a-z0-9-]{0,62}"
_LABEL = re.compile(_LABEL_PATTERN, re.ASCII)


class Role(StrEnum):
    """What a party is in its federation: the first segment of the path."""

    SITE = "site"
    GATEWAY = "gateway"
    AGGREGATOR = "aggregator"
    OPERATOR = "operator"


_URI = re.compile(f"spiffe://({_LABEL_PATTERN})/({'|'.join(Role)})/({_LABEL_PATTERN})", re.ASCII)


@dataclass(frozen=True, slots=True, order=True)
class SpiffeId:
    """``spiffe://FEDERATION/ROLE/NAME``; federation and name are each ``[a-z0-9][a-z0-9-]{0,62}``.

    Making one raises ``CertificateError`` (``bad_name``) where a part is outside the grammar.
    """

    federation: str
    role: Role
    name: str

    def __post_init__(self) -> None:
        require_label("federation", self.federation)
        require_label("name", self.name)

    @classmethod
    def parse(cls, uri: str) -> Self:
        """Parse the one spelling this project accepts. Raises ``CertificateError`` (``bad_name``) for any other."""
        match = _URI.fullmatch(uri)
        if match is None:
            raise CertificateError(
                f"{uri[:256]!r} is not a SPIFFE ID of the form spiffe://FEDERATION/({'|'.join(Role)})/NAME",
                reason="bad_name",
            )
        federation, role, name = match.groups()
        return cls(federation, Role(role), name)

    def __str__(self) -> str:
        return f"spiffe://{self.federation}/{self.role.value}/{self.name}"


def require_label(what: str, label: str) -> None:
    """Raise ``CertificateError`` (``bad_name``) unless ``label`` can be a federation's or a party's name."""
    if not _LABEL.fullmatch(label):
        raise CertificateError(
            f"{what} {label[:80]!r} is not 1 to 63 of a-z, 0-9 and '-', beginning with a letter or a digit",
            reason="bad_name",
        )
