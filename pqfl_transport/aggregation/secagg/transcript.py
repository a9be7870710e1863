"""What both ends conclude from the messages of all sites: who takes part, ``T`` and ``T2``, who is whose neighbour.

Sites and server judge the same messages by the same functions, so an honest server refuses from a site exactly what
every honest site would refuse to see published.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeVar

from pqfl_transport.aggregation.secagg.keys import Link, public_keys
from pqfl_transport.aggregation.secagg.messages import (
    Advertise,
    Kind,
    Message,
    Packet,
    Share,
    parse_message,
    split_many,
    verify_message,
)
from pqfl_transport.aggregation.secagg.parameters import MAX_SITES, Neighbours, RoundParameters
from pqfl_transport.crypto.contexts import Label
from pqfl_transport.errors import ConfigurationError, MessageError, RoundError

Value = TypeVar("Value")

LEAST_SURVIVORS = 3
_CHALLENGE_BYTES = 32


@dataclass(frozen=True)
class Members:
    """The sites that advertised: the round's ``n``. A site's index is its place among them, 1 to n."""

    parameters: RoundParameters
    advertised: Mapping[str, Advertise]
    """In roster order."""
    transcript: bytes
    """``T``."""
    neighbours: Neighbours

    @cached_property
    def sites(self) -> tuple[str, ...]:
        """SPIFFE IDs by index, less one."""
        return tuple(self.advertised)

    @property
    def threshold(self) -> int:
        """``t`` of the round."""
        return self.parameters.threshold_for(len(self.sites))

    def index(self, site: str) -> int:
        """Return a site's index. Raises ``RoundError`` (``not_advertised``)."""
        try:
            return self.sites.index(site) + 1
        except ValueError:
            raise RoundError(f"{site} did not advertise keys in this round", reason="not_advertised") from None

    def name(self, index: int) -> str:
        """Return the site of an index. Raises ``RoundError`` (``not_advertised``)."""
        if not 1 <= index <= len(self.sites):
            raise RoundError(f"there is no site {index} in this round", reason="not_advertised")
        return self.sites[index - 1]

    def near(self, index: int) -> frozenset[int]:
        """Return the indices of a site's neighbours."""
        return self.neighbours(index, len(self.sites))

    def holders(self, index: int) -> frozenset[int]:
        """Return who holds shares of a site's secrets: its neighbours and itself."""
        return self.near(index) | {index}

    def link(self, dealer: int, holder: int) -> Link:
        """Return the direction from one site to another."""
        return Link(self.parameters, self.transcript, dealer, holder)

    def require_survivors(self, survivors: Sequence[int], uploaders: Sequence[int]) -> None:
        """Raise ``RoundError`` unless these can be U2 of this U1: ``bad_survivors``, ``too_few_survivors``."""
        if not set(survivors) <= set(uploaders):
            raise RoundError("sites are said to have uploaded whose shares never arrived", reason="bad_survivors")
        needed = max(self.threshold, LEAST_SURVIVORS)
        if len(survivors) < needed:
            raise RoundError(
                f"{len(survivors)} sites uploaded, and {needed} have to: fewer would learn too much of each other",
                reason="too_few_survivors",
            )


@dataclass(frozen=True)
class Shares:
    """``U1``: the sites whose Share arrived, with what they committed to, by index, and ``T2``."""

    statements: Mapping[int, Message]
    shares: Mapping[int, Share]
    transcript: bytes
    """``T2``."""

    @property
    def indices(self) -> tuple[int, ...]:
        """The indices of U1, ascending."""
        return tuple(self.shares)


def open_advertise(message: Message, parameters: RoundParameters) -> Advertise:
    """Verify a site's Advertise.

    Raises ``MessageError``: what `verify_message` raises, ``malformed``, ``bad_key``, and for an authentic message of a
    site that sees another round than we do ``wrong_model``, ``wrong_roster``, ``wrong_suite``, ``wrong_transcript``.
    """
    verify_message(message, parameters, Kind.ADVERTISE, message.transcript)
    found = Advertise.decode(message)
    for what, reason, theirs, ours in (
        ("base model", "wrong_model", found.model_digest, parameters.model_digest),
        ("roster", "wrong_roster", found.roster_number, parameters.roster_number),
        ("suite", "wrong_suite", found.suite, parameters.suite.id),
        ("parameters", "wrong_transcript", message.transcript, parameters.transcript),
    ):
        if theirs != ours:
            raise MessageError(f"{message.sender} sees another {what} in this round than we do", reason=reason)
    try:
        public_keys(parameters, found)
    except MessageError as error:
        raise MessageError(f"advertise of {message.sender}: {error}", reason=error.reason) from None
    return found


def members_of(messages: Sequence[Message], parameters: RoundParameters, neighbours: Neighbours) -> Members:
    """Return the members of a round from everybody's Advertise.

    Raises what `open_advertise` raises; ``MessageError``: ``duplicate`` for a site or a key that is there twice,
    ``bad_order`` outside roster order; ``RoundError``: ``too_few_sites``, ``threshold``, ``too_many_sites``.
    """
    advertised = {message.sender: open_advertise(message, parameters) for message in messages}
    keys = [raw for one in advertised.values() for raw in (one.transport_key, one.mask_key)]
    if len(advertised) != len(messages) or len(set(keys)) != len(keys):
        raise MessageError("a site or a key is advertised twice", reason="duplicate")
    if list(advertised) != [site for site in parameters.sites if site in advertised]:
        raise MessageError("the sites are not in roster order", reason="bad_order")
    if len(advertised) > MAX_SITES:
        raise RoundError(f"{len(advertised)} sites; {MAX_SITES} are the most", reason="too_many_sites")
    transcript = parameters.digest(Label.SECAGG_TRANSCRIPT, parameters.transcript, *(one.signed for one in messages))
    members = Members(parameters, advertised, transcript, neighbours)
    try:
        parameters.threshold_for(len(advertised))
    except ConfigurationError as error:
        raise RoundError(str(error), reason=error.reason) from None
    return members


def open_statement(message: Message, members: Members) -> Share:
    """Verify the signed part of a Share.

    Raises ``MessageError``: what `verify_message` raises, ``malformed``, ``bad_holders`` where it has not one packet
    for each neighbour and for itself; ``RoundError`` (``not_advertised``).
    """
    verify_message(message, members.parameters, Kind.SHARE, members.transcript)
    index, share = members.index(message.sender), Share.decode(message)
    if {holder for holder, _ in share.packet_hashes} != members.holders(index):
        raise MessageError(f"share of {message.sender}: not one packet for each neighbour", reason="bad_holders")
    return share


def open_packet(data: bytes, share: Share, link: Link) -> Packet:
    """Return a packet that the dealer's Share vouches for. Raises ``MessageError``: ``bad_packet``, ``malformed``."""
    if link.packet_hash(data) != dict(share.packet_hashes).get(link.holder):
        raise MessageError("the packet is not the one that the dealer signed", reason="bad_packet")
    packet = Packet.decode(data)
    if bool(packet.sealed_key) == (link.dealer == link.holder):
        raise MessageError("only a site's own packet seals nothing", reason="bad_packet")
    return packet


def open_share(message: Message, members: Members) -> tuple[Share, dict[int, bytes]]:
    """Verify a whole Share; return it and its packets by holder. Raises as `open_statement` and `open_packet` do."""
    share = open_statement(message, members)
    packets = split_many(message, message.attachment)
    if len(packets) != len(share.packet_hashes):
        raise MessageError(f"share of {message.sender}: {len(packets)} packets", reason="bad_packet")
    found = {holder: data for (holder, _), data in zip(share.packet_hashes, packets, strict=True)}
    dealer = members.index(message.sender)
    for holder, data in found.items():
        try:
            open_packet(data, share, members.link(dealer, holder))
        except MessageError as error:
            raise MessageError(f"share of {message.sender}: {error}", reason=error.reason) from None
    return share, found


def uploaders_of(messages: Sequence[Message], members: Members) -> Shares:
    """Return U1 and ``T2`` from the statements of everybody whose Share arrived.

    Raises what `open_statement` raises; ``MessageError``: ``duplicate``, ``bad_order``; ``RoundError``
    (``too_few_shares``) where there are fewer than the threshold.
    """
    # The attachment is not signed: two readers have to see the same message whatever came with it.
    statements = {members.index(one.sender): replace(one, attachment=b"") for one in messages}
    shares = {index: open_statement(message, members) for index, message in statements.items()}
    if len(shares) != len(messages):
        raise MessageError("the Share of a site is there twice", reason="duplicate")
    if list(shares) != sorted(shares):
        raise MessageError("the Shares are not in roster order", reason="bad_order")
    if len(shares) < members.threshold:
        raise RoundError(
            f"{len(shares)} sites shared their secrets, and {members.threshold} have to", reason="too_few_shares"
        )
    signed = (message.signed for message in statements.values())
    transcript = members.parameters.digest(Label.SECAGG_UPLOADERS, members.transcript, *signed)
    return Shares(statements, shares, transcript)


def parse_all(items: Sequence[bytes]) -> list[Message]:
    """Take several messages apart. Raises ``MessageError`` (``malformed``, ``too_large``)."""
    return [parse_message(item) for item in items]


def upload_challenge(parameters: RoundParameters, uploaders: bytes) -> bytes:
    """Return the 32 bytes that bind an envelope to ``T2``: the challenge in the header of the masked update."""
    return parameters.digest(Label.SECAGG_CHALLENGE, uploaders)[:_CHALLENGE_BYTES]


def present(value: Value | None) -> Value:
    """Return what a step of the round left. Raises ``RoundError`` (``out_of_order``) before that step."""
    if value is None:
        raise RoundError("a step of the round came before its time", reason="out_of_order")
    return value
