"""`pqfl key show` and `pqfl key fingerprint`: what a key file holds, and its fingerprint in words to say."""

import json
from pathlib import Path

import click

from pqfl.commands.passphrases import passphrase_option, passphrases_of
from pqfl.commands.reading import PATH
from pqfl.keyfacts import KeyFacts, facts_of
from pqfl_transport.content.receiving_keys import day
from pqfl_transport.errors import ConfigurationError, MessageError
from pqfl_transport.pki.words import FINGERPRINT_BYTES, agrees, parse_fingerprint, to_lines, to_words

_FILES = click.argument("files", metavar="FILE...", nargs=-1, required=True, type=PATH)
_CACERT = click.option("--cacert", type=PATH, help="Verify rosters with the roots of this ca.pem.")
_JSON = click.option("--json", "as_json", is_flag=True, help="Print the facts as JSON.")


@click.command("show", short_help="Show what files with keys hold.")
@_CACERT
@_JSON
@_FILES
def show(files: tuple[Path, ...], cacert: Path | None, as_json: bool) -> None:
    """Show what is in files with keys: kind, algorithm, fingerprint, dates, owner. Asks for no passphrase."""
    found = [facts for path in files for facts in facts_of(path, cacert=cacert)]
    if as_json:
        click.echo(json.dumps([_as_json(facts) for facts in found]))
        return
    click.echo("\n".join(_described(facts) for facts in found))


@click.command("fingerprint", short_help="Print fingerprints as words, or compare one.")
@click.option("--compare", metavar="WORDS", help="What the other end reads out: all 32 words or hexadecimal.")
@click.option(
    "--of", "which", metavar="WORDS", default="", help="Of several keys, those whose owner and kind say this."
)
@_CACERT
@passphrase_option
@_JSON
@_FILES
def fingerprint(
    files: tuple[Path, ...],
    compare: str | None,
    which: str,
    cacert: Path | None,
    passphrase_file: Path | None,
    as_json: bool,
) -> None:
    """Print fingerprints in hexadecimal and as words of the PGP list, to be compared by voice.

    FILE is a receiving key, a certificate, a private or public key, a roster, a round document or a statement. With
    --compare the status is 0 where the key is the one that was read out, and 1 where it is not. All 32 words are the
    fingerprint; the first 16 are 128 bits of it.
    """
    heard = None if compare is None else parse_fingerprint(compare)
    passphrases = passphrases_of(passphrase_file)
    found = [facts for path in files for facts in facts_of(path, passphrases, cacert)]
    found = [facts for facts in found if _is_meant(facts, which)]
    if not found:
        raise ConfigurationError(f"--of {which!r}: none of the keys is called so", reason="no_such_key")
    if heard is not None:
        _compare(_only(found), heard, as_json=as_json)
    elif as_json:
        click.echo(json.dumps([_as_json(facts) for facts in found]))
    else:
        click.echo("\n".join(_in_words(facts) for facts in found))


def _compare(facts: KeyFacts, heard: bytes, *, as_json: bool) -> None:
    matches = agrees(facts.fingerprint or b"", heard)
    whole = len(heard) == FINGERPRINT_BYTES
    if as_json:
        click.echo(json.dumps({**_as_json(facts), "matches": matches, "compared_bits": 8 * len(heard)}))
    if not matches:
        raise MessageError(
            f"{facts.file}: {_title(facts)} does NOT have this fingerprint: do not use it", reason="mismatch"
        )
    if not as_json:
        part = "" if whole else f", in the first {8 * len(heard)} of {8 * FINGERPRINT_BYTES} bits"
        click.echo(f"{facts.file}: {_title(facts)} has this fingerprint{part}")


def _only(found: list[KeyFacts]) -> KeyFacts:
    # A file of private receiving keys is known by the one in use; the former ones are nobody's to compare.
    rest = [facts for facts in found[1:] if not (facts.private and facts.file == found[0].file)]
    if rest:
        names = ", ".join(f"{facts.file}: {_title(facts)}" for facts in found[:4])
        raise ConfigurationError(
            f"{len(found)} keys, and one fingerprint to compare: say which with --of ({names} …)", reason="which_key"
        )
    return found[0]


def _is_meant(facts: KeyFacts, which: str) -> bool:
    name = f"{facts.owner} {facts.kind}".lower()
    return all(word in name for word in which.lower().split())


def _title(facts: KeyFacts) -> str:
    return f"{facts.kind} of {facts.owner}" if facts.owner else facts.kind


def _in_words(facts: KeyFacts) -> str:
    fingerprint = facts.fingerprint or b""
    lines = "\n".join(f"  {line}" for line in to_lines(fingerprint))
    return f"{facts.file}: {_title(facts)}\n  {fingerprint.hex()}\n{lines}"


def _described(facts: KeyFacts) -> str:
    how = "encrypted" if facts.encrypted else "not encrypted"
    category = f" (NIST category {facts.nist_category})" if facts.nist_category else ""
    rows = [
        ("kind", f"{facts.kind}, {how}" if facts.private else facts.kind),
        ("belongs to", facts.owner),
        ("algorithm", f"{facts.algorithm}{category}" if facts.algorithm else ""),
        ("fingerprint", "needs the passphrase" if facts.fingerprint is None else facts.fingerprint.hex()),
        ("from", day(facts.made) if facts.made else ""),
        ("until", day(facts.not_after) if facts.not_after else ""),
        ("remark", facts.remark),
    ]
    return "\n".join([facts.file, *(f"  {name:<12} {value}" for name, value in rows if value)])


def _as_json(facts: KeyFacts) -> dict[str, object]:
    return {
        "file": facts.file, "kind": facts.kind, "algorithm": facts.algorithm or None,
        "nist_category": facts.nist_category, "private": facts.private, "encrypted": facts.encrypted,
        "owner": facts.owner or None, "made": facts.made or None, "not_after": facts.not_after or None,
        "fingerprint": None if facts.fingerprint is None else facts.fingerprint.hex(),
        "words": None if facts.fingerprint is None else to_words(facts.fingerprint), "remark": facts.remark or None,
    }  # fmt: skip


COMMANDS = (show, fingerprint)
