"""Sealing, opening and verifying files of weights, with constant extra memory.

Inside the envelope there is always the safetensors layout; the file's ending decides what is read and written. What
is being written is staged (`content.staging`), and appears under its name only when it is whole and verified.
"""

import os
import stat
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO

from pqfl_transport.content.codecs import decode, encode, with_codec
from pqfl_transport.content.envelope import Prologue, PrologueReader, envelope_bytes, verify_prologue
from pqfl_transport.content.header import LOSSLESS, Header
from pqfl_transport.content.keysource import KeySource, extra_material, settle
from pqfl_transport.content.opening import MAX_WEIGHTS_BYTES, ContentKey, Opener, content_key
from pqfl_transport.content.recipients import ReceivingKey, RecipientKey
from pqfl_transport.content.sealing import EnvelopeParameters, Sealer
from pqfl_transport.content.staging import staged
from pqfl_transport.content.streams import file_pieces, open_to, sealed
from pqfl_transport.content.tensors import TensorLayout, parse
from pqfl_transport.content.verifying import TrailerVerifier
from pqfl_transport.content.weight_files import (
    PlainWeights,
    load_weights,
    open_source,
    require_ending,
    require_layout,
    write_npz,
)
from pqfl_transport.crypto.pyca import SigningKey, VerifyingKey
from pqfl_transport.errors import ConfigurationError, MessageError
from pqfl_transport.policy import Policy

Unlock = Callable[[Prologue], ReceivingKey | ContentKey]
"""Finds the key for an envelope once its prologue has been verified."""


@dataclass(frozen=True, slots=True)
class Sender:
    """Who has to have signed an envelope, as the reader knows it: nothing of this comes from the envelope."""

    id: str
    """SPIFFE ID."""
    key: VerifyingKey
    policy: Policy


def seal_file(
    source: Path,
    target: Path,
    *,
    parameters: EnvelopeParameters,
    recipients: Sequence[RecipientKey],
    signing_key: SigningKey,
) -> Prologue:
    """Seal ``source`` into ``target``; return the prologue.

    Raises ``ConfigurationError`` naming the file: unknown ending, missing, not what its ending says, holding objects
    that would need pickle. ``target`` is replaced whole or left as it was.
    """
    require_ending(source)
    with ExitStack() as stack:
        plain = stack.enter_context(_plain(source, parameters.codec))
        output = stack.enter_context(staged(target))
        sealer = Sealer(parameters, plain.total_bytes, recipients, signing_key)
        output.writelines(sealed(sealer, plain.pieces()))
    return sealer.prologue


def open_file(
    source: Path, target: Path, *, sender: Sender, unlock: Unlock, key_source: KeySource | None = None
) -> Header:
    """Open ``source``, which ``sender`` signed, into ``target``; return the header.

    Nothing appears before everything has been verified. Raises ``ConfigurationError`` for the files,
    ``MessageError`` and ``PolicyError`` for the envelope (``wrong_sender`` where it names somebody else),
    ``PlatformError`` (``disk``) where the target cannot be written.
    """
    require_ending(target)

    with _envelope(source) as stream, staged(target) as output, tempfile.TemporaryFile(dir=target.parent) as other:

        def begin(prologue: Prologue) -> Opener:
            _require_sender(prologue, sender)
            # Only what is for us, and all there, uses up a key that both ends hold.
            key = content_key(prologue, unlock(prologue))
            _require_length(stream, prologue)
            return Opener(prologue, key, sender_key=sender.key, extra=extra_material(prologue, key_source))

        as_layout = target.suffix == ".safetensors"
        layout = output if as_layout else other
        prologue = open_to(layout.write, file_pieces(stream), begin)
        header = prologue.header
        if as_layout and header.codec == LOSSLESS:
            require_layout(layout)
        else:
            _convert(layout, output, header.codec, target.suffix)
    settle(prologue, key_source)
    return header


@contextmanager
def _plain(source: Path, codec: str) -> Iterator[PlainWeights]:
    if codec == LOSSLESS:
        with open_source(source) as plain:
            yield plain
        return
    # A codec looks at whole tensors, so the model is in memory here.
    encoded, facts = encode(load_weights(source), codec)
    yield PlainWeights.of(TensorLayout.of(encoded, with_codec({}, facts)))


def _convert(layout: IO[bytes], output: BinaryIO, codec: str, ending: str) -> None:
    """Write what a staged layout holds in the form that the ending asks for, the codec undone."""
    if codec == LOSSLESS:
        write_npz(layout, output)
        return
    layout.seek(0)
    weights, metadata = parse(bytearray(layout.read()))
    decoded = TensorLayout.of(decode(weights, metadata, codec, max_bytes=MAX_WEIGHTS_BYTES))
    output.seek(0)
    output.truncate()
    if ending == ".safetensors":
        output.writelines(decoded.buffers())
        return
    with tempfile.TemporaryFile() as plain:
        plain.writelines(decoded.buffers())
        write_npz(plain, output)


def verified_prologue(source: Path, sender: Sender) -> Prologue:
    """Return the prologue of an envelope after verifying it; nothing behind it is read. Raises as `open_file`."""
    with _envelope(source) as stream:
        return _read_prologue(stream, sender)[0]


def verify_file(source: Path, sender: Sender) -> Prologue:
    """Verify prologue, length and trailer of an envelope; return the prologue. Needs no secret. Raises as `open_file`.

    Without a trailer in the header the sender's signature covers the prologue alone, which the caller has to say.
    """
    with _envelope(source) as stream:
        prologue, piece = _read_prologue(stream, sender)
        verifier = TrailerVerifier(prologue, sender_key=sender.key)
        verifier.split(piece)
        for piece in file_pieces(stream):
            verifier.split(piece)
        verifier.finalize()
    return prologue


@contextmanager
def _envelope(source: Path) -> Iterator[BinaryIO]:
    try:
        stream = source.open("rb")
    except OSError as error:
        raise ConfigurationError(f"{source}: {error.strerror}", reason="unreadable") from error
    with stream:
        yield stream


def _read_prologue(stream: BinaryIO, sender: Sender) -> tuple[Prologue, bytes]:
    reader = PrologueReader()
    for piece in file_pieces(stream):
        prologue = reader.feed(piece)
        if prologue is not None:
            _require_sender(prologue, sender)
            return prologue, reader.rest
    reader.finish()
    raise MessageError("the envelope is empty", reason="truncated")


def _require_length(stream: BinaryIO, prologue: Prologue) -> None:
    facts = os.fstat(stream.fileno())
    short = envelope_bytes(prologue) - facts.st_size
    if stat.S_ISREG(facts.st_mode) and short > 0:
        raise MessageError(f"the envelope is {short} bytes short", reason="truncated")


def _require_sender(prologue: Prologue, sender: Sender) -> None:
    if prologue.header.sender != sender.id:
        raise MessageError(f"the envelope says that it is from {prologue.header.sender}", reason="wrong_sender")
    verify_prologue(prologue, sender_key=sender.key, policy=sender.policy)
