"""`pqfl key rotate|announce|prune`: a new receiving key, the old one while people hear of it, and its end."""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from pqfl.commands.passphrases import passphrase_option, passphrases_of
from pqfl.commands.reading import PATH, named, say
from pqfl_transport.algorithms import Kind, find
from pqfl_transport.content.key_files import load_key_ring, replace_key_ring, unlock_ring
from pqfl_transport.content.receiving_keys import KeyEntry, ReceivingKeys, day
from pqfl_transport.content.recipients import ReceivingKey
from pqfl_transport.errors import ConfigurationError
from pqfl_transport.pki.files import write_public
from pqfl_transport.pki.keystore import SigningIdentity, load_signing_identity
from pqfl_transport.pki.passphrases import PassphraseSource
from pqfl_transport.pki.statements import STATEMENT_SECONDS, Statement, sign_statement
from pqfl_transport.pki.words import to_lines, to_words

STATEMENT_NAME = "receiving-key.json"
_OVERLAP = re.compile(r"([0-9]{1,5})([hdw])", re.ASCII)
_SECONDS = {"h": 3600, "d": 24 * 3600, "w": 7 * 24 * 3600}
_FOREVER = "forever"


@dataclass(frozen=True, slots=True)
class _Place:
    """Where one reader's keys are: a private file and its public half, perhaps in an identity folder."""

    private: Path
    public: Path
    identity: Path | None

    @classmethod
    def of(cls, key: Path | None, identity: Path | None) -> "_Place":
        if (key is None) is (identity is None):
            raise click.UsageError("name the keys with --key FILE or with --identity DIR")
        if identity is not None:
            return cls(identity / "receiving.key", identity / "receiving.pub", identity)
        assert key is not None  # noqa: S101 -- one of the two is given
        return cls(key, key.with_name(key.name + ".pub"), None)


def _place_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option("--identity", type=PATH, help="Identity folder with receiving.key and signing.key."),
        click.option("--key", "key_path", type=PATH, help="File of private receiving keys."),
    ):
        command = option(command)
    return command


@click.command("rotate", short_help="Make a new receiving key and keep the old one for a while.")
@_place_options
@click.option(
    "--overlap",
    default="30d",
    show_default=True,
    metavar="TIME",
    help="How long the former key still opens: 12h, 30d, 8w, or `forever`.",
)
@click.option("--kem", metavar="NAME", help="Another KEM for the new key; with --key only.")
@passphrase_option
@click.option("--json", "as_json", is_flag=True, help="Print the facts as JSON.")
def rotate(
    key_path: Path | None, identity: Path | None, overlap: str, kem: str | None, passphrase_file: Path | None,
    as_json: bool,
) -> None:  # fmt: skip
    """Make a new receiving key in front of the others of its file, and put its public half in the place of the old.

    The former key opens what is sealed to it until the overlap is over. With --identity the new public key is also
    announced: receiving-key.json, signed with signing.key, is for `pqfl ca rekey` and the next roster.
    """
    place = _Place.of(key_path, identity)
    if kem is not None and place.identity is not None:
        raise click.UsageError("--kem: the federation's level decides the KEM of its members")
    now = int(time.time())
    not_after = _end_of(overlap, now)
    passphrases = passphrases_of(passphrase_file)
    signer = None if place.identity is None else load_signing_identity(place.identity, passphrases=passphrases)
    ring = _with_new_key(place.private, passphrases, kem, now=now, not_after=not_after)
    # The private keys first: a public key whose private half is lost would take everything sealed to it along.
    replace_key_ring(place.private, ring)
    write_public(place.public, ring.newest.opened.public.to_pem())
    statement = None if signer is None else _announce(place, ring.newest, signer, now)
    _tell(place, ring, statement, as_json=as_json)


@click.command("announce", short_help="Sign the statement of a site's newest receiving key again.")
@click.option("--identity", required=True, type=PATH, help="Identity folder with receiving.key and signing.key.")
@passphrase_option
@click.option("--json", "as_json", is_flag=True, help="Print the facts as JSON.")
def announce(identity: Path, passphrase_file: Path | None, as_json: bool) -> None:
    """Write receiving-key.json and receiving.pub anew, where the one of `pqfl key rotate` was lost or has ended."""
    place, passphrases = _Place.of(None, identity), passphrases_of(passphrase_file)
    signer = load_signing_identity(identity, passphrases=passphrases)
    newest = unlock_ring(place.private, ReceivingKeys((load_key_ring(place.private).newest,)), passphrases).newest
    if not newest.made:
        raise ConfigurationError(
            f"{place.private}: the key is the one that the identity was issued with, and the roster has it",
            reason="not_rotated",
        )
    write_public(place.public, newest.opened.public.to_pem())
    statement = _announce(place, newest, signer, int(time.time()))
    facts = {"statement": str(statement), "id": str(signer.id), "fingerprint": newest.fingerprint.hex()}
    say(facts, f"{statement}: receiving key {newest.fingerprint.hex()} of {signer.id}", as_json=as_json)


@click.command("prune", short_help="Remove former receiving keys whose time is over.")
@_place_options
@click.option("--all", "everything", is_flag=True, help="All former keys, whatever their time.")
@click.option("--json", "as_json", is_flag=True, help="Print the facts as JSON.")
def prune(key_path: Path | None, identity: Path | None, everything: bool, as_json: bool) -> None:
    """Remove former receiving keys for good: what is sealed to them opens nowhere any more.

    The old file is overwritten. What a copy-on-write file system, a flash drive or a backup kept of it is not.
    """
    path = _Place.of(key_path, identity).private
    ring = load_key_ring(path)
    kept, gone = (ReceivingKeys(ring.entries[:1]), ring.entries[1:]) if everything else ring.pruned(time.time())
    if gone:
        replace_key_ring(path, kept)
    facts = {"private": str(path), "removed": [entry.fingerprint.hex() for entry in gone], "kept": len(kept.entries)}
    names = "".join(f"\n  {entry.fingerprint.hex()}" for entry in gone)
    say(facts, f"{path}: {len(gone)} of {len(ring.entries)} keys removed{names}", as_json=as_json)


def _with_new_key(
    path: Path, passphrases: PassphraseSource, kem: str | None, *, now: int, not_after: int
) -> ReceivingKeys:
    """Return the file's keys with a new one in front, encrypted with the passphrase that opened them if one did."""
    used: list[bytes] = []
    stored = load_key_ring(path)
    opened = unlock_ring(path, stored, _remembering(passphrases, used))
    key = ReceivingKey.generate(opened.newest.kem if kem is None else find(kem, Kind.KEM).name)
    ring = named(path, lambda: opened.rotated(key, now=now, not_after=not_after))
    return ring.mapped(lambda entry: entry.encrypted(used[-1])) if stored.is_encrypted else ring


def _tell(place: _Place, ring: ReceivingKeys, statement: Path | None, *, as_json: bool) -> None:
    newest = ring.newest
    facts = {
        "private": str(place.private), "public": str(place.public), "kem": newest.kem,
        "fingerprint": newest.fingerprint.hex(), "words": to_words(newest.fingerprint),
        "former": [_former(entry) for entry in ring.entries[1:]],
        "statement": None if statement is None else str(statement),
    }  # fmt: skip
    lines = [f"{place.private}: new key of {newest.kem}, fingerprint {newest.fingerprint.hex()}"]
    lines += [f"  {line}" for line in to_lines(newest.fingerprint)]
    lines += [f"  {entry.fingerprint.hex()[:16]}… opens {_until(entry)}" for entry in ring.entries[1:]]
    lines.append(
        f"Give {place.public} to everybody who seals to you." if statement is None else
        f"Give {statement} to the certificate authority: pqfl ca rekey --dir DIR --statement {statement.name}"
    )  # fmt: skip
    say(facts, "\n".join(lines), as_json=as_json)


def _announce(place: _Place, newest: KeyEntry, signer: SigningIdentity, now: int) -> Path:
    statement = Statement(signer.id, newest.opened.public.to_bytes(), newest.made, now + STATEMENT_SECONDS)
    path = place.private.with_name(STATEMENT_NAME)
    write_public(path, sign_statement(statement, signer.key))
    return path


def _remembering(passphrases: PassphraseSource, used: list[bytes]) -> PassphraseSource:
    def source(name: str) -> Any:
        for passphrase in passphrases(name):
            used.append(passphrase)
            yield passphrase

    return source


def _end_of(overlap: str, now: int) -> int:
    if overlap == _FOREVER:
        return 0
    match = _OVERLAP.fullmatch(overlap)
    if match is None or int(match[1]) == 0:
        raise ConfigurationError(f"--overlap {overlap!r}: expected as 12h, 30d, 8w or forever", reason="bad_overlap")
    return now + int(match[1]) * _SECONDS[match[2]]


def _former(entry: KeyEntry) -> dict[str, object]:
    return {"fingerprint": entry.fingerprint.hex(), "not_after": entry.not_after or None}


def _until(entry: KeyEntry) -> str:
    return f"until {day(entry.not_after)}" if entry.not_after else "for good"


COMMANDS = (rotate, announce, prune)
