"""Listening sockets, with an error that names the flag and the address."""

import errno
import socket
from pathlib import Path

from pqfl_transport.errors import PlatformError
from pqfl_transport.net.address import Address

_BACKLOG = 1024


def listen(address: Address, where: str) -> socket.socket:
    """Bind and listen, non-blocking. Raises ``PlatformError`` beginning with ``where``; ``in_use`` where taken."""
    try:
        if address.path is not None:
            return _listen_unix(address.path)
        family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        server = socket.create_server((address.host, address.port), family=family, backlog=_BACKLOG)
    except OSError as error:
        taken = error.errno == errno.EADDRINUSE
        why = "the address is in use by another process" if taken else error.strerror or str(error)
        raise PlatformError(f"{where} {address}: {why}", reason="in_use" if taken else "listen") from error
    server.setblocking(False)
    return server


def bound_address(server: socket.socket, asked: Address) -> Address:
    """Return where a socket really listens, after a port of 0."""
    if asked.path is not None:
        return asked
    return Address(host=asked.host, port=server.getsockname()[1])


def _listen_unix(path: str) -> socket.socket:
    server = socket.socket(socket.AF_UNIX)
    try:
        if Path(path).is_socket() and not _somebody_listens(path):
            # A process that was killed leaves its socket's name behind; nobody answers there.
            Path(path).unlink()
        server.bind(path)
        server.listen(_BACKLOG)
        server.setblocking(False)
    except OSError:
        server.close()
        raise
    return server


def _somebody_listens(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return False
    return True
