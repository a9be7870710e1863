"""How often one origin may ask: a bucket of permissions for each, which time fills again."""

from collections import OrderedDict
from dataclasses import dataclass, field
from ipaddress import IPv6Address, ip_address

from pqfl_transport.errors import PeerError

_MAX_ADDRESSES = 4096
_NETWORK_BITS = 64


def origin_of(address: str) -> str:
    """Return what limits count for an address: itself, and of IPv6 the network, all of which its holder has."""
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        # Of a unix socket, whose users are all of this machine.
        return "local"
    if not isinstance(found, IPv6Address):
        return str(found)
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    host_bits = found.max_prefixlen - _NETWORK_BITS
    return f"{IPv6Address(int(found) >> host_bits << host_bits)}/{_NETWORK_BITS}"


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
