"""Which requests pass: pairs of method and path. What a path means is never guessed: an ambiguous one is refused."""

import re
from collections.abc import Iterable, Sequence

from pqfl_transport.errors import MessageError, PeerError

MAX_TARGET_CHARACTERS = 4096
# Backends disagree on whether these are a slash, a dot or an end, so what was allowed might not be what is served.
_AMBIGUOUS = ("%2e", "%2f", "%5c", "\\", "//", "%25")
# An escape that is none, and escaped control characters, which end a line or a name somewhere behind.
_BAD_ESCAPE = re.compile(r"%(?![0-9a-f]{2})|%[01][0-9a-f]|%7f")
_OLDEST_VERSION = (1, 0)
_FIRST_WITH_CODINGS = (1, 1)

Rule = tuple[str, str]
"""Method, or ``*`` for any, and path, with ``*`` for one segment and ``**`` at the end for any rest."""


def path_of(target: str) -> str:
    """Return the path of a request target, without its query. Raises ``MessageError`` (``bad_path``)."""
    path = target.partition("?")[0]
    lowered = path.casefold()
    segments = path.split("/")
    if (
        not path.startswith("/")
        or len(target) > MAX_TARGET_CHARACTERS
        or not target.isascii()
        or "#" in target
        or any(word in lowered for word in _AMBIGUOUS)
        or _BAD_ESCAPE.search(lowered)
        # Some backends cut a segment at its first semicolon before they resolve dots (RFC 3986 §3.3).
        or any(segment.partition(";")[0] in {".", ".."} for segment in segments)
    ):
        raise MessageError("the path of this request can be understood in more than one way", reason="bad_path")
    return path


def require_framing(version: tuple[int, int], codings: Sequence[str]) -> None:
    """Raise ``MessageError`` (``bad_framing``) unless it is certain where the body of a request ends.

    ``codings`` are the values of Transfer-Encoding. A body passes in chunks of the gateway's own, so what else was
    done to it would not be known behind (RFC 9112 §6.1, §7).
    """
    if version < _OLDEST_VERSION:
        raise MessageError("a request without a version has no header and no framing", reason="bad_framing")
    if codings and (version < _FIRST_WITH_CODINGS or [word.strip().casefold() for word in codings] != ["chunked"]):
        raise MessageError("a body passes in chunks or with its length, in no other coding", reason="bad_framing")


def require_allowed(method: str, path: str, rules: Sequence[Rule]) -> None:
    """Raise ``PeerError`` (``path_not_allowed``) unless a rule matches."""
    if not any(rule in {"*", method} and matches(pattern, path) for rule, pattern in rules):
        raise PeerError(f"{method} {path[:200]} is not among the requests that pass here", reason="path_not_allowed")


def matches(pattern: str, path: str) -> bool:
    """Whether a path is what a pattern says."""
    wanted, found = pattern.split("/"), path.split("/")
    if wanted[-1] == "**":
        wanted = wanted[:-1]
        if len(found) <= len(wanted):
            return False
        found = found[: len(wanted)]
    return len(wanted) == len(found) and _all_match(zip(wanted, found, strict=True))


def _all_match(pairs: Iterable[tuple[str, str]]) -> bool:
    return all(bool(other) if one == "*" else one == other for one, other in pairs)
