"""Streams: any pieces in, any pieces out, constant memory, and plaintext that counts at the end only."""

import asyncio
import io
import socket
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterator
from threading import Thread
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pqfl_transport.content.envelope import Prologue, verify_prologue
from pqfl_transport.content.opening import Opener
from pqfl_transport.content.sealing import SLICE_BYTES, Sealer, slices
from pqfl_transport.content.streams import (
    StreamOpener,
    file_pieces,
    open_to,
    open_to_async,
    sealed,
    sealed_async,
    socket_pieces,
    stream_pieces,
)
from pqfl_transport.errors import ConfigurationError, MessageError, PolicyError
from pqfl_transport.policy import Policy, for_level
from tests.support.envelopes import make_keys

KEYS = make_keys()
TEXT = bytes(range(256)) * 2000


def sealer(plaintext_bytes: int) -> Sealer:
    return Sealer(KEYS.parameters, plaintext_bytes, [KEYS.receiving.public], KEYS.signing)


def begin(prologue: Prologue, policy: Policy = KEYS.policy) -> Opener:
    verify_prologue(prologue, sender_key=KEYS.signing.verifying_key, policy=policy)
    return Opener(prologue, KEYS.receiving, sender_key=KEYS.signing.verifying_key)


def cut(data: bytes, sizes: list[int]) -> list[bytes]:
    pieces, at = [], 0
    for size in sizes:
        pieces.append(data[at : at + size])
        at += size
    return [*pieces, data[at:]]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 60_000), max_size=8), st.lists(st.integers(0, 60_000), max_size=8))
def test_how_it_is_cut_makes_no_difference(before: list[int], behind: list[int]) -> None:
    """Plaintext and envelope may come in pieces of any size, empty ones among them."""
    envelope = b"".join(sealed(sealer(len(TEXT)), cut(TEXT, before)))
    opened = io.BytesIO()
    prologue = open_to(opened.write, cut(envelope, behind), begin)
    assert opened.getvalue() == TEXT
    assert prologue.header.plaintext_bytes == len(TEXT)


def test_large_pieces_of_wider_elements_pass() -> None:
    """A piece larger than the buffer, and one whose elements are wider than a byte, are cut as bytes."""
    piece = memoryview(bytearray(3 * SLICE_BYTES)).cast("d")
    assert [len(part) for part in slices(piece)] == [SLICE_BYTES] * 3
    envelope = b"".join(sealed(sealer(3 * SLICE_BYTES), [piece]))  # type: ignore[list-item]
    opened = io.BytesIO()
    open_to(opened.write, [envelope], begin)
    assert opened.getvalue() == bytes(3 * SLICE_BYTES)


def test_files_sockets_and_asynchronous_streams_carry_the_same_envelope() -> None:
    """One envelope goes through a file, a socket and an asyncio stream, and comes out of each."""
    envelope = b"".join(sealed(sealer(len(TEXT)), file_pieces(io.BytesIO(TEXT))))

    from_file = io.BytesIO()
    open_to(from_file.write, file_pieces(io.BytesIO(envelope)), begin)

    left, right = socket.socketpair()
    with right:
        sending = Thread(target=lambda: (left.sendall(envelope), left.close()))
        sending.start()
        from_socket = io.BytesIO()
        open_to(from_socket.write, socket_pieces(right), begin)
        sending.join()

    async def through_a_stream() -> bytes:
        opened = bytearray()

        async def write(plaintext: Any) -> None:
            opened.extend(plaintext)

        async def plaintext() -> AsyncIterator[bytes]:
            for piece in cut(TEXT, [1, 70_000]):
                yield piece

        stream = asyncio.StreamReader()
        async for piece in sealed_async(sealer(len(TEXT)), plaintext()):
            stream.feed_data(piece)
        stream.feed_eof()
        await open_to_async(write, stream_pieces(stream), begin)
        return bytes(opened)

    assert from_file.getvalue() == from_socket.getvalue() == asyncio.run(through_a_stream()) == TEXT


def test_memory_does_not_grow_with_size() -> None:
    """Sixty-four megabytes are sealed and opened at once in a stream that never holds more than a few."""
    total = 64 << 20
    zeros = memoryview(bytes(SLICE_BYTES))

    def plaintext() -> Iterator[memoryview]:
        for _ in range(total // SLICE_BYTES):
            yield zeros

    counted = 0

    def count(piece: Any) -> None:
        nonlocal counted
        counted += len(piece)

    tracemalloc.start()
    try:
        open_to(count, sealed(sealer(total), plaintext()), begin)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert counted == total
    assert peak < 16 << 20


@pytest.mark.parametrize("missing", [1, 16, 20_000])
def test_an_envelope_that_ends_early_never_returns(missing: int) -> None:
    """What was written before the end is worth nothing: opening raises."""
    envelope = b"".join(sealed(sealer(len(TEXT)), [TEXT]))
    with pytest.raises(MessageError) as caught:
        open_to(lambda _: None, [envelope[:-missing]], begin)
    assert caught.value.reason == "truncated"


@pytest.mark.parametrize(("data", "reason"), [(b"", "truncated"), (b"\0\0\0\5abc", "truncated")])
def test_an_envelope_without_a_prologue(data: bytes, reason: str) -> None:
    """Nothing, or a part of a header, is truncated; nobody was asked to begin."""
    asked = []
    with pytest.raises(MessageError) as caught:
        open_to(lambda _: None, [data], lambda prologue: asked.append(prologue) or begin(prologue))
    assert caught.value.reason == reason
    assert asked == []


def test_a_plaintext_of_another_length_is_a_mistake_of_the_caller() -> None:
    """Too much or too little plaintext raises before the envelope is complete."""
    for pieces in ([TEXT, b"x"], [TEXT[:-1]]):
        with pytest.raises(ConfigurationError) as caught:
            list(sealed(sealer(len(TEXT)), pieces))
        assert caught.value.reason == "wrong_length"


def test_a_suite_outside_the_policy_is_refused_before_a_byte_is_decrypted() -> None:
    """What `begin` refuses never reaches the staging."""
    envelope = b"".join(sealed(sealer(len(TEXT)), [TEXT]))
    written: list[Any] = []
    refuse: Callable[[Prologue], Opener] = lambda prologue: begin(prologue, for_level("maximum"))  # noqa: E731
    with pytest.raises(PolicyError) as caught:
        open_to(written.append, [envelope], refuse)
    assert caught.value.reason == "content_suite"
    assert written == []


def test_the_prologue_is_known_once_it_is_accepted() -> None:
    """A caller that feeds by hand sees the prologue as soon as the body may begin."""
    envelope = b"".join(sealed(sealer(len(TEXT)), [TEXT]))
    opener = StreamOpener(begin)
    assert list(opener.feed(envelope[:100])) == []
    assert opener.prologue is None
    list(opener.feed(envelope[100:]))
    prologue = opener.prologue
    assert prologue is not None
    assert prologue.header.sender == KEYS.parameters.sender
