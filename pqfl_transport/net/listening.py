"""Listening sockets, with an error that names the flag and the address."""

import errno
import os
import re
import socket
from collections.abc import Mapping
from pathlib import Path

from pqfl_transport.errors import ConfigurationError, PlatformError
from pqfl_transport.net.address import Address

_BACKLOG = 1024
# sd_listen_fds(3): the descriptors that the service manager passes begin here.
_FIRST_PASSED = 3
_MAX_PASSED = 256
_COUNT = re.compile(r"[0-9]{1,3}", re.ASCII)
_UNNAMED = "unknown"
_FAMILIES = frozenset({socket.AF_INET, socket.AF_INET6, socket.AF_UNIX})
_taken: set[int] = set()


def listen(address: Address, where: str, *, reuse_port: bool = False) -> socket.socket:
    """Bind and listen, non-blocking. Raises ``PlatformError`` beginning with ``where``; ``in_use`` where taken.

    A ``systemd:NAME`` is taken as it was passed, each descriptor once; ``ConfigurationError`` (``not_passed``) says
    what was passed instead. A unix socket is made with mode 0600, and IPv6 sockets take no IPv4.

    With ``reuse_port`` other sockets that ask for it too may listen on the same address (SO_REUSEPORT): workers share
    it, and a new process takes over before the old one lets go.
    """
    try:
        if address.activation is not None:
            return _take_passed(address.activation, where, os.environ)
        if address.path is not None:
            return _listen_unix(address.path)
        server = _listen_tcp(address, reuse_port=reuse_port)
    except OSError as error:
        taken = error.errno == errno.EADDRINUSE
        why = "the address is in use by another process" if taken else error.strerror or str(error)
        raise PlatformError(f"{where} {address}: {why}", reason="in_use" if taken else "listen") from error
    server.setblocking(False)
    return server


def bound_address(server: socket.socket, asked: Address) -> Address:
    """Return where a socket really listens, after a port of 0 or when the service manager opened it."""
    if asked.path is not None:
        return asked
    if server.family == socket.AF_UNIX:
        name = server.getsockname()
        # An abstract name comes as bytes that begin with a zero.
        return Address(path=name if isinstance(name, str) else "@" + os.fsdecode(name[1:]))
    host, port = server.getsockname()[:2]
    return Address(host=asked.host or host, port=port)


def _listen_tcp(address: Address, *, reuse_port: bool) -> socket.socket:
    # As bytes: for a text that no name can be, Python would raise something else than the resolver does.
    host = address.host.encode("ascii")
    found = socket.getaddrinfo(host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    # Where a name has addresses of both families, the one that every machine has is meant.
    family, _, _, _, where = min(found, key=lambda entry: entry[0] != socket.AF_INET)
    server = socket.socket(family, socket.SOCK_STREAM)
    try:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            # [::] is for IPv6 alone, so that 0.0.0.0 can be another listener.
            server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        server.bind(where)
        server.listen(_BACKLOG)
    except OSError:
        server.close()
        raise
    return server


def _take_passed(name: str, where: str, environ: Mapping[str, str]) -> socket.socket:
    """Return the socket that the service manager passed under this name (sd_listen_fds(3)), each one once."""
    passed = _passed(where, environ)
    for number, its_name in passed.items():
        if its_name == name and number not in _taken:
            server = _adopt(number, name, where)
            _taken.add(number)
            return server
    if name in passed.values():
        raise ConfigurationError(f"{where} systemd:{name}: this socket is in use already", reason="not_passed")
    raise ConfigurationError(
        f"{where} systemd:{name}: the service manager passed no such socket; "
        f"it passed {', '.join(map(repr, passed.values())) or 'none'}",
        reason="not_passed",
    )


def _passed(where: str, environ: Mapping[str, str]) -> dict[int, str]:
    """Return the descriptors that are meant for this process, with their names."""
    if environ.get("LISTEN_PID") != str(os.getpid()):
        return {}
    text = environ.get("LISTEN_FDS", "")
    if not _COUNT.fullmatch(text) or int(text) > _MAX_PASSED:
        raise ConfigurationError(f"{where}: LISTEN_FDS is {text!r}, expected a number", reason="not_passed")
    names = environ["LISTEN_FDNAMES"].split(":") if "LISTEN_FDNAMES" in environ else [_UNNAMED] * int(text)
    if len(names) != int(text):
        raise ConfigurationError(
            f"{where}: LISTEN_FDNAMES has {len(names)} names for {text} sockets", reason="not_passed"
        )
    return dict(enumerate(names, _FIRST_PASSED))


def _adopt(number: int, name: str, where: str) -> socket.socket:
    try:
        server = socket.socket(fileno=number)
    except OSError as error:
        raise ConfigurationError(
            f"{where} systemd:{name}: descriptor {number} is no socket: {error.strerror}", reason="not_passed"
        ) from error
    listens = server.type == socket.SOCK_STREAM and server.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    if not listens or server.family not in _FAMILIES:
        # It is not ours to close.
        server.detach()
        raise ConfigurationError(f"{where} systemd:{name}: is no listening stream socket", reason="not_passed")
    server.set_inheritable(False)
    server.setblocking(False)
    return server


def _listen_unix(path: str) -> socket.socket:
    server = socket.socket(socket.AF_UNIX)
    try:
        if Path(path).is_socket() and not _somebody_listens(path):
            # A process that was killed leaves its socket's name behind; nobody answers there.
            Path(path).unlink()
        # Whoever may write to the socket may use it: that is its owner, until somebody changes the mode.
        before = os.umask(0o177)
        try:
            server.bind(path)
        finally:
            os.umask(before)
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
