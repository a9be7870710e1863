"""Which extra keys a peer and we mix in, and what happens without them: rules as data, judged without I/O.

A rule holds for one peer and some kinds of envelopes. `require` refuses to seal and to open without every key it lists;
`prefer` goes on without those that cannot be had and says so; `off` mixes nothing in. A key that is named but cannot be
had is never left out when opening: the envelope does not open.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from pqfl_transport.content.header import Header
from pqfl_transport.content.keysource import KeyId
from pqfl_transport.errors import ConfigurationError, MessageError, PolicyError

ANYBODY = "*"
"""A peer without a rule of its own."""


class Mode(StrEnum):
    """What happens without the keys that a rule lists."""

    REQUIRE = "require"
    PREFER = "prefer"
    OFF = "off"


@dataclass(frozen=True, slots=True)
class Rule:
    """What is mixed in. All of ``sources`` together, in this order."""

    mode: Mode = Mode.OFF
    sources: tuple[str, ...] = ()
    """``qkd:LINK`` and ``psk:NAME``."""


_NOTHING = Rule()


class Rules:
    """The rules of one party: by peer, a SPIFFE ID or `ANYBODY`, and by direction of the envelope."""

    def __init__(self, rules: dict[tuple[str, str], Rule]) -> None:
        self._rules = MappingProxyType(dict(rules))

    def find(self, peer: str, direction: str) -> Rule:
        """Return the rule for an envelope from or to this peer; without one nothing is mixed in."""
        return self._rules.get((peer, direction)) or self._rules.get((ANYBODY, direction), _NOTHING)

    def common(self, peers: Sequence[str], direction: str) -> Rule:
        """Return the one rule for an envelope that all of these peers open.

        Raises ``ConfigurationError``: ``no_common_key`` where their rules differ, ``point_to_point`` where the rule
        asks for a key that only two ends can have.
        """
        found = {self.find(peer, direction) for peer in peers}
        if len(found) > 1:
            raise ConfigurationError(
                f"one {direction} for {len(peers)} peers, and the rules for its extra keys differ: all who open it need"
                " the same ones",
                reason="no_common_key",
            )
        rule = found.pop() if found else _NOTHING
        if len(peers) > 1 and any(source.startswith("qkd:") for source in rule.sources):
            raise ConfigurationError(
                f"one {direction} for {len(peers)} peers cannot have a key of a QKD link, which has two ends; give the"
                " group a pre-shared key",
                reason="point_to_point",
            )
        return rule


def judge(rule: Rule, header: Header) -> tuple[tuple[KeyId, ...], tuple[str, ...]]:
    """Return the ids that an envelope names, each of a source of the rule, and the sources it has no key of.

    Raises ``MessageError`` (``extra_key``) for an id of another source or two of one; ``PolicyError``
    (``no_extra_key``) where a key is required and not named.
    """
    ids = tuple(KeyId.parse(text) for text in header.extra_key_ids)
    named = [key_id.source for key_id in ids]
    for key_id in ids:
        if key_id.source not in rule.sources:
            raise MessageError(
                f"the envelope names a key of {key_id.source}, which is not what {header.sender} and we mix in",
                reason="extra_key",
            )
    if len(set(named)) != len(named):
        raise MessageError("the envelope names two keys of one source", reason="extra_key")
    missing = tuple(source for source in rule.sources if source not in named)
    if missing and rule.mode is Mode.REQUIRE:
        raise PolicyError(
            f"an envelope of {header.sender} has to have a key of {', '.join(missing)} mixed in, and has none",
            reason="no_extra_key",
        )
    return ids, missing
