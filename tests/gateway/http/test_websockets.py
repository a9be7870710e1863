"""Which requests ask for a WebSocket; that messages pass is shown end to end."""

from types import SimpleNamespace
from typing import Any

import pytest
from multidict import CIMultiDict

from gateway.http.websockets import wanted


@pytest.mark.parametrize(
    ("method", "upgrade", "expected"),
    [("GET", "websocket", True), ("GET", "WebSocket", True), ("POST", "websocket", False), ("GET", "h2c", False)],
)
def test_an_upgrade_is_recognised(method: str, upgrade: str, expected: bool) -> None:
    """Method and field both have to be right (RFC 6455 §4.1)."""
    request: Any = SimpleNamespace(method=method, headers=CIMultiDict({"upgrade": upgrade}))
    assert wanted(request) is expected
    assert not wanted(SimpleNamespace(method="GET", headers=CIMultiDict()))  # type: ignore[arg-type]
