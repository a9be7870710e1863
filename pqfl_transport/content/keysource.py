"""Keys that two parties share from elsewhere, mixed into an envelope's key beside the KEM's (ENVELOPE.md §4)."""

import re
from dataclasses import dataclass, field
from typing import Protocol, Self

from pqfl_transport.content.envelope import Prologue
from pqfl_transport.errors import MessageError

MIN_KEY_BYTES = 32
"""The least of an extra key: less would not be worth mixing in beside a KEM of 256 bits."""

QKD = "qkd"
PSK = "psk"

UUID = re.compile(r"[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}", re.ASCII)
"""RFC 9562 §4. A key manager may write its UUIDs in upper case, and then wants them back as they were."""

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}", re.ASCII)
_SERIALS = {QKD: UUID, PSK: re.compile(r"[0-9a-f]{32}", re.ASCII)}


@dataclass(frozen=True, slots=True)
class ExtraKey:
    """One shared key: what the header calls it, and what only the two ends know."""

    id: str
    """ASCII, at most 256 characters; it travels in the signed header, readable by everybody."""
    material: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class KeyId:
    """An id taken apart: ``qkd:LINK:UUID`` or ``psk:NAME:NONCE``, the nonce 16 bytes in hexadecimal."""

    source: str
    """``qkd:LINK`` or ``psk:NAME``."""
    serial: str
    """What names one key of that source: the key manager's UUID, or the nonce that the key was derived for."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse an id of a header. Raises ``MessageError`` (``extra_key``)."""
        kind, _, rest = text.partition(":")
        name, _, serial = rest.partition(":")
        pattern = _SERIALS.get(kind)
        if pattern is None or not _NAME.fullmatch(name) or not pattern.fullmatch(serial):
            raise MessageError(
                f"the extra key {text[:80]!r} is neither qkd:LINK:UUID nor psk:NAME:NONCE", reason="extra_key"
            )
        return cls(f"{kind}:{name}", serial)

    @property
    def canonical(self) -> str:
        """The one spelling under which its use is remembered."""
        return f"{self.source}:{self.serial.lower()}"

    def __str__(self) -> str:
        return f"{self.source}:{self.serial}"


class KeySource(Protocol):
    """Where a receiver gets the extra keys of an envelope. Its methods may wait, so no event loop calls them."""

    def fetch(self, prologue: Prologue) -> tuple[bytes, ...]:
        """Return the material for the header's ``extra_key_ids``, in order; each id serves one prologue and no other.

        Called only after the signature holds and the content key was unwrapped. Raises ``MessageError``
        (``extra_key``) for an id that is unknown here or served another envelope, ``PolicyError`` (``no_extra_key``)
        where a key is required and the header names none, ``TransportError`` (``key_manager_down``) where it cannot be
        had now; the same prologue may be tried again.
        """

    def settle(self, prologue: Prologue) -> None:
        """Forget the material of an envelope that was opened to its end."""


def extra_material(prologue: Prologue, source: KeySource | None) -> tuple[bytes, ...]:
    """Return what the envelope's extra keys are made of. Raises ``MessageError`` (``extra_key``) without a source."""
    if source is not None:
        return source.fetch(prologue)
    if prologue.header.extra_key_ids:
        raise MessageError(
            f"the envelope needs the extra key {prologue.header.extra_key_ids[0]!r}, and no source of such keys is"
            " configured",
            reason="extra_key",
        )
    return ()


def settle(prologue: Prologue, source: KeySource | None) -> None:
    """Tell the source, if there is one, that the envelope was opened to its end."""
    if source is not None:
        source.settle(prologue)


def is_key_name(name: str) -> bool:
    """Tell whether a link or a pre-shared key may be called so: 1 to 63 of a-z, 0-9 and '-'."""
    return _NAME.fullmatch(name) is not None
