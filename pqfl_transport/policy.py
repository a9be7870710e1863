"""Which algorithms are allowed: a policy is five explicit sets of names, and nothing is ever "at least".

The four levels of the project are four policies. A name that is not in the set is refused, however strong it is: an
operator who wants ML-DSA-87 leaves beside ML-DSA-65 ones says so in a policy that lists both.
"""

from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from pqfl_transport.algorithms import CONTENT_SUITES, ContentSuite, Kind, find
from pqfl_transport.errors import ConfigurationError, PolicyError


class SecurityLevel(StrEnum):
    """How long, and against whom, the data has to stay secret."""

    STANDARD = "standard"
    HIGH = "high"
    MAXIMUM = "maximum"
    CNSA2 = "cnsa2"


DEFAULT_LEVEL = SecurityLevel.HIGH


@dataclass(frozen=True, slots=True)
class Policy:
    """Five sets of names, in order of preference. ``name`` carries the year: a policy never changes once named."""

    name: str
    level: SecurityLevel
    groups: tuple[str, ...]
    """TLS groups, by the name OpenSSL reads back after the handshake."""
    leaf_keys: tuple[str, ...]
    """Keys of TLS and signing certificates."""
    ca_signatures: tuple[str, ...]
    """Signatures on certificates, the trust anchor's own included."""
    tls_suites: tuple[str, ...]
    content_suites: tuple[str, ...]

    def require_group(self, name: str | None) -> None:
        """Raise ``PolicyError`` unless the negotiated TLS group is listed."""
        self._require("no_pq_group", "key exchange", name, self.groups)

    def require_tls_suite(self, name: str | None) -> None:
        """Raise ``PolicyError`` unless the negotiated TLS cipher suite is listed."""
        self._require("cipher_suite", "cipher suite", name, self.tls_suites)

    def require_leaf_key(self, name: str | None) -> None:
        """Raise ``PolicyError`` unless a leaf's key is of a listed algorithm."""
        self._require("bad_sigalg", "certificate key", name, self.leaf_keys)

    def require_ca_signature(self, name: str | None) -> None:
        """Raise ``PolicyError`` unless a certificate was signed with a listed algorithm."""
        self._require("bad_sigalg", "certificate signature", name, self.ca_signatures)

    def require_content_suite(self, suite_id: str) -> ContentSuite:
        """Return the suite's row. Raises ``PolicyError`` unless the envelope's suite is listed."""
        self._require("content_suite", "content suite", suite_id, self.content_suites)
        return CONTENT_SUITES[suite_id]

    @property
    def content_suite(self) -> ContentSuite:
        """The suite to seal with: the first one listed."""
        return CONTENT_SUITES[self.content_suites[0]]

    def _require(self, reason: str, what: str, name: str | None, allowed: tuple[str, ...]) -> None:
        if name not in allowed:
            raise PolicyError(
                f"{what} {name or 'none'} is not allowed by policy {self.name}: it lists {', '.join(allowed)}",
                reason=reason,
            )


_GCM_256 = "TLS_AES_256_GCM_SHA384"
_CHACHA = "TLS_CHACHA20_POLY1305_SHA256"

_POLICIES = (
    Policy(
        name="standard-2026",
        level=SecurityLevel.STANDARD,
        groups=("X25519MLKEM768",),
        leaf_keys=("ML-DSA-44",),
        # An issuer's level is at least its leaf's, and the root of every federation is ML-DSA-87.
        ca_signatures=("ML-DSA-44", "ML-DSA-65", "ML-DSA-87"),
        tls_suites=(_GCM_256, _CHACHA),
        content_suites=("pqfl/v1/mlkem768x25519-mldsa44",),
    ),
    Policy(
        name="high-2026",
        level=SecurityLevel.HIGH,
        groups=("X25519MLKEM768", "SecP256r1MLKEM768"),
        leaf_keys=("ML-DSA-65",),
        ca_signatures=("ML-DSA-65", "ML-DSA-87"),
        tls_suites=(_GCM_256, _CHACHA),
        content_suites=("pqfl/v1/mlkem768x25519-mldsa65",),
    ),
    Policy(
        name="maximum-2026",
        level=SecurityLevel.MAXIMUM,
        groups=("SecP384r1MLKEM1024",),
        leaf_keys=("ML-DSA-87",),
        ca_signatures=("ML-DSA-87",),
        tls_suites=(_GCM_256, _CHACHA),
        content_suites=("pqfl/v1/mlkem1024p384-mldsa87",),
    ),
    Policy(
        name="cnsa2-2026",
        level=SecurityLevel.CNSA2,
        groups=("MLKEM1024",),
        leaf_keys=("ML-DSA-87",),
        ca_signatures=("ML-DSA-87",),
        tls_suites=(_GCM_256,),
        content_suites=("pqfl/v1/mlkem1024-mldsa87",),
    ),
)

POLICIES = MappingProxyType({policy.name: policy for policy in _POLICIES})
_BY_LEVEL = MappingProxyType({policy.level: policy for policy in _POLICIES})


def for_level(level: SecurityLevel | str) -> Policy:
    """Return the policy of a security level. Raises ``ConfigurationError`` for a word that names none."""
    try:
        return _BY_LEVEL[SecurityLevel(level)]
    except ValueError:
        raise ConfigurationError(
            f"unknown security level {level!r}; levels are {', '.join(SecurityLevel)}", reason="unknown_level"
        ) from None


def leaf_algorithm(policy: Policy) -> str:
    """Return the signature algorithm that new keys of a party get under this policy: the first one listed."""
    return find(policy.leaf_keys[0], Kind.SIGNATURE).name
