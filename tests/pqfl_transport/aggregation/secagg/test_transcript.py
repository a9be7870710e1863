"""What is concluded from everybody's messages: indices, T and T2, in one way only."""

from dataclasses import replace

import pytest

from pqfl_transport.aggregation.secagg.messages import Kind, Message, Packet, Shared, parse_message, split_many
from pqfl_transport.aggregation.secagg.parameters import full_graph
from pqfl_transport.aggregation.secagg.transcript import (
    Members,
    members_of,
    open_packet,
    open_share,
    open_statement,
    parse_all,
    present,
    upload_challenge,
    uploaders_of,
)
from pqfl_transport.errors import MessageError, PqflError, RoundError
from tests.support.secagg import Network, make_parameters, signing_key, site_name

NET = Network(5)
NET.run()


def sent_by_sites(kind: Kind) -> list[Message]:
    """Return everybody's message of a kind, in roster order."""
    found = [message for message in map(parse_message, NET.seen) if message.kind is kind]
    return sorted(found, key=lambda message: message.sender)


def members(count: int = 5) -> Members:
    """Return the members of the round, or of one that fewer advertised for."""
    return members_of(sent_by_sites(Kind.ADVERTISE)[:count], NET.parameters, full_graph)


def reason_of(call: object, *arguments: object) -> str:
    """Return why a call is refused."""
    with pytest.raises(PqflError) as caught:
        call(*arguments)  # type: ignore[operator]
    return caught.value.reason


def test_indices_are_places_in_roster_order() -> None:
    """From 1, and nothing outside them has a name."""
    found = members()
    assert [found.index(site_name(at)) for at in range(1, 6)] == [1, 2, 3, 4, 5]
    assert [found.name(at) for at in range(1, 6)] == list(found.sites)
    for index in (0, 6, -1):
        assert reason_of(found.name, index) == "not_advertised"
    assert reason_of(found.index, "spiffe://fed/site/x") == "not_advertised"
    assert found.holders(2) == {1, 2, 3, 4, 5}
    assert found.near(2) == {1, 3, 4, 5}


def test_t_depends_on_who_advertised_what() -> None:
    """Whoever is missing, and any other key, makes another T; another signature of the same does not."""
    messages = sent_by_sites(Kind.ADVERTISE)
    first = messages[0]
    hedged = replace(first, signature=signing_key(first.sender).sign(first.signed, Kind.ADVERTISE.context))
    assert members_of([hedged, *messages[1:]], NET.parameters, full_graph).transcript == members().transcript
    assert members(4).transcript != members().transcript
    assert members().transcript != NET.parameters.transcript


def test_t2_depends_on_u1() -> None:
    """The same for site and server, with or without the packets; another U1 has another."""
    shares, found = sent_by_sites(Kind.SHARE), members()
    whole = uploaders_of(shares, found)
    published = next(parse_message(data) for _, data in NET.sent if parse_message(data).kind is Kind.SHARED)
    assert Shared.decode(published).transcript == whole.transcript
    assert uploaders_of(parse_all([one.statement for one in shares]), found).transcript == whole.transcript
    assert uploaders_of(shares[:4], found).transcript != whole.transcript
    assert whole.indices == (1, 2, 3, 4, 5)


def test_shares_that_make_no_u1() -> None:
    """Too few, twice, in another order, of another round."""
    shares, found = sent_by_sites(Kind.SHARE), members()
    assert reason_of(uploaders_of, shares[:3], found) == "too_few_shares"
    assert reason_of(uploaders_of, [*shares, shares[4]], found) == "duplicate"
    assert reason_of(uploaders_of, shares[::-1], found) == "bad_order"
    assert reason_of(uploaders_of, shares, members(4)) == "not_advertised"
    assert reason_of(uploaders_of, shares[:4], members(4)) == "wrong_transcript"
    assert reason_of(open_statement, sent_by_sites(Kind.ADVERTISE)[0], found) == "wrong_kind"


def test_a_share_and_its_packets() -> None:
    """One for each holder; one's own seals nothing, and the others' do."""
    message, found = sent_by_sites(Kind.SHARE)[0], members()
    share, packets = open_share(message, found)
    assert list(packets) == [1, 2, 3, 4, 5]
    own = open_packet(packets[1], share, found.link(1, 1))
    assert (own.sealed_key, own.sealed_shares) == (b"", b"")
    assert open_packet(packets[2], share, found.link(1, 2)).sealed_key
    assert reason_of(open_packet, packets[2], share, found.link(1, 3)) == "bad_packet"
    assert reason_of(open_packet, packets[2], replace(share, packet_hashes=()), found.link(1, 2)) == "bad_packet"
    for holder, packet in ((2, own), (1, Packet.decode(packets[2]))):
        link = found.link(1, holder)
        vouched = replace(share, packet_hashes=((holder, link.packet_hash(packet.encode())),))
        assert reason_of(open_packet, packet.encode(), vouched, link) == "bad_packet"
    assert len(split_many(message, message.attachment)) == 5


def test_the_challenge_is_that_of_t2() -> None:
    """32 bytes at every level, because that is what an envelope's header has room for."""
    parameters = make_parameters(3, suite="pqfl/v1/mlkem1024-mldsa87")
    one, two = (upload_challenge(parameters, bytes([at]) * 48) for at in (1, 2))
    assert one != two
    assert len(one) == len(two) == 32


def test_steps_have_an_order() -> None:
    """What is not there yet is an error and no ``None``."""
    assert present(b"") == b""
    with pytest.raises(RoundError) as caught:
        present(None)
    assert caught.value.reason == "out_of_order"


@pytest.mark.parametrize("data", [b"", b"\0", b"\xff" * 9])
def test_what_is_no_message(data: bytes) -> None:
    """One bad item spoils the list."""
    with pytest.raises(MessageError) as caught:
        parse_all([sent_by_sites(Kind.SHARE)[0].raw, data])
    assert caught.value.reason == "malformed"
