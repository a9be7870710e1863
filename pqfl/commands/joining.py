"""`pqfl join` and `pqfl renew`: the site's side of the enrolment service (docs/enrolment.md)."""

import os
from datetime import UTC, datetime
from pathlib import Path

import click
from cryptography import x509

from pqfl.commands.passphrases import passphrase_option, passphrases_of
from pqfl.commands.reading import say
from pqfl_transport.errors import ConfigurationError, PqflError
from pqfl_transport.joining import DEFAULT_LISTEN, SIDECAR_FILE, Joined, Joiner
from pqfl_transport.net.address import Address
from pqfl_transport.pki import keystore
from pqfl_transport.pki.chain import key_algorithm_name, verifying_key
from pqfl_transport.pki.files import read_secret
from pqfl_transport.pki.ruling import load_policy
from pqfl_transport.pki.tokens import JoinToken
from pqfl_transport.pki.words import to_lines, to_words
from pqfl_transport.policy import Policy, SecurityLevel, for_level, leaf_algorithm
from pqfl_transport.renewal import RenewalFiles, Renewed, Renewer
from pqfl_transport.twin_renewal import TwinFiles, TwinRenewer

_PATH = click.Path(path_type=Path)
_HUB = click.option("--hub", required=True, metavar="ADDR", help="HOST:PORT of `pqfl ca serve`.")
_JSON = click.option("--json", "as_json", is_flag=True, help="Print the facts as JSON.")
_TOKEN_VARIABLE = "PQFL_TOKEN"  # noqa: S105 -- the name of a variable
_LEVELS = tuple(level.value for level in SecurityLevel)


@click.command(short_help="Join a federation with a token.")
@click.option("--token", help=f"The token. Others on this machine can read a command line: {_TOKEN_VARIABLE} is safer.")
@click.option("--token-file", type=_PATH, help="File with the token, mode 0600.")
@_HUB
@click.option("--out", required=True, type=_PATH, help="Folder to make; it must not hold anything yet.")
@click.option("--listen", default=DEFAULT_LISTEN, show_default=True, metavar="ADDR", help="Where the sidecar listens.")
@click.option("--target", metavar="ADDR", help="HOST:PORT of the gateway. [default: what the hub says]")
@_JSON
def join(
    token: str | None, token_file: Path | None, hub: str, out: Path, listen: str, target: str | None, as_json: bool
) -> None:
    """Join a federation: make keys here, have them certified, and write a folder with a working sidecar.toml.

    Root and service are verified before anything is sent, and the private keys never leave this machine. Run the same
    command again after an interruption, or while somebody has still to approve.
    """
    Address.parse(listen, "--listen")
    joiner = Joiner(
        JoinToken.parse(_token(token, token_file)), Address.parse_target(hub, "--hub"), out, listen,
        "" if target is None else str(Address.parse_target(target, "--target")),
    )  # fmt: skip
    try:
        joined = joiner.join()
    except ConfigurationError as error:
        flags = {"exists": "--out", "not_writable": "--out"}
        where = f"{flags[error.reason]}: " if error.reason in flags else ""
        raise ConfigurationError(f"{where}{error}", reason=error.reason) from error
    roster = joined.roster
    if roster is None:
        click.echo(f"pqfl: no roster yet: {joined.no_roster_because}", err=True)
    number = None if roster is None else roster.number
    facts = {
        "party": str(joiner.token.party), "out": str(out), "config": str(out / SIDECAR_FILE),
        "target": joined.target, "gateway": joined.gateway_id, "level": joiner.token.level.value,
        "not_after": joined.tls.not_valid_after_utc.isoformat(),
        "signing_fingerprint": joined.signing_fingerprint.hex(), "words": to_words(joined.signing_fingerprint),
        "receiving_fingerprint": joined.receiving_fingerprint.hex(),
        "roster_number": number,
        "in_roster": roster is not None and str(joiner.token.party) in roster.parties,
    }  # fmt: skip
    say(facts, _told(joined, number), as_json=as_json)


@click.command(short_help="Renew an identity's certificates.")
@click.option("--identity", required=True, type=_PATH, help="Folder that `pqfl join` or `pqfl ca issue` made.")
@_HUB
@click.option("--keep-keys", is_flag=True, help="Certify the present keys again and make no new ones.")
@click.option("--level", type=click.Choice(_LEVELS), help="Needed where it is cnsa2; else the key says it.")
@click.option("--policy", metavar="NAME|FILE", help="Instead: with several kinds of keys, new ones are as the hub's.")
@passphrase_option
@_JSON
def renew(
    identity: Path, hub: str, keep_keys: bool, level: str | None, policy: str | None, passphrase_file: Path | None,
    as_json: bool,
) -> None:  # fmt: skip
    """Renew TLS and signing certificate over the present ones; the files are replaced in one step.

    The TLS key is a new one. The signing key stays, because the roster names it; the next one is made beside it, and
    takes over when a roster names that one and the present one's time is over. Read its words to the authority. A
    running sidecar takes the new certificate with HUP; one with --renew renews its TLS certificate by itself. While the
    federation changes its level, --policy lists both kinds of keys, and new ones are as the authority's.
    A classical twin in the folder (classical.pem) is renewed too, with a new key.
    """
    if policy is not None and level is not None:
        raise click.UsageError("--level and --policy: one of them")
    chosen = _policy(identity, level) if policy is None else load_policy(policy)
    renewer = Renewer(Address.parse_target(hub, "--hub"), chosen, keep_keys, passphrases_of(passphrase_file))
    renewed = renewer.renew_folder(identity)
    twin_files = TwinFiles.in_folder(identity)
    twin = None if twin_files is None else _renew_twin(renewer, identity, twin_files)
    facts = {"party": str(renewed.party), "identity": str(identity), "tls": _certificate(renewed.tls),
             "signing": _signing_certificate(renewed.signing),
             "next_signing": _signing_certificate(renewed.next_signing),
             "twin": None if twin is None else _certificate(twin),
             "new_tls_key": not keep_keys, "took_over": renewed.took_over}  # fmt: skip
    say(facts, _renewed(renewed, twin, identity, keep_keys=keep_keys), as_json=as_json)


def _token(text: str | None, file: Path | None) -> str:
    if text is not None and file is not None:
        raise click.UsageError("--token and --token-file: one of them")
    if file is not None:
        return read_secret(file).decode("ascii", "replace")
    found = text or os.environ.get(_TOKEN_VARIABLE)
    if not found:
        raise click.UsageError(f"--token is missing; --token-file or {_TOKEN_VARIABLE} do as well")
    return found


def _told(joined: Joined, number: int | None) -> str:
    token, out = joined.token, joined.folder
    words = "\n".join(f"    {line}" for line in to_lines(joined.signing_fingerprint))
    return f"""\
{out}: identity of {token.party}, level {token.level.value}, until {joined.tls.not_valid_after_utc:%Y-%m-%d}
  {SIDECAR_FILE}  listens for the FL client and connects to {joined.target}, {joined.gateway_id}; renews by itself
  roster.json   {"not there yet" if number is None else f"number {number}"}
  SECRET        tls.key, signing.key, receiving.key: made here, known to nobody else
  signing key   {joined.signing_fingerprint.hex()}
{words}
The channel works now:  pqfl client --config {out / SIDECAR_FILE}
Updates count from the next roster on, which the root signs at the hub: pqfl ca roster sign
Read the words to the hub before: whoever signs the roster sees the same ones where the key in it is yours."""


def _renew_twin(renewer: Renewer, folder: Path, files: TwinFiles) -> x509.Certificate:
    """Renew the twin over the TLS certificate that is there by now. Raises as `TwinRenewer.renew` does."""
    tls = RenewalFiles(folder / "tls.pem", folder / "tls.key")
    try:
        return TwinRenewer(renewer.address, renewer.policy, renewer.passphrases).renew(tls, folder / "ca.pem", files)
    except PqflError as error:
        done = f"{folder}: its other certificates were renewed, its classical twin was not"
        raise type(error)(f"{done}: {error}", reason=error.reason) from error


def _renewed(renewed: Renewed, twin: x509.Certificate | None, folder: Path, *, keep_keys: bool) -> str:
    key = "the same" if keep_keys else "a new"
    lines = [f"{folder}: renewed {renewed.party}"]
    lines.append(f"  tls.pem           {_until(renewed.tls.not_valid_after_utc)}, {key} key")
    if renewed.signing is not None:
        which = "the next key, which has taken over" if renewed.took_over else "the same key"
        lines.append(f"  signing.pem       {_until(renewed.signing.not_valid_after_utc)}, {which}")
    if renewed.next_signing is not None:
        fingerprint = verifying_key(renewed.next_signing).fingerprint
        lines.append(
            f"  signing-next.pem  {_until(renewed.next_signing.not_valid_after_utc)}, the next key, for a roster"
        )
        lines += [f"    {line}" for line in (fingerprint.hex(), *to_lines(fingerprint))]
    if twin is not None:
        lines.append(f"  classical.pem     {_until(twin.not_valid_after_utc)}, a new key")
    return "\n".join(lines)


def _signing_certificate(certificate: x509.Certificate | None) -> dict[str, object] | None:
    if certificate is None:
        return None
    return _certificate(certificate) | {"signing_fingerprint": verifying_key(certificate).fingerprint.hex()}


def _until(moment: datetime) -> str:
    return f"until {moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def _certificate(certificate: x509.Certificate) -> dict[str, object]:
    return {"serial": f"{certificate.serial_number:x}", "not_after": certificate.not_valid_after_utc.isoformat()}


def _policy(folder: Path, level: str | None) -> Policy:
    """Return the policy of a level, or of the first level whose certificates have a key as this one."""
    if level is not None:
        return for_level(level)
    algorithm = key_algorithm_name(keystore.load_certificate(folder / "tls.pem"))
    for known in SecurityLevel:
        if leaf_algorithm(for_level(known)) == algorithm:
            return for_level(known)
    raise ConfigurationError(f"{folder / 'tls.pem'}: no level has keys of {algorithm}", reason="bad_sigalg")
