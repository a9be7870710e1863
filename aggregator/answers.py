"""What all handlers share: problem documents (RFC 9457) for errors, and numbers in paths."""

import json
import re
from collections.abc import Mapping

from aiohttp import web

from pqfl_transport import problems
from pqfl_transport.errors import MessageError, PqflError

ENVELOPE_TYPE = "application/vnd.pqfl.envelope"
_NUMBER = re.compile(r"[0-9]{1,18}", re.ASCII)


def problem(
    error: PqflError, headers: Mapping[str, str] | None = None, members: Mapping[str, object] | None = None
) -> web.Response:
    """Return the answer that says so; ``members`` are added to the problem document."""
    document = problems.to_problem(error) | dict(members or {})
    return web.Response(
        status=problems.status_of(error), body=json.dumps(document).encode(), content_type=problems.CONTENT_TYPE,
        headers=headers,
    )  # fmt: skip


def path_number(request: web.Request, name: str, reason: str) -> int:
    """Return a number that stands in the path. Raises ``MessageError`` with ``reason`` where it is none."""
    text = request.match_info[name]
    if not _NUMBER.fullmatch(text):
        raise MessageError(f"{text[:40]!r} is not a number", reason=reason)
    return int(text)
