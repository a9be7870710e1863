"""The codec: what is written is read again to the same, and nothing else is read."""

from dataclasses import replace
from typing import Protocol

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pqfl_transport.aggregation.secagg.messages import (
    Advertise,
    Kind,
    Message,
    Packet,
    ReleasedShare,
    Secret,
    Share,
    Shared,
    Survivors,
    Unmask,
    parse_message,
    sign_message,
    split_many,
    verify_message,
)
from pqfl_transport.crypto.contexts import Context, length_prefixed
from pqfl_transport.errors import MessageError
from tests.support.secagg import HUB, make_parameters, signing_key, site_name

PARAMETERS = make_parameters(3)
ONE = site_name(1)
OF_SITES = (Kind.ADVERTISE, Kind.SHARE, Kind.CONSISTENCY, Kind.UNMASK)
_digests = st.sampled_from((32, 48)).flatmap(lambda size: st.binary(min_size=size, max_size=size))
_indices = st.sets(st.integers(1, 32), min_size=1).map(lambda found: tuple(sorted(found)))


class Body(Protocol):
    """Any of the bodies."""

    def encode(self) -> tuple[bytes, ...]:
        """Return the body's items."""


def message_of(kind: Kind, body: Body, sender: str = ONE) -> Message:
    """Return a signed message."""
    return sign_message(PARAMETERS, kind, PARAMETERS.transcript, (sender, signing_key(sender)), body.encode())


def example(kind: Kind) -> Message:
    """Return one message of a kind."""
    sender = ONE if kind in OF_SITES else HUB
    return sign_message(
        PARAMETERS, kind, PARAMETERS.transcript, (sender, signing_key(sender)), (b"x",) * kind.items
    )  # fmt: skip


@settings(max_examples=20, deadline=None)
@given(
    st.builds(
        Advertise,
        st.binary(min_size=32, max_size=32),
        st.integers(0, 2**64 - 1),
        st.text("abcdefgh/-", min_size=1, max_size=40),
        st.binary(min_size=1, max_size=100),
        st.binary(min_size=1, max_size=100),
    )
)
def test_advertise_comes_back(body: Advertise) -> None:
    """Over the bytes, signature included."""
    assert Advertise.decode(parse_message(message_of(Kind.ADVERTISE, body).raw)) == body


@settings(max_examples=20, deadline=None)
@given(_digests, st.dictionaries(st.integers(1, 32), _digests, min_size=1), st.binary(max_size=50))
def test_share_comes_back(seed: bytes, hashes: dict[int, bytes], attachment: bytes) -> None:
    """With its attachment, which no signature covers; the statement is without it."""
    body = Share(seed, tuple(sorted(hashes.items())))
    message = replace(message_of(Kind.SHARE, body), attachment=attachment)
    again = parse_message(message.raw)
    assert (Share.decode(again), again.attachment) == (body, attachment)
    assert parse_message(message.statement) == replace(message, attachment=b"")


@settings(max_examples=20, deadline=None)
@given(_digests, st.lists(st.binary(max_size=40), max_size=32).map(tuple))
def test_shared_comes_back(transcript: bytes, statements: tuple[bytes, ...]) -> None:
    """The server's U1."""
    body = Shared(transcript, statements)
    assert Shared.decode(parse_message(message_of(Kind.SHARED, body, HUB).raw)) == body


@settings(max_examples=20, deadline=None)
@given(_indices, _indices, st.binary(min_size=48, max_size=48), st.sampled_from(Secret))
def test_survivors_and_unmask_come_back(
    survivors: tuple[int, ...], owners: tuple[int, ...], data: bytes, secret: Secret
) -> None:
    """U2, and released shares."""
    assert (
        Survivors.decode(parse_message(message_of(Kind.UPLOADED, Survivors(survivors), HUB).raw)).indices == survivors
    )
    body = Unmask(survivors, tuple(ReleasedShare(owner, secret, data[:32], data[32:]) for owner in owners))
    assert Unmask.decode(parse_message(message_of(Kind.UNMASK, body).raw)) == body


@given(st.binary(min_size=1, max_size=99), st.binary(min_size=1, max_size=99), _digests, _digests, _digests)
def test_packet_comes_back(shares: bytes, key: bytes, one: bytes, two: bytes, three: bytes) -> None:
    """A packet for somebody else, and one of one's own."""
    for packet in (Packet(shares, key, one, two, three), Packet(b"", b"", one, two, b"")):
        assert Packet.decode(packet.encode()) == packet


@pytest.mark.parametrize(
    "packet",
    [
        Packet(b"s", b"", bytes(32), bytes(32), bytes(32)),
        Packet(b"", b"k", bytes(32), bytes(32), b""),
        Packet(b"s", b"k", bytes(32), bytes(32), b""),
        Packet(b"s", b"k", bytes(31), bytes(32), bytes(32)),
        Packet(b"s" * 4097, b"k", bytes(32), bytes(32), bytes(32)),
    ],
)
def test_packets_that_are_none(packet: Packet) -> None:
    """Half of one's own, a commitment of another length, a ciphertext that is too long."""
    with pytest.raises(MessageError) as caught:
        Packet.decode(packet.encode())
    assert caught.value.reason == "malformed"


@pytest.mark.parametrize("indices", [b"", b"\0", b"\x21", b"\x02\x01", b"\x01\x01", bytes(range(1, 34))])
def test_indices_are_ascending_and_in_range(indices: bytes) -> None:
    """Nobody, nought, 33, out of order, twice, too many."""
    message = replace(example(Kind.UPLOADED), body=(indices,))
    with pytest.raises(MessageError) as caught:
        Survivors.decode(message)
    assert caught.value.reason == "malformed"


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (Kind.ADVERTISE, (bytes(31), bytes(8), b"suite", b"k", b"k")),
        (Kind.ADVERTISE, (bytes(32), bytes(7), b"suite", b"k", b"k")),
        (Kind.ADVERTISE, (bytes(32), bytes(8), b"", b"k", b"k")),
        (Kind.ADVERTISE, (bytes(32), bytes(8), b"suit\xe9", b"k", b"k")),
        (Kind.ADVERTISE, (bytes(32), bytes(8), b"suite", b"", b"k")),
        (Kind.ADVERTISE, (bytes(32), bytes(8), b"suite", b"k", b"k" * 4097)),
        (Kind.SHARE, (bytes(31), length_prefixed(b"\x01" + bytes(32)))),
        (Kind.SHARE, (bytes(32), b"")),
        (Kind.SHARE, (bytes(32), length_prefixed(b"\x01" + bytes(31)))),
        (Kind.SHARE, (bytes(32), length_prefixed(b"\x02" + bytes(32), b"\x01" + bytes(32)))),
        (Kind.SHARE, (bytes(32), length_prefixed(*(bytes([at]) + bytes(32) for at in range(1, 34))))),
        (Kind.SHARED, (bytes(32), length_prefixed(*[b""] * 33))),
        (Kind.UNMASK, (b"\x01", length_prefixed(bytes(49)))),
        (Kind.UNMASK, (b"\x01", length_prefixed(b"\x01\x03" + bytes(48)))),
        (Kind.UNMASK, (b"\x01", length_prefixed(*[b"\x01\x01" + bytes(48)] * 2))),
        (Kind.UNMASK, (b"\x01", length_prefixed(b"\x01\x01" + bytes(48), b"\x01\x02" + bytes(48)))),
    ],
)
def test_bodies_that_are_none(kind: Kind, body: tuple[bytes, ...]) -> None:
    """Lengths, counts and order; the last one would be both kinds of share for one site."""
    decode = {Kind.ADVERTISE: Advertise, Kind.SHARE: Share, Kind.SHARED: Shared, Kind.UNMASK: Unmask}[kind].decode
    with pytest.raises(MessageError) as caught:
        decode(replace(example(kind), body=body))
    assert caught.value.reason == "malformed"


@pytest.mark.parametrize("kind", Kind)
def test_every_kind_has_its_cap(kind: Kind) -> None:
    """One byte more than the kind's cap is refused, before its parts are looked at."""
    message = example(kind)
    body = (*message.body[:-1], bytes(kind.max_bytes))
    signed = length_prefixed(
        b"pqfl-secagg/v1", kind.word.encode(), b"fed", bytes(8), PARAMETERS.transcript, ONE.encode(), *body
    )
    with pytest.raises(MessageError) as caught:
        parse_message(length_prefixed(signed, message.signature, b""))
    assert caught.value.reason == "too_large"


@pytest.mark.parametrize("kind", Kind)
def test_messages_that_are_none(kind: Kind) -> None:
    """Cut, longer, another tag, another word, one item less, an attachment where there is none, no signature."""
    message = example(kind)
    raw, signed = message.raw, message.signed
    word = kind.word.encode()
    wrong = [
        b"", raw[:-1], raw + b"\0\0\0\0", length_prefixed(signed.replace(b"/v1", b"/v2", 1), message.signature, b""),
        length_prefixed(signed.replace(word, word[:-1] + b"?"), message.signature, b""),
        length_prefixed(signed[:-5], message.signature, b""), length_prefixed(signed, b"", b""),
        length_prefixed(signed, bytes(9000), b""),
    ]  # fmt: skip
    if kind not in {Kind.SHARE, Kind.SHARED}:
        wrong.append(length_prefixed(signed, message.signature, b"a"))
    for data in wrong:
        with pytest.raises(MessageError) as caught:
            parse_message(data)
        assert caught.value.reason == "malformed"


@pytest.mark.parametrize("kind", Kind)
def test_a_signature_is_for_one_kind_only(kind: Kind) -> None:
    """The same bytes signed in the context of any other kind do not verify."""
    message = example(kind)
    verify_message(message, PARAMETERS, kind, PARAMETERS.transcript)
    for context in Context:
        if context is not kind.context:
            forged = replace(message, signature=signing_key(message.sender).sign(message.signed, context))
            with pytest.raises(MessageError) as caught:
                verify_message(forged, PARAMETERS, kind, PARAMETERS.transcript)
            assert caught.value.reason == "bad_signature"


@pytest.mark.parametrize("kind", Kind)
def test_who_may_send_what(kind: Kind) -> None:
    """Sites do not speak for the server, nor it for them, and strangers for nobody."""
    right, wrong = (ONE, HUB) if kind in OF_SITES else (HUB, ONE)
    for sender in (wrong, "spiffe://fed/site/stranger"):
        message = sign_message(
            PARAMETERS, kind, PARAMETERS.transcript, (sender, signing_key(sender)), (b"x",) * kind.items
        )  # fmt: skip
        with pytest.raises(MessageError) as caught:
            verify_message(message, PARAMETERS, kind, PARAMETERS.transcript)
        assert caught.value.reason == "unknown_sender"
        stolen = sign_message(
            PARAMETERS, kind, PARAMETERS.transcript, (right, signing_key(sender)), (b"x",) * kind.items
        )  # fmt: skip
        with pytest.raises(MessageError) as caught:
            verify_message(stolen, PARAMETERS, kind, PARAMETERS.transcript)
        assert caught.value.reason == "bad_signature"


def test_what_is_of_another_round() -> None:
    """Another number, another federation, another transcript, another kind."""
    message = example(Kind.CONSISTENCY)
    for changed in (replace(PARAMETERS, round=8), replace(PARAMETERS, federation="other")):
        with pytest.raises(MessageError) as caught:
            verify_message(message, changed, Kind.CONSISTENCY, PARAMETERS.transcript)
        assert caught.value.reason == "wrong_round"
    with pytest.raises(MessageError) as caught:
        verify_message(message, PARAMETERS, Kind.CONSISTENCY, bytes(32))
    assert caught.value.reason == "wrong_transcript"
    with pytest.raises(MessageError) as caught:
        verify_message(message, PARAMETERS, Kind.UNMASK, PARAMETERS.transcript)
    assert caught.value.reason == "wrong_kind"


def test_no_secret_is_in_a_representation() -> None:
    """Messages end up in logs."""
    share = ReleasedShare(1, Secret.MASTER, b"secret share" * 2, b"secret salt")
    assert "secret share" not in repr(Unmask((1,), (share,)))
    assert "secret salt" not in repr(share)


def test_lists_are_capped() -> None:
    """33 parts are more sites than there can be."""
    message = example(Kind.ADVERTISED)
    assert split_many(message, length_prefixed(*[b"a"] * 32)) == (b"a",) * 32
    with pytest.raises(MessageError) as caught:
        split_many(message, length_prefixed(*[b"a"] * 33))
    assert caught.value.reason == "malformed"
