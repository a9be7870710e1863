"""`pqfl share-open` and `pqfl combine`: opening what only several trustees together may open."""

from contextlib import suppress
from pathlib import Path

import click
from cryptography.hazmat.primitives.serialization import Encoding

from pqfl.commands.passphrases import passphrase_option, passphrases_of
from pqfl.commands.reading import (
    CACERT,
    EXPERIMENTAL,
    KEYS_OPTION,
    PATH,
    Reader,
    Rules,
    load_keys,
    load_signer,
    named,
    say,
    sender_of,
    with_policy,
)
from pqfl_transport.content.envelope import Prologue
from pqfl_transport.content.files import Sender, open_file, verified_prologue
from pqfl_transport.content.header import Header
from pqfl_transport.content.key_files import load_recipient
from pqfl_transport.content.opening import ContentKey
from pqfl_transport.content.recipients import ReceivingKey
from pqfl_transport.content.shares import (
    MAX_CONTRIBUTION_BYTES,
    Combined,
    Contribution,
    KeyLookup,
    combine,
    contribute,
    parse_contribution,
)
from pqfl_transport.crypto.pyca import VerifyingKey
from pqfl_transport.errors import MessageError
from pqfl_transport.pki import chain, keystore
from pqfl_transport.pki.profiles import Usage


@click.command("share-open", short_help="Contribute to opening a file that needs several.")
@click.option("--key", "key_path", required=True, type=PATH, help="Your private receiving key.")
@click.option("--identity", required=True, type=PATH, help="Folder with your signing.pem and signing.key.")
@click.option("--for", "combiner_path", required=True, type=PATH, help="Public receiving key of who combines.")
@click.option("--from", "sender_path", required=True, type=PATH, help="signing.pem of the file's sender.")
@EXPERIMENTAL
@passphrase_option
@with_policy
@CACERT
@click.option("--json", "as_json", is_flag=True, help="Print the facts as JSON.")
@click.argument("source", metavar="IN", type=PATH)
@click.argument("target", metavar="SHARE", type=PATH)
def share_open(  # noqa: PLR0913, PLR0917 -- one option each
    key_path: Path,
    identity: Path,
    combiner_path: Path,
    sender_path: Path,
    allow_experimental: bool,
    passphrase_file: Path | None,
    policy: str | None,
    advisory: Path | None,
    cacert: Path | None,
    as_json: bool,
    source: Path,
    target: Path,
) -> None:
    """Write your contribution to opening IN: signed by you, sealed to who combines, good for this file alone."""
    passphrases = passphrases_of(passphrase_file)
    reader, combiner = Reader(key_path, passphrases), load_recipient(combiner_path)
    trustee = keystore.load_signing_identity(identity, passphrases=passphrases)
    rules = Rules(policy, advisory, cacert, allow_experimental)
    sender = sender_of(sender_path, reader, rules, beside=identity)
    prologue = named(source, lambda: verified_prologue(source, sender))
    key = named(source, lambda: reader.key_of(prologue), key_path)
    contribution = named(
        source,
        lambda: contribute(
            prologue, key, combiner, trustee=str(trustee.id), signing_key=trustee.key,
            certificate=trustee.certificate.public_bytes(Encoding.DER),
        ),
    )  # fmt: skip
    keystore.write_public(target, contribution, overwrite=False)
    header = prologue.header
    facts = {
        "share": str(target), "trustee": str(trustee.id), "index": header.recipients.index(key.fingerprint) + 1,
        "for": combiner.fingerprint.hex(), "envelope": header.envelope_id.hex(), "threshold": header.threshold,
    }  # fmt: skip
    say(
        facts,
        f"{target}: contribution of {trustee.id}; {header.threshold} of {len(header.recipients)} open {source}",
        as_json=as_json,
    )


@click.command("combine", short_help="Open a file from the contributions of several.")
@click.option("--key", "key_path", required=True, type=PATH, help="Private receiving key that they were sealed to.")
@click.option("--from", "sender_path", required=True, type=PATH, help="signing.pem of the file's sender.")
@EXPERIMENTAL
@passphrase_option
@click.option("--share", "shares", required=True, multiple=True, type=PATH, help="A contribution; repeatable.")
@click.option("--trustee", "trustees", multiple=True, type=PATH, help="A trustee's signing.pem; repeatable.")
@click.option(
    "--cacert",
    type=PATH,
    help="Trust anchors of the trustees' certificates; ca.pem beside --key where neither this nor --trustee is given.",
)
@KEYS_OPTION
@with_policy
@click.option("--json", "as_json", is_flag=True, help="Print the facts as JSON.")
@click.argument("source", metavar="IN", type=PATH)
@click.argument("target", metavar="OUT", type=PATH)
def combine_command(  # noqa: PLR0913, PLR0917 -- one option each
    key_path: Path,
    sender_path: Path,
    shares: tuple[Path, ...],
    trustees: tuple[Path, ...],
    cacert: Path | None,
    allow_experimental: bool,
    passphrase_file: Path | None,
    keys_path: Path | None,
    policy: str | None,
    advisory: Path | None,
    as_json: bool,
    source: Path,
    target: Path,
) -> None:
    """Open IN into OUT (.npz or .safetensors) from the contributions of enough trustees.

    A contribution that does not hold is left out, and its trustee named. Shares are held to the hashes that the sender
    signed. Who contributed is proven by --trustee or --cacert, and only claimed where neither is at hand.
    """
    reader = Reader(key_path, passphrases_of(passphrase_file))
    rules = Rules(policy, advisory, cacert, allow_experimental)
    sender = sender_of(sender_path, reader, rules, beside=key_path.parent)
    if cacert is None and not trustees and (beside := key_path.parent / "ca.pem").exists():
        cacert = beside
    lookup = _lookup(trustees, cacert, sender)
    contributions = [(str(path), keystore.read_public(path, max_bytes=MAX_CONTRIBUTION_BYTES)) for path in shares]
    ring = load_keys(keys_path)
    found: list[Combined] = []

    def unlock(prologue: Prologue) -> ContentKey:
        found.append(combine(prologue, contributions, _combiner_key(reader, contributions), lookup))
        return found[0].key

    header = named(source, lambda: open_file(source, target, sender=sender, unlock=unlock, key_source=ring), key_path)
    _tell_combined(target, header, found[0], proven=bool(cacert or trustees), as_json=as_json)


def _tell_combined(target: Path, header: Header, found: Combined, *, proven: bool, as_json: bool) -> None:
    for one in found.refused:
        claim = one.trustee if proven else f"{one.trustee}, as it claims"
        click.echo(f"pqfl: {one.source} (of {claim}) was left out: {one.error}", err=True)
    if not proven:
        click.echo(
            "pqfl: names of trustees are as they claim; give --cacert or --trustee to have them proven", err=True
        )
    facts = {
        "file": str(target), "sender": header.sender, "suite": header.suite, "bytes": header.plaintext_bytes,
        "trustees": list(found.trustees), "trustees_proven": proven,
        "refused": [
            {"share": one.source, "trustee": one.trustee, "reason": one.error.reason} for one in found.refused
        ],
    }  # fmt: skip
    say(facts, f"{target}: signed by {header.sender}, opened by {', '.join(found.trustees)}", as_json=as_json)


def _combiner_key(reader: Reader, contributions: list[tuple[str, bytes]]) -> ReceivingKey:
    """Return the key that contributions are sealed to; the newest where they are sealed to none of the reader's."""
    meant = []
    for _source, data in contributions:
        with suppress(MessageError):
            meant.append(parse_contribution(data).combiner)
    try:
        return reader.key_for(meant)
    except MessageError:
        return reader.key_for([reader.newest_fingerprint])


def _lookup(trustees: tuple[Path, ...], cacert: Path | None, sender: Sender) -> KeyLookup:
    """Return how a trustee's key is found: among the given certificates, or through its chain to the anchors."""
    pinned = {str(signer.id): signer.key for signer in (load_signer(path) for path in trustees)}
    anchors = keystore.load_anchors(cacert) if cacert is not None else ()
    verifier = chain.ChainVerifier(anchors, sender.policy)

    def key_of(contribution: Contribution) -> VerifyingKey:
        if contribution.trustee in pinned:
            return pinned[contribution.trustee]
        if pinned and cacert is None:
            raise MessageError(f"{contribution.trustee} is none of the trustees given", reason="unknown_sender")
        certificate = chain.load_certificate_der(contribution.certificate)
        if cacert is not None:
            # Its dates count as of its own beginning: a contribution may be combined after it has expired.
            verifier.verify(certificate, usage=Usage.SIGNING, now=certificate.not_valid_before_utc)
        else:
            chain.require_usage(certificate, Usage.SIGNING)
        if str(chain.spiffe_id(certificate)) != contribution.trustee:
            raise MessageError("its certificate names somebody else", reason="wrong_sender")
        return chain.verifying_key(certificate)

    return key_of
