"""`pqfl ca`: make the authority of a federation and issue identities from it. The ceremony is in `certs/README.md`."""

import json
import re
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

import click

from certs.authority import DEFAULT_FEDERATION, Authority
from certs.entry import Entry
from certs.issuing import Issued
from certs.rosters import DEFAULT_WEIGHT_CAP
from certs.twins import CERTIFICATE as CLASSICAL_FILE
from pqfl.commands.ca_options import DIR, HOSTS, JSON, LEVEL, PATH, blaming
from pqfl.commands.ca_records import COMMANDS as RECORDS
from pqfl.commands.ca_revocation import COMMANDS as REVOCATION
from pqfl.commands.ca_roster import COMMANDS as ROSTER
from pqfl.commands.ca_rotation import COMMANDS as ROTATION
from pqfl.commands.ca_twins import COMMANDS as TWINS
from pqfl.commands.enrolment import CA_COMMANDS as ENROLMENT
from pqfl.commands.passphrases import new_passphrase, new_passphrase_option, passphrase_option, passphrases_of
from pqfl.commands.reading import named, say
from pqfl_transport.algorithms import meant_by
from pqfl_transport.errors import CertificateError, ConfigurationError
from pqfl_transport.pki import keystore
from pqfl_transport.pki.authority import Host, require_host
from pqfl_transport.pki.files import read_public
from pqfl_transport.pki.profiles import PROFILES, Usage
from pqfl_transport.pki.roster import MAX_WEIGHT_CAP
from pqfl_transport.pki.spiffe import require_label
from pqfl_transport.pki.statements import MAX_STATEMENT_BYTES
from pqfl_transport.pki.tokens import SERVICE_NAME
from pqfl_transport.pki.words import to_lines, to_words
from pqfl_transport.policy import DEFAULT_LEVEL, Verdict, Withdrawal

# Which flag the operator has to look at for each reason of a refusal.
_INIT_FLAGS = {"exists": "--dir", "not_writable": "--dir"}
_ADVISE_FLAGS = {"not_withdrawn": "--restore", "missing": "--dir", "malformed": "--dir"}
_DAYS = re.compile(r"([1-9][0-9]{0,4})d", re.ASCII)
_ISSUE_FLAGS = {
    "already_issued": "--name",
    "was_revoked": "--name",
    "bad_validity": "--days",
    "bad_host": "--dns or --ip",
    "exists": "--out",
    "not_writable": "--out",
    "missing": "--dir",
    "malformed": "--dir",
    "no_twin": "--twin",
    "no_classical_issuer": "--twin",
}


@click.group("ca", short_help="Make an authority; issue, list, revoke, admit.")
def ca_group() -> None:
    """Make a federation's authority, issue identities from it, see them, admit and revoke."""


def _checked_label(_context: click.Context, parameter: click.Parameter, value: str) -> str:
    try:
        require_label(parameter.name or "name", value)
    except CertificateError as error:
        raise click.BadParameter(str(error)) from error
    return value


def _checked_hosts(_context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        _require_host(value)
    return values


def _parsed_addresses(
    _context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]
) -> tuple[IPv4Address | IPv6Address, ...]:
    try:
        addresses = tuple(ip_address(value) for value in values)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error
    for address in addresses:
        _require_host(address)
    return addresses


def _require_host(host: Host) -> None:
    try:
        require_host(host)
    except ConfigurationError as error:
        raise click.BadParameter(str(error)) from error


@ca_group.command("init")
@click.option("--dir", "folder", required=True, type=PATH, help="Folder to make; it must not hold anything yet.")
@click.option(
    "--federation",
    default=DEFAULT_FEDERATION,
    show_default=True,
    metavar="NAME",
    callback=_checked_label,
    help="Its name in every SPIFFE ID: a-z, 0-9 and '-'.",
)
@click.option("--level", type=LEVEL, default=DEFAULT_LEVEL.value, show_default=True, help="Algorithms of all parties.")
@HOSTS
@click.option("--encrypt", is_flag=True, help="Encrypt both private keys under a passphrase.")
@passphrase_option
@JSON
def init(
    folder: Path,
    federation: str,
    level: str,
    hosts: tuple[tuple[str, ...] | None] | None,
    encrypt: bool,
    passphrase_file: Path | None,
    as_json: bool,
) -> None:
    """Make root, issuing authority and an empty roster."""
    passphrase = new_passphrase(f"the keys in {folder}", passphrase_file, environment=True) if encrypt else None
    with blaming(_INIT_FLAGS):
        authority = Authority.create(
            folder, federation=federation, level=level, hosts=hosts[0] if hosts else None, passphrase=passphrase
        )
    root, issuing = authority.ledger.entries()
    if as_json:
        click.echo(json.dumps(_init_facts(authority, root, issuing)))
        return
    click.echo(f"""\
{folder}: authority of federation {federation}, level {level}
  ca.pem        for every party: root ({_summary(root)}) and issuing authority ({_summary(issuing)})
  roster.json   for every party: roster number 1, with nobody in it yet
  ledger.db     what was issued and done; back it up
  root.key      SECRET: admits sites and aggregators by signing the roster; keep it offline, with a copy elsewhere
  issuing.key   SECRET: signs certificates
  log.key       SECRET: signs the heads of the ledger, which others keep (pqfl ca log head)
Next: pqfl ca issue --dir {folder} --profile {"|".join(PROFILES)} --name NAME --out OUT""")


@ca_group.command("issue")
@DIR
@click.option("--profile", required=True, type=click.Choice(list(PROFILES)), help="What the party is.")
@click.option(
    "--name", required=True, metavar="NAME", callback=_checked_label, help="What it is called: a-z, 0-9 and '-'."
)
@click.option("--dns", multiple=True, metavar="NAME", callback=_checked_hosts, help="Host name it serves; repeatable.")
@click.option("--ip", multiple=True, metavar="ADDR", callback=_parsed_addresses, help="Address it serves; repeatable.")
@click.option(
    "--days", type=click.IntRange(min=1), help="How long its certificates are valid.  [default: of the profile]"
)
@click.option(
    "--weight-cap",
    type=click.IntRange(1, MAX_WEIGHT_CAP),
    metavar="N",
    help=f"Most samples that one update of a site may claim.  [default: {DEFAULT_WEIGHT_CAP}]",
)
@click.option("--out", required=True, type=PATH, help="Folder to make for the party; it must not hold anything yet.")
@click.option("--reissue", is_flag=True, help="Give a name again whose holder was revoked.")
@click.option("--twin", is_flag=True, help="Add a classical certificate, for a migration; after `pqfl ca twin init`.")
@click.option("--encrypt", is_flag=True, help="Encrypt the party's private keys under a passphrase.")
@passphrase_option
@new_passphrase_option
@JSON
def issue(  # noqa: PLR0913, PLR0917 -- one argument a flag
    folder: Path,
    profile: str,
    name: str,
    dns: tuple[str, ...],
    ip: tuple[IPv4Address | IPv6Address, ...],
    days: int | None,
    weight_cap: int | None,
    out: Path,
    reissue: bool,
    twin: bool,
    encrypt: bool,
    passphrase_file: Path | None,
    new_passphrase_file: Path | None,
    as_json: bool,
) -> None:
    """Make a party's keys and certificates; sites and aggregators enter the roster.

    The private keys are made here and leave in OUT: hand that folder over safely and keep no copy.
    """
    if profile == "gateway" and name == SERVICE_NAME:
        raise click.UsageError(f"--name {SERVICE_NAME} is the enrolment service's: `pqfl ca serve` makes it itself")
    if weight_cap is not None and profile != "site":
        raise click.UsageError(f"--weight-cap is for sites; profile {profile} sends no updates")
    passphrase = new_passphrase(f"the keys in {out}", new_passphrase_file, environment=False) if encrypt else None
    with blaming(_ISSUE_FLAGS):
        authority = Authority.open(folder, passphrases_of(passphrase_file))
        issued = authority.issue(
            profile=profile,
            name=name,
            out=out,
            hosts=(*dns, *ip),
            days=days,
            weight_cap=weight_cap or DEFAULT_WEIGHT_CAP,
            passphrase=passphrase,
            reissue=reissue,
            twin=twin,
        )
    if as_json:
        click.echo(json.dumps(_issue_facts(authority, issued)))
    else:
        _tell_issued(authority, issued)


@ca_group.command("rekey")
@DIR
@click.option("--statement", required=True, type=PATH, help="receiving-key.json of `pqfl key rotate --identity`.")
@passphrase_option
@JSON
def rekey(folder: Path, statement: Path, passphrase_file: Path | None, as_json: bool) -> None:
    """Take a party's new receiving key into the next roster, on a statement that the party signed.

    An old statement does not bring an old key back. Compare the words with the party before you hand out the roster.
    """
    data = read_public(statement, max_bytes=MAX_STATEMENT_BYTES)
    authority = Authority.open(folder, passphrases_of(passphrase_file))
    taken, number = named(statement, lambda: authority.rekey(data))
    facts = {**asdict(taken), "words": to_words(bytes.fromhex(taken.after)), "roster": str(authority.roster_path),
             "roster_number": number}  # fmt: skip
    lines = "\n".join(f"  {line}" for line in to_lines(bytes.fromhex(taken.after)))
    say(
        facts,
        f"{taken.id}: receiving key {taken.after}\n{lines}\n"
        f"Roster number {number}: give {authority.roster_path} to every party again.",
        as_json=as_json,
    )


def _moment(text: str, flag: str) -> int:
    """Return Unix seconds of a date, or a date and a time, in UTC unless it says otherwise."""
    try:
        when = datetime.fromisoformat(text)
    except ValueError as error:
        raise click.BadParameter(
            f"{text!r}: expected a date as 2027-01-31, or 2027-01-31T12:00Z", param_hint=flag
        ) from error
    return int((when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp())


def _end(text: str) -> int:
    days = _DAYS.fullmatch(text)
    if days is not None:
        return int((datetime.now(UTC) + timedelta(days=int(days[1]))).timestamp())
    end = _moment(text, "--expires")
    if end <= datetime.now(UTC).timestamp():
        raise click.BadParameter(f"{text}: is over already", param_hint="--expires")
    return end


def _withdrawal(text: str, why: str) -> Withdrawal:
    name, _, rest = text.rpartition("=")
    status, _, not_before = rest.partition("@")
    if not name or status not in set(Verdict):
        raise click.BadParameter(
            f"{text!r}: expected ALGORITHM=STATUS or ALGORITHM=STATUS@DATE; STATUS is {' or '.join(Verdict)}",
            param_hint="--withdraw",
        )
    try:
        meant_by(name)
    except ConfigurationError as error:
        raise click.BadParameter(str(error), param_hint="--withdraw") from error
    return Withdrawal(name, Verdict(status), _moment(not_before, "--withdraw") if not_before else 0, why)


@ca_group.command("advisory")
@DIR
@click.option(
    "--withdraw",
    multiple=True,
    metavar="ALGORITHM=STATUS[@DATE]",
    help="Take an algorithm out of use, at once or from a date on: deprecated or broken; repeatable.",
)
@click.option("--restore", multiple=True, metavar="ALGORITHM", help="Take a withdrawal back; repeatable.")
@click.option("--why", default="", metavar="TEXT", help="One line that operators read; needed with --withdraw.")
@click.option("--expires", default="90d", show_default=True, metavar="DATE|Nd", help="By when there is a newer one.")
@click.option("--out", type=PATH, help="Write it here too.")
@passphrase_option
@JSON
def advisory(  # noqa: PLR0913, PLR0917 -- one argument a flag
    folder: Path,
    withdraw: tuple[str, ...],
    restore: tuple[str, ...],
    why: str,
    expires: str,
    out: Path | None,
    passphrase_file: Path | None,
    as_json: bool,
) -> None:
    """Sign the next advisory: what gateways, aggregators and sites must not use any more.

    It holds what the last one held and what --withdraw adds. Without either only its end is moved. Needs root.key.
    """
    if withdraw and not why:
        raise click.UsageError("--withdraw needs --why: operators want to know")
    withdrawals = [_withdrawal(text, why) for text in withdraw]
    with blaming(_ADVISE_FLAGS):
        authority = Authority.open(folder, passphrases_of(passphrase_file))
        made = authority.advise(withdrawals, expires_at=_end(expires), restored=restore)
    path = authority.advisory_path
    if out is not None:
        keystore.write_public(out, keystore.read_public(path))
        path = out
    if as_json:
        click.echo(json.dumps(asdict(made) | {"file": str(path)}))
        return
    end = datetime.fromtimestamp(made.expires_at, UTC)
    click.echo(f"{path}: advisory number {made.number} of federation {made.federation}, until {end:%Y-%m-%d}")
    for one in made.withdrawals:
        click.echo(f"  {one.sentence()}")
    click.echo(
        "Give it to every party. `pqfl policy advisory` shows it, `pqfl policy explain --advisory` what it leaves."
    )


def _init_facts(authority: Authority, root: Entry, issuing: Entry) -> dict[str, object]:
    return {
        "dir": str(authority.folder),
        "federation": authority.federation,
        "level": authority.level.value,
        "root": asdict(root),
        "issuing": asdict(issuing),
        "secret": [str(authority.folder / name) for name in ("root.key", "issuing.key", "log.key")],
        "roster": str(authority.roster_path),
        "roster_number": 1,
    }


def _issue_facts(authority: Authority, issued: Issued) -> dict[str, object]:
    return {
        "id": str(issued.id),
        "out": str(issued.folder),
        "certificates": [entry.facts() for entry in issued.entries],
        "secret": [str(path) for path in _secrets(issued)],
        "roster": str(authority.roster_path),
        "roster_number": issued.roster_number,
    }


def _tell_issued(authority: Authority, issued: Issued) -> None:
    click.echo(f"{issued.folder}: identity of {issued.id}")
    for entry in issued.entries:
        click.echo(f"  {_certificate_file(entry):<13} for {entry.usage} use: {_summary(entry)}")
    names = ", ".join(path.name for path in _secrets(issued))
    click.echo(f"  SECRET        {names}: hand the folder over safely and keep no copy")
    if issued.roster_number is None:
        click.echo(f"The roster does not change: no {issued.id.role.value} is in it.")
    else:
        click.echo(f"Roster number {issued.roster_number}: give {authority.roster_path} to every party again.")


def _secrets(issued: Issued) -> list[Path]:
    return sorted(issued.folder.glob("*.key"))


def _certificate_file(entry: Entry) -> str:
    if entry.is_twin:
        return CLASSICAL_FILE
    return "signing.pem" if entry.usage == Usage.SIGNING else "tls.pem"


def _summary(entry: Entry) -> str:
    return f"{entry.algorithm}, until {entry.not_after[:10]}"


for _command in (*ENROLMENT, *RECORDS, *REVOCATION, *ROSTER, *ROTATION, *TWINS):
    ca_group.add_command(_command)
