"""What the commands on envelopes share: keys and certificates from files, errors that name the file, the output."""

import json
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import click

from pqfl_transport.algorithms import CONTENT_SUITES, find
from pqfl_transport.content.envelope import Prologue
from pqfl_transport.content.files import Sender
from pqfl_transport.content.key_files import load_key_ring, unlock_entry
from pqfl_transport.content.recipients import ReceivingKey
from pqfl_transport.errors import ConfigurationError, PolicyError, PqflError
from pqfl_transport.extrakeys import KeyRing, load_ring
from pqfl_transport.pki import chain, keystore
from pqfl_transport.pki.keystore import SigningCertificate
from pqfl_transport.pki.memory import beside
from pqfl_transport.pki.passphrases import PassphraseSource
from pqfl_transport.pki.profiles import Usage
from pqfl_transport.pki.ruling import load_advisory, load_policy
from pqfl_transport.policy import POLICIES, Advisory, Policy, tighten

T = TypeVar("T")

PATH = click.Path(path_type=Path)

EXPERIMENTAL = click.option("--allow-experimental", is_flag=True, help="Use KEMs that no security level lists.")
KEYS_OPTION = click.option("--keys", "keys_path", type=PATH, help="File of key sources: keys shared from elsewhere.")


@dataclass(frozen=True, slots=True)
class Rules:
    """What the options of `with_policy` said."""

    policy: str | None = None
    advisory: Path | None = None
    cacert: Path | None = None
    experimental: bool = False
    """Whether KEMs that no level lists may be used, where no policy was named that says so itself."""

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
    kept = beside(path)
    remembers = kept.exists() or os.access(kept.parent, os.W_OK)
    roots = keystore.root_keys(keystore.load_anchors(cacert))
    return load_advisory(
        path, roots, federation=federation, now=time.time(), seen_path=kept if remembers else None
    )  # fmt: skip


def _beside(folder: Path | None) -> Path:
    if folder is None or not (folder / "ca.pem").exists():
        raise ConfigurationError("--advisory needs --cacert: the root there signs it", reason="missing")
    return folder / "ca.pem"


class Reader:
    """The private receiving keys of one file; which of them is needed, an envelope says."""

    def __init__(self, path: Path, passphrases: PassphraseSource) -> None:
        self._path, self._passphrases = path, passphrases
        self._ring = load_key_ring(path)

    def key_for(self, fingerprints: Iterable[bytes]) -> ReceivingKey:
        """Return the key that one of these names, unlocked. Raises as `ReceivingKeys.find` and `unlock_entry` do."""
        entry = self._ring.find(fingerprints, time.time())
        return unlock_entry(self._path, entry, self._passphrases).opened

    def key_of(self, prologue: Prologue) -> ReceivingKey:
        """Return the key that an envelope is sealed to."""
        return self.key_for(prologue.header.recipients)

    @property
    def kems(self) -> tuple[str, ...]:
        """The KEMs of all keys, the newest key's first."""
        return tuple(dict.fromkeys(entry.kem for entry in self._ring.entries))

    @property
    def newest_fingerprint(self) -> bytes:
        """The fingerprint of the key in use."""
        return self._ring.newest.fingerprint


def load_signer(path: Path) -> SigningCertificate:
    """Load somebody's signing certificate whatever its dates: what was signed in time is opened years later."""
    certificate = named(path, lambda: chain.load_certificates(keystore.read_public(path)))[0]
    named(path, lambda: chain.require_usage(certificate, Usage.SIGNING))
    key = named(path, lambda: chain.verifying_key(certificate))
    return SigningCertificate(named(path, lambda: chain.spiffe_id(certificate)), key, certificate)


def sender_of(
    path: Path, reader: Reader | None = None, rules: Rules | None = None, *, beside: Path | None = None
) -> Sender:
    """Return whom envelopes have to be from, under the policy that his key and the reader's belong to, or ``rules``."""
    signer, rules = load_signer(path), rules or Rules()
    kems = (None,) if reader is None else reader.kems
    policy = rules.apply(
        lambda: _policy_of(signer.key.algorithm, kems, experimental=rules.experimental),
        federation=signer.id.federation,
        beside=beside,
    )
    return Sender(str(signer.id), signer.key, policy)


def _policy_of(signature: str, kems: Iterable[str | None], *, experimental: bool) -> Policy:
    """Return one policy of the suites that this signature and any of these KEMs belong to."""
    policies: list[Policy] = []
    failed: PqflError | None = None
    for kem in kems:
        try:
            policies.append(policy_for(signature, kem, experimental=experimental))
        except PqflError as error:
            failed = failed or error
    if not policies:
        raise failed or ConfigurationError("there is no receiving key", reason="wrong_key")
    suites = tuple(dict.fromkeys(suite for policy in policies for suite in policy.content_suites))
    return replace(policies[0], content_suites=suites)


def policy_for(signature: str, kem: str | None, *, experimental: bool = False) -> Policy:
    """Return the level whose suites sign with this algorithm, and seal to keys of this KEM where one is given.

    Raises ``PolicyError`` (``content_suite``) for a KEM that is used only where ``experimental`` says so.
    """
    signs = find(signature).name
    levels = [policy for policy in POLICIES.values() if policy.content_suite.signature == signs]
    more = tuple(
        suite.id
        for suite in CONTENT_SUITES.values()
        if suite.is_experimental and suite.signature == signs and kem in {None, suite.kem}
    )
    for policy in levels:
        if kem in {None, policy.content_suite.kem}:
            return replace(policy, content_suites=policy.content_suites + more) if experimental else policy
    if not levels or not more:
        raise ConfigurationError(
            f"no security level seals to a key of {kem} and signs with {signature}", reason="wrong_key"
        )
    if not experimental:
        raise PolicyError(
            f"{kem} is experimental: no security level lists it, and --allow-experimental asks for it all the same",
            reason="content_suite",
        )
    return replace(levels[0], name=f"{levels[0].name}+experimental", content_suites=more)


def load_keys(path: Path | None) -> KeyRing | None:
    """Read a file of key sources; what an operator has to know of them is said on standard error."""
    return None if path is None else load_ring(path, report=_say)


def _say(event: str, facts: Mapping[str, object]) -> None:
    if event == "extra_key_missing":
        why = f": {facts['detail']}" if "detail" in facts else ""
        click.echo(f"pqfl: goes on without a key of {facts['source']} for {facts['peer']}{why}", err=True)
    else:
        click.echo(f"pqfl: {facts.get('detail', event)}", err=True)


def named(path: Path, action: Callable[[], T], *others: Path) -> T:
    """Run ``action``; an error that names neither the file nor one of the others gets its name in front."""
    try:
        return action()
    except FileNotFoundError:
        raise ConfigurationError(f"{path}: no such file", reason="no_file") from None
    except PqflError as error:
        if any(str(one) in str(error) for one in (path, *others)):
            raise
        raise type(error)(f"{path}: {error}", reason=error.reason) from error


def say(facts: Mapping[str, object], sentence: str, *, as_json: bool) -> None:
    """Print the facts for a program or the sentence for a person."""
    click.echo(json.dumps(facts) if as_json else sentence)
