"""Connections over memory: in place or copied, the same bytes come out, and nothing of one is left for another."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pqfl_transport.tls import probe
from pqfl_transport.tls.link import RECORD_BYTES, Link, Status, Workspace
from tests.pqfl_transport.tls.test_libssl import link

SHARED = Workspace(256 * 1024)


def pair() -> tuple[Link, Link]:
    client, server = link(server=False), link(server=True)
    assert probe._shake_hands(client, server) == ""
    for end, other in ((client, server), (server, client)):
        other.feed(end.take(1 << 20))
    for end in (client, server):
        assert end.decrypt(SHARED, 0) == (0, Status.WANT_READ)
    return client, server


def through(link_: Link, encrypted: bytes, workspace: Workspace, cuts: list[int]) -> bytes:
    """Decrypt in pieces of these lengths, the last one repeated, through a workspace that others dirty in between."""
    plain = bytearray()
    while encrypted:
        size = min(cuts.pop(0) if cuts else len(workspace.incoming), len(workspace.incoming), len(encrypted)) or 1
        workspace.incoming[:size] = encrypted[:size]
        encrypted = encrypted[size:]
        count, status = link_.decrypt(workspace, size)
        plain += workspace.outgoing[:count]
        assert status is Status.WANT_READ
        workspace.outgoing[:] = b"\xff" * workspace.room_bytes
    return bytes(plain)


@settings(max_examples=25, deadline=None)
@given(
    writes=st.lists(st.integers(1, 3 * RECORD_BYTES), min_size=1, max_size=6),
    cuts=st.lists(st.integers(1, 40_000), max_size=12),
)
def test_decrypting_in_place_gives_what_was_sent(writes: list[int], cuts: list[int]) -> None:
    """However records and reads fall: plaintext never runs over ciphertext that is still to be read."""
    client, server = pair()
    data = [random.Random(size).randbytes(size) for size in writes]  # noqa: S311 -- any bytes will do
    for piece in data:
        assert client.write(piece) == (len(piece), Status.DONE)
    encrypted = client.take(1 << 24)
    assert through(server, encrypted, SHARED, list(cuts)) == b"".join(data)
    assert server.records_received == sum(-(-size // RECORD_BYTES) for size in writes) == client.records_sent


def test_two_connections_share_a_workspace() -> None:
    """What was begun by one and not finished waits inside it, whatever the other does meanwhile."""
    (one, first), (two, second) = pair(), pair()
    one.write(b"a" * 30_000)
    two.write(b"b" * 30_000)
    streams = {first: one.take(1 << 20), second: two.take(1 << 20)}
    plain = {first: bytearray(), second: bytearray()}
    while any(streams.values()):
        for end, left in streams.items():
            size = min(7_000, len(left))
            SHARED.incoming[:size] = left[:size]
            streams[end] = left[size:]
            if size:
                count, _ = end.decrypt(SHARED, size)
                plain[end] += SHARED.outgoing[:count]
    assert (plain[first], plain[second]) == (b"a" * 30_000, b"b" * 30_000)


def test_encrypting_from_and_into_the_workspace() -> None:
    """What lies in it goes out encrypted, over what was there."""
    client, server = pair()
    data = random.Random(1).randbytes(len(SHARED.incoming))  # noqa: S311 -- any bytes will do
    SHARED.incoming[: len(data)] = data
    count, status = client.encrypt(SHARED, len(data))
    assert status is Status.DONE
    server.feed(SHARED.outgoing[:count])
    assert client.take_to(SHARED) == 0
    buffer = memoryview(bytearray(len(data)))
    assert server.read_into(buffer) == (len(data), Status.DONE)
    assert bytes(buffer) == data


def test_a_changed_byte_fails_after_what_was_good() -> None:
    """Records before the forged one are delivered; the failure has its words."""
    client, server = pair()
    client.write(b"good")
    good = client.take(1 << 16)
    client.write(b"evil")
    evil = bytearray(client.take(1 << 16))
    evil[-1] ^= 1
    stream = good + evil
    SHARED.incoming[: len(stream)] = stream
    assert server.decrypt(SHARED, len(stream)) == (4, Status.FAILED)
    assert bytes(SHARED.outgoing[:4]) == b"good"
    assert server.errors


def test_an_end_comes_with_the_last_bytes() -> None:
    """close_notify behind data: both are told by one call."""
    client, server = pair()
    client.write(b"last")
    client.send_close_notify()
    stream = client.take(1 << 16)
    SHARED.incoming[: len(stream)] = stream
    assert server.decrypt(SHARED, len(stream)) == (4, Status.CLOSED)


def test_an_end_of_the_network_is_a_failure_in_place_too() -> None:
    """After reading from a workspace as after reading from its own memory."""
    client, server = pair()
    client.write(b"x")
    stream = client.take(1 << 16)
    SHARED.incoming[: len(stream)] = stream
    assert server.decrypt(SHARED, len(stream)) == (1, Status.WANT_READ)
    server.feed_eof()
    assert server.decrypt(SHARED, 0)[1] is Status.FAILED


@pytest.mark.parametrize("read_bytes", [RECORD_BYTES, 1 << 20])
def test_room_is_for_what_was_read_and_a_record_more(read_bytes: int) -> None:
    """The arithmetic that decrypting in place rests on."""
    workspace = Workspace(read_bytes)
    assert workspace.room_bytes - len(workspace.incoming) >= RECORD_BYTES
    assert len(workspace.outgoing) == workspace.room_bytes
    assert len(workspace.records) == workspace.room_bytes // RECORD_BYTES
