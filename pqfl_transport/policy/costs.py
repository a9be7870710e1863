"""What a policy costs on a link and on a processor, for those who have little of either.

A place that is short of something prefers what is cheaper *among what its policy lists*. It never gets a name that is
not listed, and never another level: where nothing that is listed fits a budget, that is said and the policy stays.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from pqfl_transport.algorithms import CONTENT_SUITES, Kind, find
from pqfl_transport.errors import ConfigurationError
from pqfl_transport.policy.sets import Policy

_CHACHA = "ChaCha20-Poly1305"
# Names, dates and extensions of a certificate, and what else a handshake carries: as measured with this project's own.
_CERTIFICATE_BYTES = 700
_OTHER_BYTES = 500
# A peer's signature over the handshake, and two certificates above it.
_VERIFICATIONS = 3
_BITS = 8
_KILO = 1000


@dataclass(frozen=True, slots=True)
class Costs:
    """What algorithms cost on one machine, measured there (`crypto.measuring`): seconds by the name of their row."""

    exchange: Mapping[str, float]
    """TLS groups: a key pair, encapsulation and decapsulation together."""
    sign: Mapping[str, float]
    verify: Mapping[str, float]
    mebibyte: Mapping[str, float]
    """TLS cipher suites: encrypting 1 MiB."""

    def handshake_seconds(self, group: str, leaf_key: str) -> float:
        """Return what one end computes for a mutual handshake, rather too much than too little."""
        return self.exchange[group] + self.sign[leaf_key] + _VERIFICATIONS * self.verify[leaf_key]


@dataclass(frozen=True, slots=True)
class Constraints:
    """What a place allows or demands beside the data itself."""

    aes_hardware: bool = True
    """False where AES has no instructions of its own: ChaCha20-Poly1305 is then preferred where the policy lists it."""
    cnsa2: bool = False
    """Whether a regulation asks for CNSA 2.0: then nothing else is asked."""
    link_kilobits_per_second: float | None = None
    """How fast the link is, where it is slow."""
    handshake_seconds: float = 1.0
    """How long the bytes of a handshake may take on that link."""
    cpu_milliseconds: float | None = None
    """How long one end may compute for a handshake; needs ``measured``."""
    measured: Costs | None = field(default=None, repr=False)
    """What algorithms cost on this machine."""

    def __post_init__(self) -> None:
        budgets = {
            "link_kilobits_per_second": self.link_kilobits_per_second,
            "handshake_seconds": self.handshake_seconds,
            "cpu_milliseconds": self.cpu_milliseconds,
        }
        for name, value in budgets.items():
            if value is not None and not 0 < value < float("inf"):
                raise ConfigurationError(f"{name} is {value}; it has to be above 0", reason="bad_constraint")
        if self.cpu_milliseconds is not None and self.measured is None:
            raise ConfigurationError("a processor budget needs what was measured here", reason="bad_constraint")


NO_CONSTRAINTS = Constraints()


def handshake_bytes(policy: Policy, group: str) -> int:
    """Return about how many bytes a mutual handshake takes, both directions together."""
    exchange = find(group, Kind.TLS_GROUP)
    leaf = find(policy.leaf_keys[0], Kind.SIGNATURE)
    issuer = find(policy.ca_signatures[0], Kind.SIGNATURE)
    certificate = (leaf.public_key_bytes or 0) + (issuer.signature_bytes or 0) + _CERTIFICATE_BYTES
    shares = (exchange.public_key_bytes or 0) + (exchange.ciphertext_bytes or 0)
    return shares + 2 * (certificate + (leaf.signature_bytes or 0)) + _OTHER_BYTES


def prefer(policy: Policy, constraints: Constraints) -> tuple[Policy, tuple[str, ...]]:
    """Return the policy in the order that suits a place, and a remark on each of its constraints.

    The sets stay the same but for their order.
    """
    remarks: list[str] = []
    if constraints.measured is not None:
        policy = _fastest_first(policy, constraints.measured)
    if not constraints.aes_hardware:
        policy, remark = _without_aes_hardware(policy)
        remarks.append(remark)
    if constraints.link_kilobits_per_second is not None:
        policy, remark = _over_a_link(policy, constraints.link_kilobits_per_second, constraints.handshake_seconds)
        remarks.append(remark)
    if constraints.cpu_milliseconds is not None and constraints.measured is not None:
        remarks.append(_on_a_processor(policy, constraints.measured, constraints.cpu_milliseconds))
    return policy, tuple(remarks)


def _fastest_first(policy: Policy, costs: Costs) -> Policy:
    leaf = policy.leaf_keys[0]
    return replace(
        policy,
        groups=tuple(sorted(policy.groups, key=lambda group: costs.handshake_seconds(group, leaf))),
        tls_suites=tuple(sorted(policy.tls_suites, key=lambda suite: costs.mebibyte[suite])),
    )


def _without_aes_hardware(policy: Policy) -> tuple[Policy, str]:
    """Prefer ChaCha20 in TLS and in the key wrap; the body's cipher is part of the format and stays."""
    stream = [name for name in policy.tls_suites if find(name, Kind.TLS_SUITE).family == "stream"]
    wraps = [name for name in policy.content_suites if CONTENT_SUITES[name].aead == _CHACHA]
    if not stream and not wraps:
        return policy, f"no AES hardware, but {policy.name} lists AES alone, so AES it is"
    preferred = replace(
        policy,
        tls_suites=tuple(dict.fromkeys((*stream, *policy.tls_suites))),
        content_suites=tuple(dict.fromkeys((*wraps, *policy.content_suites))),
    )
    where = " and ".join(word for word, some in (("in TLS", stream), ("in the key wrap", wraps)) if some)
    return preferred, f"no AES hardware, so ChaCha20-Poly1305 is preferred {where}"


def _over_a_link(policy: Policy, kilobits_per_second: float, most_seconds: float) -> tuple[Policy, str]:
    smallest = tuple(sorted(policy.groups, key=lambda group: handshake_bytes(policy, group)))
    policy = replace(policy, groups=smallest)
    size = handshake_bytes(policy, smallest[0])
    seconds = size * _BITS / (kilobits_per_second * _KILO)
    fact = (
        f"a handshake over {smallest[0]} takes about {size / _KILO:.0f} kB, {seconds:.2g} s at"
        f" {kilobits_per_second:g} kbit/s"
    )
    return policy, f"{fact}, {_fit(seconds <= most_seconds, f'{most_seconds:g} s', policy)}"


def _on_a_processor(policy: Policy, costs: Costs, most_milliseconds: float) -> str:
    group, leaf = policy.groups[0], policy.leaf_keys[0]
    milliseconds = costs.handshake_seconds(group, leaf) * _KILO
    fact = f"measured here, {group} with {leaf} takes {milliseconds:.2g} ms a handshake"
    return f"{fact}, {_fit(milliseconds <= most_milliseconds, f'{most_milliseconds:g} ms', policy)}"


def _fit(fits: bool, budget: str, policy: Policy) -> str:
    if fits:
        return f"within {budget}"
    return f"more than {budget}: nothing that {policy.name} lists fits, and the level stays, because the data needs it"
