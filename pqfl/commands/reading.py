"""What the commands on envelopes share: keys and certificates from files, errors that name the file, the output."""

import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import click

from pqfl_transport.algorithms import find
from pqfl_transport.content.files import Sender
from pqfl_transport.content.recipients import ReceivingKey, RecipientKey
from pqfl_transport.errors import ConfigurationError, PqflError
from pqfl_transport.extrakeys import KeyRing, load_ring
from pqfl_transport.pki import chain, keystore
from pqfl_transport.pki.keystore import SigningCertificate
from pqfl_transport.pki.profiles import Usage
from pqfl_transport.pki.ruling import load_advisory, load_policy, seen_beside
from pqfl_transport.policy import POLICIES, Advisory, Policy, tighten

T = TypeVar("T")

PATH = click.Path(path_type=Path)

KEYS_OPTION = click.option("--keys", "keys_path", type=PATH, help="File of key sources: keys shared from elsewhere.")


@dataclass(frozen=True, slots=True)
class Rules:
    """What the options of `with_policy` said."""

    policy: str | None = None
    advisory: Path | None = None
    cacert: Path | None = None

    def apply(self, default: Callable[[], Policy], *, federation: str, beside: Path | None) -> Policy:
        """Return the policy to work under; ``default`` gives the one where none was named.

        The root that signs advisories is in --cacert, or in the ``ca.pem`` of the folder ``beside``.
        """
        policy = default() if self.policy is None else load_policy(self.policy)
        if self.advisory is None:
            return policy
        advisory = read_advisory(self.advisory, self.cacert or _beside(beside), federation=federation)
        return tighten(policy, advisory, time.time())[0]


def with_policy(command: Callable[..., None]) -> Callable[..., None]:
    """Add --policy and --advisory; the command takes them as ``policy`` and ``advisory``, its own ``cacert`` beside."""
    advisory = click.option("--advisory", type=PATH, help="Advisory of the root: withdrawn algorithms are refused.")
    policy = click.option("--policy", metavar="NAME|FILE", help="A policy instead of the one that the keys belong to.")
    return policy(advisory(command))


CACERT = click.option("--cacert", type=PATH, help="Trust anchors, for --advisory.  [default: ca.pem beside the keys]")


def read_advisory(path: Path, cacert: Path, *, federation: str | None) -> Advisory:
    """Read an advisory; what was seen of it is kept beside it where that is possible."""
    beside = seen_beside(path)
    remembers = beside.exists() or os.access(beside.parent, os.W_OK)
    roots = keystore.root_keys(keystore.load_anchors(cacert))
    return load_advisory(
        path, roots, federation=federation, now=time.time(), seen_path=beside if remembers else None
    )  # fmt: skip


def _beside(folder: Path | None) -> Path:
    if folder is None or not (folder / "ca.pem").exists():
        raise ConfigurationError("--advisory needs --cacert: the root there signs it", reason="missing")
    return folder / "ca.pem"


def load_recipient(path: Path) -> RecipientKey:
    """Load a public receiving key."""
    return named(path, lambda: RecipientKey.from_pem(keystore.read_public(path)))


def load_receiving_key(path: Path) -> ReceivingKey:
    """Load a private receiving key."""
    return named(path, lambda: ReceivingKey.from_pem(keystore.read_secret(path)))


def load_signer(path: Path) -> SigningCertificate:
    """Load somebody's signing certificate whatever its dates: what was signed in time is opened years later."""
    certificate = named(path, lambda: chain.load_certificates(keystore.read_public(path)))[0]
    named(path, lambda: chain.require_usage(certificate, Usage.SIGNING))
    key = named(path, lambda: chain.verifying_key(certificate))
    return SigningCertificate(named(path, lambda: chain.spiffe_id(certificate)), key, certificate)


def sender_of(
    path: Path, reader: RecipientKey | None = None, rules: Rules | None = None, *, beside: Path | None = None
) -> Sender:
    """Return whom envelopes have to be from, under the policy that his key and the reader's belong to, or ``rules``."""
    signer = load_signer(path)
    kem = None if reader is None else reader.kem
    policy = (rules or Rules()).apply(
        lambda: policy_for(signer.key.algorithm, kem), federation=signer.id.federation, beside=beside
    )
    return Sender(str(signer.id), signer.key, policy)


def policy_for(signature: str, kem: str | None) -> Policy:
    """Return the level whose suites sign with this algorithm, and seal to keys of this KEM where one is given."""
    for policy in POLICIES.values():
        suite = policy.content_suite
        if suite.signature == find(signature).name and kem in {None, suite.kem}:
            return policy
    raise ConfigurationError(
        f"no security level seals to a key of {kem} and signs with {signature}", reason="wrong_key"
    )


def load_keys(path: Path | None) -> KeyRing | None:
    """Read a file of key sources; what an operator has to know of them is said on standard error."""
    return None if path is None else load_ring(path, report=_say)


def _say(event: str, facts: Mapping[str, object]) -> None:
    if event == "extra_key_missing":
        why = f": {facts['detail']}" if "detail" in facts else ""
        click.echo(f"pqfl: goes on without a key of {facts['source']} for {facts['peer']}{why}", err=True)
    else:
        click.echo(f"pqfl: {facts.get('detail', event)}", err=True)


def named(path: Path, action: Callable[[], T]) -> T:
    """Run ``action``; an error of it that does not name the file gets its name in front."""
    try:
        return action()
    except FileNotFoundError:
        raise ConfigurationError(f"{path}: no such file", reason="no_file") from None
    except PqflError as error:
        if str(path) in str(error):
            raise
        raise type(error)(f"{path}: {error}", reason=error.reason) from error


def say(facts: Mapping[str, object], sentence: str, *, as_json: bool) -> None:
    """Print the facts for a program or the sentence for a person."""
    click.echo(json.dumps(facts) if as_json else sentence)
