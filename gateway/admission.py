"""Who may have one more connection, and how fast: limits of a listener and of every peer. No I/O, no clock of its own.

Theory of operation. A connection is counted from its acceptance to its end. The listener's limit is asked before the
handshake, so that a flood costs nothing; the limits of a peer after it, when it is known who that is. What a peer may
not do now is a `PeerError` whose reason says which limit it was; what others do does not change by it.

Bytes are never refused: a peer that is faster than its rate is read more slowly. A bucket holds one second's worth, and
reading stops for as long as it takes to pay back what was read beyond it.
"""

from dataclasses import dataclass, field

from pqfl_transport.errors import PeerError

_MINUTE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one listener; 0 is none."""

    handshake_timeout_seconds: float = 10.0
    max_handshakes: int = 1024
    """Unfinished handshakes at a time."""
    max_connections: int = 0
    max_connections_per_peer: int = 0
    connections_per_minute_per_peer: int = 0
    bytes_per_second_per_peer: int = 0
    """Both directions of all connections of a peer together."""
    idle_timeout_seconds: float = 0.0
    max_lifetime_seconds: float = 0.0


class TokenBucket:
    """So many tokens a second, one second's worth at most; taking more than there are is a debt to wait for."""

    __slots__ = ("_at", "_capacity", "_per_second", "_tokens")

    def __init__(self, per_second: float, capacity: float, now: float) -> None:
        self._per_second, self._capacity, self._tokens, self._at = per_second, capacity, capacity, now

    def take(self, count: float, now: float) -> float:
        """Take ``count`` tokens; return for how many seconds nothing more may be taken."""
        self._refill(now)
        self._tokens -= count
        return max(-self._tokens / self._per_second, 0.0)

    def take_whole(self, now: float) -> bool:
        """Take one token if there is one."""
        self._refill(now)
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def is_full(self, now: float) -> bool:
        """Whether nothing was taken for so long that a new bucket would be the same."""
        self._refill(now)
        return self._tokens >= self._capacity

    def _refill(self, now: float) -> None:
        self._tokens = min(self._capacity, self._tokens + (now - self._at) * self._per_second)
        self._at = now


@dataclass(slots=True)
class _Peer:
    connections: int = 0
    bytes: TokenBucket | None = None
    arrivals: TokenBucket | None = None


@dataclass(slots=True)
class Admission:
    """The count of one listener's connections, and of each of its peers'."""

    limits: Limits
    open: int = 0
    _peers: dict[str, _Peer] = field(default_factory=dict)

    def open_one(self) -> None:
        """Count one more connection. Raises ``PeerError`` (``too_many_connections``) where the listener is full."""
        limit = self.limits.max_connections
        if limit and self.open >= limit:
            raise PeerError(f"the limit of {limit} connections is reached", reason="too_many_connections")
        self.open += 1

    def close_one(self) -> None:
        """A connection that was counted has ended."""
        self.open -= 1

    def enter(self, peer: str, now: float) -> None:
        """Count one more connection of this peer.

        Raises ``PeerError``: ``too_many_connections_of_peer``, ``too_many_arrivals_of_peer``.
        """
        limits, found = self.limits, self._peers.get(peer)
        if found is None:
            found = self._peers[peer] = self._new_peer(now)
        if found.arrivals is not None and not found.arrivals.take_whole(now):
            raise PeerError(
                f"{peer} opens more than {limits.connections_per_minute_per_peer} connections a minute",
                reason="too_many_arrivals_of_peer",
            )
        if limits.max_connections_per_peer and found.connections >= limits.max_connections_per_peer:
            raise PeerError(
                f"{peer} has {found.connections} connections open, which is its limit",
                reason="too_many_connections_of_peer",
            )
        found.connections += 1

    def leave(self, peer: str, now: float) -> None:
        """A connection that had entered has ended."""
        found = self._peers[peer]
        found.connections -= 1
        if not found.connections and all(b is None or b.is_full(now) for b in (found.bytes, found.arrivals)):
            # Nothing is remembered of it that a new entry would not say.
            del self._peers[peer]

    def take_bytes(self, peer: str, count: int, now: float) -> float:
        """Return for how many seconds no more of this peer's bytes may be read, after ``count`` of them."""
        bucket = self._peers[peer].bytes
        return 0.0 if bucket is None else bucket.take(count, now)

    def forget_idle(self, now: float) -> None:
        """Drop what is remembered of peers that have no connection and no debt."""
        for name, peer in list(self._peers.items()):
            if not peer.connections and all(b is None or b.is_full(now) for b in (peer.bytes, peer.arrivals)):
                del self._peers[name]

    def _new_peer(self, now: float) -> _Peer:
        rate, arrivals = self.limits.bytes_per_second_per_peer, self.limits.connections_per_minute_per_peer
        return _Peer(
            bytes=TokenBucket(rate, rate, now) if rate else None,
            arrivals=TokenBucket(arrivals / _MINUTE_SECONDS, arrivals, now) if arrivals else None,
        )
