"""Log lines of a service in this process, to be waited for."""

import asyncio
import io
import json
from typing import Any


class Lines(io.StringIO):
    """A stream for an `EventLog` in JSON."""

    def __init__(self) -> None:
        super().__init__()
        self.written = asyncio.Event()

    def write(self, text: str) -> int:
        """Take a line and wake who waits."""
        self.written.set()
        return super().write(text)

    def events(self, event: str) -> list[dict[str, Any]]:
        """Return all lines of this event so far."""
        lines: list[dict[str, Any]] = [json.loads(line) for line in self.getvalue().splitlines()]
        return [line for line in lines if line["event"] == event]

    async def wait_for(self, event: str, count: int = 1) -> dict[str, Any]:
        """Return the line of this event that is the ``count``-th."""
        while len(found := self.events(event)) < count:
            self.written.clear()
            await asyncio.wait_for(self.written.wait(), 20)
        return found[count - 1]
