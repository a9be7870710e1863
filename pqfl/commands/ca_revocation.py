"""`pqfl ca revoke` and `crl`: take certificates back, and tell everybody by a signed list."""

from pathlib import Path

import click

from certs.authority import Authority
from certs.revoking import LIST_DAYS, ListMade
from pqfl.commands.ca_options import DIR, JSON, PATH, blaming
from pqfl.commands.passphrases import passphrase_option, passphrases_of
from pqfl.commands.reading import say
from pqfl_transport.errors import ConfigurationError
from pqfl_transport.pki.files import read_public, write_public
from pqfl_transport.pki.lists import REASONS

_FLAGS = {"unknown_name": "--name", "ambiguous_name": "--name", "already_revoked": "--name", "is_root": "--name"}


@click.command("revoke")
@DIR
@click.option("--name", required=True, metavar="NAME|SERIAL", help="Whom: NAME, ROLE/NAME, a SPIFFE ID, or a serial.")
@click.option(
    "--reason", required=True, type=click.Choice(REASONS, case_sensitive=False), help="Why, in the words of RFC 5280."
)
@passphrase_option
@JSON
def revoke(folder: Path, name: str, reason: str, passphrase_file: Path | None, as_json: bool) -> None:
    """Revoke every certificate of a party, and sign the next revocation list.

    The list is crl.pem in the folder: sidecars and aggregators that read it refuse the party from then on. The next
    roster leaves it out. Nothing brings a revoked certificate back.
    """
    authority = Authority.open(folder, passphrases_of(passphrase_file))
    with blaming(_FLAGS):
        revoked = authority.revoke(name, reason)
    made = authority.make_crl()
    facts = {
        "revoked": [entry.facts() for entry in revoked], "crl": str(authority.crl_path),
        "lists": [_facts(one) for one in made],
    }  # fmt: skip
    lines = [f"{entry.id or entry.usage}: {entry.usage} certificate {entry.serial} revoked" for entry in revoked]
    lines += [_told(one) for one in made]
    lines.append(f"Give {authority.crl_path} to every party. The next roster (pqfl ca roster sign) leaves it out.")
    if authority.dual_crl_path.exists():
        lines.append(f"Listeners with --pq prefer get {authority.dual_crl_path} in its place.")
    say(facts, "\n".join(lines), as_json=as_json)


@click.command("crl")
@DIR
@click.option("--out", type=PATH, help="Write the lists here too.")
@click.option("--days", type=click.IntRange(1, 365), default=LIST_DAYS, show_default=True, help="How long current.")
@click.option("--at-least-number", type=click.IntRange(min=0), default=0, help="Go on here, after a restore.")
@click.option("--classical", is_flag=True, help="Name, and write to --out, the file for --pq prefer: crl-dual.pem.")
@passphrase_option
@JSON
def crl(
    folder: Path,
    out: Path | None,
    days: int,
    at_least_number: int,
    classical: bool,
    passphrase_file: Path | None,
    as_json: bool,
) -> None:
    """Sign the next revocation lists: one of every issuing authority, and the root's where it has one.

    With a classical issuer there is crl-dual.pem as well, which has its list too: for listeners with --pq prefer, and
    for nobody else, because others do not trust that issuer.

    Do it before the last ones end: past its end a list makes readers refuse everybody.
    """
    authority = Authority.open(folder, passphrases_of(passphrase_file))
    made = authority.make_crl(days=days, at_least_number=at_least_number)
    path = authority.dual_crl_path if classical else authority.crl_path
    if classical and not path.exists():
        raise ConfigurationError(
            f"--classical: {folder} has no classical issuer (pqfl ca twin init)", reason="no_classical_issuer"
        )
    if out is not None:
        write_public(out, read_public(path, max_bytes=64 << 20))
        path = out
    facts = {"file": str(path), "lists": [_facts(one) for one in made]}
    say(facts, "\n".join([f"{path}:", *(f"  {_told(one)}" for one in made)]), as_json=as_json)


def _facts(one: ListMade) -> dict[str, object]:
    return {
        "authority": one.authority, "number": one.number, "revoked": one.revoked,
        "next_update": one.next_update.isoformat(timespec="seconds"),
    }  # fmt: skip


def _told(one: ListMade) -> str:
    return f"{one.authority}: list number {one.number}, {one.revoked} revoked, current until {one.next_update:%Y-%m-%d}"


COMMANDS = (revoke, crl)
