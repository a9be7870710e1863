"""`pqfl ca rotate` and `retire`: replace an authority while everybody goes on."""

from pathlib import Path

import click

from certs.authority import Authority
from certs.rotating import CROSS, PRESENT, Rotated
from pqfl.commands.ca_options import DIR, HOSTS, JSON, LEVEL, blaming
from pqfl.commands.passphrases import new_passphrase, new_passphrase_option, passphrase_option, passphrases_of
from pqfl.commands.reading import say
from pqfl_transport.policy import SecurityLevel

_FLAGS = {
    "missing": "--dir",
    "no_classical_issuer": "--dir",
    "already_announced": "--announce",
    "still_needed": "--dir",
}
_ENCRYPT = click.option("--encrypt", is_flag=True, help="Encrypt the new private key under a passphrase.")


@click.group("rotate")
def rotate_group() -> None:
    """Replace an authority; the old one is trusted beside the new one until `pqfl ca retire`."""


@rotate_group.command("issuing")
@DIR
@click.option("--level", type=LEVEL, help="Issue at another level from now on.")
@HOSTS
@click.option("--announce", is_flag=True, help="Put it into ca.pem and do not use it yet; run again to use it.")
@_ENCRYPT
@passphrase_option
@new_passphrase_option
@JSON
def rotate_issuing(  # noqa: PLR0913, PLR0917 -- one argument a flag
    folder: Path,
    level: str | None,
    hosts: tuple[tuple[str, ...] | None] | None,
    announce: bool,
    encrypt: bool,
    passphrase_file: Path | None,
    new_passphrase_file: Path | None,
    as_json: bool,
) -> None:
    """Make the next issuing authority under the same root. Needs root.key.

    It permits the hosts that the present one permits, unless --hosts says otherwise. Where traffic must not stop: first
    with --announce, give ca.pem to everybody, and then without. Certificates of the old one stay good.
    """
    passphrase = new_passphrase("the new issuing.key", new_passphrase_file, environment=False) if encrypt else None
    with blaming(_FLAGS):
        authority = Authority.open(folder, passphrases_of(passphrase_file))
        made = authority.rotate_issuing(
            level=None if level is None else SecurityLevel(level), hosts=PRESENT if hosts is None else hosts[0],
            announce=announce, passphrase=passphrase,
        )  # fmt: skip
    used = "signs certificates from now on" if made.in_use else "is announced; run this again when everybody has ca.pem"
    _tell(authority, made, f"issuing authority ({made.entry.algorithm}) {used}", as_json=as_json)


@rotate_group.command("root")
@DIR
@_ENCRYPT
@passphrase_option
@new_passphrase_option
@JSON
def rotate_root(
    folder: Path, encrypt: bool, passphrase_file: Path | None, new_passphrase_file: Path | None, as_json: bool
) -> None:
    """Make a new root. Needs the old root.key, which certifies the new root for those who trust the old one.

    Give ca.pem to everybody before the next roster or advisory: the new root signs those.
    """
    passphrase = new_passphrase("the new root.key", new_passphrase_file, environment=False) if encrypt else None
    with blaming(_FLAGS):
        authority = Authority.open(folder, passphrases_of(passphrase_file))
        made = authority.rotate_root(passphrase=passphrase)
    _tell(
        authority, made,
        f"root ({made.entry.algorithm}), certified by the old one in {CROSS}. The old key is in {folder / 'former'}:"
        " take both offline",
        as_json=as_json,
    )  # fmt: skip


@rotate_group.command("classical")
@DIR
@click.option(
    "--announce", is_flag=True, help="Put it into classical-ca.pem and do not use it yet; run again to use it."
)
@_ENCRYPT
@new_passphrase_option
@JSON
def rotate_classical(
    folder: Path, announce: bool, encrypt: bool, new_passphrase_file: Path | None, as_json: bool
) -> None:
    """Make the next classical issuer, which signs twins. Needs no key of the root.

    First with --announce, give classical-ca.pem to all who trust classical peers, and then without. Twins of the old
    one stay good.
    """
    passphrase = new_passphrase("the new classical.key", new_passphrase_file, environment=False) if encrypt else None
    with blaming(_FLAGS):
        authority = Authority.open(folder)
        made = authority.rotate_classical(announce=announce, passphrase=passphrase)
    path = authority.classical_ca_path
    used = "signs twins from now on" if made.in_use else f"is announced; run this again when all have {path.name}"
    facts = {"certificate": made.entry.facts(), "in_use": made.in_use, "ca": str(path)}
    text = f"New classical issuer ({made.entry.algorithm}) {used}.\nGive {path} to gateways and classical peers."
    say(facts, text, as_json=as_json)


@click.command("retire")
@DIR
@click.option("--force", is_flag=True, help="Also where parties that have not renewed get in no more.")
@click.option("--classical", is_flag=True, help="Classical issuers, out of classical-ca.pem, instead.")
@JSON
def retire(folder: Path, force: bool, classical: bool, as_json: bool) -> None:
    """Take replaced authorities out of ca.pem: the end of the overlap.

    Refuses while a party's latest certificate of any use is of one of them, and says whose.
    """
    authority = Authority.open(folder)
    with blaming(_FLAGS):
        gone = authority.retire(force=force, classical=classical)
    path, whom = authority.ca_path, "every party"
    if classical:
        path, whom = authority.classical_ca_path, "gateways and classical peers"
    lines = [f"{one}: no longer in {path}" for one in gone]
    lines.append(f"Give {path} to {whom}. Then their keys in {folder / 'former'} can be destroyed.")
    say({"retired": list(gone), "ca": str(path)}, "\n".join(lines), as_json=as_json)


def _tell(authority: Authority, made: Rotated, what: str, *, as_json: bool) -> None:
    facts = {"certificate": made.entry.facts(), "in_use": made.in_use, "ca": str(authority.ca_path)}
    say(facts, f"New {what}.\nGive {authority.ca_path} to every party.", as_json=as_json)


COMMANDS = (rotate_group, retire)
