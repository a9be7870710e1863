"""`pqfl algorithms`: the table of algorithms, what works here and through which library, and how fast."""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from os.path import commonprefix
from types import MappingProxyType
from typing import Any

import click
from cryptography.hazmat.primitives.asymmetric import mlkem
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pqfl_transport.algorithms import LIBOQS, OPENSSL, PYCA, TABLE, Algorithm, Kind, Status, find
from pqfl_transport.crypto import kems, liboqs
from pqfl_transport.crypto.contexts import Context
from pqfl_transport.crypto.pyca import SigningKey
from pqfl_transport.errors import ConfigurationError, PqflError
from pqfl_transport.tls.engine import negotiable_groups, negotiable_signatures

_BENCH_SECONDS = 0.1
_WIDTH = 132
_MESSAGE = b"m" * 64
_INFO = b"pqfl algorithms"
_PlainKey = type[mlkem.MLKEM768PrivateKey] | type[mlkem.MLKEM1024PrivateKey]
_PLAIN_KEMS: Mapping[str, _PlainKey] = MappingProxyType(
    {"ML-KEM-768": mlkem.MLKEM768PrivateKey, "ML-KEM-1024": mlkem.MLKEM1024PrivateKey}
)

Operations = Mapping[str, Callable[[], object]]


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of the table with what was found out about it here."""

    row: Algorithm
    works_by: tuple[str, ...]
    per_second: Mapping[str, float] = field(default_factory=dict)


@click.command("algorithms", short_help="Show the table of algorithms and what works here.")
@click.option("--family", help="Only rows whose family has this word: lattice, code, hash, multivariate, ecc …")
@click.option("--kind", type=click.Choice([kind.value for kind in Kind if kind is not Kind.CONTENT_SUITE]))
@click.option("--bench", is_flag=True, help="Measure operations per second of KEMs and signatures (up to a minute).")
@click.option("--json", "as_json", is_flag=True, help="Print the table as JSON.")
def algorithms(family: str | None, kind: str | None, bench: bool, as_json: bool) -> None:
    """Show every algorithm: family, NIST category, sizes in bytes, status, and the library it works through here.

    What works is tried, not assumed. Families that OpenSSL lacks come with liboqs (see docs/algorithms.md).
    """
    rows = [
        row for row in TABLE if (kind in {None, row.kind.value}) and (family is None or family in row.family.split("+"))
    ]
    if not rows:
        known = sorted({word for row in TABLE for word in row.family.split("+")})
        raise ConfigurationError(f"no row is of that kind and family; families are {', '.join(known)}")
    entries = examine(rows, bench=bench)
    if as_json:
        click.echo(json.dumps([_facts(entry) for entry in entries], indent=1))
    else:
        _print(entries)


def examine(rows: list[Algorithm], *, bench: bool = False) -> list[Entry]:
    """Try each row with each library that may have it."""
    tls = {
        Kind.TLS_GROUP: negotiable_groups(),
        Kind.SIGNATURE: negotiable_signatures(),
    }
    entries = []
    for row in rows:
        providers = tuple(provider for provider in row.providers if _works(row, provider, tls.get(row.kind, {})))
        measured = _measure(row, providers) if bench and providers else {}
        entries.append(Entry(row, providers, measured))
    return entries


def _works(row: Algorithm, provider: str, handshakes: Mapping[str, tuple[bool, str]]) -> bool:
    if row.status is Status.BROKEN:
        return False
    if row.kind in {Kind.AEAD, Kind.TLS_SUITE}:
        # Every OpenSSL with post-quantum groups has them, and the self-test runs the ciphers of content.
        return True
    if provider == OPENSSL:
        return handshakes.get(row.name, (False, ""))[0]
    if provider == LIBOQS:
        # The library names what it was built with; trying all of it would take many seconds.
        return liboqs.enabled(row if row.hybrid_of is None else find(row.hybrid_of, Kind.KEM))
    try:
        for operation in _operations(row, provider).values():
            operation()
    except PqflError:
        return False
    return True


def _operations(row: Algorithm, provider: str) -> Operations:
    """Return what one does with a row, by name. Raises ``PqflError`` where this library cannot do it here."""
    if row.kind is Kind.SIGNATURE:
        return _signing(row) if provider == PYCA else _signing_by_liboqs(row)
    if row.kind is not Kind.KEM:
        return {}
    if provider == PYCA or row.hybrid_of:
        return _plain_kem(row) if row.name in _PLAIN_KEMS else _wrapping(row)
    return _encapsulating_by_liboqs(row)


def _signing(row: Algorithm) -> Operations:
    if not row.name.startswith("ML-DSA"):
        # Classical signatures are read in certificates during a migration; content is never signed with them.
        return {}
    key = SigningKey.generate(row.name)
    signature = key.sign(_MESSAGE, Context.AUDIT)
    return {
        "keygen": lambda: SigningKey.generate(row.name),
        "sign": lambda: key.sign(_MESSAGE, Context.AUDIT),
        "verify": lambda: key.verifying_key.verify(signature, _MESSAGE, Context.AUDIT),
    }


def _signing_by_liboqs(row: Algorithm) -> Operations:
    public, secret = liboqs.generate_signing_keys(row)
    signature = liboqs.sign(row, secret, _MESSAGE)
    return {
        "keygen": lambda: liboqs.generate_signing_keys(row),
        "sign": lambda: liboqs.sign(row, secret, _MESSAGE),
        "verify": lambda: liboqs.verify(row, public, _MESSAGE, signature),
    }


def _plain_kem(row: Algorithm) -> Operations:
    key = _PLAIN_KEMS[row.name].generate()
    _, ciphertext = key.public_key().encapsulate()
    return {
        "keygen": _PLAIN_KEMS[row.name].generate,
        "encapsulate": lambda: key.public_key().encapsulate(),
        "decapsulate": lambda: key.decapsulate(ciphertext),
    }


def _wrapping(row: Algorithm) -> Operations:
    key = kems.generate(row.name)
    wrapped = key.public.wrap(bytes(32), _INFO)
    return {
        "keygen": lambda: kems.generate(row.name),
        "encapsulate": lambda: key.public.wrap(bytes(32), _INFO),
        "decapsulate": lambda: key.unwrap(wrapped, _INFO),
    }


def _encapsulating_by_liboqs(row: Algorithm) -> Operations:
    public, secret = liboqs.generate_kem_keys(row)
    ciphertext, _ = liboqs.encapsulate(row, public)
    return {
        "keygen": lambda: liboqs.generate_kem_keys(row),
        "encapsulate": lambda: liboqs.encapsulate(row, public),
        "decapsulate": lambda: liboqs.decapsulate(row, secret, ciphertext),
    }


def _measure(row: Algorithm, providers: tuple[str, ...]) -> dict[str, float]:
    chosen = next((provider for provider in providers if provider != OPENSSL), None)
    operations = {} if chosen is None else _operations(row, chosen)
    return {name: _rate(operation) for name, operation in operations.items()}


def _rate(operation: Callable[[], object]) -> float:
    count, began = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - began) < _BENCH_SECONDS:
        operation()
        count += 1
    return count / elapsed


def _facts(entry: Entry) -> dict[str, Any]:
    facts = {name: value for name, value in asdict(entry.row).items() if value not in (None, (), "")}
    if entry.row.broken_on is not None:
        facts["broken_on"] = entry.row.broken_on.isoformat()
    return facts | {"works_by": entry.works_by, "per_second": {k: round(v, 1) for k, v in entry.per_second.items()}}


def _print(entries: list[Entry]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("name", "kind", "family", "NIST", "public", "sent", "status", "works by", "per second"):
        right = column in {"NIST", "public", "sent"}
        table.add_column(column, justify="right" if right else "left", no_wrap=True)
    for entry in entries:
        row = entry.row
        sent = row.signature_bytes if row.kind is Kind.SIGNATURE else row.ciphertext_bytes
        works = ", ".join(entry.works_by)
        table.add_row(
            escape(row.name), row.kind.value, row.family, _number(row.nist_category), _number(row.public_key_bytes),
            _number(sent), row.status.value, f"[green]{works}[/]" if works else _missing(row),
            " / ".join(_rates(entry)),
        )  # fmt: skip
    # A terminal that is narrower wraps the lines by itself; a table cut in its cells could not be read at all.
    console = Console(width=max(Console().width, _WIDTH))
    console.print(table)
    console.print(
        "\nsent: bytes of a ciphertext or signature; per second: key generation / sending / receiving", style="dim"
    )
    for names, remark in _reasons(entries):
        console.print(f"[bold]{escape(names)}[/]: {escape(remark)}", highlight=False, soft_wrap=True)
    if any(not entry.works_by and LIBOQS in entry.row.providers for entry in entries):
        console.print(f"\nMissing here: liboqs. To get it: {escape(liboqs.HOW_TO_GET)}.", highlight=False)


def _reasons(entries: list[Entry]) -> Iterator[tuple[str, str]]:
    """Yield each remark once, with the beginning that the names of its rows share."""
    remarks: dict[str, list[str]] = {}
    for entry in entries:
        if entry.row.remark and not entry.row.hybrid_of:
            remarks.setdefault(entry.row.remark, []).append(entry.row.name)
    for remark, names in remarks.items():
        # Character by character is what is wanted: these are names and no paths.
        yield (commonprefix(names).rstrip("-") or ", ".join(names)), remark  # noqa: RUF071


def _missing(row: Algorithm) -> str:
    return "[red]never[/]" if row.status is Status.BROKEN else "[red]not here[/]"


def _rates(entry: Entry) -> Iterator[str]:
    for value in entry.per_second.values():
        yield f"{value:,.0f}" if value >= 10 else f"{value:.1f}"  # noqa: PLR2004 -- slower ones need a digit more


def _number(value: int | None) -> str:
    return "" if value is None else str(value)
