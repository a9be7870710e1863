from typing import Any


class HttpOutcome:
    reason = ""
    bytes_in = 0
    bytes_out = 0
    requests = 0


class HttpFront:
    def __init__(self, *a: Any, **k: Any) -> None: ...
    def drain(self) -> None: ...
    async def serve(self, *a: Any) -> HttpOutcome: ...  # type: ignore
