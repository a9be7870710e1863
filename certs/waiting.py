"""Requests that wait until a file is another one: how a reader hears within a second who was revoked.

A request says what it has seen of the file (``If-None-Match``, RFC 9110 §13.1.2) and how long it would wait for
something else (``Prefer: wait``, RFC 7240 §4.3). Each of them keeps a connection, so there is room for so many, and for
so many of one origin; whoever finds none is answered at once, and asks again as one does who never asked to wait.
"""

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

MOST_SECONDS = 60
_LOOK_SECONDS = 0.5
_WAIT = re.compile(r"(?:^|[,;])\s*wait\s*=\s*\"?([0-9]{1,4})\"?\s*(?=$|[,;])", re.ASCII | re.IGNORECASE)
_MAX_PREFERENCES_CHARACTERS = 256


def preferred_wait_seconds(preferences: str) -> int:
    """Return how long a ``Prefer`` header would have a request wait, at most `MOST_SECONDS`; 0 without that."""
    found = _WAIT.search(preferences[:_MAX_PREFERENCES_CHARACTERS])
    return 0 if found is None else min(int(found[1]), MOST_SECONDS)


def tag_of(path: Path) -> str:
    """Return what aiohttp's ``FileResponse`` calls the content of a file, unquoted; empty where there is none."""
    try:
        found = path.stat()
    except OSError:
        return ""
    return f"{found.st_mtime_ns:x}-{found.st_size:x}"


@dataclass(slots=True)
class _Watched:
    tag: str
    requests: int = 0
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    looking: "asyncio.Task[None] | None" = None


@dataclass(slots=True)
class Waiting:
    """The requests that wait in one service. Each file is looked at twice a second while somebody waits for it."""

    most: int = 256
    most_of_origin: int = 32
    _by_origin: Counter[str] = field(default_factory=Counter)
    _watched: dict[Path, _Watched] = field(default_factory=dict)

    def has_room(self, origin: str) -> bool:
        """Whether one more request of this origin may wait."""
        return self._by_origin.total() < self.most and self._by_origin[origin] < self.most_of_origin

    async def until_changed(self, path: Path, tag: str, origin: str, seconds: float) -> None:
        """Return when the file is another than what `tag_of` said, or ``seconds`` are over."""
        async with self._counted(origin), self._watching(path, tag) as watched:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds), watched.changed:
                    await watched.changed.wait_for(lambda: watched.tag != tag)

    @asynccontextmanager
    async def _counted(self, origin: str) -> AsyncIterator[None]:
        self._by_origin[origin] += 1
        try:
            yield
        finally:
            self._by_origin[origin] -= 1
            if not self._by_origin[origin]:
                del self._by_origin[origin]

    @asynccontextmanager
    async def _watching(self, path: Path, tag: str) -> AsyncIterator[_Watched]:
        watched = self._watched.setdefault(path, _Watched(tag))
        watched.requests += 1
        if watched.looking is None:
            watched.looking = asyncio.create_task(_look(path, watched))
        try:
            yield watched
        finally:
            watched.requests -= 1
            if not watched.requests:
                watched.looking.cancel()
                del self._watched[path]


async def _look(path: Path, watched: _Watched) -> None:
    while True:
        tag = await asyncio.to_thread(tag_of, path)
        if tag != watched.tag:
            async with watched.changed:
                watched.tag = tag
                watched.changed.notify_all()
        await asyncio.sleep(_LOOK_SECONDS)
