"""`pqfl audit`: make a key that signs an audit log, verify a log, take its signed head along."""

import json
from dataclasses import asdict
from pathlib import Path

import click
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from pqfl.commands.passphrases import new_passphrase, passphrase_option
from pqfl_transport.audit import EventKind, verify_audit_log
from pqfl_transport.crypto import pkcs8
from pqfl_transport.crypto.pyca import SigningKey, VerifyingKey
from pqfl_transport.errors import ConfigurationError, MessageError
from pqfl_transport.pki.keystore import read_public, write_public, write_secret

_FILE = click.Path(path_type=Path)
_ALGORITHM = "ML-DSA-65"


@click.group(name="audit", short_help="Verify an audit log, export its signed head.")
def audit_group() -> None:
    """Work with the hash-chained logs that gateway and aggregator write."""


@audit_group.command(name="key")
@click.option("--out", required=True, type=_FILE, help="Where to put it; FILE.pub is its public half.")
@click.option("--encrypt", is_flag=True, help="Encrypt it under a passphrase.")
@passphrase_option
def new_key(out: Path, encrypt: bool, passphrase_file: Path | None) -> None:
    """Make the key that signs the heads of a log (--audit-key)."""
    key = SigningKey.generate(_ALGORITHM)
    pem = key.to_pem()
    if encrypt:
        pem = pkcs8.encrypt(pem, new_passphrase(str(out), passphrase_file, environment=True))
    write_secret(out, pem)
    write_public(out.with_name(out.name + ".pub"), _public_pem(key.verifying_key), overwrite=False)
    click.echo(f"{out}: {_ALGORITHM}, fingerprint {key.verifying_key.fingerprint.hex()}")


@audit_group.command()
@click.argument("log", type=_FILE)
@click.option("--key", "key_paths", type=_FILE, multiple=True,
              help="Public key of signed heads, repeatable; without any only the chain counts.")  # fmt: skip
@click.option("--head", "head_path", type=_FILE, help="A head exported before: the log has to contain it.")
@click.option("--json", "as_json", is_flag=True, help="Print what was found as JSON.")
def verify(log: Path, key_paths: tuple[Path, ...], head_path: Path | None, as_json: bool) -> None:
    """Verify every line of LOG, its chain and its signed heads.

    With --head, also that nothing before that head was changed or cut off since it was exported. Status 1 when anything
    does not hold.
    """
    summary = verify_audit_log(log, [read_public_key(one) for one in key_paths] or None)
    if head_path is not None:
        _require_contained(log, head_path)
    if as_json:
        click.echo(json.dumps(asdict(summary)))
        return
    sealed = f"{summary.sealed_lines} of them under a signed head" if key_paths else "signatures were not asked for"
    click.echo(f"{log}: {summary.lines} lines hold, {sealed}")


@audit_group.command()
@click.argument("log", type=_FILE)
def head(log: Path) -> None:
    """Print the last signed head of LOG: give it to somebody else to keep, and nobody can rewrite what is before it."""
    click.echo(_last_head(log))


def _last_head(log: Path) -> str:
    found = None
    for line in _lines(log):
        if json.loads(line).get("kind") == EventKind.CHECKPOINT.value:
            found = line
    if found is None:
        raise MessageError(f"{log}: has no signed head; was it written with --audit-key?", reason="audit_chain")
    return found


def _require_contained(log: Path, head_path: Path) -> None:
    kept = read_public(head_path).decode("utf-8", "replace").strip()
    if kept not in _lines(log):
        raise MessageError(f"{log}: does not contain the head of {head_path}: it was rewritten", reason="audit_chain")


def _lines(log: Path) -> list[str]:
    try:
        return log.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{log}: cannot be read: {error}") from error


def read_public_key(path: Path) -> VerifyingKey:
    """Read an ML-DSA public key in PEM. Raises ``ConfigurationError`` naming the file."""
    try:
        key = load_pem_public_key(read_public(path))
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigurationError(f"{path}: not a public key: {error}", reason="bad_key") from error
    return VerifyingKey.from_spki(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


def _public_pem(key: VerifyingKey) -> bytes:
    return key.pyca_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


COMMANDS = (audit_group,)
