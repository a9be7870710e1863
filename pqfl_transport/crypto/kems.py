"""Key encapsulation by row: which door a KEM's keys go through is a column of the table, not the caller's decision."""

import secrets
from collections.abc import Callable
from typing import Protocol

from pqfl_transport.algorithms import PYCA, Kind, find
from pqfl_transport.algorithms.kems import KEMS
from pqfl_transport.crypto import hybrid, pyca
from pqfl_transport.errors import ConfigurationError


class Encapsulation(Protocol):
    """A public key that short secrets are sealed to."""

    kem: str
    raw: bytes

    def wrap(self, plaintext: bytes, info: bytes, *, aead: str = ...) -> bytes:
        """Seal a short secret, bound to ``info``."""


class Decapsulation(Protocol):
    """The private key that opens them."""

    kem: str

    @property
    def stored(self) -> bytes:
        """What is kept of the key: its seed where the KEM has one."""

    @property
    def public(self) -> Encapsulation:
        """The public half."""

    def unwrap(self, wrapped: bytes, info: bytes, *, aead: str = ...) -> bytes:
        """Open what was sealed. Raises ``MessageError`` (``not_for_us``)."""


def encapsulation_key(kem: str, raw: bytes) -> Encapsulation:
    """Return the public key of this row. Raises ``ConfigurationError`` (``bad_key``)."""
    row = find(kem, Kind.KEM)
    return hybrid.HybridEncapsulationKey(row.name, raw) if row.hybrid_of else pyca.EncapsulationKey(row.name, raw)


def decapsulation_key(kem: str, stored: bytes) -> Decapsulation:
    """Return the private key of this row from what is stored of it. Raises ``ConfigurationError`` (``bad_key``)."""
    row = find(kem, Kind.KEM)
    return hybrid.HybridDecapsulationKey(row.name, stored) if row.hybrid_of else pyca.DecapsulationKey(row.name, stored)


def generate(kem: str, *, random: Callable[[int], bytes] = secrets.token_bytes) -> Decapsulation:
    """Make a new private key of this row; ``random`` is replaced in tests only.

    Raises ``ConfigurationError`` (``bad_key``) for a row that makes no receiving keys, ``PlatformError``
    (``no_liboqs``) where the row needs liboqs and it is not here.
    """
    row = find(kem, Kind.KEM)
    if row.hybrid_of:
        return hybrid.HybridDecapsulationKey.generate(row.name, random=random)
    if row.seed_bytes is None or PYCA not in row.providers:
        beside = next((f"; {one.name} does" for one in KEMS if one.hybrid_of == row.name), "")
        raise ConfigurationError(f"{row.name} makes no receiving key{beside}", reason="bad_key")
    return pyca.DecapsulationKey(row.name, random(row.seed_bytes))


def wrapped_bytes(kem: str, plaintext_bytes: int) -> int:
    """Return the length of what wrapping so many bytes to a key of this KEM makes."""
    row = find(kem, Kind.KEM)
    return (
        hybrid.wrapped_bytes(row, plaintext_bytes) if row.hybrid_of else pyca.wrapped_bytes(row.name, plaintext_bytes)
    )
