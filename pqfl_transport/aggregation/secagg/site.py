"""A site's side of one round of secure aggregation, without I/O (SECAGG.md §4): bytes and ``now`` in, events out.

Theory of operation. The server is not trusted. What is not signed by it, or is of another round, is refused and changes
nothing. What it signed and must not have signed ends the round for this site: the secrets are dropped, and every
later call raises. Each publication is accepted once; the same one again has the same answer, another one of the same
kind is a proof of equivocation and ends the round.

    state       takes                  does                                          next
    ADVERTISED  ADVERTISED             verifies everybody's keys, seals shares       SHARED
    SHARED      SHARED (U1)            opens its packets, masks its vector           MASKED
    MASKED      the caller: `sent`     notes that the masked update left             WAITING
    WAITING     UPLOADED (U2)          signs (T2, U2)                                SIGNED
    SIGNED      AGREED                 counts signatures, asks to burn the model     BURNING
    BURNING     the caller: `burnt`    releases one share of each member of U1       RELEASED
    any         a violation, the end   drops its secrets                             STOPPED
"""

import secrets
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum

from pqfl_transport.aggregation.secagg.keys import (
    MaskKey,
    Random,
    Salted,
    SiteSecrets,
    commit_seed,
    pair_key,
    public_keys,
    sign_of,
)
from pqfl_transport.aggregation.secagg.messages import (
    Advertise,
    Kind,
    Message,
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
from pqfl_transport.aggregation.secagg.parameters import Neighbours, RoundParameters, full_graph
from pqfl_transport.aggregation.secagg.transcript import (
    Members,
    Shares,
    members_of,
    open_packet,
    parse_all,
    present,
    upload_challenge,
    uploaders_of,
)
from pqfl_transport.crypto.contexts import length_prefixed
from pqfl_transport.crypto.pyca import SigningKey
from pqfl_transport.errors import ConfigurationError, MessageError, PqflError, RoundError


class SiteState(Enum):
    """Where a site is in a round."""

    ADVERTISED = "advertised"
    SHARED = "shared"
    MASKED = "masked"
    WAITING = "waiting"
    SIGNED = "signed"
    BURNING = "burning"
    RELEASED = "released"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class Send:
    """Bytes for the server."""

    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Upload:
    """The vector is masked: seal it into an envelope with this challenge, send it, then call `SecAggSite.sent`."""

    challenge: bytes
    """32 bytes; it binds the envelope to ``T2``."""


@dataclass(frozen=True, slots=True)
class Burn:
    """Remember, durably, that nothing may ever be submitted again for this model, then call `SecAggSite.burnt`.

    Where ``model_digest`` is remembered already, for whatever round, `burnt` must not be called: it was another copy
    of this site that released shares, such as one before a restored snapshot.
    """

    model_digest: bytes
    round: int
    uploaders: bytes
    """``T2``."""
    survivors: tuple[int, ...]


Event = Send | Upload | Burn
Mask = Callable[[Sequence[MaskKey], bytes], None]
"""Masks the site's vector with the keys it shares with neighbours, and with its own seed."""


@dataclass(frozen=True, slots=True)
class SiteIdentity:
    """Who a site is, and what it may not do any more."""

    id: str
    """SPIFFE ID."""
    signing_key: SigningKey = field(repr=False)
    burnt: Container[bytes] = ()
    """Digests of models for which it once released a share."""


class SecAggSite:
    """One site in one round. Its Advertise is `advertise`; what comes of everything else are events.

    Making one raises ``RoundError`` (``burnt_model``) where the site has ever released a share for the base model,
    ``ConfigurationError`` (``not_a_member``) where the roster has not this site with this signing key.
    """

    def __init__(
        self,
        parameters: RoundParameters,
        identity: SiteIdentity,
        mask: Mask,
        *,
        deadline: float,
        neighbours: Neighbours = full_graph,
        random: Random = secrets.token_bytes,
    ) -> None:
        if parameters.sites.get(identity.id) != identity.signing_key.verifying_key:
            raise ConfigurationError(
                f"roster {parameters.roster_number} lists no site {identity.id} with this key", reason="not_a_member"
            )
        _require_unburnt(parameters, identity)
        self._parameters, self._identity, self._mask = parameters, identity, mask
        self._deadline, self._neighbours, self._random = deadline, neighbours, random
        self.state = SiteState.ADVERTISED
        self._answers: dict[Kind, tuple[bytes, tuple[Event, ...]]] = {}
        self._held: dict[int, dict[Secret, Salted]] = {}
        self._secrets: SiteSecrets | None = SiteSecrets(parameters, identity.id, random)
        self._members: Members | None = None
        self._uploaders: Shares | None = None
        self._survivors: tuple[int, ...] = ()
        self._share = b""
        self._unmask: Send | None = None
        self._advertise = self._sign(Kind.ADVERTISE, parameters.transcript, self._own_advertise(self._secrets))

    @property
    def advertise(self) -> bytes:
        """The site's Advertise, always the same bytes."""
        return self._advertise.raw

    def receive(self, data: bytes, now: float) -> tuple[Event, ...]:
        """Take a publication of the server; return what is to be done. ``now`` is in Unix seconds.

        Raises ``MessageError`` for what the server did not sign for this round, with nothing changed: what
        `parse_message` and `verify_message` raise; ``RoundError``: ``out_of_order`` for what comes before its time,
        likewise. Anything else that is raised ends the round for this site: ``RoundError``: ``expired``, ``stopped``,
        ``equivocation``, ``left_out``, ``missing_packet``, ``too_few_shares``, ``bad_survivors``,
        ``too_few_survivors``, ``too_few_signatures``; and what `transcript` and `keys` raise about a member's message,
        naming it. An error of ``mask`` ends it as well and is passed on.
        """
        self._require_running(now)
        message = parse_message(data)
        row = _ROWS.get(message.kind)
        if row is None:
            raise MessageError(f"{message.kind.word} is nothing that a server sends", reason="wrong_kind")
        verify_message(message, self._parameters, message.kind, message.transcript)
        if message.kind in self._answers:
            return self._again(message)
        if self.state is not row[0]:
            raise RoundError(f"{message.kind.word} while {self.state.value}", reason="out_of_order")
        try:
            events = row[1](self, message)
        except BaseException:
            self.stop()
            raise
        self._answers[message.kind] = (message.signed, events)
        return events

    def sent(self, now: float) -> None:
        """Note that the masked update was sent. Raises ``RoundError``: ``out_of_order``, ``expired``, ``stopped``."""
        self._require_running(now)
        self._require_state(SiteState.MASKED)
        self.state = SiteState.WAITING

    def burnt(self, now: float) -> tuple[Event, ...]:
        """Release the shares, now that the model is remembered as burnt; again, the same bytes.

        Raises ``RoundError``: ``out_of_order``, ``expired``, ``stopped``.
        """
        self._require_running(now)
        if self._unmask is None:
            self._require_state(SiteState.BURNING)
            self._unmask = Send(self._released())
            self._answers[Kind.AGREED] = (self._answers[Kind.AGREED][0], (self._unmask,))
            self._held.clear()
            self.state = SiteState.RELEASED
        return (self._unmask,)

    def stop(self) -> None:
        """End the round for this site and drop its secrets."""
        self.state = SiteState.STOPPED
        self._secrets = self._unmask = None
        self._held.clear()
        self._answers.clear()

    def __reduce_ex__(self, protocol: object) -> str:
        """Refuse to be pickled or copied: a second copy could sign a second U2."""
        raise TypeError("a site's round stays in the memory where it began; after a restart the site has dropped out")

    def _advertised(self, message: Message) -> tuple[Event, ...]:
        self._require_transcript(message, self._parameters.transcript)
        messages = parse_all(split_many(message, message.body[0]))
        members = members_of(messages, self._parameters, self._neighbours)
        if self._advertise.signed not in {one.signed for one in messages}:
            raise RoundError("the server goes on without this site, or with other keys of it", reason="left_out")
        self._members = members
        self._share = self._make_share(members, self._kept())
        self.state = SiteState.SHARED
        return (Send(self._share),)

    def _shared(self, message: Message) -> tuple[Event, ...]:
        members, kept = self._met(), self._kept()
        self._require_transcript(message, members.transcript)
        shared = Shared.decode(message)
        uploaders = uploaders_of(parse_all(shared.statements), members)
        me = members.index(self._identity.id)
        own = uploaders.statements.get(me)
        if own is None or own.signed != parse_message(self._share).signed:
            raise RoundError("the server goes on without this site's Share, or with another", reason="left_out")
        if uploaders.transcript != shared.transcript:
            raise RoundError("the server's T2 is not that of the Shares it shows", reason="wrong_transcript")
        near = [index for index in uploaders.indices if index in members.near(me)]
        packets = split_many(message, message.attachment)
        if len(packets) != len(near):
            raise RoundError(f"{len(packets)} packets of {len(near)} neighbours", reason="missing_packet")
        halves = {dealer: self._open(uploaders, dealer, data) for dealer, data in zip(near, packets, strict=True)}
        self._uploaders = uploaders
        self._put_mask(halves, kept)
        self.state = SiteState.MASKED
        return (Upload(upload_challenge(self._parameters, uploaders.transcript)),)

    def _uploaded(self, message: Message) -> tuple[Event, ...]:
        members, uploaders = self._met(), self._known()
        self._require_transcript(message, uploaders.transcript)
        survivors = Survivors.decode(message).indices
        members.require_survivors(survivors, uploaders.indices)
        if members.index(self._identity.id) not in survivors:
            raise RoundError("the server says that this site's update did not arrive in time", reason="left_out")
        self._survivors = survivors
        self.state = SiteState.SIGNED
        return (Send(self._sign(Kind.CONSISTENCY, uploaders.transcript, Survivors(survivors).encode()).raw),)

    def _agreed(self, message: Message) -> tuple[Event, ...]:
        members, uploaders = self._met(), self._known()
        self._require_transcript(message, uploaders.transcript)
        if Survivors.decode(message).indices != self._survivors:
            raise RoundError("the server goes on with another U2 than this site signed", reason="equivocation")
        signers = set()
        for one in parse_all(split_many(message, message.body[1])):
            verify_message(one, self._parameters, Kind.CONSISTENCY, uploaders.transcript)
            if Survivors.decode(one).indices != self._survivors:
                raise RoundError(f"{one.sender} signed another U2 than this site", reason="equivocation")
            signers.add(members.index(one.sender))
        needed = members.threshold
        if len(signers & set(self._survivors)) < needed:
            raise RoundError(f"{len(signers)} sites signed U2, and {needed} have to", reason="too_few_signatures")
        _require_unburnt(self._parameters, self._identity)
        self.state = SiteState.BURNING
        digest = self._parameters.model_digest
        return (Burn(digest, self._parameters.round, uploaders.transcript, self._survivors),)

    def _make_share(self, members: Members, kept: SiteSecrets) -> bytes:
        me = members.index(self._identity.id)
        holders = members.holders(me)
        threshold = self._parameters.threshold_for(len(holders))
        dealt = kept.deal(threshold, holders, self._random)
        packets: dict[int, bytes] = {}
        for holder, halves in dealt.items():
            link = members.link(me, holder)
            if holder == me:
                packets[holder] = link.own(halves).encode()
                continue
            name = members.name(holder)
            to = public_keys(self._parameters, members.advertised[name])
            try:
                packets[holder] = link.seal(to, halves, link.directed_key(kept.master)).encode()
            except ConfigurationError as error:
                raise MessageError(f"the keys of {name}: {error}", reason=error.reason) from None
        self._held[me] = dealt[me]
        hashes = tuple((holder, members.link(me, holder).packet_hash(data)) for holder, data in packets.items())
        share = Share(commit_seed(self._parameters, members.transcript, me, kept.self_seed), hashes)
        statement = self._sign(Kind.SHARE, members.transcript, share.encode())
        return replace(statement, attachment=length_prefixed(*packets.values())).raw

    def _open(self, uploaders: Shares, dealer: int, data: bytes) -> bytes:
        """Keep a dealer's shares; return its half of the pair key."""
        members, kept = self._met(), self._kept()
        link = members.link(dealer, members.index(self._identity.id))
        try:
            packet = open_packet(data, uploaders.shares[dealer], link)
            self._held[dealer] = link.open_shares(packet, kept.transport_pair)
            return link.open_key(packet, kept.mask_pair)
        except PqflError as error:
            raise MessageError(f"the packet of {members.name(dealer)}: {error}", reason=error.reason) from None

    def _put_mask(self, halves: dict[int, bytes], kept: SiteSecrets) -> None:
        members, uploaders = self._met(), self._known()
        me = members.index(self._identity.id)
        keys = [
            MaskKey(
                members.name(other),
                pair_key(
                    uploaders.transcript, {other: half, me: members.link(me, other).directed_key(kept.master)}
                ),
                sign_of(me, other),
            )
            for other, half in halves.items()
        ]  # fmt: skip
        self._mask(keys, kept.self_seed)
        # From here on only the shares of others and of itself are needed.
        self._secrets = None

    def _released(self) -> bytes:
        uploaders = self._known()
        # What is held are shares of U1 alone, and of each site one of the two is picked: never both.
        picked = {owner: _secret_of(owner, self._survivors) for owner in sorted(self._held)}
        shares = tuple(
            ReleasedShare(owner, secret, self._held[owner][secret].share, self._held[owner][secret].salt)
            for owner, secret in picked.items()
        )
        return self._sign(Kind.UNMASK, uploaders.transcript, Unmask(self._survivors, shares).encode()).raw

    def _own_advertise(self, kept: SiteSecrets) -> tuple[bytes, ...]:
        parameters = self._parameters
        return Advertise(
            parameters.model_digest, parameters.roster_number, parameters.suite.id,
            kept.transport_pair.public.raw, kept.mask_pair.public.raw,
        ).encode()  # fmt: skip

    def _sign(self, kind: Kind, transcript: bytes, body: Sequence[bytes]) -> Message:
        return sign_message(self._parameters, kind, transcript, (self._identity.id, self._identity.signing_key), body)

    def _again(self, message: Message) -> tuple[Event, ...]:
        signed, events = self._answers[message.kind]
        if message.signed != signed:
            self.stop()
            raise RoundError(
                f"the server signed two different messages {message.kind.word!r} in one round", reason="equivocation"
            )
        return events

    def _require_running(self, now: float) -> None:
        if self.state is SiteState.STOPPED:
            raise RoundError(f"round {self._parameters.round} is over for this site", reason="stopped")
        if now > self._deadline:
            self.stop()
            raise RoundError(f"round {self._parameters.round} is past its end", reason="expired")

    def _require_state(self, state: SiteState) -> None:
        if self.state is not state:
            raise RoundError(f"not while {self.state.value}", reason="out_of_order")

    def _require_transcript(self, message: Message, transcript: bytes) -> None:
        if message.transcript != transcript:
            raise RoundError(f"{message.kind.word}: the server signed another transcript", reason="wrong_transcript")

    def _kept(self) -> SiteSecrets:
        return present(self._secrets)

    def _met(self) -> Members:
        return present(self._members)

    def _known(self) -> Shares:
        return present(self._uploaders)


# ruff: noqa: SLF001 -- the table of states below belongs to the class
_ROWS: dict[Kind, tuple[SiteState, Callable[[SecAggSite, Message], tuple[Event, ...]]]] = {
    Kind.ADVERTISED: (SiteState.ADVERTISED, SecAggSite._advertised),
    Kind.SHARED: (SiteState.SHARED, SecAggSite._shared),
    Kind.UPLOADED: (SiteState.WAITING, SecAggSite._uploaded),
    Kind.AGREED: (SiteState.SIGNED, SecAggSite._agreed),
}


def _secret_of(owner: int, survivors: Sequence[int]) -> Secret:
    return Secret.SELF_MASK if owner in survivors else Secret.MASTER


def _require_unburnt(parameters: RoundParameters, identity: SiteIdentity) -> None:
    if parameters.model_digest in identity.burnt:
        raise RoundError(
            f"{identity.id} has released shares for base model {parameters.model_digest.hex()[:16]}…: a second sum"
            " of updates to it would show the difference; a retry has a new base model",
            reason="burnt_model",
        )
