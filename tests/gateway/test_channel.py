"""Supervisor and worker understand each other, and notice when the other is gone."""

import asyncio
import socket

import pytest

from gateway.channel import MAX_LINE_BYTES, Channel
from pqfl_transport.errors import PlatformError


async def pair() -> tuple[Channel, Channel]:
    one, two = socket.socketpair()
    return await Channel.over(one), await Channel.over(two)


def test_what_is_said_is_heard_in_order() -> None:
    """Kind and facts, both ways."""

    async def scenario() -> None:
        one, two = await pair()
        one.send("snapshot")
        one.send("reload", reason="ü\n")
        assert await two.receive() == {"kind": "snapshot"}
        assert await two.receive() == {"kind": "reload", "reason": "ü\n"}
        two.send("reloaded", result="ok")
        assert await one.receive() == {"kind": "reloaded", "result": "ok"}
        one.close()
        assert await two.receive() is None
        two.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("nonsense", [b"nonsense\n", b"x" * (MAX_LINE_BYTES + 2)])
def test_nonsense_ends_the_channel(nonsense: bytes) -> None:
    """What is no line of ours is an error of this machine, whatever its size."""

    async def scenario() -> None:
        ours, theirs = socket.socketpair()
        channel = await Channel.over(ours)
        with theirs:
            theirs.setblocking(False)
            sending = asyncio.create_task(asyncio.get_running_loop().sock_sendall(theirs, nonsense))
            with pytest.raises(PlatformError, match="channel"):
                await channel.receive()
            sending.cancel()
            channel.close()

    asyncio.run(scenario())


def test_a_line_that_was_cut_is_an_end() -> None:
    """A worker killed while it spoke has said nothing."""

    async def scenario() -> None:
        ours, theirs = socket.socketpair()
        channel = await Channel.over(ours)
        theirs.sendall(b'{"kind": "snap')
        theirs.close()
        assert await channel.receive() is None
        channel.close()

    asyncio.run(scenario())
