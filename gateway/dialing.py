"""Connecting to targets: at once where that is possible, else patiently, through a proxy if there is one."""

import asyncio
import contextlib
import errno
import os
import socket
from collections.abc import Callable
from typing import Any

from gateway.proxies import Conversation, Proxy
from gateway.sockets import set_no_delay
from gateway.targets import Targets
from pqfl_transport.errors import ConfigurationError, PlatformError, TransportError
from pqfl_transport.net.address import Address

_LOOK_TIMEOUT_SECONDS = 2.0
_FULL_BACKLOG_PAUSE_SECONDS = 0.01
_PEEK_BYTES = 4096
_OUR_OWN_FAULT = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

_Place = tuple[int, tuple[Any, ...] | str]
"""A family and what ``connect`` takes there."""


def connect_at_once(address: Address) -> socket.socket | None:
    """Connect without waiting, as works on this machine; ``None`` where it takes longer, or does not work.

    This is on the way of every connection, so there is no event loop in it.
    """
    for place in _places_at_hand(address):
        try:
            connection, failure = _begin(place)
        except OSError:
            return None
        if failure == errno.EINPROGRESS:
            # On this machine the other end has answered by now, and asking again gives the answer.
            failure = connection.connect_ex(place[1])
        if failure in {0, errno.EISCONN} and not _met_itself(connection, place):
            set_no_delay(connection)
            return connection
        connection.close()
    return None


async def dial(address: Address, *, timeout_seconds: float, proxy: Proxy | None = None) -> socket.socket:
    """Connect, trying every address of a name; the socket is non-blocking and does not delay small records.

    Raises ``TransportError`` naming target and proxy: ``target_down``, or ``proxy_refused`` where the proxy says no;
    ``PlatformError`` (``resources``) where this machine has no descriptor or memory left for a connection.
    """
    conversation = None if proxy is None else proxy.conversation(address)
    by_way_of = "" if proxy is None else f" through proxy {proxy}"
    try:
        async with asyncio.timeout(timeout_seconds):
            connection = await _connect(address if proxy is None else proxy.address, timeout_seconds)
            if conversation is not None:
                await _open_tunnel(connection, conversation)
            return connection
    except TimeoutError:
        raise TransportError(
            f"target {address}{by_way_of}: no answer within {timeout_seconds:g} s", reason="target_down"
        ) from None
    except OSError as error:
        why = error.strerror or str(error) or type(error).__name__
        if error.errno in _OUR_OWN_FAULT:
            raise PlatformError(f"target {address}{by_way_of}: {why} on this machine", reason="resources") from error
        raise TransportError(f"target {address}{by_way_of}: {why}", reason="target_down") from error


async def dial_first(
    targets: Targets, *, timeout_seconds: float, clock: Callable[[], float], proxy: Proxy | None = None
) -> tuple[socket.socket, Address]:
    """Connect to the first target that answers. Raises ``TransportError`` that says why none did.

    ``timeout_seconds`` is for each of them; ``clock`` is the one that ``targets`` goes by.
    """
    failures: list[TransportError] = []
    for address in targets.order(clock()):
        try:
            connection = await dial(address, timeout_seconds=timeout_seconds, proxy=proxy)
        except TransportError as error:
            targets.failed(address, clock(), str(error))
            failures.append(error)
        else:
            targets.succeeded(address, clock())
            return connection, address
    raise TransportError("; ".join(map(str, failures)), reason=failures[-1].reason)


async def look(targets: Targets, *, clock: Callable[[], float]) -> None:
    """Find out which targets are up, by connecting to those of which nothing was heard lately."""

    async def look_at(address: Address) -> None:
        try:
            connection = await dial(address, timeout_seconds=_LOOK_TIMEOUT_SECONDS)
        except TransportError as error:
            targets.failed(address, clock(), str(error))
        except PlatformError:
            # Nothing was learnt of the target.
            return
        else:
            connection.close()
            targets.succeeded(address, clock())

    await asyncio.gather(*(look_at(address) for address in targets.not_heard_of(clock())))


async def watch(targets: Targets, *, interval_seconds: float, clock: Callable[[], float]) -> None:
    """Look at the targets this often until cancelled, so that connections go where they work before one has failed."""
    while True:
        await look(targets, clock=clock)
        await asyncio.sleep(interval_seconds)


async def _connect(address: Address, timeout_seconds: float) -> socket.socket:
    """Try one place after the other; each gets its share of the time that is left, so that none can use up all of it.

    Raises ``OSError`` for the only place, or saying what happened at each.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_seconds
    places = _places_at_hand(address) or await _resolve(loop, address)
    failures: list[str] = []
    for following, place in zip(reversed(range(len(places))), places, strict=True):
        share = deadline if not following else loop.time() + (deadline - loop.time()) / (following + 1)
        try:
            async with asyncio.timeout_at(share):
                return await _connect_one(loop, place)
        except OSError as error:
            if len(places) == 1 or error.errno in _OUR_OWN_FAULT:
                raise
            failures.append(f"{error.strerror or 'no answer'} ({place[1][0]})")
    raise OSError(errno.EHOSTUNREACH, ", ".join(failures))


async def _connect_one(loop: asyncio.AbstractEventLoop, place: _Place) -> socket.socket:
    connection, failure = _begin(place)
    try:
        while failure == errno.EAGAIN and place[0] == socket.AF_UNIX:
            # The backlog of a unix socket is full, and nothing tells when it is not any more: asyncio would take the
            # socket for connected.
            await asyncio.sleep(_FULL_BACKLOG_PAUSE_SECONDS)
            failure = connection.connect_ex(place[1])
        if failure == errno.EINPROGRESS:
            await loop.sock_connect(connection, place[1])
        else:
            _require_none(failure)
        _require_none(errno.ECONNREFUSED if _met_itself(connection, place) else 0)
    except BaseException:
        connection.close()
        raise
    set_no_delay(connection)
    return connection


def _begin(place: _Place) -> tuple[socket.socket, int]:
    """Return a new socket and what ``connect`` said, 0 where it is connected."""
    family, where = place
    connection = socket.socket(family, socket.SOCK_STREAM)
    try:
        connection.setblocking(False)
        return connection, connection.connect_ex(where)
    except OSError:
        connection.close()
        raise


def _met_itself(connection: socket.socket, place: _Place) -> bool:
    """Tell whether the kernel connected a socket to itself, as happens where nobody listens on a port that it lends."""
    if place[0] == socket.AF_UNIX:
        return False
    try:
        name = connection.getsockname()
        return bool(name[1] == place[1][1] and name == connection.getpeername())
    except OSError:
        # It was connected and is not any more: whoever uses it will see.
        return False


def _places_at_hand(address: Address) -> list[_Place]:
    """Return where to connect to if nothing has to be looked up: names go through a thread, and these do not.

    Raises ``ConfigurationError`` for an address that can only be listened on.
    """
    if address.path is not None:
        return [(socket.AF_UNIX, address.path)]
    if address.activation is not None:
        raise ConfigurationError(f"target {address}: this is an address to listen on", reason="bad_address")
    if address.host == "localhost":
        # RFC 6761 §6.3: it is the loopback address, and nobody has to be asked.
        return [(socket.AF_INET, ("127.0.0.1", address.port)), (socket.AF_INET6, ("::1", address.port))]
    return _literal_places(address.host, address.port)


def _literal_places(host: str, port: int) -> list[_Place]:
    if ":" not in host:
        try:
            socket.inet_pton(socket.AF_INET, host)
        except OSError:
            return []
        return [(socket.AF_INET, (host, port))]
    if "%" not in host:
        return [(socket.AF_INET6, (host, port))]
    # The resolver knows the number of a zone; nothing is asked for a literal.
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except OSError:
        return []
    return [(family, where) for family, _, _, _, where in found]


async def _resolve(loop: asyncio.AbstractEventLoop, address: Address) -> list[_Place]:
    # As bytes: for a text that no name can be, Python would raise something else than the resolver does.
    found = await loop.getaddrinfo(address.host.encode("ascii"), address.port, type=socket.SOCK_STREAM)
    return [(family, where) for family, _, _, _, where in found]


async def _open_tunnel(connection: socket.socket, conversation: Conversation) -> None:
    loop = asyncio.get_running_loop()
    try:
        while True:
            if data := conversation.data_to_send():
                await loop.sock_sendall(connection, data)
            if conversation.complete:
                return
            # Looking before taking leaves what belongs to the tunnel in the socket.
            data = await _peek(loop, connection)
            rest = conversation.receive(data)
            connection.recv(len(data) - len(rest))
    except BaseException:
        connection.close()
        raise


async def _peek(loop: asyncio.AbstractEventLoop, connection: socket.socket) -> bytes:
    """Return what has come, at least one byte or ``b""`` for the end, and leave it there."""
    came = asyncio.Event()
    loop.add_reader(connection, came.set)
    try:
        while True:
            with contextlib.suppress(BlockingIOError, InterruptedError):
                return connection.recv(_PEEK_BYTES, socket.MSG_PEEK)
            came.clear()
            await came.wait()
    finally:
        loop.remove_reader(connection)


def _require_none(failure: int) -> None:
    if failure:
        raise OSError(failure, os.strerror(failure))
