"""Opening: recorded envelopes, and everything that can be wrong with one, before any plaintext is given out."""

import base64
import itertools
import json
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pqfl_transport.content.envelope import Prologue, decode_prologue, envelope_bytes, verify_prologue
from pqfl_transport.content.header import encode_header
from pqfl_transport.content.opening import OpenedWeights, Opener, open_weights
from pqfl_transport.content.recipients import ReceivingKey
from pqfl_transport.content.sealing import Sealer, body_context, body_key
from pqfl_transport.content.shares import combine
from pqfl_transport.content.tensors import parse
from pqfl_transport.crypto.contexts import length_prefixed
from pqfl_transport.crypto.pyca import BODY_CHUNK_BYTES, SigningKey, body_encryptor
from pqfl_transport.errors import MessageError, PolicyError, PqflError
from pqfl_transport.policy import for_level
from tests.support.envelopes import WEIGHTS, make_keys, split

KEYS = make_keys()
ENVELOPE = bytes(KEYS.seal())
TRAILED = bytes(KEYS.seal(trailer=True))
SHARED = bytes(KEYS.seal(recipients=[KEYS.receiving, KEYS.other]))
TAG_BYTES = 16
FOLDER = Path(__file__).resolve().parents[2] / "vectors" / "envelope"


def recorded() -> list[Any]:
    """Every recorded vector with its file's keys."""
    found = []
    for path in sorted(FOLDER.glob("*.json")):
        facts = json.loads(path.read_text())
        found += [pytest.param(facts, vector, id=f"{path.stem}: {vector['name']}") for vector in facts["vectors"]]
    return found


class Given:
    """A source of the extra keys that a vector brings along."""

    def __init__(self, keys: dict[str, str]) -> None:
        self._keys = keys

    def fetch(self, prologue: Prologue) -> tuple[bytes, ...]:
        return tuple(bytes.fromhex(self._keys[name]) for name in prologue.header.extra_key_ids)

    def settle(self, prologue: Prologue) -> None:
        del prologue


def open_vector(facts: dict[str, Any], vector: dict[str, Any]) -> OpenedWeights:
    """Open a vector the way that its facts say: with one key, or with contributions."""
    policy = for_level(facts["level"])
    suite = policy.content_suite
    seeds = facts["keys"]
    sender = SigningKey.from_seed(suite.signature, bytes.fromhex(seeds["sender"])).verifying_key
    envelope = base64.b64decode(vector["envelope"])
    seed = bytes.fromhex(seeds["combiner"] if "contributions" in vector else seeds["receiving"][vector["key"]])
    receiving = ReceivingKey.generate(suite.kem, random=lambda _count: seed)
    if "contributions" in vector:
        prologue, rest = decode_prologue(envelope)
        verify_prologue(prologue, sender_key=sender, policy=policy)
        given_ = [(str(number), base64.b64decode(one)) for number, one in enumerate(vector["contributions"])]
        combined = combine(prologue, given_, receiving, lambda _contribution: sender)
        opener = Opener(prologue, combined.key, sender_key=sender)
        plaintext = bytearray(len(rest) + 2 * BODY_CHUNK_BYTES)
        written = opener.update_into(rest, plaintext)
        weights, metadata = parse(plaintext[:written] + opener.finalize())
        return OpenedWeights(prologue.header, weights, metadata)
    source = Given(vector["extra"]) if "extra" in vector else None
    return open_weights(envelope, receiving_key=receiving, sender_key=sender, policy=policy, key_source=source)


@pytest.mark.parametrize(("facts", "vector"), recorded())
def test_recorded_envelopes(facts: dict[str, Any], vector: dict[str, Any]) -> None:
    """Each opens to the recorded tensors, or is refused for the recorded reason."""
    if "error" in vector:
        with pytest.raises(PqflError) as caught:
            open_vector(facts, vector)
        assert caught.value.reason == vector["error"]
        return
    opened = open_vector(facts, vector)
    weights = opened.weights if isinstance(opened.weights, dict) else dict(enumerate(opened.weights))
    rows = [[str(name), a.dtype.str, list(a.shape), a.tobytes().hex()] for name, a in weights.items()]
    assert rows == vector["tensors"]
    assert opened.metadata == vector["metadata"]


def refused(envelope: bytes, **options: Any) -> str:
    with pytest.raises(PqflError) as caught:
        KEYS.open(envelope, **options)
    return caught.value.reason


def chunks(body: bytes) -> list[bytes]:
    """The sealed chunks of a body behind its commitment."""
    size = BODY_CHUNK_BYTES + TAG_BYTES
    return [body[start : start + size] for start in range(0, len(body), size)]


def test_chunks_cannot_be_swapped_dropped_or_repeated() -> None:
    """The body is one sequence, however it is reordered."""
    prologue, body, _ = split(ENVELOPE)
    parts = chunks(body)
    assert len(parts) > 3
    swapped = [parts[1], parts[0], *parts[2:]]
    assert refused(prologue.raw + b"".join(swapped)) == "bad_body"
    repeated = [parts[0], parts[0], *parts[2:]]
    assert refused(prologue.raw + b"".join(repeated)) == "bad_body"
    assert refused(prologue.raw + b"".join(parts[1:])) == "truncated"


def test_an_envelope_cut_at_every_structural_boundary() -> None:
    """Prologue parts, chunk edges, trailer: ending early is a truncation and nothing else."""
    prologue, body, _ = split(TRAILED)
    edges = [0, 4, 4 + len(prologue.header_bytes), len(prologue.raw) - 1, len(prologue.raw)]
    edges += [len(prologue.raw) + sum(map(len, chunks(body)[:count])) for count in range(1, len(chunks(body)) + 1)]
    edges += [len(prologue.raw) + len(body) + 1, len(TRAILED) - 1]
    assert {refused(TRAILED[:end]) for end in edges} == {"truncated"}


def test_a_trailer_cannot_be_stripped_in_any_way() -> None:
    """Its flag kept, its flag removed, or another envelope's trailer in its place."""
    prologue, body, trailer = split(TRAILED)
    assert refused(prologue.raw + body) == "truncated"
    header = encode_header(replace(prologue.header, trailer=False))
    unflagged = length_prefixed(header, prologue.wrapped_bytes, prologue.commitment, prologue.signature)
    assert refused(unflagged + body) == "bad_signature"
    assert refused(prologue.raw + body + split(SHARED)[2]) == "bad_trailer"
    assert refused(prologue.raw + body + bytes(len(trailer))) == "bad_trailer"


def test_a_sender_that_strips_its_own_flag_makes_another_body_key() -> None:
    """Even with a fresh signature the body belongs to the header it was sealed under."""
    prologue, body, _ = split(TRAILED)
    assert refused(KEYS.resign(prologue, trailer=False) + body) == "not_for_us"
    prologue, body, _ = split(ENVELOPE)
    assert refused(KEYS.resign(prologue, round=4) + body) == "not_for_us"


def test_a_recipient_cannot_forge_a_body_for_another() -> None:
    """Who shares the body's key can make a body that decrypts; the trailer is what it cannot make."""
    prologue, body, trailer = split(SHARED)
    content_key = KEYS.receiving.unwrap(prologue.wrapped[0], prologue.header_bytes)
    encryptor = body_encryptor(
        body_key(content_key, prologue.header_bytes), body_context(prologue.header_bytes, prologue.wrapped)
    )
    forged = encryptor.update(bytes(prologue.header.plaintext_bytes)) + encryptor.finalize()
    assert len(forged) == len(prologue.commitment) + len(body)
    # Its salt differs from the signed one, so it fails at once; and nothing else fits the trailer either.
    assert refused(prologue.raw + forged[len(prologue.commitment) :] + trailer, receiving_key=KEYS.other) == "bad_body"


def test_garbage_under_a_copied_prologue_is_a_bad_body() -> None:
    """The prologue alone proves nothing about what follows it."""
    prologue, body, _ = split(ENVELOPE)
    assert refused(prologue.raw + bytes(len(body))) == "bad_body"


def test_other_keys_open_nothing() -> None:
    """Another receiving key, another sender, another policy."""
    assert refused(ENVELOPE, receiving_key=KEYS.other) == "not_for_us"
    assert refused(ENVELOPE, sender_key=SigningKey.generate("ML-DSA-65").verifying_key) == "wrong_sender_key"
    with pytest.raises(PolicyError):
        KEYS.open(ENVELOPE, policy=for_level("maximum"))


def test_the_announced_length_is_capped_and_never_believed() -> None:
    """A header that claims a terabyte allocates nothing, with or without the caller's cap."""
    prologue, body, _ = split(ENVELOPE)
    claimed = KEYS.resign(prologue, plaintext_bytes=1 << 40) + body
    tracemalloc.start()
    reasons = {refused(claimed), refused(ENVELOPE, max_plaintext_bytes=1000)}
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert reasons <= {"truncated", "not_for_us", "too_large"}
    assert "too_large" in reasons
    assert peak < 2_000_000


@given(cuts=st.lists(st.integers(0, 200_000), max_size=8), trailer=st.booleans())
@settings(max_examples=25, deadline=None)
def test_a_stream_in_any_pieces_gives_the_same_plaintext(cuts: list[int], trailer: bool) -> None:
    """The network's cuts do not show, up to the last byte of the trailer."""
    envelope = TRAILED if trailer else ENVELOPE
    prologue, rest = decode_prologue(envelope)
    opener = Opener(prologue, KEYS.receiving, sender_key=KEYS.signing.verifying_key)
    edges = [0, *sorted(cut % (len(rest) + 1) for cut in cuts), len(rest)]
    buffer = memoryview(bytearray(len(rest) + 2 * BODY_CHUNK_BYTES))
    plaintext = b""
    for start, end in itertools.pairwise(edges):
        plaintext += bytes(buffer[: opener.update_into(rest[start:end], buffer)])
    plaintext += opener.finalize()
    assert len(plaintext) == prologue.header.plaintext_bytes
    assert WEIGHTS["w"].tobytes() in plaintext


def test_a_stream_is_not_finished_early_and_takes_nothing_behind_its_end() -> None:
    """Finalizing with bytes missing is a truncation; a byte too many an excess."""
    prologue, rest = decode_prologue(ENVELOPE)
    opener = Opener(prologue, KEYS.receiving, sender_key=KEYS.signing.verifying_key)
    buffer = bytearray(len(rest) + 2 * BODY_CHUNK_BYTES)
    opener.update_into(rest[:-1], buffer)
    with pytest.raises(MessageError) as caught:
        opener.finalize()
    assert caught.value.reason == "truncated"
    with pytest.raises(MessageError) as caught:
        opener.update_into(rest[-1:] + b"x", buffer)
    assert caught.value.reason == "excess"
    assert len(prologue.raw) + len(rest) == envelope_bytes(prologue)


@given(position=st.integers(0, len(TRAILED) - 1), flip=st.integers(1, 255))
@settings(max_examples=120, deadline=None)
def test_no_changed_byte_is_ever_accepted(position: int, flip: int) -> None:
    """Wherever one byte of a signed, trailed envelope changes, it does not open."""
    changed = bytearray(TRAILED)
    changed[position] ^= flip
    with pytest.raises(PqflError):
        KEYS.open(changed)


@given(data=st.binary(max_size=500))
def test_any_bytes_are_refused_by_our_own_error(data: bytes) -> None:
    """Noise is no envelope."""
    with pytest.raises(PqflError):
        KEYS.open(data)


def test_a_body_that_is_no_layout_is_refused_after_it_was_proved_authentic() -> None:
    """Even the owner of the key can not hand over anything but tensors."""
    sealer = Sealer(KEYS.parameters, 11, [KEYS.receiving.public], KEYS.signing)
    envelope = sealer.prologue.raw + sealer.update(b"not tensors") + sealer.finalize()
    assert refused(envelope) in {"malformed", "too_large"}


def test_lists_come_back_as_lists() -> None:
    """The form of the weights is the sender's."""
    opened = KEYS.open(KEYS.seal([np.zeros(3), np.ones((2, 2))]))
    assert isinstance(opened.weights, list)
    assert [array.shape for array in opened.weights] == [(3,), (2, 2)]
