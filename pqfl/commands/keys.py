"""`pqfl key`: make receiving keys, put private keys under a passphrase; the group that has the other commands too."""

import time
from dataclasses import asdict
from pathlib import Path

import click

from pqfl.commands.fingerprints import fingerprint, show
from pqfl.commands.passphrases import (
    new_passphrase,
    new_passphrase_option,
    passphrase_option,
    passphrases_of,
)
from pqfl.commands.reading import PATH, named, say
from pqfl.commands.rotation import announce, prune, rotate
from pqfl_transport.algorithms import Kind, find
from pqfl_transport.content.key_files import load_key_ring, replace_key_ring, unlock_ring
from pqfl_transport.content.psk import PreSharedKey
from pqfl_transport.content.receiving_keys import MAX_RING_BYTES, KeyEntry, ReceivingKeys
from pqfl_transport.content.recipients import ReceivingKey
from pqfl_transport.crypto import pkcs8
from pqfl_transport.errors import ConfigurationError, PqflError, TransportError
from pqfl_transport.extrakeys import load_keys_config, load_ring
from pqfl_transport.pki.files import read_secret, replace_secret, write_public, write_secret
from pqfl_transport.pki.keystore import load_private_pem
from pqfl_transport.pki.passphrases import PassphraseSource
from pqfl_transport.pki.ruling import load_policy
from pqfl_transport.policy import DEFAULT_LEVEL, SecurityLevel, for_level
from pqfl_transport.qkd import Link

_LEVEL = click.Choice([level.value for level in SecurityLevel])
_PKCS8 = f"-----BEGIN {pkcs8.PLAIN_LABEL}-----".encode(), f"-----BEGIN {pkcs8.ENCRYPTED_LABEL}-----".encode()


@click.group("key", short_help="Make, show, compare, encrypt and rotate keys.")
def key_group() -> None:
    """Make, show, compare, encrypt and rotate keys; make pre-shared keys, check key sources."""


for command in (show, fingerprint, rotate, announce, prune):
    key_group.add_command(command)


@key_group.command("new")
@click.option("--out", required=True, type=PATH, help="File for the private key; the public one gets .pub behind it.")
@click.option("--level", type=_LEVEL, help=f"Decides the KEM.  [default: {DEFAULT_LEVEL.value}]")
@click.option(
    "--kem", metavar="NAME", help="Any KEM of `pqfl algorithms` that makes receiving keys, instead of --level."
)
@click.option("--policy", metavar="NAME|FILE", help="Instead of --level: the KEM of its first content suite.")
@click.option("--encrypt", is_flag=True, help="Encrypt the private key under a passphrase.")
@passphrase_option
@click.option("--json", "as_json", is_flag=True, help="Print the facts as JSON.")
def new_key(
    out: Path,
    level: str | None,
    kem: str | None,
    policy: str | None,
    encrypt: bool,
    passphrase_file: Path | None,
    as_json: bool,
) -> None:
    """Make a receiving key: FILE (secret, mode 0600) and FILE.pub."""
    name = _kem_of(level, kem, policy)
    public = out.with_name(out.name + ".pub")
    for path in (out, public):
        if path.exists():
            raise ConfigurationError(f"--out {path}: exists already and is not overwritten", reason="exists")
    if passphrase_file is not None and not encrypt:
        raise click.UsageError("--passphrase-file is for --encrypt")
    passphrase = new_passphrase(str(out), passphrase_file, environment=True) if encrypt else None
    key = ReceivingKey.generate(name)
    entry = KeyEntry.of(key, made=int(time.time()))
    write_secret(out, (entry if passphrase is None else entry.encrypted(passphrase)).to_pem())
    write_public(public, key.public.to_pem())
    facts = {
        "private": str(out), "public": str(public), "kem": key.kem, "fingerprint": key.fingerprint.hex(),
        "encrypted": encrypt,
    }  # fmt: skip
    how = ", encrypted" if encrypt else ""
    say(facts, f"{out} and {public}: {key.kem}{how}, fingerprint {key.fingerprint.hex()}", as_json=as_json)


def _kem_of(level: str | None, kem: str | None, policy: str | None) -> str:
    if policy is not None and level is not None:
        raise ConfigurationError(f"--policy {policy} decides the KEM: leave --level away", reason="two_policies")
    if kem is not None and (level is not None or policy is not None):
        raise ConfigurationError(f"--kem {kem} says it already: leave --level and --policy away", reason="two_policies")
    if kem is not None:
        return find(kem, Kind.KEM).name
    return (for_level(level or DEFAULT_LEVEL) if policy is None else load_policy(policy)).content_suite.kem


@key_group.command("psk")
@click.option("--name", required=True, help="What all who hold it call it.")
@click.option("--out", required=True, type=PATH, help="File for the key.")
@click.option("--json", "as_json", is_flag=True, help="Print the facts as JSON.")
def new_psk(name: str, out: Path, as_json: bool) -> None:
    """Make a pre-shared key: FILE (secret, mode 0600), to be carried to the other party by hand, not over a network."""
    write_secret(out, PreSharedKey.generate(name).to_pem())
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


@key_group.command("encrypt", short_help="Put a private key under a passphrase.")
@passphrase_option
@click.argument("key_path", metavar="KEYFILE", type=PATH)
def encrypt_command(key_path: Path, passphrase_file: Path | None) -> None:
    """Put a private key under a passphrase, in its place: receiving, signing and TLS keys."""
    file = _KeyFile(key_path)
    if file.is_encrypted:
        raise ConfigurationError(f"{key_path}: is encrypted already; see `pqfl key passwd`", reason="encrypted")
    file.write(new_passphrase(str(key_path), passphrase_file, environment=True))
    click.echo(f"{key_path}: encrypted; what backups and the disk remember of the old file is not")


@key_group.command("decrypt", short_help="Take the passphrase away from a private key.")
@passphrase_option
@click.argument("key_path", metavar="KEYFILE", type=PATH)
def decrypt_command(key_path: Path, passphrase_file: Path | None) -> None:
    """Take the passphrase away from a private key, in its place."""
    file = _KeyFile(key_path)
    if not file.is_encrypted:
        raise ConfigurationError(f"{key_path}: is not encrypted", reason="not_encrypted")
    file.open(passphrases_of(passphrase_file))
    file.write(None)
    click.echo(f"{key_path}: no longer encrypted; whoever reads the file has the key")


@key_group.command("passwd", short_help="Give an encrypted private key another passphrase.")
@passphrase_option
@new_passphrase_option
@click.argument("key_path", metavar="KEYFILE", type=PATH)
def passwd(key_path: Path, passphrase_file: Path | None, new_passphrase_file: Path | None) -> None:
    """Give an encrypted private key another passphrase, in its place."""
    file = _KeyFile(key_path)
    if not file.is_encrypted:
        raise ConfigurationError(f"{key_path}: is not encrypted; see `pqfl key encrypt`", reason="not_encrypted")
    file.open(passphrases_of(passphrase_file))
    file.write(new_passphrase(str(key_path), new_passphrase_file, environment=False))
    click.echo(f"{key_path}: opens with the new passphrase; copies of the old file go on opening with the old one")


class _KeyFile:
    """A private key file of either form: what is in it, opened, and how it is written again."""

    def __init__(self, path: Path) -> None:
        self._path = path
        pem = read_secret(path, max_bytes=MAX_RING_BYTES)
        self._ring: ReceivingKeys | None = None
        self._pem = b""
        if any(begin in pem for begin in _PKCS8):
            self._pem, self.is_encrypted = pem, pkcs8.is_encrypted(pem)
        else:
            self._ring = load_key_ring(path)
            self.is_encrypted = self._ring.is_encrypted

    def open(self, passphrases: PassphraseSource) -> None:
        if self._ring is not None:
            self._ring = unlock_ring(self._path, self._ring, passphrases)
        else:
            self._pem = load_private_pem(self._path, passphrases)

    def write(self, passphrase: bytes | None) -> None:
        if self._ring is not None:
            replace_key_ring(self._path, _stored(self._ring, passphrase))
        elif passphrase is None:
            replace_secret(self._path, self._pem)
        else:
            replace_secret(self._path, named(self._path, lambda: pkcs8.encrypt(self._pem, passphrase)))


def _stored(ring: ReceivingKeys, passphrase: bytes | None) -> ReceivingKeys:
    def change(entry: KeyEntry) -> KeyEntry:
        return entry.decrypted() if passphrase is None else entry.encrypted(passphrase)

    return ring.mapped(change)


COMMANDS = (key_group,)
