"""Every option of a sidecar as a row: its name on the command line and in a file, what it takes, what it is for.

The names are those that operators know from ghostunnel where it has one. A configuration file is TOML with the same
names without the dashes in front; an array where a flag may be repeated. What stands at its top holds for every
listener, `[[listener]]` tables add to it, and what the command line says goes over the top of the file.
"""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pqfl_transport.errors import ConfigurationError
from pqfl_transport.pki.keystore import read_public
from pqfl_transport.tls.config import Role

MAX_FILE_BYTES = 1024 * 1024
_LISTENERS = "listener"
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)?", re.ASCII)
_SECONDS = MappingProxyType({"ms": 0.001, None: 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0})
# Python reads no number of more than 4300 digits, and none of these needs more than 15.
_COUNT = re.compile(r"[0-9]{1,15}", re.ASCII)
_SIZE = re.compile(r"([0-9]{1,15})([KMG]?)", re.ASCII)
_BYTES = MappingProxyType({"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30})

Values = Mapping[str, Any]
"""Option names to values of the right type; what nobody said is not there."""


class Takes(Enum):
    """What an option's value is."""

    TEXT = "TEXT"
    ADDRESS = "ADDR"
    FILE = "FILE"
    SECONDS = "SECONDS"
    COUNT = "N"
    BYTES = "BYTES"
    SWITCH = ""


@dataclass(frozen=True, slots=True)
class Option:
    """One option."""

    name: str
    takes: Takes
    help: str
    several: bool = False
    role: Role | None = None
    """The command that has it; none where both have."""
    of_service: bool = False
    """It is about the process and not about one listener."""
    choices: tuple[str, ...] = ()
    metavar: str = ""


_SERVER, _CLIENT = Role.SERVER, Role.CLIENT
T = Takes

OPTIONS: tuple[Option, ...] = (
    Option("listen", T.ADDRESS, "HOST:PORT, [IPV6]:PORT, unix:PATH or systemd:NAME."),
    Option("target", T.ADDRESS, "Where connections go; repeat to fail over in this order.", several=True),
    Option("cert", T.FILE, "Own certificate, PEM; a second, classical one for --pq prefer.", several=True),
    Option("key", T.FILE, "Its private key, PEM, mode 0600; one for each --cert.", several=True),
    Option("keystore", T.FILE, "Certificate and key in one file instead: PEM bundle or PKCS#12, mode 0600."),
    Option("storepass-file", T.FILE, "File with the password of --keystore, mode 0600."),
    Option("cacert", T.FILE, "Trusted root and issuing certificates, PEM."),
    Option("classical-cacert", T.FILE, "Whom classical peers are trusted by, with --pq prefer."),
    Option("crl", T.FILE, "Revocation lists, PEM or DER; with --crl-url, where the last good ones are kept."),
    Option(
        "crl-url", T.TEXT, "Fetch them here: https://HOST:PORT/v1/crl; repeat to fail over.", several=True,
        metavar="URL",
    ),
    Option("crl-poll", T.SECONDS, "How often a source is asked that does not tell of new lists. [default: 1m]"),
    Option(
        "crl-stale", T.TEXT, "Refuse peers when a list is past its next update, or go on. [default: refuse]",
        choices=("refuse", "allow"),
    ),
    Option("crl-state", T.FILE, "Where the highest numbers seen are kept. [default: CRL.seen]"),
    Option("renew", T.ADDRESS, "Enrolment service, HOST:PORT: renew --cert there at two thirds of its life."),
    Option(
        "level", T.TEXT, "Security level: which groups, keys and signatures are accepted. [default: high]",
        choices=("standard", "high", "maximum", "cnsa2"),
    ),
    Option(
        "pq", T.TEXT, "Refuse classical peers, or serve them too for a migration. [default: require]",
        choices=("require", "prefer"),
    ),
    Option(
        "policy", T.TEXT, "Instead of --level and --pq: a name, as pq-require-2026, or a .toml file.",
        metavar="NAME|FILE",
    ),
    Option("no-aes", T.SWITCH, "This machine has no AES instructions: prefer ChaCha20-Poly1305."),
    Option("link-kbps", T.COUNT, "How fast the link is, where it is slow: prefer small handshakes.", metavar="N"),
    Option(
        "cpu-budget", T.COUNT, "What a handshake may compute: measure here, prefer the quickest.",
        metavar="MILLISECONDS",
    ),
    Option("advisory", T.FILE, "Advisory of the federation's root: takes withdrawn algorithms out of the policy."),
    Option("advisory-state", T.FILE, "Where the highest advisory seen is kept. [default: ADVISORY.seen]"),
    Option("allow-uri", T.TEXT, "Let this SPIFFE ID in; `*` for a segment.", several=True, role=_SERVER, metavar="URI"),
    Option("allow-dns", T.TEXT, "Let certificates with this DNS name in.", several=True, role=_SERVER, metavar="NAME"),
    Option("allow-ip", T.TEXT, "Let certificates with this IP address in.", several=True, role=_SERVER, metavar="IP"),
    Option("allow-cn", T.TEXT, "Let certificates with this common name in.", several=True, role=_SERVER, metavar="CN"),
    Option("allow-ou", T.TEXT, "Let certificates of this unit in.", several=True, role=_SERVER, metavar="OU"),
    Option("allow-spki", T.TEXT, "Let this key in: sha256/BASE64.", several=True, role=_SERVER, metavar="PIN"),
    Option("allow-all", T.SWITCH, "Let every site of the federation in.", role=_SERVER),
    Option("verify-uri", T.TEXT, "SPIFFE ID of the gateway to expect.", several=True, role=_CLIENT, metavar="URI"),
    Option("verify-dns", T.TEXT, "DNS name to expect in its certificate.", several=True, role=_CLIENT, metavar="NAME"),
    Option("verify-ip", T.TEXT, "IP address to expect in its certificate.", several=True, role=_CLIENT, metavar="IP"),
    Option("verify-cn", T.TEXT, "Common name to expect in it.", several=True, role=_CLIENT, metavar="CN"),
    Option("verify-ou", T.TEXT, "Unit to expect in it.", several=True, role=_CLIENT, metavar="OU"),
    Option("verify-spki", T.TEXT, "Key to expect: sha256/BASE64.", several=True, role=_CLIENT, metavar="PIN"),
    Option(
        "override-server-name", T.TEXT, "Send and check this name instead of the target's.", role=_CLIENT,
        metavar="NAME",
    ),
    Option("alpn", T.TEXT, "Application protocol, the preferred one first.", several=True, metavar="NAME"),
    Option("proxy", T.TEXT, "The way out: http://[USER:PASS@]HOST:PORT or socks5://….", role=_CLIENT, metavar="URL"),
    Option(
        "mode", T.TEXT, "Relay bytes, or understand HTTP. [default: tcp]", role=_SERVER, choices=("tcp", "http")
    ),
    Option(
        "profile", T.TEXT, "What stands behind --mode http. [default: plain]", role=_SERVER,
        choices=("plain", "aggregator", "flower"),
    ),
    Option(
        "allow-path", T.TEXT, "Let these requests through in --mode http, as 'POST /v1/*'.", several=True, role=_SERVER,
        metavar="RULE",
    ),
    Option("roster", T.FILE, "Signed roster, for --profile aggregator.", role=_SERVER),
    Option("roster-state", T.FILE, "Where its highest number seen is kept. [default: ROSTER.seen]", role=_SERVER),
    Option("proxy-protocol", T.SWITCH, "Begin connections to the target with a PROXY header, version 2.", role=_SERVER),
    Option("handshake-timeout", T.SECONDS, "How long a handshake may take. [default: 10]"),
    Option("max-handshakes", T.COUNT, "Unfinished handshakes at a time. [default: 1024]"),
    Option("max-concurrent-conns", T.COUNT, "Open connections at a time. [default: no limit]"),
    Option("max-conns-per-peer", T.COUNT, "Open connections of one peer. [default: no limit]"),
    Option("conns-per-minute-per-peer", T.COUNT, "New connections of one peer. [default: no limit]"),
    Option("bytes-per-second-per-peer", T.BYTES, "Both ways, all its connections, as 10M. [default: no limit]"),
    Option("max-conn-lifetime", T.SECONDS, "Close connections after this long. [default: never]"),
    Option("idle-timeout", T.SECONDS, "Close connections that were idle so long. [default: never]"),
    Option("resume", T.SECONDS, "Let sessions be resumed for so long. [default: 0, never]"),
    Option("connect-timeout", T.SECONDS, "How long connecting may take. [default: 10]"),
    Option("unsafe-target", T.SWITCH, "Let the plain side leave this machine.", role=_SERVER),
    Option("unsafe-listen", T.SWITCH, "Accept plain connections from other machines.", role=_CLIENT),
    Option(
        "passphrase-file", T.FILE, "File with the passphrase of encrypted keys, mode 0600; or set PQFL_PASSPHRASE.",
        of_service=True,
    ),
    Option("status", T.ADDRESS, "Serve /_status, /_metrics, /healthz and /readyz here (loopback).", of_service=True),
    Option("audit", T.FILE, "Append connections, refusals and reloads to this hash-chained log.", of_service=True),
    Option("audit-key", T.FILE, "ML-DSA key that signs the heads of --audit.", of_service=True),
    Option("workers", T.COUNT, "Processes that share the work. [default: 1]", of_service=True),
    Option("timed-reload", T.SECONDS, "Reload certificates this often, beside HUP. [default: never]", of_service=True),
    Option("shutdown-timeout", T.SECONDS, "How long TERM waits. [default: 30]", of_service=True),
    Option("quiet", T.SWITCH, "Log only trouble.", of_service=True),
    Option("log-format", T.TEXT, "[default: logfmt]", of_service=True, choices=("logfmt", "json")),
)  # fmt: skip
_BY_NAME = MappingProxyType({option.name: option for option in OPTIONS})
_OF_A_TABLE = frozenset({"name", "role"})


def options_of(role: Role) -> tuple[Option, ...]:
    """Return what one of the two commands takes."""
    return tuple(option for option in OPTIONS if option.role in {None, role})


@dataclass(frozen=True, slots=True)
class Told:
    """What the operator said: about the process, and about each listener with its name and role."""

    service: Values
    listeners: tuple[tuple[str, Role, Values], ...]


def collect(role: Role, flags: Values, file: Path | None) -> Told:
    """Put flags and file together. Raises ``ConfigurationError`` naming the file and the key."""
    top = {} if file is None else _read(file)
    tables = top.pop(_LISTENERS, None)
    common = _parsed(top, str(file), role) | dict(flags)
    service = {name: value for name, value in common.items() if _BY_NAME[name].of_service}
    shared = {name: value for name, value in common.items() if not _BY_NAME[name].of_service}
    if tables is None:
        return Told(service, (("main", role, shared),))
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise ConfigurationError(f"{file}: listener: expected [[listener]] tables", reason="bad_config")
    return Told(
        service, tuple(_listener(table, shared, role, f"{file}: listener", n) for n, table in enumerate(tables))
    )


def _listener(
    table: dict[str, Any], shared: Values, default: Role, where: str, number: int
) -> tuple[str, Role, Values]:
    name, role_name = table.get("name", f"listener-{number + 1}"), table.get("role", default.value)
    where = f"{where} {name}"
    if not isinstance(name, str) or role_name not in tuple(Role):
        raise ConfigurationError(f"{where}: role is server or client, name is a text", reason="bad_config")
    role = Role(role_name)
    own = _parsed({key: value for key, value in table.items() if key not in _OF_A_TABLE}, where, role)
    for key in own:
        if _BY_NAME[key].of_service:
            raise ConfigurationError(f"{where}: {key} stands at the top of the file", reason="bad_config")
    fits = {key: value for key, value in shared.items() if _BY_NAME[key].role in {None, role}}
    return name, role, fits | own


def _read(file: Path) -> dict[str, Any]:
    data = read_public(file, max_bytes=MAX_FILE_BYTES)
    try:
        return tomllib.loads(data.decode())
    except (ValueError, RecursionError) as error:
        # Not TOML, not UTF-8, a number with too many digits, tables within tables without end.
        raise ConfigurationError(f"{file}: {error}", reason="bad_config") from error


def _parsed(table: Mapping[str, Any], where: str, role: Role) -> dict[str, Any]:
    found = {}
    for key, value in table.items():
        option = _BY_NAME.get(key)
        if option is None:
            raise ConfigurationError(f"{where}: {key}: no such option", reason="bad_config")
        if option.role not in {None, role}:
            raise ConfigurationError(f"{where}: {key}: is an option of pqfl {option.role}", reason="bad_config")
        if option.several:
            several = value if isinstance(value, list) else [value]
            found[key] = tuple(parse(option, one, f"{where}: {key}") for one in several)
        else:
            found[key] = parse(option, value, f"{where}: {key}")
    return found


def parse(option: Option, value: object, where: str) -> Any:
    """Return one value in its type. Raises ``ConfigurationError`` that begins with ``where``."""
    if option.takes is Takes.SWITCH:
        if not isinstance(value, bool):
            raise ConfigurationError(f"{where}: expected true or false", reason="bad_config")
        return value
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ConfigurationError(f"{where}: expected {_EXPECTED[option.takes]}", reason="bad_config")
    text = str(value)
    if option.choices and text not in option.choices:
        raise ConfigurationError(f"{where} {text!r}: expected {' or '.join(option.choices)}", reason="bad_config")
    return _PARSERS[option.takes](text, where)


def _seconds(text: str, where: str) -> float:
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ConfigurationError(f"{where} {text!r}: expected {_EXPECTED[Takes.SECONDS]}", reason="bad_config")
    return float(match[1]) * _SECONDS[match[2]]


def _count(text: str, where: str) -> int:
    if not _COUNT.fullmatch(text):
        raise ConfigurationError(f"{where} {text!r}: expected {_EXPECTED[Takes.COUNT]}", reason="bad_config")
    return int(text)


def _size(text: str, where: str) -> int:
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ConfigurationError(f"{where} {text!r}: expected {_EXPECTED[Takes.BYTES]}", reason="bad_config")
    return int(match[1]) * _BYTES[match[2]]


def _text(text: str, _where: str) -> str:
    return text


_EXPECTED = MappingProxyType(
    {
        Takes.TEXT: "a text", Takes.ADDRESS: "an address", Takes.FILE: "a path",
        Takes.SECONDS: "seconds, as 10, 1.5, 5m or 2h", Takes.COUNT: "a whole number",
        Takes.BYTES: "bytes, as 4096, 512K or 10M",
    }
)  # fmt: skip
_PARSERS = MappingProxyType(
    {
        Takes.TEXT: _text, Takes.ADDRESS: _text, Takes.FILE: lambda text, _where: Path(text),
        Takes.SECONDS: _seconds, Takes.COUNT: _count, Takes.BYTES: _size,
    }
)  # fmt: skip
