"""What is inside an update: read from its plaintext when it comes, and from its file when it is averaged.

An accepted update stays sealed on the disk until its round is averaged, so that memory holds one at a time. What opens
it again, its own content key, is in memory alone; the round's private key is not needed for it.
"""

from dataclasses import dataclass, field
from pathlib import Path

from aggregator.store.reading import read_prologue
from pqfl_transport.aggregation.fedavg import Update, Weights, check_update
from pqfl_transport.content.codecs import decode
from pqfl_transport.content.opening import ContentKey, MemoryOpening, Opener
from pqfl_transport.content.tensors import SAMPLES, parse, total_bytes
from pqfl_transport.crypto.pyca import VerifyingKey
from pqfl_transport.errors import MessageError, PqflError, RoundError
from pqfl_transport.pki.roster import Party

_MAX_SAMPLES_DIGITS = 18
_READ_BYTES = 1 << 20


def read_update(plaintext: memoryview, codec: str, sender: Party, base: Weights) -> Update:
    """Return the update of a verified plaintext. Raises ``MessageError``, ``RoundError`` for one that does not fit."""
    encoded, metadata = parse(plaintext)
    # A codec expands to about the model's size at most, and never is what is here already too large: whether it fits
    # the model is for the next check to say, by the tensor's name.
    most_bytes = max(len(plaintext), 2 * total_bytes(base))
    delta = decode(encoded, metadata, codec, max_bytes=most_bytes)
    text = metadata.get(SAMPLES, "")
    if not (text.isascii() and text.isdigit() and len(text) <= _MAX_SAMPLES_DIGITS and int(text) > 0):
        raise RoundError(f"the update of {sender.id} gives no number of samples", reason="bad_samples")
    samples = int(text)
    if samples > sender.weight_cap:
        raise RoundError(
            f"{sender.id} claims {samples} samples, the roster allows {sender.weight_cap}", reason="bad_samples"
        )
    check_update(delta, base)
    return Update(delta, samples)


@dataclass(frozen=True, slots=True)
class StoredUpdate:
    """An accepted update in its file."""

    path: Path
    prologue_digest: bytes
    sender: Party
    """As the roster had it when the update was accepted."""
    samples: int
    base: Weights = field(repr=False)
    sender_key: VerifyingKey = field(repr=False)
    key: ContentKey = field(repr=False)
    extra: tuple[bytes, ...] = field(repr=False)

    @property
    def delta(self) -> Weights:
        """The delta, opened anew whenever it is asked for; takes its time.

        Raises ``RoundError`` (``damaged_update``) where the file is not what was accepted.
        """
        try:
            return self._open().delta
        except (OSError, PqflError) as error:
            detail = error.strerror if isinstance(error, OSError) else error
            raise RoundError(
                f"the update of {self.sender.id} was damaged on the disk: {detail}", reason="damaged_update"
            ) from error

    def _open(self) -> Update:
        with self.path.open("rb") as file:
            prologue, rest = read_prologue(file)
            # The one of this digest was verified when it came.
            if prologue.digest != self.prologue_digest:
                raise MessageError("it has another prologue", reason="replay")
            opening = MemoryOpening(Opener(prologue, self.key, sender_key=self.sender_key, extra=self.extra))
            opening.feed(rest)
            while data := file.read(_READ_BYTES):
                opening.feed(data)
        return read_update(opening.finalize(), prologue.header.codec, self.sender, self.base)
