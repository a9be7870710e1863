"""PEM armour around this project's own structures: one block, one label, nothing beside it."""

import base64
import binascii

from pqfl_transport.errors import ConfigurationError

MAX_PEM_BYTES = 4 << 20
"""Room for the largest keys of code-based families; those of the usual rows take two kilobytes."""

_LINE_CHARACTERS = 64


def to_pem(data: bytes, label: str) -> bytes:
    """Return ``data`` as a PEM block of this label (RFC 7468)."""
    text = base64.b64encode(data).decode("ascii")
    lines = [text[at : at + _LINE_CHARACTERS] for at in range(0, len(text), _LINE_CHARACTERS)]
    return "\n".join([f"-----BEGIN {label}-----", *lines, f"-----END {label}-----", ""]).encode("ascii")


def from_pem(pem: bytes, label: str) -> bytes:
    """Return what a file of exactly one block of this label holds. Raises ``ConfigurationError`` (``bad_key``)."""
    begin, end = f"-----BEGIN {label}-----".encode(), f"-----END {label}-----".encode()
    text = pem.strip()
    if len(pem) > MAX_PEM_BYTES or not text.startswith(begin) or not text.endswith(end):
        raise ConfigurationError(f"not one PEM block {label!r}", reason="bad_key")
    try:
        return base64.b64decode(b"".join(text[len(begin) : -len(end)].split()), validate=True)
    except binascii.Error as error:
        raise ConfigurationError(f"the PEM block {label!r} is damaged: {error}", reason="bad_key") from error
