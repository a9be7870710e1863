"""Which extra keys go with which peer, where they come from, and which were used: `content.keysource` put together."""

from pqfl_transport.extrakeys.config import KeysConfig, load_keys_config
from pqfl_transport.extrakeys.ring import KeyRing, load_ring

__all__ = ["KeyRing", "KeysConfig", "load_keys_config", "load_ring"]
