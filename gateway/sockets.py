"""Sockets: connecting, closing with or without mercy. All of them non-blocking, without Nagle's delay."""

import asyncio
import contextlib
import errno
import socket
import struct
from typing import Any

from pqfl_transport.errors import TransportError
from pqfl_transport.net.address import Address

_RESET = struct.pack("ii", 1, 0)


async def connect(address: Address, timeout_seconds: float) -> socket.socket:
    """Connect, trying every address of a name. Raises ``TransportError`` (``target_down``) naming the target."""
    try:
        async with asyncio.timeout(timeout_seconds):
            return await _connect(address)
    except TimeoutError:
        raise TransportError(
            f"target {address} does not answer within {timeout_seconds:g} s", reason="target_down"
        ) from None
    except OSError as error:
        raise TransportError(f"target {address}: {error.strerror or error}", reason="target_down") from error


async def _connect(address: Address) -> socket.socket:
    loop = asyncio.get_running_loop()
    if address.path is not None:
        return await _connect_one(loop, socket.AF_UNIX, address.path)
    failure: OSError | None = None
    for family, _, _, _, where in await loop.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM):
        try:
            return await _connect_one(loop, family, where)
        except OSError as error:
            failure = error
    raise failure or OSError(errno.EHOSTUNREACH, "no address")


async def _connect_one(loop: asyncio.AbstractEventLoop, family: int, where: tuple[Any, ...] | str) -> socket.socket:
    connection = socket.socket(family, socket.SOCK_STREAM)
    try:
        connection.setblocking(False)
        await loop.sock_connect(connection, where)
    except BaseException:
        connection.close()
        raise
    set_no_delay(connection)
    return connection


def set_no_delay(connection: socket.socket) -> None:
    """Send small records at once: with Nagle's algorithm a handshake waits for a delayed acknowledgement."""
    if connection.family != socket.AF_UNIX:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def abort(connection: socket.socket) -> None:
    """Close so that the other end sees a reset and not an end."""
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    connection.close()


def end_output(connection: socket.socket) -> None:
    """Say that nothing more comes; the other direction goes on."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_WR)
