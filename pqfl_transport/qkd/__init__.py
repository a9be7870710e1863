"""Keys from a quantum key distribution network, as its key managers deliver them (ETSI GS QKD 014 V1.1.1)."""

from pqfl_transport.qkd.client import BlockingKeyManager, KeyManager, Link, LinkConfig
from pqfl_transport.qkd.messages import DeliveredKey, Status

__all__ = ["BlockingKeyManager", "DeliveredKey", "KeyManager", "Link", "LinkConfig", "Status"]
