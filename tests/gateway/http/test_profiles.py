"""The plain profile: rules if there are any, else everything."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from gateway.http.profiles import Plain, Session
from pqfl_transport.errors import PeerError, TransportError
from tests.support.peers import peer


def admit(guard: Plain, method: str, path: str) -> None:
    request: Any = SimpleNamespace(method=method)
    asyncio.run(guard.admit(request, path, Session(peer(), "192.0.2.1:1", None)))  # type: ignore[arg-type]


def test_without_rules_everything_passes() -> None:
    """The backend decides."""
    admit(Plain(), "DELETE", "/anything")


def test_rules_are_all_that_passes() -> None:
    """What no rule names is refused with its reason, and a dead backend is to be tried again."""
    guard = Plain((("GET", "/a"),))
    admit(guard, "GET", "/a")
    with pytest.raises(PeerError) as caught:
        admit(guard, "GET", "/b")
    assert guard.status_of(caught.value) == 403
    assert guard.status_of(TransportError("down", reason="target_down")) == 503
