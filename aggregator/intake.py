"""Taking one upload: from the first byte to an accepted update, in the order that ENVELOPE.md §5 gives.

The rules are the round's (`aggregator.rounds`); here they meet the stream. A stranger is refused after the prologue,
before anything is allocated for what it announces; plaintext lies in memory that nobody reads until the body is whole
and authentic; and whatever goes wrong gives the reservation back.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from aggregator.rounds import Receipt, Round
from pqfl_transport.aggregation.fedavg import Update, Weights, check_update
from pqfl_transport.content.codecs import decode
from pqfl_transport.content.envelope import Prologue, PrologueReader, envelope_bytes, verify_prologue
from pqfl_transport.content.opening import Opener
from pqfl_transport.content.recipients import ReceivingKey
from pqfl_transport.content.tensors import SAMPLES, allocate, parse, total_bytes
from pqfl_transport.errors import MessageError, RoundError
from pqfl_transport.pki.roster import Party, Roster
from pqfl_transport.policy import Policy
from pqfl_transport.timing import Stopwatch

_MAX_SAMPLES_DIGITS = 18
# What is parsed and checked in less time than a thread takes to start is done on the loop.
_THREAD_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Collecting:
    """A round as uploads meet it: its rules, its private key, the model that deltas refer to."""

    round: Round
    receiving_key: ReceivingKey
    base: Weights


@dataclass(frozen=True, slots=True)
class Upload:
    """One request: what its path says, the length it announces if it does, and its body as it comes."""

    round_number: int
    envelope_id: bytes
    length_bytes: int | None
    body: AsyncIterator[bytes]


@dataclass(frozen=True, slots=True)
class Accepted:
    """The answer to an upload. ``samples`` is 0 and ``again`` true where exactly this envelope was accepted before."""

    receipt: Receipt
    samples: int
    again: bool


class Intake:
    """Opens and checks uploads against a round."""

    def __init__(self, roster: Roster, policy: Policy, clock: Callable[[], float], crypto: Stopwatch) -> None:
        self._roster, self._policy, self._clock, self._crypto = roster, policy, clock, crypto

    def use(self, policy: Policy) -> None:
        """Judge by another policy from now on, uploads in flight included."""
        self._policy = policy

    async def take(self, upload: Upload, collecting: Collecting) -> Accepted:
        """Take an upload to its end. Raises ``MessageError``, ``RoundError`` or ``PolicyError`` with the reason."""
        prologue, rest = await _read_prologue(upload.body)
        self._check_address(upload, prologue)
        sender = self._roster.party(prologue.header.sender)
        round_ = collecting.round
        round_.admit(prologue, sender, self._clock())
        await asyncio.to_thread(self._verify, prologue, sender)
        receipt = round_.receipt_for(prologue)
        if receipt is not None:
            return Accepted(receipt, 0, again=True)
        reservation = round_.reserve(prologue)
        try:
            plaintext = await self._open(prologue, rest, upload.body, sender, collecting.receiving_key)
            codec, base = prologue.header.codec, collecting.base
            update = await _off_the_loop(len(plaintext), lambda: _to_update(plaintext, codec, sender, base))
            # Waiting for the body took time: the sender may have been struck off, the deadline may have passed, the
            # suite may have been withdrawn.
            self._policy.require_content_suite(prologue.header.suite)
            self._roster.party(prologue.header.sender)
            return Accepted(round_.commit(reservation, update), update.samples, again=False)
        finally:
            round_.release(reservation)

    def _check_address(self, upload: Upload, prologue: Prologue) -> None:
        header = prologue.header
        if (header.round, header.envelope_id) != (upload.round_number, upload.envelope_id):
            raise MessageError("the envelope is another one than the address says", reason="wrong_address")
        expected = envelope_bytes(prologue)
        if upload.length_bytes not in {None, expected}:
            reason = "truncated" if (upload.length_bytes or 0) < expected else "excess"
            raise MessageError(
                f"the request announces {upload.length_bytes} bytes, the envelope has {expected}", reason=reason
            )

    def _verify(self, prologue: Prologue, sender: Party) -> None:
        with self._crypto.running():
            verify_prologue(prologue, sender_key=sender.signing_key, policy=self._policy)

    async def _open(
        self, prologue: Prologue, rest: bytes, body: AsyncIterator[bytes], sender: Party, key: ReceivingKey
    ) -> memoryview:
        opener = await asyncio.to_thread(self._begin, prologue, sender, key)
        plaintext = allocate(prologue.header.plaintext_bytes)
        at = 0
        piece = rest
        while True:
            with self._crypto.running():
                at += opener.update_into(piece, plaintext[at:])
            if (following := await anext(body, None)) is None:
                break
            piece = following
        last = await asyncio.to_thread(self._finish, opener)
        plaintext[at:] = last
        return plaintext

    def _begin(self, prologue: Prologue, sender: Party, key: ReceivingKey) -> Opener:
        with self._crypto.running():
            return Opener(prologue, key, sender_key=sender.signing_key)

    def _finish(self, opener: Opener) -> bytes:
        with self._crypto.running():
            return opener.finalize()


async def _read_prologue(body: AsyncIterator[bytes]) -> tuple[Prologue, bytes]:
    reader = PrologueReader()
    async for piece in body:
        prologue = reader.feed(piece)
        if prologue is not None:
            return prologue, reader.rest
    reader.finish()
    raise MessageError("the envelope is empty", reason="truncated")


def _to_update(plaintext: memoryview, codec: str, sender: Party, base: Weights) -> Update:
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


async def _off_the_loop(size_bytes: int, work: Callable[[], Update]) -> Update:
    return work() if size_bytes <= _THREAD_BYTES else await asyncio.to_thread(work)
