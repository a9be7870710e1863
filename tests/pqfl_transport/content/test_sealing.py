"""Sealing: as a stream or at once, never twice alike, and never less than was announced."""

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pqfl_transport.content.envelope import envelope_bytes
from pqfl_transport.content.header import CODECS
from pqfl_transport.content.recipients import ReceivingKey
from pqfl_transport.content.sealing import Sealer, body_context, body_key, sign_trailer, trailer_hash
from pqfl_transport.content.tensors import TensorLayout
from pqfl_transport.crypto.contexts import Context, length_prefixed
from pqfl_transport.crypto.pyca import SigningKey
from pqfl_transport.errors import ConfigurationError, MessageError, PolicyError
from pqfl_transport.policy import Policy, SecurityLevel, for_level
from tests.support.envelopes import WEIGHTS, make_keys, split
from tests.support.liboqs import needs_liboqs

KEYS = make_keys()


@pytest.mark.parametrize("level", list(SecurityLevel))
@pytest.mark.parametrize("trailer", [True, False])
def test_every_level_seals_what_its_recipient_opens(level: SecurityLevel, trailer: bool) -> None:
    """Each suite, with and without a trailer; the header says what was asked for."""
    keys = make_keys(level)
    opened = keys.open(keys.seal(metadata={"samples": "5"}, trailer=trailer))
    assert opened.metadata == {"samples": "5"}
    assert isinstance(opened.weights, dict)
    assert all((opened.weights[name] == WEIGHTS[name]).all() for name in WEIGHTS)
    header = opened.header
    assert (header.suite, header.trailer) == (keys.policy.content_suite.id, trailer)
    assert (header.round, header.direction, header.challenge) == (3, "update", b"c" * 32)
    assert header.sender_fingerprint == keys.signing.verifying_key.fingerprint


@given(cuts=st.lists(st.integers(0, 130_000), max_size=8), trailer=st.booleans())
@settings(max_examples=25, deadline=None)
def test_a_stream_in_any_pieces_opens_to_the_same(cuts: list[int], trailer: bool) -> None:
    """Where the plaintext was cut is not to be seen in the envelope."""
    layout = TensorLayout.of(WEIGHTS)
    plaintext = b"".join(layout.buffers())
    parameters = replace(KEYS.parameters, trailer=trailer)
    sealer = Sealer(parameters, len(plaintext), [KEYS.receiving.public], KEYS.signing)
    edges = [0, *sorted(cut % (len(plaintext) + 1) for cut in cuts), len(plaintext)]
    body = b"".join(sealer.update(plaintext[start:end]) for start, end in itertools.pairwise(edges))
    envelope = sealer.prologue.raw + body + sealer.finalize()
    assert len(envelope) == envelope_bytes(sealer.prologue)
    opened = KEYS.open(envelope)
    assert isinstance(opened.weights, dict)
    assert (opened.weights["w"] == WEIGHTS["w"]).all()


def test_an_empty_model_has_an_envelope_too() -> None:
    """Nothing but a header inside is still sealed, signed and opened."""
    assert KEYS.open(KEYS.seal({})).weights == {}


def test_no_two_envelopes_are_alike() -> None:
    """Key, envelope id, salt and wrapped key are new each time."""
    one, two = (split(KEYS.seal()) for _ in range(2))
    assert one[0].header.envelope_id != two[0].header.envelope_id
    assert one[0].commitment != two[0].commitment
    assert one[0].wrapped != two[0].wrapped
    assert one[1] != two[1]


def test_several_recipients_always_get_a_trailer() -> None:
    """Whoever shares the body's key has to be kept from forging it."""
    prologue, _, trailer = split(KEYS.seal(recipients=[KEYS.receiving, KEYS.other]))
    assert prologue.header.trailer
    assert len(trailer) == 3309
    assert len(prologue.wrapped) == 2


@pytest.mark.parametrize("difference", [-1, 1])
def test_the_announced_length_is_kept(difference: int) -> None:
    """Too little and too much plaintext are mistakes of the caller."""
    sealer = Sealer(KEYS.parameters, 100, [KEYS.receiving.public], KEYS.signing)

    def seal() -> None:
        sealer.update(bytes(100 + difference))
        sealer.finalize()

    with pytest.raises(ConfigurationError) as caught:
        seal()
    assert caught.value.reason == "wrong_length"


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"signing": SigningKey.generate("ML-DSA-87")}, ConfigurationError),
        ({"recipients": [ReceivingKey.generate("ML-KEM-1024")]}, ConfigurationError),
        ({"recipients": [KEYS.receiving, KEYS.receiving]}, MessageError),
        ({"suite": "pqfl/v1/none"}, PolicyError),
        ({"direction": "sideways"}, MessageError),
    ],
)
def test_keys_that_do_not_fit_the_suite(options: dict[str, Any], kind: type[Exception]) -> None:
    """A key of another algorithm, a recipient twice, an unknown suite, an unknown direction."""
    with pytest.raises(kind):
        KEYS.seal(**options)


def test_an_envelope_without_recipients_is_refused() -> None:
    """Sealing to nobody loses the weights."""
    with pytest.raises(MessageError, match="nobody"):
        Sealer(KEYS.parameters, 0, [], KEYS.signing)


def test_derivations_depend_on_everything_they_bind() -> None:
    """Key, context and trailer change with each input, and the trailer's hash is that of the suite."""
    assert len({body_key(b"k" * 32, b"h"), body_key(b"K" * 32, b"h"), body_key(b"k" * 32, b"H")}) == 3
    keys = {body_key(b"k" * 32, b"h", extra) for extra in ((), (b"",), (b"ab",), (b"a", b"b"), (b"b", b"a"))}
    assert len(keys) == 5
    assert len({body_context(b"h", [b"w"]), body_context(b"h", [b"W"]), body_context(b"H", [b"w"])}) == 3
    assert body_context(b"h", [b"ab"]) != body_context(b"h", [b"a", b"b"])
    assert trailer_hash(KEYS.policy.content_suite, b"").digest_size == 32
    assert trailer_hash(make_keys("cnsa2").policy.content_suite, b"").digest_size == 48
    prologue, _, _ = split(KEYS.seal())
    signature = sign_trailer(KEYS.signing, prologue, b"digest")
    key = KEYS.signing.verifying_key
    key.verify(signature, length_prefixed(prologue.raw, b"digest"), Context.TRAILER)
    with pytest.raises(MessageError):
        key.verify(signature, length_prefixed(prologue.raw, b"digest"), Context.PROLOGUE)


def test_arrays_are_not_changed_by_sealing() -> None:
    """What a caller gave is as it was."""
    array = np.arange(100_000, dtype=np.float64)
    KEYS.seal({"a": array})
    assert (array == np.arange(100_000)).all()


@pytest.mark.parametrize("codec", CODECS)
def test_a_codec_is_named_in_the_header_and_undone_by_the_reader(codec: str) -> None:
    """Names, shapes and types come back under every codec; the metadata are the caller's alone."""
    weights = {"w": np.linspace(-1, 1, 20_000, dtype=np.float32).reshape(100, 200), "n": np.arange(5)}
    opened = KEYS.open(bytes(KEYS.seal(weights, metadata={"samples": "7"}, codec=codec)))
    assert (opened.header.codec, opened.metadata) == (codec, {"samples": "7"})
    assert isinstance(opened.weights, dict)
    assert {name: (a.dtype, a.shape) for name, a in opened.weights.items()} == {
        name: (a.dtype, a.shape) for name, a in weights.items()
    }
    assert np.array_equal(opened.weights["n"], weights["n"])
    if codec != "safetensors+topk":
        assert np.allclose(opened.weights["w"], weights["w"], atol=0.01)


def test_what_a_codec_expands_to_is_capped() -> None:
    """A small envelope that claims a large model is refused before memory is taken for it."""
    envelope = bytes(KEYS.seal({"w": np.ones(1_000_000, np.float32)}, codec="safetensors+topk"))
    with pytest.raises(MessageError) as caught:
        KEYS.open(envelope, max_plaintext_bytes=200_000)
    assert caught.value.reason == "too_large"


@pytest.mark.parametrize("level", ["standard", "high", "maximum", "cnsa2"])
def test_every_suite_of_a_level_seals_and_opens(level: str) -> None:
    """The receiving key is the same for the suites of a level; only the cipher of the wrap differs."""
    keys = make_keys(level)
    for suite in keys.policy.content_suites:
        opened = keys.open(bytes(keys.seal({"w": np.arange(4.0)}, suite=suite)))
        assert opened.header.suite == suite


def test_a_key_wrapped_under_one_suite_does_not_open_under_another() -> None:
    """The header with the suite's id is bound into the wrap, and the ciphers differ."""
    prologue = split(KEYS.seal(suite="pqfl/v1/mlkem768x25519-chacha-mldsa65"))[0]
    with pytest.raises(MessageError):
        KEYS.receiving.unwrap(prologue.wrapped[0], prologue.header_bytes)


EXPERIMENTAL_SUITE = "pqfl/v1/x-hqc3-x25519-mldsa65"


@pytest.mark.parametrize(
    ("suite", "policy", "reason"),
    [
        (EXPERIMENTAL_SUITE, None, "content_suite"),
        (EXPERIMENTAL_SUITE, for_level("high"), "content_suite"),
        ("pqfl/v1/mlkem768x25519-mldsa44", for_level("high"), "content_suite"),
        ("pqfl/v1/mlkem768-rsa", None, "unknown_suite"),
        ("pqfl/v1/mlkem768-rsa", for_level("high"), "content_suite"),
    ],
)
def test_nothing_is_sealed_under_a_suite_outside_the_policy(suite: str, policy: Policy | None, reason: str) -> None:
    """Without a policy a shipped one has to list the suite, so what is experimental is never reached by accident."""
    with pytest.raises(PolicyError) as caught:
        KEYS.seal(suite=suite, policy=policy)
    assert caught.value.reason == reason


@needs_liboqs
def test_an_experimental_suite_is_for_those_whose_policy_names_it() -> None:
    """Sealed and opened under such a policy, and refused by every other one."""
    policy = replace(for_level("high"), content_suites=(EXPERIMENTAL_SUITE,))
    receiving = ReceivingKey.generate("HQC-3+X25519")
    envelope = bytes(KEYS.seal(recipients=[receiving], suite=EXPERIMENTAL_SUITE, policy=policy))
    assert KEYS.open(envelope, receiving_key=receiving, policy=policy).header.suite == EXPERIMENTAL_SUITE
    with pytest.raises(PolicyError):
        KEYS.open(envelope, receiving_key=receiving)
