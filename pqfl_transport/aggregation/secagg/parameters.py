"""The facts of one round of secure aggregation that every party has to agree on before the first message.

They come from the roster, which the offline root signs, and from the round that a site is about to take part in. Their
digest stands in every Advertise, so two parties with different facts stop before anything secret is made.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from pqfl_transport.algorithms import PYCA, ContentSuite, Kind, find
from pqfl_transport.crypto.contexts import Label, length_prefixed
from pqfl_transport.crypto.pyca import VerifyingKey
from pqfl_transport.errors import ConfigurationError
from pqfl_transport.pki.roster import Roster, SecureAggregation
from pqfl_transport.pki.spiffe import Role
from pqfl_transport.policy import Policy

LEAST_SITES = 3
"""With two, each would learn the other's update by subtracting its own."""
MAX_SITES = 32
"""The most sites of a full graph, where everybody is everybody's neighbour."""
MODEL_DIGEST_BYTES = 32
NUMBER_BYTES = 8
_MAX_NUMBER = (1 << 63) - 1

Neighbours = Callable[[int, int], frozenset[int]]
"""(index of a site, number of sites) → the indices of those it shares masks with; has to be symmetric."""


def full_graph(index: int, count: int) -> frozenset[int]:
    """Return everybody but the site itself: indices are 1 to ``count``."""
    return frozenset(range(1, count + 1)) - {index}


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundParameters:
    """What a round is, for every party the same. Made by `round_parameters`."""

    federation: str
    round: int
    model_digest: bytes
    """Of the base model, 32 bytes: updates are differences to it."""
    roster_number: int
    suite: ContentSuite
    sites: Mapping[str, VerifyingKey]
    """Every site of the roster with its signing key, by SPIFFE ID and in roster order, which is that of the IDs."""
    aggregator: str
    """SPIFFE ID of the server."""
    aggregator_key: VerifyingKey
    secure: SecureAggregation
    honest_but_curious: bool = False
    """Whether the server is trusted to follow the protocol: half of the sites then suffice as a threshold."""

    @property
    def digest_bytes(self) -> int:
        """The length of transcripts and commitments: 32, at *maximum* and *cnsa2* 48."""
        return hashlib.new(self._hash_name).digest_size

    @property
    def transcript(self) -> bytes:
        """``T0``, the digest of all these facts."""
        secure = self.secure
        return self.digest(
            Label.SECAGG_ROUND,
            self.federation.encode("ascii"),
            number(self.round),
            self.model_digest,
            number(self.roster_number),
            self.suite.id.encode("ascii"),
            self.aggregator.encode("ascii"),
            number(secure.minimum_sites),
            number(secure.threshold),
            secure.clip.hex().encode("ascii"),
            number(secure.bits),
            bytes([self.honest_but_curious]),
        )

    @property
    def least_sites(self) -> int:
        """A round with fewer sites than this does not go on."""
        return max(LEAST_SITES, self.secure.minimum_sites)

    def digest(self, label: Label, *items: bytes) -> bytes:
        """Return the hash of ``LP(label, items…)``: SHA-256, at *maximum* and *cnsa2* SHA-384."""
        return hashlib.new(self._hash_name, length_prefixed(label.value, *items)).digest()

    def threshold_for(self, count: int) -> int:
        """Return ``t`` of so many sites: more than two thirds, and never less than the roster says.

        Two sets of t sites then have an honest one in common even where a third of the sites help a malicious server.
        Raises ``ConfigurationError`` (``too_few_sites``, ``threshold``) where there are fewer sites than the round
        needs, or than the roster's threshold.
        """
        if count < self.least_sites:
            raise ConfigurationError(
                f"{count} sites in round {self.round}; secure aggregation needs {self.least_sites}",
                reason="too_few_sites",
            )
        least = count // 2 + 1 if self.honest_but_curious else 2 * count // 3 + 1
        threshold = max(least, self.secure.threshold)
        if threshold > count:
            raise ConfigurationError(
                f"a threshold of {threshold} and {count} sites in round {self.round}", reason="threshold"
            )
        return threshold

    @property
    def _hash_name(self) -> str:
        return self.suite.trailer_hash.replace("-", "").lower()


def round_parameters(
    roster: Roster, policy: Policy, *, suite: str, round_number: int, model_digest: bytes, aggregator: str
) -> RoundParameters:
    """Return the parameters of a round of this roster.

    Raises ``PolicyError`` (``content_suite``) for a suite that the policy does not list, ``MessageError``
    (``unknown_sender``) for an aggregator that the roster does not list, and ``ConfigurationError``: ``wrong_key``
    where a party signs with another algorithm than the suite's, ``bad_suite`` for one whose keys have no seed,
    ``too_few_sites``, ``too_many_sites``, ``bad_round``.
    """
    row = policy.require_content_suite(suite)
    kem = find(row.kem, Kind.KEM)
    if kem.seed_bytes is None or PYCA not in kem.providers:
        raise ConfigurationError(
            f"secure aggregation derives its mask keys from a seed, and {kem.name} has none", reason="bad_suite"
        )
    if len(model_digest) != MODEL_DIGEST_BYTES or not 0 <= round_number <= _MAX_NUMBER:
        raise ConfigurationError("a round's number or its model's digest is none", reason="bad_round")
    sites = {uri: party.signing_key for uri, party in sorted(roster.parties.items()) if party.id.role is Role.SITE}
    key = roster.party(aggregator).signing_key
    _require_one_signature(row, {**sites, aggregator: key})
    parameters = RoundParameters(
        federation=roster.federation, round=round_number, model_digest=model_digest, roster_number=roster.number,
        suite=row, sites=MappingProxyType(sites), aggregator=aggregator, aggregator_key=key,
        secure=roster.secure_aggregation,
    )  # fmt: skip
    parameters.threshold_for(len(sites))
    if len(sites) > MAX_SITES:
        raise ConfigurationError(
            f"roster {roster.number} lists {len(sites)} sites; secure aggregation is for {MAX_SITES} at most, because"
            " every site shares keys with every other",
            reason="too_many_sites",
        )
    return parameters


def number(value: int) -> bytes:
    """Return a count in 8 bytes, big-endian."""
    return value.to_bytes(NUMBER_BYTES, "big")


def _require_one_signature(suite: ContentSuite, keys: Mapping[str, VerifyingKey]) -> None:
    for uri, key in keys.items():
        if key.algorithm != suite.signature:
            raise ConfigurationError(
                f"{uri} signs with {key.algorithm}, and {suite.id} is signed with {suite.signature}",
                reason="wrong_key",
            )
