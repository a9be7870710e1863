"""A policy that an operator writes: five sets of names in TOML, held to the level that it claims.

    name = "cardio-2027"          # lower case, with the year at the end
    level = "high"                # nothing below it may be listed
    groups = ["X25519MLKEM768"]
    leaf_keys = ["ML-DSA-65"]
    ca_signatures = ["ML-DSA-65", "ML-DSA-87"]
    tls_suites = ["TLS_AES_256_GCM_SHA384"]
    content_suites = ["pqfl/v1/mlkem768x25519-mldsa65"]

    [classical]                   # only where classical peers are to be served during a migration
    groups = ["x25519"]
    leaf_keys = ["ECDSA-P256"]
    ca_signatures = ["ECDSA-P256"]

Nothing here reads a file: text comes in. What is broken is refused with reason and date, what is experimental counts
because it is written down, and what a quantum computer breaks has its place in the classical part alone.
"""

import re
import tomllib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from pqfl_transport.algorithms import CONTENT_SUITES, Algorithm, Kind, Status, content_suite, find
from pqfl_transport.errors import ConfigurationError, PolicyError
from pqfl_transport.policy.intelligence import CLASSICAL_SETS, SETS
from pqfl_transport.policy.named import POLICIES, for_level
from pqfl_transport.policy.sets import Classical, Policy, SecurityLevel

MAX_POLICY_BYTES = 64 * 1024
MAX_NAMES = 64
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,58}-20[0-9]{2}", re.ASCII)
_TOP = frozenset({"name", "level", *SETS, "classical"})
_KINDS: Mapping[str, Kind] = {
    "groups": Kind.TLS_GROUP,
    "leaf_keys": Kind.SIGNATURE,
    "ca_signatures": Kind.SIGNATURE,
    "tls_suites": Kind.TLS_SUITE,
}
_FLOORS = {SecurityLevel.STANDARD: 1, SecurityLevel.HIGH: 3, SecurityLevel.MAXIMUM: 5, SecurityLevel.CNSA2: 5}
"""The lowest NIST category that each level may list."""
_UNUSED = frozenset({Status.SUPERSEDED, Status.CLASSICAL})


def parse_policy(data: bytes, where: str) -> Policy:
    """Return the policy that a file says. ``where`` names the file in messages.

    Raises ``ConfigurationError`` naming file and key, ``PolicyError`` (``broken``, ``below_level``,
    ``not_quantum_safe``) for an algorithm that no policy of this level can list.
    """
    document = _document(data, where)
    name = document.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise _bad(where, "name", "expected lower-case letters, digits and '-', with the year at the end: cardio-2027")
    if name in POLICIES:
        raise _bad(where, "name", f"{name} is the name of a policy that is shipped; a policy never changes once named")
    level = _level(document.get("level"), where)
    sets = {key: _names(document, key, where) for key in SETS}
    policy = Policy(name, level, classical=_classical(document.get("classical"), where), **_rows(sets, level, where))
    for suite in policy.content_suites:
        if CONTENT_SUITES[suite].signature not in policy.leaf_keys:
            signature = CONTENT_SUITES[suite].signature
            raise _bad(where, "content_suites", f"{suite} is signed with {signature}, which leaf_keys lacks")
    return policy


def _document(data: bytes, where: str) -> dict[str, Any]:
    if len(data) > MAX_POLICY_BYTES:
        raise ConfigurationError(f"{where}: more than {MAX_POLICY_BYTES} bytes", reason="too_large")
    try:
        document = tomllib.loads(data.decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigurationError(f"{where}: not TOML: {error}", reason="bad_policy") from error
    if unknown := document.keys() - _TOP:
        raise _bad(where, min(unknown), f"no such key; known are {', '.join(sorted(_TOP))}")
    return document


def _level(word: object, where: str) -> SecurityLevel:
    if not isinstance(word, str):
        raise _bad(where, "level", f"expected {', '.join(SecurityLevel)}")
    try:
        return for_level(word).level
    except ConfigurationError as error:
        raise _bad(where, "level", str(error)) from error


def _names(table: Mapping[str, Any], key: str, where: str) -> list[str]:
    value = table.get(key)
    if not isinstance(value, list) or not value or not all(isinstance(one, str) for one in value):
        raise _bad(where, key, "expected a list of names, the preferred one first")
    if len(value) > MAX_NAMES:
        raise _bad(where, key, f"{len(value)} names; {MAX_NAMES} are allowed")
    return value


def _rows(sets: Mapping[str, list[str]], level: SecurityLevel, where: str) -> dict[str, tuple[str, ...]]:
    found = {}
    for key, names in sets.items():
        resolve: Callable[[str, SecurityLevel, str], str] = partial(_row, key) if key in _KINDS else _suite
        found[key] = _once([resolve(name, level, where) for name in names], key, where)
    return found


def _row(key: str, name: str, level: SecurityLevel, where: str) -> str:
    row = _find(name, key, where)
    if row.status in _UNUSED:
        raise PolicyError(
            f"{where}: {key}: {row.name} is {row.status} and resists no quantum computer, or is no standard any more;"
            " classical algorithms are listed under [classical] alone",
            reason="not_quantum_safe",
        )
    _require_category(row.nist_category, row.name, key, level, where)
    _require_regulated(row.name, key, level, where)
    return row.name


def _suite(name: str, level: SecurityLevel, where: str) -> str:
    key = "content_suites"
    try:
        suite = content_suite(name)
    except PolicyError as error:
        raise _bad(where, key, str(error)) from error
    for part, kind in ((suite.kem, Kind.KEM), (suite.signature, Kind.SIGNATURE)):
        row = find(part, kind)
        _require_category(row.nist_category, f"{name} with {row.name}", key, level, where)
    _require_regulated(name, key, level, where)
    return suite.id


def _find(name: str, key: str, where: str) -> Algorithm:
    try:
        row = find(name, _KINDS[key])
    except (ConfigurationError, PolicyError) as error:
        raise type(error)(f"{where}: {key}: {error}", reason=error.reason) from error
    if row.openssl_name is None:
        raise _bad(where, key, f"{row.name} cannot be used in TLS: OpenSSL has no name for it")
    return row


def _require_category(category: int | None, what: str, key: str, level: SecurityLevel, where: str) -> None:
    if (category or 0) < _FLOORS[level]:
        raise PolicyError(
            f"{where}: {key}: {what} is of NIST category {category}, level {level} begins at {_FLOORS[level]}",
            reason="below_level",
        )


def _require_regulated(name: str, key: str, level: SecurityLevel, where: str) -> None:
    if level is not SecurityLevel.CNSA2:
        return
    listed: tuple[str, ...] = getattr(for_level(level), key)
    if name not in listed:
        raise PolicyError(
            f"{where}: {key}: CNSA 2.0 is a regulation with sets of its own, and {name} is not in {', '.join(listed)}",
            reason="below_level",
        )


def _classical(table: object, where: str) -> Classical | None:
    if table is None:
        return None
    if not isinstance(table, dict):
        raise _bad(where, "classical", "expected a table [classical]")
    if unknown := table.keys() - set(CLASSICAL_SETS):
        raise _bad(where, f"classical.{min(unknown)}", f"no such key; known are {', '.join(CLASSICAL_SETS)}")
    found = {}
    for key in CLASSICAL_SETS:
        names = []
        for name in _names(table, key, where):
            row = _find(name, key, where)
            if row.status is not Status.CLASSICAL:
                raise _bad(where, f"classical.{key}", f"{row.name} is not classical and belongs outside this table")
            names.append(row.name)
        found[key] = _once(names, f"classical.{key}", where)
    return Classical(**found)


def _once(names: list[str], key: str, where: str) -> tuple[str, ...]:
    if len(set(names)) != len(names):
        raise _bad(where, key, "a name stands twice")
    return tuple(names)


def _bad(where: str, key: str, why: str) -> ConfigurationError:
    return ConfigurationError(f"{where}: {key}: {why}", reason="bad_policy")
