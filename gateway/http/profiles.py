"""What stands behind a listener in HTTP mode decides what may pass to it: the plain profile, and what all have.

A profile looks at a request before the backend sees a byte of it. It returns what to put in front of the rest of the
body (what it had to read), and what watches the rest on its way; or it raises the error that is the answer.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import aiohttp
from aiohttp import web

from gateway.http.rules import Rule, require_allowed
from gateway.http.upstream import Upstream
from pqfl_transport.errors import PqflError
from pqfl_transport.problems import status_of
from pqfl_transport.tls.peers import PeerFacts

Watch = Callable[[bytes], None]
"""Sees every piece of a body before it goes on. Raises ``PqflError`` to stop it."""


@dataclass(slots=True)
class Session:
    """One connection: who is there, from where, and its way to the backend."""

    peer: PeerFacts
    source: str
    upstream: Upstream
    requests: int = 0
    retiring: bool = False
    """Whether the request under way is its last one."""


@dataclass(frozen=True, slots=True)
class Admitted:
    """How a request goes on."""

    prefix: bytes = b""
    """What was read of the body already."""
    watch: Watch | None = None
    """For the rest of the request's body."""
    watch_answer: Watch | None = None
    """For the body of the answer."""


class Guard(Protocol):
    """A profile."""

    async def admit(self, request: web.BaseRequest, path: str, session: Session) -> Admitted:
        """Let a request pass, or raise ``PqflError``.

        A profile that reads of the body first calls `invite_body`, once the head gives no reason to refuse.
        """

    def status_of(self, error: PqflError) -> int:
        """Return the HTTP status that says so to this kind of client."""


def invite_body(request: web.BaseRequest) -> None:
    """Tell a peer that waits for it to send the body (RFC 9110 §10.1.1). Before that it can be refused for nothing."""
    if request.headers.get("Expect", "").casefold() == "100-continue" and request.version >= aiohttp.HttpVersion11:
        assert request.transport is not None  # noqa: S101
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")


@dataclass(frozen=True, slots=True)
class Plain:
    """Whatever the rules let through; without rules everything."""

    rules: tuple[Rule, ...] = field(default=())

    async def admit(self, request: web.BaseRequest, path: str, session: Session) -> Admitted:
        """Let a request pass that a rule names."""
        del session
        if self.rules:
            require_allowed(request.method, path, self.rules)
        return Admitted()

    def status_of(self, error: PqflError) -> int:
        """Return the status of `pqfl_transport.problems`."""
        return status_of(error)
