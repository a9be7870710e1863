"""Which requests pass: pairs of method and path. What a path means is never guessed: an ambiguous one is refused."""

from collections.abc import Iterable, Sequence

from pqfl_transport.errors import MessageError, PeerError

MAX_TARGET_CHARACTERS = 4096
# Backends disagree on whether these are a slash, a dot or an end, so what was allowed might not be what is served.
_AMBIGUOUS = ("%2e", "%2f", "%5c", "%00", "\\", "//", "%25")

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
        or any(segment in {".", ".."} for segment in segments)
    ):
        raise MessageError("the path of this request can be understood in more than one way", reason="bad_path")
    return path


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
