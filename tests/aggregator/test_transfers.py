"""Transfers: one writer at a time, and nothing lost when another takes over."""

import asyncio
from typing import Any, cast

import pytest

from aggregator.rounds import Receipt, Reservation
from aggregator.transfers import Accepted, Transfer, Transfers
from pqfl_transport.content.envelope import decode_prologue
from pqfl_transport.content.opening import MemoryOpening, Opener
from pqfl_transport.errors import MessageError, TransportError
from pqfl_transport.net.resumable import UploadAddress
from pqfl_transport.pki.roster import Party
from pqfl_transport.pki.spiffe import Role, SpiffeId
from tests.support.envelopes import make_keys

KEYS = make_keys()


class _Party:
    id = SpiffeId("fed", Role.SITE, "bank-a")


def transfer() -> tuple[Transfer, bytes]:
    """A transfer that has its prologue, and the bytes behind it."""
    prologue, rest = decode_prologue(bytes(KEYS.seal()))
    opening = MemoryOpening(Opener(prologue, KEYS.receiving, sender_key=KEYS.signing.verifying_key))
    receipt = Receipt(3, prologue.header.sender, prologue.header.envelope_id, prologue.digest, b"")
    return Transfer(prologue, cast("Party", _Party()), Reservation(receipt), opening), rest


def test_progress_counts_the_bytes_of_the_envelope() -> None:
    """The offset is what was taken, the prologue included; at the end it is the length."""
    made, rest = transfer()
    whole = len(made.prologue.raw) + len(rest)
    assert (made.progress.offset, made.progress.length) == (len(made.prologue.raw), whole)
    made.feed(rest[:1000])
    made.feed(rest[1000:])
    assert (made.progress.offset, made.progress.complete) == (whole, False)
    assert made.address == UploadAddress(3, "bank-a", made.prologue.digest)


def test_an_accepted_transfer_takes_nothing_more() -> None:
    """It answers where it is, and one byte more is one too many."""
    made, rest = transfer()
    made.feed(rest)
    made.accepted, made.opening = Accepted(made.reservation.receipt, 1, again=False), None
    made.feed(b"")
    assert made.progress.complete
    assert made.progress.offset == made.progress.length
    assert not made.is_stalled
    with pytest.raises(MessageError) as caught:
        made.feed(b"x")
    assert caught.value.reason == "excess"


def test_who_takes_over_ends_the_writer_before() -> None:
    """The one that wrote learns that it was cut off; the transfer stands still until the next one writes."""

    async def scenario() -> None:
        made, _ = transfer()
        assert made.is_stalled

        async def hang() -> None:
            await asyncio.Event().wait()

        writing = asyncio.create_task(made.write(hang()))
        await asyncio.sleep(0)
        assert not made.is_stalled
        await made.take_over()
        with pytest.raises(TransportError) as caught:
            await writing
        assert caught.value.reason == "cut_off"
        assert made.is_stalled
        assert await made.write(asyncio.sleep(0, "next")) == "next"

    asyncio.run(scenario())


def test_an_ending_is_waited_for_and_not_cut() -> None:
    """Once the last byte is in, whoever asks gets the answer of what is being finished."""

    async def scenario() -> None:
        made, _ = transfer()
        go_on = asyncio.Event()

        async def finish() -> str:
            made.seal_off()
            await go_on.wait()
            return "done"

        writing = asyncio.create_task(made.write(finish()))
        await asyncio.sleep(0)
        taking = asyncio.create_task(made.take_over())
        await asyncio.sleep(0)
        assert not taking.done()
        go_on.set()
        await taking
        assert await writing == "done"

    asyncio.run(scenario())


def test_a_request_that_ends_takes_its_work_with_it() -> None:
    """When the server gives up a request, its work does not go on without anybody to answer."""

    async def scenario() -> None:
        made, _ = transfer()
        ended: list[Any] = []

        async def hang() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                ended.append(True)

        writing = asyncio.create_task(made.write(hang()))
        await asyncio.sleep(0)
        writing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await writing
        assert ended == [True]
        assert made.is_stalled

    asyncio.run(scenario())


def test_transfers_are_found_by_their_address() -> None:
    """The latest of an address is the one; what was removed, or never was, is unknown."""
    transfers = Transfers()
    first, _ = transfer()
    with pytest.raises(MessageError) as caught:
        transfers.find(first.address)
    assert caught.value.reason == "unknown_upload"
    assert transfers.add(first) is None
    again = Transfer(first.prologue, first.sender, first.reservation, first.opening)
    assert transfers.add(again) is first
    assert transfers.holds(again)
    transfers.remove(first)
    assert transfers.find(first.address) is again
    assert transfers.oldest_stalled("spiffe://fed/site/bank-a") is again
    assert transfers.oldest_stalled("spiffe://fed/site/bank-b") is None
    transfers.remove(again)
    assert transfers.oldest_stalled("spiffe://fed/site/bank-a") is None
