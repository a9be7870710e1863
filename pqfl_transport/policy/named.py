"""The policies that are shipped: one for each security level, and those that operators name during a migration."""

from dataclasses import replace
from types import MappingProxyType

from pqfl_transport.algorithms import Kind, find
from pqfl_transport.errors import ConfigurationError
from pqfl_transport.policy.sets import Classical, Policy, SecurityLevel

DEFAULT_LEVEL = SecurityLevel.HIGH

_GCM_256 = "TLS_AES_256_GCM_SHA384"
_CHACHA = "TLS_CHACHA20_POLY1305_SHA256"

_HIGH = Policy(
    name="high-2026",
    level=SecurityLevel.HIGH,
    groups=("X25519MLKEM768", "SecP256r1MLKEM768"),
    leaf_keys=("ML-DSA-65",),
    ca_signatures=("ML-DSA-65", "ML-DSA-87"),
    tls_suites=(_GCM_256, _CHACHA),
    content_suites=("pqfl/v1/mlkem768x25519-mldsa65", "pqfl/v1/mlkem768x25519-chacha-mldsa65"),
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
        content_suites=("pqfl/v1/mlkem768x25519-mldsa44", "pqfl/v1/mlkem768x25519-chacha-mldsa44"),
    ),
    _HIGH,
    Policy(
        name="maximum-2026",
        level=SecurityLevel.MAXIMUM,
        groups=("SecP384r1MLKEM1024",),
        leaf_keys=("ML-DSA-87",),
        ca_signatures=("ML-DSA-87",),
        tls_suites=(_GCM_256, _CHACHA),
        content_suites=("pqfl/v1/mlkem1024p384-mldsa87", "pqfl/v1/mlkem1024p384-chacha-mldsa87"),
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
