"""`pqfl ca list`, `show` and `log`: what the authority has issued, and that nobody rewrote it."""

from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import click
from cryptography.hazmat.primitives.serialization import Encoding
from rich import box
from rich.console import Console
from rich.table import Table

from certs.authority import Authority
from certs.history import verify_history
from certs.listing import Row, Standing, list_rows, spoken
from certs.revoking import find_entries
from pqfl.commands.audit import read_public_key
from pqfl.commands.ca_options import DIR, JSON, PATH
from pqfl.commands.passphrases import passphrase_option, passphrases_of
from pqfl.commands.reading import say
from pqfl_transport.pki.files import read_public, write_public

_STYLES = {Standing.REVOKED: "red", Standing.EXPIRED: "red", Standing.ENDING: "yellow", Standing.GOOD: ""}


@click.command("list")
@DIR
@click.option("--all", "everything", is_flag=True, help="Authorities too that are over or were replaced.")
@JSON
def list_command(folder: Path, everything: bool, as_json: bool) -> None:
    """Show who has certificates, with which algorithm and for how long, who was revoked, who is in the roster."""
    now = datetime.now(UTC)
    authority = Authority.open(folder)
    rows = [row for row in _rows(authority, now) if everything or not _is_over(authority, row)]
    warnings = [text for row in rows if (text := row.warning(now))]
    facts = {
        "federation": authority.federation, "level": authority.level.value,
        "roster_number": authority.roster().number, "parties": [row.facts(now) for row in rows], "warnings": warnings,
    }  # fmt: skip
    if as_json:
        say(facts, "", as_json=True)
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in ("who", "profile", "algorithm", "expires in", "standing", "roster"):
        table.add_column(title, overflow="fold")
    for row in rows:
        standing = f"{row.standing.value} {row.revoked_at[:10]}" if row.revoked_at else row.standing.value
        left = "-" if row.standing is Standing.EXPIRED else spoken(row.not_after - now)
        name = row.name if row.use is None else f"{row.name} ({row.use})"
        table.add_row(
            name, row.profile, row.algorithms, left, standing, row.membership.value, style=_STYLES[row.standing]
        )
    Console(width=None if Console().is_terminal else 140).print(table)
    _warn(warnings)


@click.command("show")
@DIR
@click.argument("name", metavar="NAME|SERIAL")
@click.option("--pem", is_flag=True, help="Print its certificates as PEM and nothing else.")
@JSON
def show(folder: Path, name: str, pem: bool, as_json: bool) -> None:
    """Show every certificate of a party, or the one of a serial number.

    NAME may be ROLE/NAME or a whole SPIFFE ID where several parties have the name.
    """
    now = datetime.now(UTC)
    authority = Authority.open(folder)
    entries = find_entries(authority, name)
    if pem:
        found = [authority.ledger.certificate(entry.sha256) for entry in entries]
        click.echo(b"".join(one.public_bytes(Encoding.PEM) for one in found if one is not None), nl=False)
        return
    rows = [row for row in _rows(authority, now) if set(row.certificates) & set(entries)]
    warnings = [text for row in rows if (text := row.warning(now))]
    lines = []
    for entry in entries:
        state = f"revoked {entry.revoked_at}: {entry.reason}" if entry.revoked_at else f"until {entry.not_after}"
        lines += [
            f"{entry.id or entry.usage}: {entry.usage} use, {entry.algorithm}, {state}",
            f"  serial {entry.serial}, issued {entry.issued_at}",
            f"  SHA-256 {entry.sha256}",
        ]
    lines += [f"{row.name}: {row.membership.value}" for row in rows if row.certificates[0].id]
    facts = {
        "certificates": [entry.facts() for entry in entries],
        "membership": rows[0].membership.value if rows else None,
        "warnings": warnings,
    }
    say(facts, "\n".join(lines), as_json=as_json)
    if not as_json:
        _warn(warnings)


@click.group("log")
def log_group() -> None:
    """Work with the chain of events: everything that the authority did, hash by hash."""


@log_group.command("head")
@DIR
@click.option("--out", type=PATH, help="Write it here.  [default: standard output]")
@passphrase_option
def head(folder: Path, out: Path | None, passphrase_file: Path | None) -> None:
    """Sign the head of the chain and print it, one JSON line.

    Give it, and log.pub, to somebody else to keep: then nothing up to it is cut off or written anew unnoticed.
    """
    line = Authority.open(folder, passphrases_of(passphrase_file)).log_head()
    if out is None:
        click.echo(line, nl=False)
    else:
        write_public(out, line)


@log_group.command("verify")
@DIR
@click.option("--against", type=PATH, metavar="HEAD", help="A head that was kept: the chain has to contain it.")
@click.option("--key", "key_path", type=PATH, help="Public key of the heads.  [default: log.pub in the folder]")
@JSON
def verify(folder: Path, against: Path | None, key_path: Path | None, as_json: bool) -> None:
    """Verify every event, the chain, its signed heads, and the certificates against the events.

    Only with --against, and --key from where it was kept too, it shows that the end was not cut off or written anew.
    """
    authority = Authority.open(folder)
    key_path = key_path or folder / "log.pub"
    keys = [read_public_key(key_path)] if key_path.exists() else None
    summary = verify_history(authority.ledger, keys, against=None if against is None else read_public(against))
    sealed = f"{summary.sealed_lines} of them under a signed head" if keys else "without log.pub no head was checked"
    kept = "" if against is None else f", and the head of {against} is among them"
    say(asdict(summary), f"{authority.ledger.path}: {summary.lines} events hold, {sealed}{kept}", as_json=as_json)


def _rows(authority: Authority, now: datetime) -> tuple[Row, ...]:
    return list_rows(
        authority.ledger.entries(), authority.roster(), authority.ledger.candidates(), now, uses=authority.uses()
    )


def _is_over(authority: Authority, row: Row) -> bool:
    """Whether it is an authority that nobody trusts any more."""
    entry = row.certificates[0]
    return entry.is_authority and entry.sha256 not in authority.trusted_fingerprints()


def _warn(warnings: list[str]) -> None:
    for text in warnings:
        click.echo(f"warning: {text}", err=True)


COMMANDS = (list_command, show, log_group)
