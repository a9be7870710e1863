"""`pqfl key`, `pqfl seal`, `pqfl open`: files of weights, sealed for one reader and signed by one sender."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import click

from pqfl_transport.algorithms import find
from pqfl_transport.content.files import open_file, seal_file
from pqfl_transport.content.recipients import ReceivingKey, RecipientKey
from pqfl_transport.content.sealing import EnvelopeParameters
from pqfl_transport.errors import ConfigurationError, PqflError
from pqfl_transport.pki import chain, keystore
from pqfl_transport.pki.profiles import Usage
from pqfl_transport.policy import DEFAULT_LEVEL, POLICIES, Policy, SecurityLevel, for_level

T = TypeVar("T")

_PATH = click.Path(path_type=Path)
_LEVEL = click.Choice([level.value for level in SecurityLevel])


@click.group("key")
def key_group() -> None:
    """Make receiving keys."""


@key_group.command("new")
@click.option("--out", required=True, type=_PATH, help="File for the private key; the public one gets .pub behind it.")
@click.option("--level", type=_LEVEL, default=DEFAULT_LEVEL.value, show_default=True, help="Decides the KEM.")
@click.option("--json", "as_json", is_flag=True, help="Print the facts as JSON.")
def new_key(out: Path, level: str, as_json: bool) -> None:
    """Make a receiving key: FILE (secret, mode 0600) and FILE.pub."""
    public = out.with_name(out.name + ".pub")
    for path in (out, public):
        if path.exists():
            raise ConfigurationError(f"--out {path}: exists already and is not overwritten", reason="exists")
    key = ReceivingKey.generate(for_level(level).content_suite.kem)
    keystore.write_secret(out, key.to_pem())
    keystore.write_public(public, key.public.to_pem())
    facts = {"private": str(out), "public": str(public), "kem": key.kem, "fingerprint": key.fingerprint.hex()}
    _say(facts, f"{out} and {public}: {key.kem}, fingerprint {key.fingerprint.hex()}", as_json=as_json)


@click.command(short_help="Seal a file of weights for its readers.")
@click.option("--to", "recipients", required=True, multiple=True, type=_PATH, help="Public receiving key; repeatable.")
@click.option("--identity", required=True, type=_PATH, help="Folder with signing.pem and signing.key.")
@click.option("--trailer", is_flag=True, help="Sign the body too: evidence to third parties.")
@click.option("--json", "as_json", is_flag=True, help="Print the facts as JSON.")
@click.argument("source", metavar="IN", type=_PATH)
@click.argument("target", metavar="OUT", type=_PATH)
def seal(
    recipients: tuple[Path, ...], identity: Path, trailer: bool, as_json: bool, source: Path, target: Path
) -> None:
    """Seal weights (IN: .npz or .safetensors) for who holds the receiving key, signed by who is in --identity."""
    sender = keystore.load_signing_identity(identity)
    keys = [_recipient(path) for path in recipients]
    policy = _policy_for(sender.key.algorithm, keys[0])
    parameters = EnvelopeParameters(
        suite=policy.content_suite.id,
        federation=sender.id.federation,
        sender=str(sender.id),
        direction="file",
        trailer=trailer,
    )
    prologue = seal_file(source, target, parameters=parameters, recipients=keys, signing_key=sender.key)
    header = prologue.header
    facts = {"envelope": str(target), "sender": header.sender, "suite": header.suite, "id": header.envelope_id.hex()}
    _say(facts, f"{target}: sealed with {header.suite}, signed by {header.sender}", as_json=as_json)


@click.command("open", short_help="Open a sealed file of weights.")
@click.option("--key", "key_path", required=True, type=_PATH, help="Private receiving key.")
@click.option("--from", "sender_path", required=True, type=_PATH, help="The sender's signing.pem.")
@click.option("--json", "as_json", is_flag=True, help="Print the facts as JSON.")
@click.argument("source", metavar="IN", type=_PATH)
@click.argument("target", metavar="OUT", type=_PATH)
def open_command(key_path: Path, sender_path: Path, as_json: bool, source: Path, target: Path) -> None:
    """Open an envelope into OUT (.npz or .safetensors); nothing is written unless all of it holds."""
    key = _named(key_path, lambda: ReceivingKey.from_pem(keystore.read_secret(key_path)))
    certificate = _named(sender_path, lambda: chain.load_certificates(keystore.read_public(sender_path)))[0]
    # Its dates do not count here: what was signed in time stays signed, and is opened years later.
    _named(sender_path, lambda: chain.require_usage(certificate, Usage.SIGNING))
    sender_key = _named(sender_path, lambda: chain.verifying_key(certificate))
    policy = _policy_for(sender_key.algorithm, key.public)
    sender = _named(sender_path, lambda: str(chain.spiffe_id(certificate)))
    header = _named(
        source,
        lambda: open_file(source, target, receiving_key=key, sender=sender, sender_key=sender_key, policy=policy),
    )
    facts = {"file": str(target), "sender": header.sender, "suite": header.suite, "bytes": header.plaintext_bytes}
    _say(facts, f"{target}: signed by {header.sender}, sealed with {header.suite}", as_json=as_json)


def _recipient(path: Path) -> RecipientKey:
    return _named(path, lambda: RecipientKey.from_pem(keystore.read_public(path)))


def _policy_for(signature: str, recipient: RecipientKey) -> Policy:
    """Return the level whose suite is made of these two keys' algorithms."""
    for policy in POLICIES.values():
        suite = policy.content_suite
        if (suite.signature, suite.kem) == (find(signature).name, recipient.kem):
            return policy
    raise ConfigurationError(
        f"no security level seals to a key of {recipient.kem} and signs with {signature}", reason="wrong_key"
    )


def _named(path: Path, action: Callable[[], T]) -> T:
    """Run ``action``; an error of it that does not name the file gets its name in front."""
    try:
        return action()
    except FileNotFoundError:
        raise ConfigurationError(f"{path}: no such file", reason="no_file") from None
    except PqflError as error:
        if str(path) in str(error):
            raise
        raise type(error)(f"{path}: {error}", reason=error.reason) from error


def _say(facts: Mapping[str, object], sentence: str, *, as_json: bool) -> None:
    click.echo(json.dumps(facts) if as_json else sentence)


COMMANDS = (key_group, seal, open_command)
