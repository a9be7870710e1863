"""Which algorithms are allowed: a policy is five explicit sets of names, and nothing is ever "at least".

The four levels of the project are four policies. A name that is not in the set is refused, however strong it is: an
operator who wants ML-DSA-87 leaves beside ML-DSA-65 ones says so in a policy that lists both.

A policy for a migration has a classical half. The two halves are lists side by side for what a connection negotiates,
and never mix within one certificate chain: whoever verifies a post-quantum chain asks `Policy.post_quantum_half`.
"""

from dataclasses import dataclass, replace
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
class Classical:
    """What a migration still accepts beside the post-quantum sets, in order of preference."""

    groups: tuple[str, ...]
    leaf_keys: tuple[str, ...]
    ca_signatures: tuple[str, ...]


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
    classical: Classical | None = None
    """Set where classical peers are served too; content is never sealed or signed classically."""

    @property
    def all_groups(self) -> tuple[str, ...]:
        """Every TLS group that may be negotiated, the post-quantum ones first."""
        return self.groups if self.classical is None else (*self.groups, *self.classical.groups)

    @property
    def all_leaf_keys(self) -> tuple[str, ...]:
        """Every key a TLS certificate may hold, the post-quantum ones first."""
        return self.leaf_keys if self.classical is None else (*self.leaf_keys, *self.classical.leaf_keys)

    @property
    def all_ca_signatures(self) -> tuple[str, ...]:
        """Every signature a TLS certificate may bear, the post-quantum ones first."""
        return self.ca_signatures if self.classical is None else (*self.ca_signatures, *self.classical.ca_signatures)

    @property
    def all_signatures(self) -> tuple[str, ...]:
        """Every signature a TLS peer may make or show: the post-quantum ones first, and of those the leaves'."""
        more = () if self.classical is None else (*self.classical.leaf_keys, *self.classical.ca_signatures)
        return tuple(dict.fromkeys((*self.leaf_keys, *self.ca_signatures, *more)))

    @property
    def post_quantum_half(self) -> "Policy":
        """The same policy without what a migration accepts beside it."""
        return self if self.classical is None else replace(self, classical=None)

    def is_post_quantum(self, group: str, own_sigalg: str, peer_sigalg: str) -> bool:
        """Whether neither key exchange nor authentication of a connection was classical."""
        return group in self.groups and {own_sigalg, peer_sigalg} <= set(self.leaf_keys)

    def require_group(self, name: str | None) -> None:
        """Raise ``PolicyError`` unless the negotiated TLS group is listed."""
        self._require("no_pq_group", "key exchange", name, self.all_groups)

    def require_tls_suite(self, name: str | None) -> None:
        """Raise ``PolicyError`` unless the negotiated TLS cipher suite is listed."""
        self._require("cipher_suite", "cipher suite", name, self.tls_suites)

    def require_leaf_key(self, name: str | None) -> None:
        """Raise ``PolicyError`` unless a leaf's key is of a listed algorithm."""
        self._require("bad_sigalg", "certificate key", name, self.all_leaf_keys)

    def require_ca_signature(self, name: str | None) -> None:
        """Raise ``PolicyError`` unless a certificate was signed with a listed algorithm."""
        self._require("bad_sigalg", "certificate signature", name, self.all_ca_signatures)

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

_HIGH = Policy(
    name="high-2026",
    level=SecurityLevel.HIGH,
    groups=("X25519MLKEM768", "SecP256r1MLKEM768"),
    leaf_keys=("ML-DSA-65",),
    ca_signatures=("ML-DSA-65", "ML-DSA-87"),
    tls_suites=(_GCM_256, _CHACHA),
    content_suites=("pqfl/v1/mlkem768x25519-mldsa65",),
)
_CLASSICAL_2026 = Classical(
    groups=("x25519", "secp256r1", "secp384r1"),
    leaf_keys=("ECDSA-P256", "ECDSA-P384", "Ed25519", "RSA-PSS"),
    # Ordinary RSA certificates are signed in the older padding, which a handshake of TLS 1.3 itself never is.
    ca_signatures=("ECDSA-P256", "ECDSA-P384", "Ed25519", "RSA-PSS", "RSA-PKCS1-SHA256", "RSA-PKCS1-SHA384"),
)

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
    _HIGH,
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

# What operators name: the default level by the name of what it demands, and the same during a migration.
_NAMED = (
    replace(_HIGH, name="pq-require-2026"),
    replace(_HIGH, name="pq-prefer-2026", classical=_CLASSICAL_2026),
)

POLICIES = MappingProxyType({policy.name: policy for policy in (*_POLICIES, *_NAMED)})
_BY_LEVEL = MappingProxyType({policy.level: policy for policy in _POLICIES})


def for_level(level: SecurityLevel | str) -> Policy:
    """Return the policy of a security level. Raises ``ConfigurationError`` for a word that names none."""
    try:
        return _BY_LEVEL[SecurityLevel(level)]
    except ValueError:
        raise ConfigurationError(
            f"unknown security level {level!r}; levels are {', '.join(SecurityLevel)}", reason="unknown_level"
        ) from None


def for_name(name: str) -> Policy:
    """Return the policy of exactly this name. Raises ``ConfigurationError`` listing the names there are."""
    try:
        return POLICIES[name]
    except KeyError:
        raise ConfigurationError(
            f"unknown policy {name!r}; policies are {', '.join(sorted(POLICIES))}", reason="unknown_policy"
        ) from None


def choose(*, name: str | None = None, level: SecurityLevel | str | None = None, pq: str | None = None) -> Policy:
    """Return the policy that an operator's words mean: a name, or a level and ``require`` or ``prefer``.

    Raises ``ConfigurationError``: where a name comes with one of the others, which it decides already; where classical
    peers are to be served at a level that exists to exclude them.
    """
    if name is not None:
        if level is not None or pq is not None:
            raise ConfigurationError(
                f"--policy {name} decides level and mode already: leave --level and --pq away", reason="two_policies"
            )
        return for_name(name)
    policy = for_level(level or DEFAULT_LEVEL)
    if pq not in {None, "require", "prefer"}:
        raise ConfigurationError(f"--pq {pq!r}: expected require or prefer", reason="unknown_policy")
    if pq != "prefer":
        return policy
    if policy.level is not SecurityLevel.HIGH:
        raise ConfigurationError(
            f"--pq prefer serves classical peers during a migration, at level {SecurityLevel.HIGH} only; level"
            f" {policy.level} has no classical half to serve them with",
            reason="no_classical",
        )
    return POLICIES["pq-prefer-2026"]


def leaf_algorithm(policy: Policy) -> str:
    """Return the signature algorithm that new keys of a party get under this policy: the first one listed."""
    return find(policy.leaf_keys[0], Kind.SIGNATURE).name
