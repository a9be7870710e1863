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


def meant_by(name: str) -> tuple[str, ...]:
    """Return the names of all rows and content suites that a spelling may mean, broken ones included.

    For those who take algorithms away: of two meanings both are meant. Raises ``ConfigurationError``
    (``unknown_algorithm``) where there is none.
    """
    if name in CONTENT_SUITES:
        return (name,)
    names = tuple(row.name for row in _by_spelling().get(_spelling(name), ()))
    if not names:
        raise ConfigurationError(
            f"unknown algorithm {name[:80]!r}; `pqfl algorithms` lists names and aliases", reason="unknown_algorithm"
        )
    return names


def foundation(name: str) -> frozenset[str]:
    """Return everything that a row or a content suite of exactly this name stands or falls with, itself included.

    A hybrid rests on its post-quantum half (`Algorithm.rests_on`); a content suite on its KEM, its signature, the
    cipher that wraps its keys and the one of its body. Raises ``KeyError`` for a name that no row has.
    """
    suite = CONTENT_SUITES.get(name)
    below = _by_name()[name].rests_on if suite is None else (suite.kem, suite.signature, suite.aead, suite.body)
    return frozenset({name}).union(*(foundation(part) for part in below))


def _spelling(name: str) -> str:
    return name.casefold().replace("-", "").replace("_", "").replace(" ", "")


@cache
def _by_spelling() -> dict[str, tuple[Algorithm, ...]]:
    rows: dict[str, tuple[Algorithm, ...]] = {}
    for row in TABLE:
        for spelling in {_spelling(word) for word in (row.name, *row.aliases)}:
            rows[spelling] = (*rows.get(spelling, ()), row)
    return rows


@cache
def _by_name() -> dict[str, Algorithm]:
    return {row.name: row for row in TABLE}
