"""The recorded round of secure aggregation: both ends make it again, byte for byte."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pqfl_transport.aggregation.secagg.messages import Advertise, Kind, Message, parse_message
from pqfl_transport.aggregation.secagg.recovery import Recovered
from pqfl_transport.aggregation.secagg.server import Done, Event, Publish, SecAggServer
from pqfl_transport.aggregation.secagg.site import Burn, SecAggSite, Send, SiteIdentity, Upload
from pqfl_transport.crypto.contexts import Context
from pqfl_transport.crypto.kems import decapsulation_key
from pqfl_transport.crypto.pyca import Buffer, EncapsulationKey, SigningKey
from tests.support.secagg import DEADLINES, MaskedVector, deterministic, make_parameters, packet_of, signing_key

RECORDED: dict[str, Any] = json.loads((Path(__file__).parent / "secagg" / "round.json").read_text())
FROM_SITES = [base64.b64decode(text) for text in RECORDED["from_sites"]]
TO_READER = [base64.b64decode(text) for text in RECORDED["to_reader"]]
READER, DROPOUT = RECORDED["reader"], RECORDED["dropout"]
PARAMETERS = make_parameters(len(RECORDED["secrets"]))
ALL = [parse_message(data) for data in (*FROM_SITES, *TO_READER)]


class RecordedSignatures(SigningKey):
    """A signing key that repeats the signature that was recorded for the very bytes it is given, and knows no other."""

    __slots__ = ()

    def sign(self, message: Buffer, context: Context) -> bytes:
        """Find the signature, and verify it."""
        found = next(one.signature for one in ALL if one.signed == message and one.kind.context is context)
        self.verifying_key.verify(found, message, context)
        return found


def of(kind: Kind, sender: str) -> Message:
    """Return a recorded message."""
    return next(one for one in ALL if one.kind is kind and one.sender == sender)


def recorded_wrap(key: EncapsulationKey, plaintext: bytes, info: bytes, *, aead: str) -> bytes:
    """Return the ciphertext that was recorded for this key, after it was opened to the same plaintext."""
    for index, name in enumerate(RECORDED["secrets"], 1):
        advertise = Advertise.decode(of(Kind.ADVERTISE, name))
        for raw, field, seed in (
            (advertise.transport_key, "sealed_shares", "transport_seed"),
            (advertise.mask_key, "sealed_key", "mask_seed"),
        ):
            if raw == key.raw:
                ciphertext: bytes = getattr(packet_of(of(Kind.SHARE, READER).raw, index), field)
                private = decapsulation_key(key.kem, bytes.fromhex(RECORDED["secrets"][name][seed]))
                assert private.unwrap(ciphertext, info, aead=aead) == plaintext
                return ciphertext
    raise AssertionError("a key that nobody advertised")


def key_of(name: str) -> RecordedSignatures:
    """Return a party's key, which is that of the record."""
    key = RecordedSignatures(signing_key(name).pyca_key)
    assert key.verifying_key.spki.hex() == RECORDED["signing_keys"][name]
    return key


def test_the_facts_of_the_round() -> None:
    """What the parameters say, and their digest."""
    facts = [
        PARAMETERS.federation,
        PARAMETERS.round,
        PARAMETERS.roster_number,
        PARAMETERS.suite.id,
        PARAMETERS.aggregator,
    ]
    assert facts == [RECORDED[name] for name in ("federation", "round", "roster_number", "suite", "aggregator")]
    assert PARAMETERS.model_digest.hex() == RECORDED["model_digest"]
    assert PARAMETERS.transcript.hex() == RECORDED["transcripts"]["T0"]


def test_a_site_makes_the_same_round_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the same secrets: its four messages, its masks, its challenge."""
    monkeypatch.setattr(EncapsulationKey, "wrap", recorded_wrap)
    vector = MaskedVector(0)
    site = SecAggSite(
        PARAMETERS, SiteIdentity(READER, key_of(READER)), vector.mask, deadline=100, random=deterministic(READER)
    )
    sent = [site.advertise]
    for data in TO_READER:
        for event in site.receive(data, 0):
            match event:
                case Send(answer):
                    sent.append(answer)
                case Upload(challenge):
                    assert challenge.hex() == RECORDED["challenge"]
                    site.sent(0)
                case Burn(_, _, uploaders, _):
                    assert uploaders.hex() == RECORDED["transcripts"]["T2"]
                    sent += [one.data for one in site.burnt(0) if isinstance(one, Send)]
    assert sent == [data for data in FROM_SITES if parse_message(data).sender == READER]
    ((keys, seed),) = vector.calls
    expected = RECORDED["masks"][READER]
    assert seed.hex() == expected["self_seed"] == RECORDED["secrets"][READER]["self_seed"]
    assert [{"with": key.site, "key": key.key.hex(), "sign": key.sign} for key in keys] == expected["pair_keys"]


def _serve(server: SecAggServer) -> Iterator[Event]:
    for data in FROM_SITES:
        events = server.receive(data, 0 if server.survivors == () else 31)
        yield from events
        if any(isinstance(one, Publish) and parse_message(one.data).kind is Kind.SHARED for one in events):
            for name in RECORDED["secrets"]:
                if name != DROPOUT:
                    yield from server.uploaded(name, bytes.fromhex(RECORDED["challenge"]), 0)
            yield from server.tick(31)


def test_the_server_makes_the_same_round_again() -> None:
    """From the same messages: its publications, and the masks that are left."""
    found: list[Recovered] = []
    server = SecAggServer(PARAMETERS, key_of(PARAMETERS.aggregator), found.append, deadlines=DEADLINES)
    events = list(_serve(server))
    assert [one.data for one in events if isinstance(one, Publish) and one.site == READER] == TO_READER
    assert events[-1] == Done(tuple(name for name in RECORDED["secrets"] if name != DROPOUT))
    (recovered,) = found
    expected = RECORDED["recovered"]
    assert {name: seed.hex() for name, seed in recovered.self_seeds.items()} == expected["self_seeds"]
    pairs = [{"site": key.site, "key": key.key.hex(), "sign": key.sign} for key in recovered.pair_keys]
    assert pairs == expected["pair_keys"]
    transcripts = {kind: of(kind, PARAMETERS.aggregator).transcript.hex() for kind in (Kind.SHARED, Kind.UPLOADED)}
    assert list(transcripts.values()) == [RECORDED["transcripts"]["T"], RECORDED["transcripts"]["T2"]]
