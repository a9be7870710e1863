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
    IDLE = "idle_timeout"
    LIFETIME = "max_lifetime"
    KEY_LIMIT = "key_limit"
    REVOKED = "revoked"
    WITHDRAWN = "withdrawn"


_MOVES = MappingProxyType(
    {
        (State.OPEN, Move.SOURCE_ENDED): State.FINISHING,
        (State.FINISHING, Move.FLUSHED): State.ENDED,
    }
)


@dataclass(slots=True)
class Flow:
    """One direction of a connection."""

    state: State = State.OPEN
    held_bytes: int = 0
    """Read from the source and not written yet."""
    relayed_bytes: int = 0

    def holds(self, count: int) -> bool:
        """So many bytes wait to be written. True when that was the last and the end has to be passed on now."""
        self.held_bytes = count
        if count or self.state is not State.FINISHING:
            return False
        self._move(Move.FLUSHED)
        return True

    def source_ended(self) -> None:
        """The source has no more. Raises ``KeyError`` when it said so before: the driver is wrong."""
        self._move(Move.SOURCE_ENDED)

    @property
    def may_read(self) -> bool:
        """Whether the source should be read now."""
        return self.state is State.OPEN and not self.held_bytes

    def _move(self, move: Move) -> None:
        self.state = _MOVES[self.state, move]


@dataclass(slots=True)
class Relay:
    """The state of one connection after its handshake."""

    inward: Flow = field(default_factory=Flow)
    """From the TLS side to the plain side."""
    outward: Flow = field(default_factory=Flow)
    """From the plain side to the TLS side."""

    @property
    def complete(self) -> bool:
        """Whether both directions have ended and their ends were passed on."""
        return self.inward.state is State.ENDED and self.outward.state is State.ENDED

    @property
    def relayed_bytes(self) -> int:
        """Both directions together: whether this grows tells an idle connection from a busy one."""
        return self.inward.relayed_bytes + self.outward.relayed_bytes
