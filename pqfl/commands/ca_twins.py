"""`pqfl ca twin`: classical certificates beside the post-quantum ones, for as long as a migration lasts."""

from pathlib import Path

import click

from certs.authority import Authority
from certs.revoking import find_party
from certs.twins import ANCHOR, CERTIFICATE, KEY
from pqfl.commands.ca_options import DIR, JSON, PATH, blaming
from pqfl.commands.passphrases import new_passphrase, new_passphrase_option, passphrase_option, passphrases_of
from pqfl.commands.reading import say

_FLAGS = {
    "no_classical_issuer": "--dir",
    "missing": "--dir",
    "unknown_name": "--name",
    "ambiguous_name": "--name",
    "not_issued": "--name",
    "no_twin": "--name",
    "bad_validity": "--days",
    "not_writable": "--out",
}


@click.group("twin", short_help="Classical certificates for a migration.")
def twin_group() -> None:
    """Make classical twins (ECDSA P-256) of parties, for listeners with --pq prefer."""


@twin_group.command("init")
@DIR
@click.option("--encrypt", is_flag=True, help="Encrypt the issuer's private key under a passphrase.")
@passphrase_option
@JSON
def init(folder: Path, encrypt: bool, passphrase_file: Path | None, as_json: bool) -> None:
    """Make the classical issuer, which signs twins and nothing else.

    It is never in ca.pem: whom classical peers trust is said by --classical-cacert. A quantum computer could forge what
    it signs, so remove classical.pem and classical.key when the last classical peer is gone.
    """
    authority = Authority.open(folder, passphrases_of(passphrase_file))
    path = authority.classical_path
    passphrase = None
    if encrypt and not path.exists():
        passphrase = new_passphrase(f"the key in {folder}", passphrase_file, environment=True)
    with blaming({"exists": "--dir"}):
        entry = authority.create_classical(passphrase=passphrase)
    text = f"""\
{path}: classical issuer ({entry.algorithm}), until {entry.not_after[:10]}
  {KEY}  SECRET: signs twins and their revocation list
Next: pqfl ca issue --twin …, or for a party that exists: pqfl ca twin issue --dir {folder} --name NAME --out OUT"""
    facts = {"issuer": entry.facts(), "file": str(path), "secret": [str(folder / KEY)]}
    say(facts, text, as_json=as_json)


@twin_group.command("issue")
@DIR
@click.option("--name", required=True, metavar="NAME", help="Whose: NAME, ROLE/NAME or a SPIFFE ID; it has to exist.")
@click.option("--days", type=click.IntRange(min=1), help="How long it is valid.  [default: of the profile]")
@click.option("--out", required=True, type=PATH, help="Folder to make for it; it must not hold anything yet.")
@click.option("--encrypt", is_flag=True, help="Encrypt the twin's private key under a passphrase.")
@passphrase_option
@new_passphrase_option
@JSON
def issue(  # noqa: PLR0913, PLR0917 -- one argument a flag
    folder: Path,
    name: str,
    days: int | None,
    out: Path,
    encrypt: bool,
    passphrase_file: Path | None,
    new_passphrase_file: Path | None,
    as_json: bool,
) -> None:
    """Make the classical twin of a gateway or a site: the same SPIFFE ID, use and hosts, a new P-256 key.

    Put its files into the party's folder. Do it again, with another OUT, before it ends.
    """
    passphrase = new_passphrase(f"the key in {out}", new_passphrase_file, environment=False) if encrypt else None
    with blaming({**_FLAGS, "exists": "--out"}):
        authority = Authority.open(folder, passphrases_of(passphrase_file))
        issued = authority.issue_twin(find_party(authority, name), out=out, days=days, passphrase=passphrase)
    (entry,) = issued.entries
    text = f"""\
{out}: classical twin of {issued.id}
  {CERTIFICATE}     for {entry.usage} use: {entry.algorithm}, until {entry.not_after[:10]}
  {ANCHOR}  for --classical-cacert
  {KEY}     SECRET: hand the folder over safely and keep no copy"""
    facts = {"id": str(issued.id), "out": str(out), "certificates": [entry.facts()], "secret": [str(out / KEY)]}
    say(facts, text, as_json=as_json)


COMMANDS = (twin_group,)
