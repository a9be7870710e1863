"""Opening: recorded envelopes, and everything that can be wrong with one, before any plaintext is given out."""

import itertools
import re
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pqfl_transport.algorithms import CONTENT_SUITES
from pqfl_transport.content.envelope import decode_prologue, envelope_bytes
from pqfl_transport.content.header import CODECS, DIRECTIONS, encode_header
from pqfl_transport.content.opening import Opener
from pqfl_transport.content.sealing import Sealer, body_context, body_key
from pqfl_transport.crypto.contexts import length_prefixed
from pqfl_transport.crypto.pyca import BODY_CHUNK_BYTES, SigningKey, body_encryptor
from pqfl_transport.errors import MessageError, PolicyError, PqflError
from pqfl_transport.policy import for_level
from tests.support.envelopes import WEIGHTS, make_keys, split
from tests.support.vectors import Vector, files, load, opened_rows

KEYS = make_keys()
ENVELOPE = bytes(KEYS.seal())
TRAILED = bytes(KEYS.seal(trailer=True))
SHARED = bytes(KEYS.seal(recipients=[KEYS.receiving, KEYS.other]))
TAG_BYTES = 16
SPECIFICATION = Path(__file__).resolve().parents[3] / "pqfl_transport" / "content" / "ENVELOPE.md"


VECTORS = [vector for path in files() for vector in load(path)]


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector.name)
def test_recorded_envelopes(vector: Vector, tmp_path: Path) -> None:
    """Each opens to the recorded tensors, or is refused for the recorded reason."""
    if "error" in vector.entry:
        with pytest.raises(PqflError) as caught:
            vector.open(tmp_path)
        assert caught.value.reason == vector.entry["error"]
        return
    opened = vector.open(tmp_path)
    assert opened_rows(opened) == vector.tensors
    assert opened.metadata == vector.entry["metadata"]


@pytest.mark.parametrize("vector", [v for v in VECTORS if "refused" in v.entry], ids=lambda vector: vector.name)
def test_recorded_contributions_are_refused_for_their_reasons(vector: Vector) -> None:
    """What is left out is named with its reason, whether enough others hold or not."""
    assert refusals(vector) == vector.entry["refused"]


def refusals(vector: Vector) -> list[str]:
    """Why contributions are left out; where too few hold, each of them is asked for beside enough good ones."""
    if "tensors" in vector.entry:
        return [one.error.reason for one in vector.combined().refused]
    return [reason_of(vector, number) for number in wrong_ones(vector)]


def wrong_ones(vector: Vector) -> range:
    """The contributions behind the first one, which is good in every vector."""
    return range(1, len(vector.entry["contributions"]))


def reason_of(vector: Vector, number: int) -> str:
    """Why a contribution is refused beside enough good ones."""
    donor = next(v for v in VECTORS if v.name == "thresholds: three of three contribute")
    assert vector.entry["envelope"] == donor.entry["envelope"]
    good = [donor.entry["contributions"][place] for place in (0, 2)]
    entry = vector.entry | {"contributions": [*good, vector.entry["contributions"][number]]}
    (refused_,) = Vector(vector.file, vector.facts, entry).combined().refused
    return refused_.error.reason


def test_every_reason_of_the_specification_has_a_vector() -> None:
    """A word in the table of ENVELOPE.md §5 that no envelope is refused for is a promise nobody checked."""
    table = SPECIFICATION.read_text().partition("### Reasons")[2].partition("\n## ")[0]
    rows = [line.split("|")[2] for line in table.splitlines() if line.startswith("| ") and "`" in line.split("|")[2]]
    words = {word for row in rows for word in re.findall(r"`([a-z_]+)`", row)}
    shown = {vector.entry.get("error") for vector in VECTORS}
    shown |= {reason for vector in VECTORS for reason in vector.entry.get("refused", [])}
    assert len(words) > 25
    assert words - shown == set()
    assert shown - words == {None}


def test_every_item_suite_codec_and_kind_has_a_vector() -> None:
    """All 16 items of the header are wrong once; every suite and codec of the specification opens."""
    sections = {vector.entry.get("section") for vector in VECTORS}
    assert {f"§2 item {number}" for number in range(1, 17)} <= sections
    headers = [decode_prologue(v.envelope)[0].header for v in VECTORS if "tensors" in v.entry]
    standard = {suite for suite in CONTENT_SUITES if not suite.startswith("pqfl/v1/x-")}
    for suite in standard:
        of_suite = [header for header in headers if header.suite == suite]
        assert any(len(header.recipients) == 1 and not header.trailer for header in of_suite), suite
        assert any(len(header.recipients) > 1 and not header.threshold for header in of_suite), suite
        assert any(header.threshold for header in of_suite), suite
        assert any(header.extra_key_ids for header in of_suite), suite
    assert {header.codec for header in headers} == set(CODECS)
    assert {header.direction for header in headers} == set(DIRECTIONS)


def test_the_table_of_vectors_is_that_of_the_files() -> None:
    """README.md beside the vectors lists every one with what it shows."""
    readme = (SPECIFICATION.parents[2] / "tests" / "vectors" / "envelope" / "README.md").read_text()
    listed = set(re.findall(r"^\| §\d+(?: item \d+)? \| (.+) \| `(.+)` \| (.+) \|$", readme, re.MULTILINE))
    found = set()
    for vector in VECTORS:
        if "section" in vector.entry:
            result = f"`{vector.entry['error']}`" if "error" in vector.entry else "opens"
            refused_ = "".join(f", `{reason}`" for reason in vector.entry.get("refused", []))
            found.add((vector.entry["name"], vector.file, result + refused_))
    assert listed == found


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
