"""Uploads on their way in: what has come of each, and who goes on with it.

Theory of operation
-------------------
A transfer begins when a prologue was verified and its place reserved, and takes the envelope's bytes in order. One
request at a time writes to it. A connection that is lost leaves a resumable transfer as it is; whoever asks for its
offset or continues it ends the request before, which a network may have kept alive on this side alone. A transfer
that was refused is gone, its place given back. One that was accepted stays, without its bytes, to answer again.

Transfers live in memory, as long as their round: they hold a key that nobody may store.
"""

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

from aggregator.contents import StoredUpdate
from aggregator.rounds import Receipt, Reservation
from aggregator.store.updates import UpdateFile
from pqfl_transport.content.envelope import Prologue, envelope_bytes
from pqfl_transport.content.opening import MemoryOpening
from pqfl_transport.errors import MessageError, TransportError
from pqfl_transport.net.resumable import UploadAddress

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Accepted:
    """The answer to an upload. ``samples`` is 0 and ``again`` true where exactly this envelope was accepted before."""

    receipt: Receipt
    samples: int
    again: bool
    extra_key_ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an upload is: the bytes of the envelope that were taken, and how many it has."""

    address: UploadAddress
    offset: int
    length: int
    complete: bool


@dataclass(eq=False, slots=True)
class Transfer:
    """One envelope on its way in."""

    prologue: Prologue
    stored: StoredUpdate
    """The update that will have been accepted, without its samples."""
    reservation: Reservation
    opening: MemoryOpening | None
    """None once the envelope was accepted."""
    file: UpdateFile
    """Where the envelope is written as it comes."""
    accepted: Accepted | None = None
    _writer: "asyncio.Task[Any] | None" = field(default=None, repr=False)
    _ending: bool = False

    @property
    def address(self) -> UploadAddress:
        """Where it is continued."""
        return UploadAddress(self.prologue.header.round, self.stored.sender.id.name, self.prologue.digest)

    @property
    def progress(self) -> Progress:
        """How far it is."""
        length = envelope_bytes(self.prologue)
        left = 0 if self.opening is None else self.opening.remaining_bytes
        return Progress(self.address, length - left, length, self.accepted is not None)

    @property
    def is_stalled(self) -> bool:
        """Whether nobody writes to it."""
        return self.opening is not None and (self._writer is None or self._writer.done())

    def feed(self, data: bytes) -> None:
        """Take more of the envelope. Raises ``MessageError`` as `Opener` does, and what `UpdateFile.write` raises."""
        if self.opening is None:
            if data:
                raise MessageError("bytes behind the end of the envelope", reason="excess")
            return
        self.opening.feed(data)
        self.file.write(data)

    async def write(self, work: Coroutine[Any, Any, Value]) -> Value:
        """Do the work of one request, unless a later one takes over. Raises ``TransportError`` (``cut_off``) then."""
        task = self._writer = asyncio.ensure_future(work)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if not task.done():
                # It is this request that ends and not its work, which must not go on alone.
                await _end(task)
                raise
            if task.cancelled():
                raise TransportError("a later request goes on with this upload", reason="cut_off") from None
            raise

    def seal_off(self) -> None:
        """From here on the work of the request is finished before anybody takes over."""
        self._ending = True

    async def take_over(self) -> None:
        """End the request that writes, or wait for it where it is about to end by itself."""
        task = self._writer
        if task is None or task.done():
            return
        if self._ending:
            await asyncio.wait({task})
        else:
            await _end(task)


class Transfers:
    """The resumable transfers of one round, by their addresses."""

    def __init__(self) -> None:
        self._by_address: dict[UploadAddress, Transfer] = {}

    def add(self, transfer: Transfer) -> Transfer | None:
        """Register a transfer; return the one that it replaces."""
        before = self._by_address.pop(transfer.address, None)
        self._by_address[transfer.address] = transfer
        return before

    def find(self, address: UploadAddress) -> Transfer:
        """Return the transfer of an address. Raises ``MessageError`` (``unknown_upload``)."""
        try:
            return self._by_address[address]
        except KeyError:
            raise MessageError("there is no such upload: send the update anew", reason="unknown_upload") from None

    def holds(self, transfer: Transfer) -> bool:
        """Whether a transfer is the one of its address, and so can be gone on with."""
        return self._by_address.get(transfer.address) is transfer

    def remove(self, transfer: Transfer) -> None:
        """Forget a transfer, if it is still the one of its address."""
        if self.holds(transfer):
            del self._by_address[transfer.address]

    def discard_files(self) -> None:
        """Leave nothing on the disk of those that are on their way: their round is over."""
        for transfer in self._by_address.values():
            transfer.file.discard()

    def oldest_stalled(self, sender: str) -> Transfer | None:
        """Return the transfer of a sender that nobody writes to, the one that began first."""
        stalled = (one for one in self._by_address.values() if one.is_stalled and str(one.stored.sender.id) == sender)
        return next(stalled, None)


async def _end(task: "asyncio.Task[Any]") -> None:
    task.cancel()
    await asyncio.wait({task})
