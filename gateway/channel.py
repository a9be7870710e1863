"""What a supervisor and its workers say to each other: JSON lines over a socket pair, each with its kind.

From the supervisor: ``snapshot``, ``reload``, ``drain``, ``end``. From a worker: ``ready``, ``snapshot``, ``reloaded``,
``audit``. A line is at most 4 MiB; who sends more, or anything else, is a bug on the same machine and ends the channel.
"""

import asyncio
import json
import socket
from typing import Any

from pqfl_transport.errors import PlatformError

MAX_LINE_BYTES = 4 * 1024 * 1024


class Channel:
    """One end of the conversation."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def over(cls, connection: socket.socket) -> "Channel":
        """Speak over a connected socket, which is taken over."""
        reader, writer = await asyncio.open_connection(sock=connection, limit=MAX_LINE_BYTES)
        return cls(reader, writer)

    def send(self, kind: str, **facts: Any) -> None:
        """Say something; a closed channel is noticed by who reads."""
        self._writer.write(json.dumps({"kind": kind, **facts}).encode() + b"\n")

    async def receive(self) -> dict[str, Any] | None:
        """Return what was said next, ``None`` when the other end is gone. Raises ``PlatformError`` for nonsense."""
        try:
            line = await self._reader.readline()
        except (ConnectionError, ValueError) as error:
            if isinstance(error, ConnectionError):
                return None
            raise PlatformError(
                f"the channel between supervisor and worker broke: {error}", reason="channel"
            ) from error
        if not line.endswith(b"\n"):
            return None
        try:
            message: dict[str, Any] = json.loads(line)
        except ValueError as error:
            raise PlatformError(
                f"the channel between supervisor and worker broke: {error}", reason="channel"
            ) from error
        return message

    def close(self) -> None:
        """End the conversation."""
        self._writer.close()
