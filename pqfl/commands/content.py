"""`pqfl seal`, `pqfl open`, `pqfl verify`: files of weights, sealed by one sender."""

from pathlib import Path

import click

from pqfl.commands.passphrases import passphrase_option, passphrases_of
from pqfl.commands.reading import (
    CACERT,
    EXPERIMENTAL,
    KEYS_OPTION,
    PATH,
    Reader,
    Rules,
    load_keys,
    named,
    policy_for,
    say,
    sender_of,
    with_policy,
)
from pqfl_transport.content.files import open_file, seal_file, verify_file
from pqfl_transport.content.header import CODECS, LOSSLESS
from pqfl_transport.content.key_files import load_recipient
from pqfl_transport.content.keysource import ExtraKey
from pqfl_transport.content.sealing import EnvelopeParameters
from pqfl_transport.errors import ConfigurationError
from pqfl_transport.pki import keystore


@click.command(short_help="Seal a file of weights for its readers.")
@click.option("--to", "recipients", required=True, multiple=True, type=PATH, help="Public receiving key; repeatable.")
@click.option("--identity", required=True, type=PATH, help="Folder with signing.pem and signing.key.")
@click.option("--threshold", type=int, default=0, metavar="T", help="Only T of the readers together can open.")
@click.option("--trailer", is_flag=True, help="Sign the body too: evidence to third parties.")
@click.option("--codec", type=click.Choice(CODECS), default=LOSSLESS, help="Smaller, with a bounded loss of precision.")
@EXPERIMENTAL
@passphrase_option
@KEYS_OPTION
@click.option("--peer", "peers", multiple=True, metavar="URI", help="With --keys: SPIFFE ID of a reader; repeatable.")
@with_policy
@CACERT
@click.option("--json", "as_json", is_flag=True, help="Print the facts as JSON.")
@click.argument("source", metavar="IN", type=PATH)
@click.argument("target", metavar="OUT", type=PATH)
def seal(  # noqa: PLR0913, PLR0917 -- one option each
    recipients: tuple[Path, ...],
    identity: Path,
    threshold: int,
    trailer: bool,
    codec: str,
    allow_experimental: bool,
    passphrase_file: Path | None,
    keys_path: Path | None,
    peers: tuple[str, ...],
    policy: str | None,
    advisory: Path | None,
    cacert: Path | None,
    as_json: bool,
    source: Path,
    target: Path,
) -> None:
    """Seal weights (IN: .npz or .safetensors) for who holds the receiving key, signed by who is in --identity.

    With several --to each of them opens alone. With --threshold T any T of them open together, by `pqfl share-open`
    and `pqfl combine`, and fewer learn nothing. With --keys the rules there for --peer say which keys, shared with the
    readers from elsewhere, are mixed in beside the receiving key's.
    """
    sender = keystore.load_signing_identity(identity, passphrases=passphrases_of(passphrase_file))
    keys = [load_recipient(path) for path in recipients]
    chosen = Rules(policy, advisory, cacert).apply(
        lambda: policy_for(sender.key.algorithm, keys[0].kem, experimental=allow_experimental),
        federation=sender.id.federation,
        beside=identity,
    )
    parameters = EnvelopeParameters(
        suite=chosen.suite_for(sender.key.algorithm, keys[0].kem).id,
        federation=sender.id.federation,
        sender=str(sender.id),
        direction="file",
        trailer=trailer,
        codec=codec,
        threshold=_threshold(threshold, len(keys)),
        extra_keys=_extra_keys(keys_path, peers),
        policy=chosen,
    )
    header = seal_file(source, target, parameters=parameters, recipients=keys, signing_key=sender.key).header
    facts = {
        "envelope": str(target), "sender": header.sender, "suite": header.suite, "id": header.envelope_id.hex(),
        "recipients": [key.hex() for key in header.recipients], "threshold": header.threshold,
        "trailer": header.trailer, "extra_keys": list(header.extra_key_ids),
    }  # fmt: skip
    together = f", for {threshold} of {len(keys)} together" if threshold else ""
    mixed = f", with {', '.join(header.extra_key_ids)}" if header.extra_key_ids else ""
    say(facts, f"{target}: sealed with {header.suite}{mixed}, signed by {header.sender}{together}", as_json=as_json)


@click.command("open", short_help="Open a sealed file of weights.")
@click.option("--key", "key_path", required=True, type=PATH, help="Private receiving key.")
@passphrase_option
@click.option("--from", "sender_path", required=True, type=PATH, help="The sender's signing.pem.")
@EXPERIMENTAL
@KEYS_OPTION
@with_policy
@CACERT
@click.option("--json", "as_json", is_flag=True, help="Print the facts as JSON.")
@click.argument("source", metavar="IN", type=PATH)
@click.argument("target", metavar="OUT", type=PATH)
def open_command(  # noqa: PLR0913, PLR0917 -- one option each
    key_path: Path,
    sender_path: Path,
    allow_experimental: bool,
    passphrase_file: Path | None,
    keys_path: Path | None,
    policy: str | None,
    advisory: Path | None,
    cacert: Path | None,
    as_json: bool,
    source: Path,
    target: Path,
) -> None:
    """Open an envelope into OUT (.npz or .safetensors); nothing is written unless all of it holds.

    Of several keys in the --key file, the one that the envelope is sealed to opens it.
    """
    reader = Reader(key_path, passphrases_of(passphrase_file))
    rules = Rules(policy, advisory, cacert, allow_experimental)
    sender = sender_of(sender_path, reader, rules, beside=key_path.parent)
    ring = load_keys(keys_path)
    header = named(
        source, lambda: open_file(source, target, sender=sender, unlock=reader.key_of, key_source=ring), key_path
    )
    facts = {
        "file": str(target), "sender": header.sender, "suite": header.suite, "bytes": header.plaintext_bytes,
        "extra_keys": list(header.extra_key_ids),
    }  # fmt: skip
    mixed = f", with {', '.join(header.extra_key_ids)}" if header.extra_key_ids else ""
    say(facts, f"{target}: signed by {header.sender}, sealed with {header.suite}{mixed}", as_json=as_json)


@click.command(short_help="Verify a sealed file without opening it.")
@click.option("--from", "sender_path", required=True, type=PATH, help="The sender's signing.pem.")
@EXPERIMENTAL
@with_policy
@CACERT
@click.option("--json", "as_json", is_flag=True, help="Print the facts as JSON.")
@click.argument("source", metavar="IN", type=PATH)
def verify(
    sender_path: Path,
    allow_experimental: bool,
    policy: str | None,
    advisory: Path | None,
    cacert: Path | None,
    as_json: bool,
    source: Path,
) -> None:
    """Verify who signed an envelope, and its body too where it has a trailer. Needs no secret."""
    rules = Rules(policy, advisory, cacert, allow_experimental)
    sender = sender_of(sender_path, rules=rules, beside=sender_path.parent)
    prologue = named(source, lambda: verify_file(source, sender))
    header = prologue.header
    facts = {
        "envelope": str(source), "sender": header.sender, "suite": header.suite, "id": header.envelope_id.hex(),
        "prologue_sha256": prologue.digest.hex(), "trailer": header.trailer, "bytes": header.plaintext_bytes,
        "codec": header.codec, "recipients": [key.hex() for key in header.recipients], "threshold": header.threshold,
        "extra_keys": list(header.extra_key_ids),
    }  # fmt: skip
    covered = (
        "prologue and body are as signed" if header.trailer else
        "the prologue is as signed; there is no trailer, so a reader could have changed the body"
    )  # fmt: skip
    say(facts, f"{source}: from {header.sender}, {header.suite}: {covered}", as_json=as_json)


def _extra_keys(path: Path | None, peers: tuple[str, ...]) -> tuple[ExtraKey, ...]:
    ring = load_keys(path)
    if (ring is None) == bool(peers):
        raise ConfigurationError(
            "--keys and --peer go together: the rules in the file are by peer", reason="which_peer"
        )
    return () if ring is None else ring.keys_for(peers, "file")


def _threshold(threshold: int, readers: int) -> int:
    if threshold and not 2 <= threshold <= readers:  # noqa: PLR2004 -- one alone is no threshold
        raise ConfigurationError(
            f"--threshold {threshold}: at least 2, and at most the {readers} readers given by --to", reason="threshold"
        )
    return threshold


COMMANDS = (seal, open_command, verify)
