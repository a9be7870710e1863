"""Which algorithms are allowed: a policy is five explicit sets of names, and nothing is ever "at least".

The four levels of the project are four policies. A name that is not in the set is refused, however strong it is: an
operator who wants ML-DSA-87 leaves beside ML-DSA-65 ones says so in a policy that lists both.

A policy for a migration has a classical half. The two halves are lists side by side for what a connection negotiates,
and never mix within one certificate chain: whoever verifies a post-quantum chain asks `Policy.post_quantum_half`.
"""

from dataclasses import dataclass, replace
from enum import StrEnum

from pqfl_transport.algorithms import CONTENT_SUITES, ContentSuite
from pqfl_transport.errors import PolicyError


class SecurityLevel(StrEnum):
    """How long, and against whom, the data has to stay secret."""

    STANDARD = "standard"
    HIGH = "high"
    MAXIMUM = "maximum"
    CNSA2 = "cnsa2"


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

    def suite_for(self, signature: str, kem: str | None = None) -> ContentSuite:
        """Return the first suite that signs with a row, and seals to keys of a KEM where one is given.

        Raises ``PolicyError`` (``content_suite``) where none is listed.
        """
        for name in self.content_suites:
            suite = CONTENT_SUITES[name]
            if suite.signature == signature and kem in {None, suite.kem}:
                return suite
        keys = signature if kem is None else f"{signature} and to keys of {kem}"
        raise PolicyError(
            f"policy {self.name} lists no content suite with {keys}: it lists {', '.join(self.content_suites)}",
            reason="content_suite",
        )

    def _require(self, reason: str, what: str, name: str | None, allowed: tuple[str, ...]) -> None:
        if name not in allowed:
            raise PolicyError(
                f"{what} {name or 'none'} is not allowed by policy {self.name}: it lists {', '.join(allowed)}",
                reason=reason,
            )
