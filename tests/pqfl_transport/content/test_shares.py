"""Opening by several: enough honest trustees open, fewer cannot, and whoever lies is named."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pqfl_transport.content.envelope import Prologue, decode_prologue, verify_prologue
from pqfl_transport.content.opening import Opener
from pqfl_transport.content.recipients import ReceivingKey
from pqfl_transport.content.sealing import EnvelopeParameters, Sealer
from pqfl_transport.content.shares import (
    Contribution,
    combine,
    contribute,
    open_contribution,
    parse_contribution,
)
from pqfl_transport.content.tensors import parse
from pqfl_transport.crypto.contexts import Context, length_prefixed
from pqfl_transport.crypto.pyca import SigningKey, VerifyingKey
from pqfl_transport.errors import ConfigurationError, MessageError, PqflError
from tests.support.envelopes import WEIGHTS, make_keys, split

KEYS = make_keys()
TRUSTEES = [ReceivingKey.generate("ML-KEM-768+X25519") for _ in range(3)]
SIGNERS = [SigningKey.generate("ML-DSA-65") for _ in range(3)]
NAMES = [f"spiffe://fed/operator/trustee-{number}" for number in range(3)]
COMBINER = ReceivingKey.generate("ML-KEM-768+X25519")
ENVELOPE = bytes(KEYS.seal(recipients=TRUSTEES, threshold=2))
PROLOGUE = split(ENVELOPE)[0]


def contribution(number: int, prologue: Prologue = PROLOGUE, **changes: Any) -> bytes:
    facts: dict[str, Any] = {
        "trustee": NAMES[number], "signing_key": SIGNERS[number], "certificate": b"certificate",
    }  # fmt: skip
    return contribute(prologue, TRUSTEES[number], changes.pop("combiner", COMBINER.public), **(facts | changes))


CONTRIBUTIONS = [contribution(number) for number in range(3)]


def key_of(found: Contribution) -> VerifyingKey:
    return SIGNERS[NAMES.index(found.trustee)].verifying_key


def restore(*numbers: int) -> Any:
    return combine(PROLOGUE, [(f"share-{number}", CONTRIBUTIONS[number]) for number in numbers], COMBINER, key_of)


@pytest.mark.parametrize("numbers", [(0, 1), (2, 0), (1, 2), (0, 1, 2)])
def test_any_two_of_three_open(numbers: tuple[int, ...]) -> None:
    """Whichever trustees agree, the weights come out, and who took part is known."""
    combined = restore(*numbers)
    assert combined.trustees == tuple(NAMES[number] for number in numbers)
    opener = Opener(PROLOGUE, combined.key, sender_key=KEYS.signing.verifying_key)
    rest = ENVELOPE[len(PROLOGUE.raw) :]
    buffer = bytearray(len(rest) + 32 * 1024)
    written = opener.update_into(rest, buffer)
    weights, _ = parse(bytearray(buffer[:written]) + opener.finalize())
    assert isinstance(weights, dict)
    assert all(np.array_equal(weights[name], array) for name, array in WEIGHTS.items())


def test_one_alone_opens_nothing() -> None:
    """Neither a trustee with its own key, nor one contribution, nor the same one twice."""
    with pytest.raises(MessageError) as caught:
        KEYS.open(ENVELOPE, receiving_key=TRUSTEES[0])
    assert caught.value.reason == "threshold"
    for numbers in ((0,), (0, 0), ()):
        with pytest.raises(MessageError) as caught:
            restore(*numbers)
        assert caught.value.reason == "too_few_shares"


def test_the_trailer_is_there_and_the_header_is_signed() -> None:
    """A threshold forces the trailer; the hashes of the shares cannot be exchanged under the signature."""
    assert PROLOGUE.header.trailer
    verify_prologue(PROLOGUE, sender_key=KEYS.signing.verifying_key, policy=KEYS.policy)
    forged = KEYS.resign(PROLOGUE, signing=SIGNERS[0], share_hashes=tuple(reversed(PROLOGUE.header.share_hashes)))
    with pytest.raises(MessageError) as caught:
        verify_prologue(decode_prologue(forged)[0], sender_key=KEYS.signing.verifying_key, policy=KEYS.policy)
    assert caught.value.reason == "bad_signature"


def lying(number: int, share: bytes) -> bytes:
    """Make the contribution of a trustee that signs and seals a share of its own invention."""
    honest = parse_contribution(CONTRIBUTIONS[number])
    wrapped = COMBINER.public.wrap(share, honest.binding, label=_label())
    signed = honest.binding + length_prefixed(wrapped)
    return length_prefixed(signed, SIGNERS[number].sign(signed, Context.CONTRIBUTION), b"certificate")


def _label() -> Any:
    from pqfl_transport.crypto.contexts import Label  # noqa: PLC0415 -- used by this one liar

    return Label.SHARE_WRAP


def test_a_liar_is_named_and_the_honest_ones_still_open() -> None:
    """A wrong share under a good signature is left out by name; with enough others the envelope opens."""
    liar = lying(1, b"\x02" + b"x" * 32)
    given_ = [("a", CONTRIBUTIONS[0]), ("b", liar), ("c", CONTRIBUTIONS[2])]
    combined = combine(PROLOGUE, given_, COMBINER, key_of)
    assert combined.key == restore(0, 1).key
    (refused,) = combined.refused
    assert (refused.source, refused.trustee, refused.error.reason) == ("b", NAMES[1], "bad_share")
    with pytest.raises(MessageError, match="trustee-1") as caught:
        combine(PROLOGUE, given_[:2], COMBINER, key_of)
    assert caught.value.reason == "too_few_shares"


@pytest.mark.parametrize("share", [b"", b"\x01" * 33, b"\x02" + b"x" * 31, b"\x03" + b"x" * 32])
def test_shares_of_another_form_are_wrong_ones(share: bytes) -> None:
    """Length and index are part of what is held to the hash."""
    parsed = parse_contribution(lying(1, share))
    with pytest.raises(MessageError) as caught:
        open_contribution(parsed, PROLOGUE, COMBINER, SIGNERS[1].verifying_key)
    assert caught.value.reason == "bad_share"


def test_a_contribution_serves_one_envelope_and_one_combiner() -> None:
    """Replayed to another envelope of the same people, or to another combiner, it is refused."""
    other = split(KEYS.seal(recipients=TRUSTEES, threshold=2))[0]
    stranger = ReceivingKey.generate("ML-KEM-768+X25519")
    parsed = parse_contribution(CONTRIBUTIONS[0])
    key = SIGNERS[0].verifying_key
    cases: list[tuple[Callable[[], object], str]] = [
        (lambda: open_contribution(parsed, other, COMBINER, key), "wrong_envelope"),
        (lambda: open_contribution(parsed, PROLOGUE, stranger, key), "not_for_us"),
        (lambda: open_contribution(parsed, PROLOGUE, COMBINER, SIGNERS[1].verifying_key), "wrong_sender_key"),
        (lambda: open_contribution(replace(parsed, signature=bytes(3309)), PROLOGUE, COMBINER, key), "bad_signature"),
        (lambda: open_contribution(replace(parsed, index=9), PROLOGUE, COMBINER, key), "wrong_envelope"),
    ]
    for use, reason in cases:
        with pytest.raises(PqflError) as caught:
            use()
        assert caught.value.reason == reason


def test_a_signature_of_the_prologue_is_none_of_a_contribution() -> None:
    """The context string keeps the two kinds of message apart."""
    parsed = parse_contribution(CONTRIBUTIONS[0])
    confused = replace(parsed, signature=SIGNERS[0].sign(parsed.signed, Context.PROLOGUE))
    with pytest.raises(MessageError) as caught:
        open_contribution(confused, PROLOGUE, COMBINER, SIGNERS[0].verifying_key)
    assert caught.value.reason == "bad_signature"


def test_who_cannot_contribute() -> None:
    """No recipient, no threshold, keys of another level: refused on the trustee's side."""
    alone = split(KEYS.seal())[0]
    higher = make_keys("maximum")
    cases: list[tuple[Callable[[], object], str]] = [
        (lambda: contribute(PROLOGUE, COMBINER, COMBINER.public, trustee="t", signing_key=SIGNERS[0], certificate=b""),
         "not_for_us"),
        (lambda: contribution(0, alone), "threshold"),
        (lambda: contribution(0, combiner=higher.receiving.public), "wrong_key"),
        (lambda: contribution(0, signing_key=higher.signing), "wrong_key"),
        (lambda: combine(alone, [], COMBINER, key_of), "threshold"),
    ]  # fmt: skip
    for use, reason in cases:
        with pytest.raises(PqflError) as caught:
            use()
        assert caught.value.reason == reason


def test_a_sender_that_wraps_something_else_is_found_out_by_the_trustee() -> None:
    """What was wrapped has to be the share that the header promises."""
    header = replace(PROLOGUE.header, share_hashes=tuple(bytes([number]) * 32 for number in range(3)))
    sealer = Sealer(
        EnvelopeParameters(suite=header.suite, federation="fed", sender="s", direction="file", threshold=2), 5,
        [key.public for key in TRUSTEES], KEYS.signing,
    )  # fmt: skip
    cheated = replace(sealer.prologue, header=replace(sealer.prologue.header, share_hashes=header.share_hashes))
    with pytest.raises(MessageError) as caught:
        contribution(0, cheated)
    assert caught.value.reason == "bad_share"


@pytest.mark.parametrize("threshold", [1, 4, -1, 256])
def test_senseless_thresholds_are_not_sealed(threshold: int) -> None:
    """At least two, at most all."""
    with pytest.raises(PqflError):
        KEYS.seal(recipients=TRUSTEES, threshold=threshold)


def test_a_threshold_needs_several_recipients() -> None:
    """One recipient is no threshold."""
    with pytest.raises(ConfigurationError):
        KEYS.seal(threshold=2)


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_a_changed_contribution_is_refused_by_our_own_errors(data: st.DataObject) -> None:
    """Whatever bit is changed, and wherever it is cut, nothing but a refusal comes of it."""
    changed = bytearray(CONTRIBUTIONS[0])
    # The certificate at the end is the reader's affair and covered by no signature here.
    position = data.draw(st.integers(0, len(changed) - len(b"certificate") - 5))
    changed[position] ^= data.draw(st.integers(1, 255))
    end = data.draw(st.sampled_from([len(changed), position, position + 1]))
    with pytest.raises(PqflError):
        open_contribution(parse_contribution(bytes(changed[:end])), PROLOGUE, COMBINER, SIGNERS[0].verifying_key)


@given(data=st.binary(max_size=300))
def test_noise_is_no_contribution(data: bytes) -> None:
    """Any bytes are refused by a MessageError."""
    with pytest.raises(MessageError):
        parse_contribution(data)


def test_a_contribution_has_a_largest_size() -> None:
    """Megabytes are refused before they are looked at."""
    with pytest.raises(MessageError) as caught:
        parse_contribution(bytes(300_000))
    assert caught.value.reason == "too_large"
