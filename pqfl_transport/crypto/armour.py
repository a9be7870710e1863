"""PEM blocks (RFC 7468): bytes between two lines that say what they are. Keys of ours are stored so, one or several."""

import base64
import binascii
import re
from dataclasses import dataclass, field

from pqfl_transport.errors import ConfigurationError

MAX_PEM_BYTES = 4 << 20
"""Room for the largest keys of code-based families; those of the usual rows take two kilobytes."""
_LINE = 64
# No dash inside a block, so that a search never runs past the block that it began in.
_LABEL = rb"[A-Z0-9]{1,80}(?:[ -][A-Z0-9]{1,80}){0,9}"
_BLOCK = re.compile(rb"-----BEGIN (" + _LABEL + rb")-----\r?\n([A-Za-z0-9+/=\s]*)-----END \1-----")


@dataclass(frozen=True, slots=True)
class Block:
    """What stands in one block, decoded; it may be a secret."""

    label: str
    data: bytes = field(repr=False)


def encode(label: str, data: bytes) -> bytes:
    """Return one block with a final newline."""
    text = base64.b64encode(data).decode("ascii")
    lines = [text[at : at + _LINE] for at in range(0, len(text), _LINE)]
    return "\n".join([f"-----BEGIN {label}-----", *lines, f"-----END {label}-----", ""]).encode("ascii")


def decode(pem: bytes, label: str, *, max_bytes: int = MAX_PEM_BYTES) -> bytes:
    """Return what is in the one block of this label. Raises ``ConfigurationError`` (``bad_key``) for anything else."""
    found = blocks(pem, max_bytes=max_bytes, max_blocks=1)
    if found[0].label != label:
        raise ConfigurationError(f"not one PEM block {label!r} but {found[0].label!r}", reason="bad_key")
    return found[0].data


def blocks(pem: bytes, *, max_bytes: int, max_blocks: int) -> list[Block]:
    """Return all blocks of a file, at least one, with nothing but white space around them.

    Raises ``ConfigurationError`` (``bad_key``) where there is anything else, more than ``max_blocks`` or ``max_bytes``.
    """
    if len(pem) > max_bytes:
        raise ConfigurationError(f"{len(pem)} bytes of PEM, more than {max_bytes}", reason="bad_key")
    found: list[Block] = []
    at = 0
    for match in _BLOCK.finditer(pem):
        if pem[at : match.start()].strip() or len(found) == max_blocks:
            break
        found.append(_decoded(match[1].decode("ascii"), match[2]))
        at = match.end()
    if not found or pem[at:].strip():
        expected = "one PEM block" if max_blocks == 1 else f"1 to {max_blocks} PEM blocks"
        raise ConfigurationError(f"not {expected} and nothing else", reason="bad_key")
    return found


def _decoded(label: str, text: bytes) -> Block:
    try:
        return Block(label, base64.b64decode(b"".join(text.split()), validate=True))
    except binascii.Error as error:
        raise ConfigurationError(f"the PEM block {label!r} is damaged: {error}", reason="bad_key") from error
