"""`pqfl ca roster`: show who belongs, and have the root sign who belongs next."""

import time
from datetime import UTC, datetime
from pathlib import Path

import click

from certs.authority import Authority
from certs.rosters import RosterPlan
from pqfl.commands.ca_options import DIR, JSON, LEVEL, PATH, blaming
from pqfl.commands.durations import DurationOrNow
from pqfl.commands.passphrases import passphrase_option, passphrases_of
from pqfl.commands.reading import say
from pqfl_transport.errors import ConfigurationError
from pqfl_transport.pki.files import read_public, write_public
from pqfl_transport.pki.roster import MAX_WEIGHT_CAP, Party, Roster
from pqfl_transport.pki.words import to_lines
from pqfl_transport.policy import SecurityLevel

_FORMER_HELP = "Latest end of signing keys that were replaced, from now on.  [default: 14d for those replaced now]"
_FLAGS = {"no_candidate": "--admit", "missing": "--dir"}


@click.group("roster")
def roster_group() -> None:
    """Show the roster, or sign the next one."""


@roster_group.command("show")
@DIR
@JSON
def show(folder: Path, as_json: bool) -> None:
    """Show who is in the roster, and what the next one would change."""
    authority = Authority.open(folder)
    plan = authority.plan_roster()
    lines = [_title(plan.present)]
    for name, party in sorted(plan.present.parties.items()):
        lines.append(f"  {name}: {party.signing_key.algorithm} {party.signing_key.fingerprint.hex()[:16]}…, "
                     f"cap {party.weight_cap}")  # fmt: skip
        lines += _former(party)
    lines += ["Next (pqfl ca roster sign):", *_changes(plan)]
    say({"roster": _roster_facts(plan.present), "next": _plan_facts(plan)}, "\n".join(lines), as_json=as_json)


@roster_group.command("sign")
@DIR
@click.option("--admit", multiple=True, metavar="ID", help="Admit these candidates only; repeatable.  [default: all]")
@click.option("--admit-nobody", is_flag=True, help="Leave out who was revoked, and admit nobody.")
@click.option("--weight-cap", multiple=True, metavar="ID=N", help="Most samples an update may claim; repeatable.")
@click.option("--level", type=LEVEL, help="The federation's new level.")
@click.option("--former-until", "former_seconds", type=DurationOrNow(), metavar="SPAN|now", help=_FORMER_HELP)
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--out", type=PATH, help="Write it here too.")
@passphrase_option
@JSON
def sign(  # noqa: PLR0913, PLR0917 -- one argument a flag
    folder: Path,
    admit: tuple[str, ...],
    admit_nobody: bool,
    weight_cap: tuple[str, ...],
    level: str | None,
    former_seconds: int | None,
    yes: bool,
    out: Path | None,
    passphrase_file: Path | None,
    as_json: bool,
) -> None:
    """Show what the next roster changes, and have the root sign it. Needs root.key.

    It admits candidates, takes new signing keys, and leaves out whoever was revoked. The key before a new one counts
    beside it until --former-until. ID may be ROLE/NAME.
    """
    if admit and admit_nobody:
        raise click.UsageError("--admit and --admit-nobody exclude each other")
    if as_json and not yes:
        raise click.UsageError("--json needs --yes: there is nobody to ask")
    authority = Authority.open(folder, passphrases_of(passphrase_file))
    only = [_id(authority, one) for one in admit] if admit or admit_nobody else None
    caps = dict(_cap(authority, one) for one in weight_cap)
    with blaming(_FLAGS):
        plan = authority.plan_roster(
            only=only, weight_caps=caps, level=None if level is None else SecurityLevel(level),
            former_until=None if former_seconds is None else int(time.time()) + former_seconds,
        )  # fmt: skip
    if not as_json:
        click.echo("\n".join([_title(plan.following), *_changes(plan)]))
    if not yes:
        click.confirm("Sign it?", abort=True)
    with blaming(_FLAGS):
        number = authority.sign_roster(plan)
    path = authority.roster_path
    if out is not None:
        write_public(out, read_public(path, max_bytes=64 << 20))
        path = out
    say(
        {"file": str(path), "roster_number": number, "changes": _plan_facts(plan)},
        f"Roster number {number}: give {path} to every party again.",
        as_json=as_json,
    )


def _id(authority: Authority, text: str) -> str:
    return text if "://" in text else f"spiffe://{authority.federation}/{text}"


def _cap(authority: Authority, text: str) -> tuple[str, int]:
    name, _, number = text.rpartition("=")
    if not name or not number.isascii() or not number.isdigit() or int(number) > MAX_WEIGHT_CAP:
        raise ConfigurationError(f"--weight-cap: {text[:100]!r}: expected ID=N", reason="bad_weight_cap")
    return _id(authority, name), int(number)


def _title(roster: Roster) -> str:
    return f"Roster number {roster.number} of federation {roster.federation}, level {roster.level.value}"


def _changes(plan: RosterPlan) -> list[str]:
    lines = []
    for sign_, names in (("+", plan.admitted), ("-", plan.removed), ("~", plan.rekeyed)):
        for name in names:
            lines.append(f"  {sign_} {name}")
            party = plan.following.parties.get(name)
            if party is not None:
                lines.append(f"      signing key {party.signing_key.fingerprint.hex()}")
                lines += [f"      {line}" for line in to_lines(party.signing_key.fingerprint)]
                lines += _former(party)
    lines += [f"  ~ {name}: cap {plan.following.parties[name].weight_cap}" for name in plan.recapped]
    lines += [f"  ~ {name}: its former signing key counts no more" for name in plan.ended]
    if plan.present.level is not plan.following.level:
        lines.append(f"  ~ level {plan.present.level.value} becomes {plan.following.level.value}")
    return lines or ["  nothing changes"]


def _former(party: Party) -> list[str]:
    former = party.former
    if former is None:
        return []
    until = datetime.fromtimestamp(former.until, UTC)
    return [f"      the key before, {former.key.fingerprint.hex()[:16]}…, counts until {until:%Y-%m-%d %H:%M} UTC"]


def _plan_facts(plan: RosterPlan) -> dict[str, object]:
    return {
        "admitted": list(plan.admitted), "removed": list(plan.removed), "rekeyed": list(plan.rekeyed),
        "recapped": list(plan.recapped), "ended": list(plan.ended), "level": plan.following.level.value,
    }  # fmt: skip


def _roster_facts(roster: Roster) -> dict[str, object]:
    parties = [
        {
            "id": name, "algorithm": party.signing_key.algorithm,
            "signing_fingerprint": party.signing_key.fingerprint.hex(),
            "receiving_fingerprint": party.receiving_fingerprint.hex(), "weight_cap": party.weight_cap,
            "former": None if party.former is None else {
                "signing_fingerprint": party.former.key.fingerprint.hex(), "until": party.former.until,
            },
        }
        for name, party in sorted(roster.parties.items())
    ]  # fmt: skip
    return {"number": roster.number, "level": roster.level.value, "issued_at": roster.issued_at, "parties": parties}


COMMANDS = (roster_group,)
