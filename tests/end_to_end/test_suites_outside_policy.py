"""A suite that the policy does not list, reached for through every door that opens or seals."""

import ast
import asyncio
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from aggregator.resuming import require_unchanged
from aggregator.store.records import KeptRound, Standing
from gateway.config import HttpRules, Profile
from pqfl_transport.aggregation.round_document import sign_round_document
from pqfl_transport.algorithms import content_suite, find
from pqfl_transport.content.batch import BatchSealer
from pqfl_transport.content.envelope import decode_prologue, verify_prologue, wrapped_key_bytes
from pqfl_transport.content.files import Sender, open_file, seal_file, verified_prologue, verify_file
from pqfl_transport.content.opening import open_weights
from pqfl_transport.content.recipients import ReceivingKey, RecipientKey
from pqfl_transport.content.sealing import EnvelopeParameters, Sealer, seal_weights
from pqfl_transport.crypto.contexts import length_prefixed
from pqfl_transport.crypto.kems import encapsulation_key
from pqfl_transport.errors import PolicyError, PqflError
from pqfl_transport.net.address import Address
from pqfl_transport.pki import keystore
from pqfl_transport.pki.spiffe import Role
from tests.aggregator.store.test_sqlite import TERMS
from tests.support.envelopes import SENDER, Keys, make_keys
from tests.support.forging import Forgery
from tests.support.fronts import front, put_update
from tests.support.pki import Federation, make_federation
from tests.support.rounds import (
    MODEL,
    Envelope,
    aggregator,
    current_round,
    membership,
    participant,
    put,
)

ROOT = Path(__file__).resolve().parents[2]
OUTSIDE = "pqfl/v1/x-hqc3-x25519-mldsa65"
"""A suite of the table that no shipped policy lists, signed with the algorithm of the default level."""


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return make_federation(tmp_path_factory.mktemp("federation"), sites=("bank-a",))


def pqfl(*words: object) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "pqfl", *map(str, words)], capture_output=True, text=True, check=False, timeout=60
    )
    assert "Traceback" not in done.stderr
    return done


def receiving_key(federation: Federation, name: str) -> ReceivingKey:
    return ReceivingKey.from_pem((federation.site(name) / "receiving.key").read_bytes())


def outside(federation: Federation, round_: int = 1, direction: bytes = b"file") -> bytes:
    """An envelope under a suite that no policy lists, signed by the member that it says it is from."""
    made = make_keys("high")
    signing = keystore.load_signing_identity(federation.site("bank-a")).key
    keys = Keys(made.policy, signing, receiving_key(federation, "bank-a"), made.other, made.combiner)
    items = {"suite": OUTSIDE.encode(), "round": round_.to_bytes(8, "big"), "direction": direction}
    header = decode_prologue(Forgery(keys=keys).seal())[0].header
    wrapped = bytes(wrapped_key_bytes(replace(header, suite=OUTSIDE)))
    assert content_suite(OUTSIDE).signature == signing.algorithm
    return Forgery(keys=keys, items=items, parts={"W": length_prefixed(wrapped)}).seal()


def test_no_library_function_opens_a_suite_outside_the_policy(federation: Federation, tmp_path: Path) -> None:
    """In memory, from a file, without a secret: each asks the policy before it looks at anything else."""
    data = outside(federation)
    path, target = tmp_path / "outside.pqfl", tmp_path / "o.npz"
    path.write_bytes(data)
    signer = keystore.load_signing_certificate(federation.site("bank-a") / "signing.pem")
    key, policy = receiving_key(federation, "bank-a"), make_keys("high").policy
    sender = Sender(SENDER, signer.key, policy)
    unlocked: list[object] = []
    doors: list[Callable[[], object]] = [
        lambda: verify_prologue(decode_prologue(data)[0], sender_key=signer.key, policy=policy),
        lambda: open_weights(data, receiving_key=key, sender_key=signer.key, policy=policy),
        lambda: open_file(path, target, sender=sender, unlock=lambda found: unlocked.append(found) or key),
        lambda: verify_file(path, sender),
        lambda: verified_prologue(path, sender),
    ]
    for door in doors:
        with pytest.raises(PolicyError) as caught:
            door()
        assert caught.value.reason == "content_suite"
    assert unlocked == []
    assert not target.exists()


def test_no_library_function_seals_under_a_suite_outside_the_policy(tmp_path: Path) -> None:
    """As a stream, in memory, into a file, in batches; with the site's policy, and without any."""
    keys, source = make_keys("high"), tmp_path / "w.npz"
    np.savez(source, a=np.arange(3.0))
    recipients, target = [keys.receiving.public], tmp_path / "o.pqfl"
    for policy in (keys.policy, None):
        chosen = replace(keys.parameters, suite=OUTSIDE, policy=policy)

        def in_batches(chosen: EnvelopeParameters = chosen) -> object:
            with BatchSealer(recipients, chosen, keys.signing, workers=1) as sealer:
                return [sealed.unwrap() for sealed in sealer.seal([MODEL])]

        doors: list[Callable[[], object]] = [
            lambda chosen=chosen: Sealer(chosen, 5, recipients, keys.signing),
            lambda chosen=chosen: seal_weights(MODEL, chosen, recipients, keys.signing),
            lambda chosen=chosen: seal_file(
                source, target, parameters=chosen, recipients=recipients, signing_key=keys.signing
            ),
            in_batches,
        ]
        for door in doors:
            with pytest.raises(PolicyError) as caught:
                door()
            assert caught.value.reason == "content_suite"
    assert not target.exists()


def test_no_command_opens_or_seals_a_suite_outside_the_policy(federation: Federation, tmp_path: Path) -> None:
    """Each ends with status 3, refused by policy, and writes nothing."""
    path, share, combiner = tmp_path / "outside.pqfl", tmp_path / "some.share", tmp_path / "combiner"
    path.write_bytes(outside(federation))
    share.write_bytes(b"a share")
    assert pqfl("key", "new", "--out", combiner).returncode == 0
    site = federation.site("bank-a")
    sender, key = ("--from", site / "signing.pem"), ("--key", site / "receiving.key")
    commands = [
        ("open", *key, *sender, path, tmp_path / "o.npz"),
        ("verify", *sender, path),
        ("share-open", *key, *sender, "--identity", site, "--for", f"{combiner}.pub", path, tmp_path / "o.share"),
        ("combine", "--key", combiner, *sender, "--share", share, path, tmp_path / "o.npz"),
    ]
    for words in commands:
        done = pqfl(*words)
        assert (words[0], done.returncode) == (words[0], 3)
        assert OUTSIDE in done.stderr
    row = find("HQC-3+X25519")
    foreign = tmp_path / "foreign.pub"
    foreign.write_bytes(RecipientKey(encapsulation_key(row.name, bytes(row.public_key_bytes or 0))).to_pem())
    np.savez(tmp_path / "w.npz", a=np.arange(3.0))
    done = pqfl("seal", "--to", foreign, "--identity", site, tmp_path / "w.npz", tmp_path / "o.pqfl")
    assert done.returncode in {2, 3}
    assert "HQC-3" in done.stderr
    given = {"combiner", "combiner.pub", "foreign.pub", "outside.pqfl", "some.share", "w.npz"}
    assert {path.name for path in tmp_path.iterdir()} == given


def test_no_party_of_a_round_takes_a_suite_outside_its_policy(federation: Federation, tmp_path: Path) -> None:
    """Gateway and aggregator refuse the update, a site the round document and the model."""

    async def scenario() -> dict[str, str]:
        roster = membership(federation, federation.aggregator, Role.AGGREGATOR).roster
        data = outside(federation, direction=b"update")
        update = Envelope(1, decode_prologue(data)[0].header.envelope_id, data)
        async with aggregator(federation, tmp_path, quorum=1) as running:
            site = participant(federation, "bank-a")
            info = await current_round(running.url, site)
            _, by_aggregator = await put(running.url, update)
            host, port = running.url.removeprefix("http://").split(":")
            rules = HttpRules(Profile.AGGREGATOR, roster=roster)
            async with front(federation, Address(host, int(port)), rules) as made:
                _, by_gateway = await put_update(made, update, "bank-a")
        key = keystore.load_signing_identity(federation.aggregator).key
        document = replace(info.document, suite=OUTSIDE)
        nonce = document.nonce
        return {
            "aggregator": by_aggregator["reason"],
            "gateway": by_gateway["reason"],
            "site, document": reason_of(lambda: site.judge(sign_round_document(document, key), nonce, time.time())),
            "site, model": reason_of(lambda: site.open_model(as_model(federation), info)),
            "site, update": reason_of(lambda: site.seal_update(replace(info, document=document), MODEL, MODEL, 5)),
        }

    assert asyncio.run(scenario()) == {
        "aggregator": "wrong_suite", "gateway": "content_suite", "site, document": "content_suite",
        "site, model": "content_suite", "site, update": "content_suite",
    }  # fmt: skip


def as_model(federation: Federation) -> bytes:
    """A global model under the suite, from the aggregator."""
    made = make_keys("high")
    identity = keystore.load_signing_identity(federation.aggregator)
    keys = Keys(made.policy, identity.key, receiving_key(federation, "bank-a"), made.other, made.combiner)
    header = decode_prologue(Forgery(keys=keys).seal())[0].header
    items = {
        "suite": OUTSIDE.encode(), "round": bytes(8), "direction": b"model", "sender": str(identity.id).encode(),
    }  # fmt: skip
    wrapped = bytes(wrapped_key_bytes(replace(header, suite=OUTSIDE)))
    return Forgery(keys=keys, items=items, parts={"W": length_prefixed(wrapped)}).seal()


def reason_of(door: Callable[[], object]) -> str:
    """Why a door stays shut."""
    with pytest.raises(PqflError) as caught:
        door()
    return caught.value.reason


def test_a_round_is_not_resumed(federation: Federation) -> None:
    """What was accepted before a restart is opened no more where its suite is not listed any more."""
    opened = KeptRound(replace(TERMS, suite=OUTSIDE), 1, 7, Standing.AGGREGATING)
    policy = membership(federation, federation.aggregator, Role.AGGREGATOR).policy
    with pytest.raises(PolicyError) as caught:
        require_unchanged(opened, policy, base_digest=TERMS.base_digest, roster=7, quorum=1, now=0.0)
    assert caught.value.reason == "content_suite"


DOORS = {
    "aggregator/contents.py", "aggregator/intake.py", "aggregator/publishing.py",
    "pqfl/commands/content.py", "pqfl/commands/shares.py",
    "pqfl/demo/site.py", "pqfl_transport/content/batch.py", "pqfl_transport/content/files.py",
    "pqfl_transport/content/opening.py", "pqfl_transport/content/sealing.py", "pqfl_transport/participant.py",
}  # fmt: skip
"""Where the product seals or opens; each is behind one of the tests above."""
SEALS_OR_OPENS = {"Sealer", "seal_weights", "seal_file", "Opener", "open_weights", "open_file", "verified_prologue"}


def test_there_is_no_other_door() -> None:
    """A module that begins to seal or open has to be added above, with a test of what it refuses."""
    found = set()
    for package in ("pqfl_transport", "gateway", "aggregator", "certs", "pqfl"):
        for path in (ROOT / package).rglob("*.py"):
            calls = (node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call))
            if any(isinstance(func, ast.Name) and func.id in SEALS_OR_OPENS for func in calls):
                found.add(path.relative_to(ROOT).as_posix())
    assert found <= DOORS
