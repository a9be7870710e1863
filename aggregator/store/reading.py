"""Prologues of sealed files."""

from typing import BinaryIO

from pqfl_transport.content.envelope import Prologue, PrologueReader
from pqfl_transport.errors import MessageError

_READ_BYTES = 64 * 1024


def read_prologue(file: BinaryIO) -> tuple[Prologue, bytes]:
    """Return the prologue that a file begins with, and what was read behind it. Nothing is verified.

    Raises ``MessageError`` (``truncated``, ``malformed``, ``too_large``), ``OSError``.
    """
    reader = PrologueReader()
    while data := file.read(_READ_BYTES):
        if (prologue := reader.feed(data)) is not None:
            return prologue, reader.rest
    raise MessageError("it ends within its prologue", reason="truncated")
