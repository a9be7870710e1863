"""Taking uploads: from the first byte to an accepted update, in the order that ENVELOPE.md §5 gives.

The rules are the round's (`aggregator.rounds`); here they meet the stream. A stranger is refused after the prologue,
before anything is allocated for what it announces; plaintext lies in memory that nobody reads until the body is whole
and authentic; and whatever goes wrong gives the reservation back. A lost connection is the one thing that does not
end an upload which asked to be resumable (`aggregator.transfers`).
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol

from aggregator.rounds import Reservation, Round
from aggregator.transfers import Accepted, Progress, Transfer, Transfers
from pqfl_transport.aggregation.fedavg import Update, Weights, check_update
from pqfl_transport.content.codecs import decode
from pqfl_transport.content.envelope import Prologue, PrologueReader, envelope_bytes, verify_prologue
from pqfl_transport.content.keysource import KeySource, extra_material, settle
from pqfl_transport.content.opening import ContentKey, MemoryOpening, Opener, content_key
from pqfl_transport.content.recipients import ReceivingKey
from pqfl_transport.content.tensors import SAMPLES, parse, total_bytes
from pqfl_transport.crypto.pyca import VerifyingKey
from pqfl_transport.errors import MessageError, PqflError, RoundError, TransportError
from pqfl_transport.net.resumable import UploadAddress, UploadFields
from pqfl_transport.pki.roster import Party
from pqfl_transport.policy import Policy
from pqfl_transport.timing import Stopwatch

_MAX_SAMPLES_DIGITS = 18
# What is parsed and checked in less time than a thread takes to start is done on the loop.
_THREAD_BYTES = 64 * 1024
_KEY_THREADS = 4
# What ends a request and not its upload.
_INTERRUPTIONS = frozenset({"cut_off", "idle"})


@dataclass(slots=True)
class Collecting:
    """A round as uploads meet it: its rules, its private key, the model that deltas refer to."""

    round: Round
    receiving_key: ReceivingKey | None = field(repr=False)
    """``None`` once the round takes nothing more."""
    base: Weights
    transfers: Transfers = field(default_factory=Transfers)

    @property
    def announced_key(self) -> bytes:
        """The public half as the round document carries it; empty once the round takes nothing more."""
        return b"" if self.receiving_key is None else self.receiving_key.public.to_bytes()

    def forget_key(self) -> None:
        """Let go of the private key, so that nobody opens an update of this round any more."""
        self.receiving_key = None


def _nobody(_progress: Progress) -> None:
    """Tell nobody that an upload can be resumed."""


@dataclass(frozen=True, slots=True)
class Upload:
    """One request: what its path says, the length it announces if it does, and its body as it comes."""

    round_number: int
    envelope_id: bytes
    length_bytes: int | None
    body: AsyncIterator[bytes]
    fields: UploadFields = field(default_factory=UploadFields)
    offered: Callable[[Progress], None] = _nobody
    """Told where the upload can be resumed, once its prologue holds."""


@dataclass(frozen=True, slots=True)
class Append:
    """One request that goes on with an upload."""

    address: UploadAddress
    length_bytes: int | None
    body: AsyncIterator[bytes]
    fields: UploadFields


class OffsetMismatchError(RoundError):
    """A request that goes on from another byte than the upload is at."""

    def __init__(self, expected: int, provided: int) -> None:
        super().__init__(f"the upload is at byte {expected}, not {provided}", reason="mismatching_offset")
        self.expected, self.provided = expected, provided


class Members(Protocol):
    """Whoever knows the federation's members: a roster, or `Standing`, which asks revocation lists as well."""

    def party(self, spiffe_uri: str) -> Party:
        """Return a member. Raises ``PqflError`` for who is none."""


class Intake:
    """Opens and checks uploads against a round. ``members`` is asked at the prologue and again at the end."""

    def __init__(
        self,
        members: Members,
        policy: Policy,
        clock: Callable[[], float],
        crypto: Stopwatch,
        keys: KeySource | None = None,
    ) -> None:
        self._members, self._policy, self._clock, self._crypto = members, policy, clock, crypto
        self._keys = keys
        # Threads of their own: those that sign and verify must not all wait for a key manager that is silent.
        self._key_threads = ThreadPoolExecutor(_KEY_THREADS, thread_name_prefix="pqfl-keys")

    def use(self, policy: Policy) -> None:
        """Judge by another policy from now on, uploads in flight included."""
        self._policy = policy

    async def take(self, upload: Upload, collecting: Collecting) -> Accepted | Progress:
        """Take a request that begins an upload; the answer is `Progress` where more of it has to follow.

        Raises ``MessageError``, ``RoundError``, ``PolicyError`` or ``TransportError`` with the reason.
        """
        prologue, rest = await _read_prologue(upload.body)
        self._check_address(upload, prologue)
        sender = self._members.party(prologue.header.sender)
        round_ = collecting.round
        round_.admit(prologue, sender, self._clock())
        key = sender.key_for(prologue.header.sender_fingerprint, self._clock())
        await asyncio.to_thread(self._verify, prologue, key)
        receipt = round_.receipt_for(prologue)
        if receipt is not None:
            return Accepted(receipt, 0, again=True)
        transfer = await self._begin(prologue, sender, key, collecting)
        body = _behind(rest, upload.body)
        if upload.fields.complete is None:
            return await self._write(transfer, collecting, body, complete=True)
        replaced = collecting.transfers.add(transfer)
        if replaced is not None:
            await replaced.take_over()
            round_.release(replaced.reservation)
        upload.offered(transfer.progress)
        return await self._write(transfer, collecting, body, complete=upload.fields.complete)

    async def go_on(self, append: Append, collecting: Collecting) -> Accepted | Progress:
        """Take a request that goes on with an upload. Raises as `take`, and `OffsetMismatchError`."""
        transfer = await _settled(append.address, collecting)
        fields, progress = append.fields, transfer.progress
        if fields.offset is None or fields.complete is None:
            raise MessageError("an append says Upload-Offset and Upload-Complete", reason="malformed")
        if fields.offset != progress.offset:
            raise OffsetMismatchError(progress.offset, fields.offset)
        _check_length(progress.length, fields.offset, append.length_bytes, fields)
        return await self._write(transfer, collecting, append.body, complete=fields.complete)

    async def progress(self, address: UploadAddress, collecting: Collecting) -> Progress:
        """Return how far an upload is, ending the request that still writes to it. Raises ``unknown_upload``."""
        return (await _settled(address, collecting)).progress

    async def cancel(self, address: UploadAddress, collecting: Collecting) -> None:
        """Forget an upload that is not complete. Raises ``unknown_upload``."""
        transfer = await _settled(address, collecting)
        if transfer.accepted is None:
            self._drop(transfer, collecting)

    async def _begin(
        self, prologue: Prologue, sender: Party, key: VerifyingKey, collecting: Collecting
    ) -> Transfer:  # fmt: skip
        reservation = self._reserve(prologue, collecting)
        try:
            unwrapped = await asyncio.to_thread(self._unwrap, prologue, collecting)
            # The signature holds and the envelope is ours: only now is a key used up that both ends hold.
            extra = await self._extra(prologue)
            opener = Opener(prologue, unwrapped, sender_key=key, extra=extra)
            opening = await asyncio.to_thread(MemoryOpening, opener)
        except BaseException:
            collecting.round.release(reservation)
            raise
        return Transfer(prologue, sender, reservation, opening)

    def _reserve(self, prologue: Prologue, collecting: Collecting) -> Reservation:
        try:
            return collecting.round.reserve(prologue)
        except RoundError as error:
            # Uploads that nobody goes on with must not keep their sender from a new one.
            stalled = collecting.transfers.oldest_stalled(prologue.header.sender) if error.reason == "busy" else None
            if stalled is None:
                raise
            self._drop(stalled, collecting)
            return collecting.round.reserve(prologue)

    async def _write(
        self, transfer: Transfer, collecting: Collecting, body: AsyncIterator[bytes], *, complete: bool
    ) -> Accepted | Progress:
        try:
            return await transfer.write(self._work(transfer, collecting, body, complete=complete))
        except BaseException as error:
            if not (collecting.transfers.holds(transfer) and _is_interruption(error)):
                self._drop(transfer, collecting)
            raise

    async def _work(
        self, transfer: Transfer, collecting: Collecting, body: AsyncIterator[bytes], *, complete: bool
    ) -> Accepted | Progress:
        async for piece in body:
            with self._crypto.running():
                transfer.feed(piece)
        if transfer.accepted is not None:
            return Accepted(transfer.accepted.receipt, 0, again=True)
        if not complete or transfer.opening is None:
            return transfer.progress
        transfer.seal_off()
        plaintext = await asyncio.to_thread(self._finish, transfer.opening)
        header, sender, base = transfer.prologue.header, transfer.sender, collecting.base
        update = await _off_the_loop(len(plaintext), lambda: _to_update(plaintext, header.codec, sender, base))
        # Waiting for the body took time: the sender may have been revoked, the deadline may have passed, the suite
        # may have been withdrawn.
        self._policy.require_content_suite(header.suite)
        _require_good_signer(self._members.party(header.sender), header.sender_fingerprint)
        receipt = collecting.round.commit(transfer.reservation, update)
        collecting.round.release(transfer.reservation)
        settle(transfer.prologue, self._keys)
        accepted = Accepted(receipt, update.samples, again=False, extra_key_ids=header.extra_key_ids)
        transfer.accepted, transfer.opening = accepted, None
        return transfer.accepted

    def _drop(self, transfer: Transfer, collecting: Collecting) -> None:
        collecting.transfers.remove(transfer)
        collecting.round.release(transfer.reservation)

    def _check_address(self, upload: Upload, prologue: Prologue) -> None:
        header = prologue.header
        if (header.round, header.envelope_id) != (upload.round_number, upload.envelope_id):
            raise MessageError("the envelope is another one than the address says", reason="wrong_address")
        _check_length(envelope_bytes(prologue), 0, upload.length_bytes, upload.fields)

    def _verify(self, prologue: Prologue, key: VerifyingKey) -> None:
        with self._crypto.running():
            verify_prologue(prologue, sender_key=key, policy=self._policy)

    def _unwrap(self, prologue: Prologue, collecting: Collecting) -> ContentKey:
        key = collecting.receiving_key
        if key is None:
            raise RoundError(f"round {prologue.header.round} takes no updates any more", reason="closed")
        with self._crypto.running():
            return content_key(prologue, key)

    async def _extra(self, prologue: Prologue) -> tuple[bytes, ...]:
        if self._keys is None:
            return extra_material(prologue, None)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._key_threads, extra_material, prologue, self._keys)

    def _finish(self, opening: MemoryOpening) -> memoryview:
        with self._crypto.running():
            return opening.finalize()


def _require_good_signer(sender: Party, fingerprint: bytes) -> None:
    """Raise where the key that an upload began under was revoked since; that its time is over ends no upload."""
    former = sender.former
    if fingerprint != sender.signing_key.fingerprint and (former is None or fingerprint != former.key.fingerprint):
        raise MessageError(f"the key that {sender.id} signed with was revoked since", reason="wrong_sender_key")


async def _settled(address: UploadAddress, collecting: Collecting) -> Transfer:
    """Return the upload of an address with nobody writing to it. Raises ``MessageError`` (``unknown_upload``)."""
    while True:
        transfer = collecting.transfers.find(address)
        await transfer.take_over()
        # Whoever wrote before may have ended it, and somebody else begun it anew.
        if collecting.transfers.holds(transfer):
            return transfer


def _check_length(expected: int, offset: int, announced: int | None, fields: UploadFields) -> None:
    """Hold what a request says of lengths to the envelope's, before its body is waited for."""
    if fields.length not in {None, expected}:
        raise MessageError(
            f"Upload-Length is {fields.length}, the envelope has {expected} bytes", reason="inconsistent_length"
        )
    if announced is None:
        return
    end = offset + announced
    if end > expected or (end < expected and fields.complete is not False):
        raise MessageError(
            f"the request announces {announced} bytes from byte {offset}, the envelope has {expected}",
            reason="truncated" if end < expected else "excess",
        )


def _is_interruption(error: BaseException) -> bool:
    if isinstance(error, PqflError):
        return isinstance(error, TransportError | RoundError) and error.reason in _INTERRUPTIONS
    return isinstance(error, asyncio.CancelledError)


async def _behind(rest: bytes, body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield rest
    async for piece in body:
        yield piece


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
