"""The rules of one relayed connection. No I/O: what happened comes in, what may happen next comes out.

Theory of operation
-------------------
A connection relays in two directions that end independently: *inward*, from the TLS side to the plain side, and
*outward*. Each direction is OPEN until its source says that it has no more; then it is FINISHING until what is still
held has been written; then the end is passed on (close_notify one way, a half-closed socket the other) and it is ENDED.
When both have ended, the connection is complete.

A source is read only while its direction is open and nothing of it waits to be written: a slow reader stops its
writer, and memory stays bounded by what one read brings.

Anything else that ends a connection is an abort, and an abort is passed on as one. A TLS stream that ends without
close_notify may have been cut by an attacker, so the plain side must see a reset and never a clean end.
"""

from dataclasses import dataclass, field
from enum import Enum, StrEnum
from types import MappingProxyType


class Direction(Enum):
    """Where bytes go."""

    INWARD = "from TLS to plain"
    OUTWARD = "from plain to TLS"


class State(Enum):
    """How far one direction is."""

    OPEN = "open"
    FINISHING = "finishing"
    ENDED = "ended"


class Move(Enum):
    """What happens to one direction."""

    SOURCE_ENDED = "the source has no more"
    FLUSHED = "everything held was written"


class Close(StrEnum):
    """Why a connection ended, as the log says it. A `PeerError` during relaying gives its own reason instead."""

    COMPLETE = "complete"
    PLAIN_RESET = "plain_reset"
    TLS_RESET = "tls_reset"
    SHUTDOWN = "shutdown"


_MOVES = MappingProxyType(
    {
        (State.OPEN, Move.SOURCE_ENDED): State.FINISHING,
        (State.FINISHING, Move.FLUSHED): State.ENDED,
        # Whatever is written while the source goes on does not change the direction.
        (State.OPEN, Move.FLUSHED): State.OPEN,
    }
)


@dataclass(slots=True)
class Relay:
    """The state of one connection after its handshake."""

    states: dict[Direction, State] = field(default_factory=lambda: dict.fromkeys(Direction, State.OPEN))
    held_bytes: dict[Direction, int] = field(default_factory=lambda: dict.fromkeys(Direction, 0))
    relayed_bytes: dict[Direction, int] = field(default_factory=lambda: dict.fromkeys(Direction, 0))

    def arrived(self, direction: Direction, count: int) -> None:
        """So many bytes were read from the source."""
        self.relayed_bytes[direction] += count

    def holds(self, direction: Direction, count: int) -> bool:
        """So many bytes wait to be written. True when that was the last and the end has to be passed on now."""
        self.held_bytes[direction] = count
        if count or self.states[direction] is State.ENDED:
            return False
        return self._move(direction, Move.FLUSHED) is State.ENDED

    def source_ended(self, direction: Direction) -> None:
        """The source has no more. Raises ``KeyError`` when it said so before: the driver is wrong."""
        self._move(direction, Move.SOURCE_ENDED)

    def may_read(self, direction: Direction) -> bool:
        """Whether the source should be read now."""
        return self.states[direction] is State.OPEN and not self.held_bytes[direction]

    @property
    def complete(self) -> bool:
        """Whether both directions have ended and their ends were passed on."""
        return all(state is State.ENDED for state in self.states.values())

    def _move(self, direction: Direction, move: Move) -> State:
        self.states[direction] = _MOVES[self.states[direction], move]
        return self.states[direction]
