"""Finding a row by any of its names."""

from functools import cache
from types import MappingProxyType

from pqfl_transport.algorithms.channel import AEADS, TLS_GROUPS, TLS_SUITES
from pqfl_transport.algorithms.kems import KEMS
from pqfl_transport.algorithms.rows import Algorithm, ContentSuite, Kind, Status
from pqfl_transport.algorithms.signatures import SIGNATURES
from pqfl_transport.algorithms.suites import SUITES
from pqfl_transport.errors import ConfigurationError, PolicyError

TABLE: tuple[Algorithm, ...] = (*KEMS, *SIGNATURES, *AEADS, *TLS_GROUPS, *TLS_SUITES)
CONTENT_SUITES = MappingProxyType({suite.id: suite for suite in SUITES})


def find(name: str, kind: Kind | None = None) -> Algorithm:
    """Return the row that ``name`` or an alias of it means; upper and lower case, ``-`` and ``_`` do not matter.

    Raises ``PolicyError`` for a broken algorithm, with the reason and the date, and ``ConfigurationError`` for an
    unknown name. Where a KEM and a TLS group share a spelling and ``kind`` is not given, the KEM is meant.
    """
    for row in _by_spelling().get(_spelling(name), ()):
        if kind is None or row.kind is kind:
            if row.status is Status.BROKEN:
                raise PolicyError(f"{row.name} is broken since {row.broken_on}: {row.remark}", reason="broken")
            return row
    wanted = f" as a {kind.value}" if kind else ""
    known = ", ".join(row.name for row in TABLE if kind in (None, row.kind) and row.status is not Status.BROKEN)
    raise ConfigurationError(f"unknown algorithm {name!r}{wanted}; known are {known}", reason="unknown_algorithm")


def content_suite(suite_id: str) -> ContentSuite:
    """Return the content suite with this exact id. Raises ``PolicyError``: an unknown suite is never guessed at."""
    try:
        return CONTENT_SUITES[suite_id]
    except KeyError:
        raise PolicyError(f"unknown content suite {suite_id!r}", reason="unknown_suite") from None


def _spelling(name: str) -> str:
    return name.casefold().replace("-", "").replace("_", "").replace(" ", "")


@cache
def _by_spelling() -> dict[str, tuple[Algorithm, ...]]:
    rows: dict[str, tuple[Algorithm, ...]] = {}
    for row in TABLE:
        for spelling in {_spelling(word) for word in (row.name, *row.aliases)}:
            rows[spelling] = (*rows.get(spelling, ()), row)
    return rows
