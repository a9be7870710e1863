"""`pqfl key`, `pqfl seal`, `pqfl open`, `pqfl verify`: files of weights, sealed by one sender."""

from dataclasses import asdict
from pathlib import Path

import click

from pqfl.commands.reading import (
    CACERT,
    KEYS_OPTION,
    PATH,
    Rules,
    load_keys,
    load_receiving_key,
    load_recipient,
    named,
    policy_for,
    say,
    sender_of,
    with_policy,
)
from pqfl_transport.content.files import open_file, seal_file, verify_file
from pqfl_transport.content.header import CODECS, LOSSLESS
from pqfl_transport.content.keysource import ExtraKey
from pqfl_transport.content.psk import PreSharedKey
from pqfl_transport.content.recipients import ReceivingKey
from pqfl_transport.content.sealing import EnvelopeParameters
from pqfl_transport.errors import ConfigurationError, PqflError, TransportError
from pqfl_transport.extrakeys import load_keys_config, load_ring
from pqfl_transport.pki import keystore
from pqfl_transport.pki.ruling import load_policy
from pqfl_transport.policy import DEFAULT_LEVEL, SecurityLevel, for_level
from pqfl_transport.qkd import Link

_LEVEL = click.Choice([level.value for level in SecurityLevel])


@click.group("key")
def key_group() -> None:
    """Make receiving keys and pre-shared keys, check key sources."""


@key_group.command("new")
@click.option("--out", required=True, type=PATH, help="File for the private key; the public one gets .pub behind it.")
@click.option("--level", type=_LEVEL, help=f"Decides the KEM.  [default: {DEFAULT_LEVEL}]")
@click.option("--policy", metavar="NAME|FILE", help="Instead of --level: the KEM of its first content suite.")
@click.option("--json", "as_json", is_flag=True, help="Print the facts as JSON.")
def new_key(out: Path, level: str | None, policy: str | None, as_json: bool) -> None:
    """Make a receiving key: FILE (secret, mode 0600) and FILE.pub."""
    public = out.with_name(out.name + ".pub")
    for path in (out, public):
        if path.exists():
            raise ConfigurationError(f"--out {path}: exists already and is not overwritten", reason="exists")
    if policy is not None and level is not None:
        raise ConfigurationError(f"--policy {policy} decides the KEM: leave --level away", reason="two_policies")
    chosen = for_level(level or DEFAULT_LEVEL) if policy is None else load_policy(policy)
    key = ReceivingKey.generate(chosen.content_suite.kem)
    keystore.write_secret(out, key.to_pem())
    keystore.write_public(public, key.public.to_pem())
    facts = {"private": str(out), "public": str(public), "kem": key.kem, "fingerprint": key.fingerprint.hex()}
    say(facts, f"{out} and {public}: {key.kem}, fingerprint {key.fingerprint.hex()}", as_json=as_json)


@key_group.command("psk")
@click.option("--name", required=True, help="What all who hold it call it.")
@click.option("--out", required=True, type=PATH, help="File for the key.")
@click.option("--json", "as_json", is_flag=True, help="Print the facts as JSON.")
def new_psk(name: str, out: Path, as_json: bool) -> None:
    """Make a pre-shared key: FILE (secret, mode 0600), to be carried to the other party by hand, not over a network."""
    keystore.write_secret(out, PreSharedKey.generate(name).to_pem())
    say({"file": str(out), "name": name}, f"{out}: pre-shared key {name}", as_json=as_json)


@key_group.command("check")
@click.option("--keys", "keys_path", required=True, type=PATH, help="File of key sources.")
@click.option("--json", "as_json", is_flag=True, help="Print the facts as JSON.")
def check_keys(keys_path: Path, as_json: bool) -> None:
    """Read a file of key sources and all that it names, and ask every key manager for its status."""
    config, _ = load_keys_config(keys_path), load_ring(keys_path)
    facts: dict[str, object] = {"psk": sorted(config.psk)}
    lines = [f"psk:{name}: {path}" for name, path in config.psk.items()]
    failed = 0
    for name, link in config.links.items():
        try:
            status = Link(link).status()
        except PqflError as error:
            facts[f"qkd:{name}"] = {"reason": error.reason, "detail": str(error)}
            lines.append(f"qkd:{name}: {error}")
            failed += 1
        else:
            facts[f"qkd:{name}"] = asdict(status)
            lines.append(
                f"qkd:{name}: {status.source_kme_id} to {status.target_kme_id}, {status.stored_key_count} keys for"
                f" {status.slave_sae_id}, of {status.min_key_size} to {status.max_key_size} bits"
            )
    say(facts, "\n".join(lines), as_json=as_json)
    if failed:
        raise TransportError(f"{failed} of {len(config.links)} key managers do not answer", reason="key_manager_down")


@click.command(short_help="Seal a file of weights for its readers.")
@click.option("--to", "recipients", required=True, multiple=True, type=PATH, help="Public receiving key; repeatable.")
@click.option("--identity", required=True, type=PATH, help="Folder with signing.pem and signing.key.")
@click.option("--threshold", type=int, default=0, metavar="T", help="Only T of the readers together can open.")
@click.option("--trailer", is_flag=True, help="Sign the body too: evidence to third parties.")
@click.option("--codec", type=click.Choice(CODECS), default=LOSSLESS, help="Smaller, with a bounded loss of precision.")
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
    sender = keystore.load_signing_identity(identity)
    keys = [load_recipient(path) for path in recipients]
    chosen = Rules(policy, advisory, cacert).apply(
        lambda: policy_for(sender.key.algorithm, keys[0].kem), federation=sender.id.federation, beside=identity
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
@click.option("--from", "sender_path", required=True, type=PATH, help="The sender's signing.pem.")
@KEYS_OPTION
@with_policy
@CACERT
@click.option("--json", "as_json", is_flag=True, help="Print the facts as JSON.")
@click.argument("source", metavar="IN", type=PATH)
@click.argument("target", metavar="OUT", type=PATH)
def open_command(  # noqa: PLR0913, PLR0917 -- one option each
    key_path: Path,
    sender_path: Path,
    keys_path: Path | None,
    policy: str | None,
    advisory: Path | None,
    cacert: Path | None,
    as_json: bool,
    source: Path,
    target: Path,
) -> None:
    """Open an envelope into OUT (.npz or .safetensors); nothing is written unless all of it holds."""
    key = load_receiving_key(key_path)
    sender = sender_of(sender_path, key.public, Rules(policy, advisory, cacert), beside=key_path.parent)
    ring = load_keys(keys_path)
    header = named(
        source, lambda: open_file(source, target, sender=sender, unlock=lambda _prologue: key, key_source=ring)
    )
    facts = {
        "file": str(target), "sender": header.sender, "suite": header.suite, "bytes": header.plaintext_bytes,
        "extra_keys": list(header.extra_key_ids),
    }  # fmt: skip
    mixed = f", with {', '.join(header.extra_key_ids)}" if header.extra_key_ids else ""
    say(facts, f"{target}: signed by {header.sender}, sealed with {header.suite}{mixed}", as_json=as_json)


@click.command(short_help="Verify a sealed file without opening it.")
@click.option("--from", "sender_path", required=True, type=PATH, help="The sender's signing.pem.")
@with_policy
@CACERT
@click.option("--json", "as_json", is_flag=True, help="Print the facts as JSON.")
@click.argument("source", metavar="IN", type=PATH)
def verify(
    sender_path: Path, policy: str | None, advisory: Path | None, cacert: Path | None, as_json: bool, source: Path
) -> None:
    """Verify who signed an envelope, and its body too where it has a trailer. Needs no secret."""
    sender = sender_of(sender_path, rules=Rules(policy, advisory, cacert), beside=sender_path.parent)
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


COMMANDS = (key_group, seal, open_command, verify)
