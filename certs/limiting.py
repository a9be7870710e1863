"""How often one address may ask: a bucket of permissions for each, which time fills again."""

from collections import OrderedDict
from dataclasses import dataclass, field

from pqfl_transport.errors import PeerError

_MAX_ADDRESSES = 4096


@dataclass(slots=True)
class RateLimit:
    """So many requests of one address a minute, all at once or spread out. Times are seconds of any steady clock."""

    per_minute: int
    _buckets: OrderedDict[str, tuple[float, float]] = field(default_factory=OrderedDict)
    """By address, the one that asked last at the end: how many are left, and as of when."""

    def take(self, address: str, now: float) -> None:
        """Count one request. Raises ``PeerError`` (``busy``) for one too many."""
        left, since = self._buckets.pop(address, (float(self.per_minute), now))
        left = min(float(self.per_minute), left + (now - since) * self.per_minute / 60)
        self._buckets[address] = max(left - 1, 0) if left >= 1 else left, now
        # Forgetting the address that has been quiet for longest gives away least: its bucket is the fullest.
        if len(self._buckets) > _MAX_ADDRESSES:
            self._buckets.popitem(last=False)
        if left < 1:
            raise PeerError(f"more than {self.per_minute} requests a minute from {address}", reason="busy")
