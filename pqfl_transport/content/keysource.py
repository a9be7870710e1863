"""Keys that two parties share from elsewhere, mixed into an envelope's key beside the KEM's (ENVELOPE.md §4)."""

from dataclasses import dataclass, field
from typing import Protocol

from pqfl_transport.content.header import Header
from pqfl_transport.errors import MessageError


@dataclass(frozen=True, slots=True)
class ExtraKey:
    """One shared key: what the header calls it, and what only the two ends know."""

    id: str
    """ASCII, at most 256 characters; it travels in the signed header, readable by everybody."""
    material: bytes = field(repr=False)


class KeySource(Protocol):
    """Where a receiver gets the extra keys of an envelope."""

    def fetch(self, header: Header) -> tuple[bytes, ...]:
        """Return the material for ``header.extra_key_ids``, in order, each id once and never again.

        Called only after the prologue's signature holds. Raises ``MessageError`` (``extra_key``) for an id that is
        unknown or was used, ``PolicyError`` (``no_extra_key``) where a key is required and the header names none.
        """


def extra_material(header: Header, source: KeySource | None) -> tuple[bytes, ...]:
    """Return what the header's extra keys are made of. Raises ``MessageError`` (``extra_key``) without a source."""
    if source is not None:
        return source.fetch(header)
    if header.extra_key_ids:
        raise MessageError(
            f"the envelope needs the extra key {header.extra_key_ids[0]!r}, and no source of such keys is configured",
            reason="extra_key",
        )
    return ()
