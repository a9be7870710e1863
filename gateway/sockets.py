"""Sockets: without Nagle's delay, and closed with or without mercy."""

import contextlib
import socket
import struct

_RESET = struct.pack("ii", 1, 0)


def set_no_delay(connection: socket.socket) -> None:
    """Send small records at once: with Nagle's algorithm a handshake waits for a delayed acknowledgement."""
    if connection.family != socket.AF_UNIX:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def abort(connection: socket.socket) -> None:
    """Close so that the other end sees a reset and not an end."""
    abort_later(connection)
    connection.close()


def abort_later(connection: socket.socket) -> None:
    """Let the closing of this socket, whenever that is, be a reset."""
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)


def end_output(connection: socket.socket) -> None:
    """Say that nothing more comes; the other direction goes on."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_WR)
