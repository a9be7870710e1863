"""The backend's side of one connection: an HTTP client with one connection of its own, made when it is needed.

What a peer asks on one connection arrives on one connection: the backend sees the same order and the same end.
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
from aiohttp.client_proto import ResponseHandler

Dial = Callable[[], Awaitable[socket.socket]]
"""Gives a connected, non-blocking socket. Raises ``TransportError``."""

_READ_BYTES = 256 * 1024
# Nothing of a request or an answer has to be over by a certain time: training takes as long as it takes.
_NO_TIMEOUT = aiohttp.ClientTimeout(total=None, connect=None, sock_connect=None, sock_read=None)
_NOT_OURS = frozenset({"User-Agent", "Accept", "Accept-Encoding", "Content-Type"})


class _Connector(aiohttp.BaseConnector):
    """Connects by ``dial`` whatever the URL says."""

    def __init__(self, dial: Dial) -> None:
        # A connection stays with its peer's, however long that is quiet.
        super().__init__(limit=1, keepalive_timeout=3600, force_close=False)
        self._dial = dial

    async def _create_connection(self, req: Any, traces: Any, timeout: Any) -> ResponseHandler:  # noqa: ASYNC109
        del req, traces, timeout
        connection = await self._dial()
        _, protocol = await asyncio.get_running_loop().create_connection(self._factory, sock=connection)
        return protocol


class Upstream:
    """Sends requests to the backend of one connection."""

    def __init__(self, dial: Dial) -> None:
        self._session = aiohttp.ClientSession(
            connector=_Connector(dial), timeout=_NO_TIMEOUT, auto_decompress=False, skip_auto_headers=_NOT_OURS,
            read_bufsize=_READ_BYTES, cookie_jar=aiohttp.DummyCookieJar(), raise_for_status=False,
        )  # fmt: skip

    @property
    def session(self) -> aiohttp.ClientSession:
        """The client."""
        return self._session

    async def close(self) -> None:
        """Close the connection to the backend."""
        await self._session.close()
