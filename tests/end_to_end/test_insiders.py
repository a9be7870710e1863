"""What insiders try, with real keys, files and commands: one of several recipients, one of several trustees.

A recipient shares the body's key, so it can re-seal another body under the original salt and commitment; a trustee can
sign a share of its own invention. Both are found out, and by name where there is one.
"""

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from pqfl_transport.content.envelope import decode_prologue
from pqfl_transport.content.opening import Opener
from pqfl_transport.content.recipients import ReceivingKey, RecipientKey
from pqfl_transport.content.shares import parse_contribution
from pqfl_transport.crypto.pyca import BODY_CHUNK_BYTES
from pqfl_transport.errors import MessageError
from pqfl_transport.pki import keystore
from tests.support.envelopes import split
from tests.support.forging import contribution, resealed_by_recipient
from tests.support.pki import Federation, make_federation
from tests.support.rounds import (
    aggregator,
    current_round,
    participant,
)

SITES = ("bank-a", "bank-b", "bank-c")


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return make_federation(tmp_path_factory.mktemp("federation"), sites=SITES)


def pqfl(*words: object) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "pqfl", *map(str, words)], capture_output=True, text=True, check=False, timeout=60
    )
    assert "Traceback" not in done.stderr
    return done


def receiving_key(federation: Federation, name: str) -> ReceivingKey:
    return ReceivingKey.from_pem((federation.site(name) / "receiving.key").read_bytes())


@pytest.fixture(scope="module")
def shared(federation: Federation, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that the aggregator sealed to two banks with the command."""
    folder = tmp_path_factory.mktemp("shared")
    np.savez(folder / "w.npz", a=np.arange(9000.0))
    recipients = [word for name in SITES[:2] for word in ("--to", federation.site(name) / "receiving.pub")]
    done = pqfl("seal", *recipients, "--identity", federation.aggregator, folder / "w.npz", folder / "w.pqfl")
    assert done.returncode == 0, done.stderr
    return folder / "w.pqfl"


def altered_plaintext(envelope: bytes, key: ReceivingKey, sender: Any) -> bytes:
    """What a recipient reads, with other numbers in it."""
    prologue, rest = decode_prologue(envelope)
    opener, buffer = Opener(prologue, key, sender_key=sender), bytearray(len(rest) + 2 * BODY_CHUNK_BYTES)
    written = opener.update_into(rest, buffer)
    plaintext = bytes(buffer[:written]) + opener.finalize()
    return plaintext[:-8] + np.array([666.0]).tobytes()


def attacks(federation: Federation, envelope: bytes) -> dict[str, tuple[bytes, str]]:
    """What bank-a can send to bank-b in the aggregator's name, and why it is refused."""
    signer = keystore.load_signing_certificate(federation.aggregator / "signing.pem")
    prologue, body, trailer = split(envelope)
    insider = receiving_key(federation, "bank-a")
    forged = resealed_by_recipient(envelope, insider, altered_plaintext(envelope, insider, signer.key))
    assert forged != body
    return {
        "re-sealed, original trailer": (prologue.raw + forged + trailer, "bad_trailer"),
        "re-sealed, trailer stripped": (prologue.raw + forged, "truncated"),
        "trailer stripped": (prologue.raw + body, "truncated"),
        "trailer of zeros": (prologue.raw + body + bytes(len(trailer)), "bad_trailer"),
    }


ATTACKS = ("re-sealed, original trailer", "re-sealed, trailer stripped", "trailer stripped", "trailer of zeros")


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_co_recipients_body_is_opened_by_no_command(
    federation: Federation, shared: Path, tmp_path: Path, attack: str
) -> None:
    """The other recipient's `pqfl open` writes nothing, and `pqfl verify` finds it out without a key."""
    found = attacks(federation, shared.read_bytes())
    assert tuple(found) == ATTACKS
    data, reason = found[attack]
    forged, opened = tmp_path / "forged.pqfl", tmp_path / "opened.npz"
    forged.write_bytes(data)
    sender, key = federation.aggregator / "signing.pem", federation.site("bank-b") / "receiving.key"
    assert pqfl("open", "--key", key, "--from", sender, shared, opened).returncode == 0
    opened.unlink()
    for words in (("open", "--key", key, "--from", sender, forged, opened), ("verify", "--from", sender, forged)):
        done = pqfl(*words)
        assert done.returncode == 1
        assert ("trailer" if reason == "bad_trailer" else "short") in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["forged.pqfl"]


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_site_cannot_forge_the_global_model_for_another(federation: Federation, tmp_path: Path, attack: str) -> None:
    """The aggregator's model is sealed to all sites: one that re-seals it is found out by the next."""

    async def scenario() -> tuple[str, str]:
        async with aggregator(federation, tmp_path, quorum=1) as running:
            site = participant(federation, "bank-b")
            info = await current_round(running.url, site)
            async with (
                aiohttp.ClientSession() as session,
                session.get(f"{running.url}/v1/models/{info.model_version}") as answer,
            ):
                model = await answer.read()
            site.open_model(model, info)
            forged, reason = attacks(federation, model)[attack]
            with pytest.raises(MessageError) as caught:
                site.open_model(forged, info)
            return caught.value.reason, reason

    found, expected = asyncio.run(scenario())
    assert found == expected


@pytest.fixture(scope="module")
def vault(federation: Federation, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An envelope for two of three banks, their contributions, and one of bank-b with a share of its invention."""
    folder = tmp_path_factory.mktemp("vault")
    np.savez(folder / "w.npz", a=np.arange(12.0))
    recipients = [word for name in SITES for word in ("--to", federation.site(name) / "receiving.pub")]
    made = [
        pqfl("seal", *recipients, "--threshold", "2", "--identity", federation.aggregator, folder / "w.npz",
             folder / "w.pqfl"),
        pqfl("key", "new", "--out", folder / "combiner"),
    ]  # fmt: skip
    for name in SITES:
        site = federation.site(name)
        made.append(
            pqfl("share-open", "--key", site / "receiving.key", "--identity", site, "--for", folder / "combiner.pub",
                 "--from", federation.aggregator / "signing.pem", folder / "w.pqfl", folder / f"{name}.share")
        )  # fmt: skip
    assert [done.returncode for done in made] == [0] * len(made)
    (folder / "liar.share").write_bytes(lie(federation, folder))
    return folder


def lie(federation: Federation, folder: Path) -> bytes:
    """Sign and seal a share that is not bank-b's, with everything else of its contribution as it was."""
    honest = parse_contribution((folder / "bank-b.share").read_bytes())
    identity = keystore.load_signing_identity(federation.site("bank-b"))
    combiner = RecipientKey.from_pem((folder / "combiner.pub").read_bytes())
    facts = [
        b"pqfl-contribution/v1", honest.prologue_digest, bytes([honest.index]), honest.trustee.encode(),
        honest.signer_fingerprint, honest.combiner,
    ]  # fmt: skip
    return contribution(
        facts, bytes([honest.index]) + b"x" * 32, combiner, identity.key, aead="AES-256-GCM",
        certificate=identity.certificate.public_bytes(Encoding.DER),
    )  # fmt: skip


def combine(federation: Federation, vault: Path, target: Path, *shares: str) -> subprocess.CompletedProcess[str]:
    words = [word for name in shares for word in ("--share", vault / f"{name}.share")]
    return pqfl(
        "combine", "--key", vault / "combiner", "--from", federation.aggregator / "signing.pem", *words, "--cacert",
        federation.ca_pem, "--json", vault / "w.pqfl", target,
    )  # fmt: skip


def test_a_liar_is_named_and_the_honest_ones_still_open(federation: Federation, vault: Path, tmp_path: Path) -> None:
    """With its certificate and signature all right, the share itself convicts it."""
    done = combine(federation, vault, tmp_path / "o.npz", "bank-a", "liar", "bank-c")
    assert done.returncode == 0, done.stderr
    (refused,) = json.loads(done.stdout)["refused"]
    assert (refused["trustee"], refused["reason"]) == (federation.site_uri("bank-b"), "bad_share")
    with np.load(tmp_path / "o.npz") as found:
        assert (found["a"] == np.arange(12.0)).all()


def test_a_liar_and_one_honest_trustee_open_nothing(federation: Federation, vault: Path, tmp_path: Path) -> None:
    """Nothing is written, and the message says who lied."""
    done = combine(federation, vault, tmp_path / "o.npz", "bank-a", "liar")
    assert done.returncode == 1
    assert federation.site_uri("bank-b") in done.stderr
    assert list(tmp_path.iterdir()) == []
