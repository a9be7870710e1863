"""The server's side of one round of secure aggregation, without I/O (SECAGG.md §5): bytes and ``now`` in, events out.

    state        collects                 until                                   publishes   next
    ADVERTISING  Advertise                every site of the roster, or the end    ADVERTISED  SHARING
    SHARING      Share                    all who advertised, or the end          SHARED      UPLOADING
    UPLOADING    the caller: `uploaded`   all of U1, or the end                   UPLOADED    AGREEING
    AGREEING     Consistency              t of U2                                 AGREED      UNMASKING
    UNMASKING    Unmask                   t shares of every site of U1            nothing     DONE
    any                                   too few at the end of a step, a lie     nothing     FAILED

At the end of a step the round goes on with those who came, if they are enough. Each message is accepted once: the same
again has the same answer, another one is refused, one that comes after its step is late. The masks are taken away by a
callback, which also checks the sum: where it raises, the round has failed and no number leaves.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from itertools import pairwise

from pqfl_transport.aggregation.secagg.keys import public_keys
from pqfl_transport.aggregation.secagg.messages import (
    Kind,
    Message,
    Shared,
    Survivors,
    Unmask,
    parse_message,
    sign_message,
    verify_message,
)
from pqfl_transport.aggregation.secagg.parameters import Neighbours, RoundParameters, full_graph
from pqfl_transport.aggregation.secagg.recovery import LiarError, Recovered, Recovery
from pqfl_transport.aggregation.secagg.transcript import (
    Members,
    Shares,
    members_of,
    open_advertise,
    open_share,
    present,
    upload_challenge,
    uploaders_of,
)
from pqfl_transport.crypto.contexts import length_prefixed
from pqfl_transport.crypto.pyca import SigningKey
from pqfl_transport.errors import ConfigurationError, MessageError, PqflError, RoundError


class ServerState(Enum):
    """Where a round is."""

    ADVERTISING = "advertising"
    SHARING = "sharing"
    UPLOADING = "uploading"
    AGREEING = "agreeing"
    UNMASKING = "unmasking"
    DONE = "done"
    FAILED = "failed"


_COLLECTING = tuple(ServerState)[:5]


@dataclass(frozen=True, slots=True)
class Deadlines:
    """When each step ends, in Unix seconds, one after another. Raises ``ConfigurationError`` (``deadlines``)."""

    advertise: float
    share: float
    upload: float
    agree: float
    unmask: float

    def __post_init__(self) -> None:
        if any(later < earlier for earlier, later in pairwise(self.all)):
            raise ConfigurationError("the steps of a round end one after another", reason="deadlines")

    @property
    def all(self) -> tuple[float, ...]:
        """In the order of the steps."""
        return self.advertise, self.share, self.upload, self.agree, self.unmask


@dataclass(frozen=True, slots=True)
class Accepted:
    """A message was taken, now or before."""

    site: str
    kind: Kind


@dataclass(frozen=True, slots=True)
class Publish:
    """Bytes for one site."""

    site: str
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Lied:
    """A site signed what cannot be true; it counts as a dropout from here on."""

    site: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Done:
    """The masks are off, and the sum is that of these sites."""

    survivors: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Failed:
    """The round is over and no number leaves it."""

    reason: str
    message: str


Event = Accepted | Publish | Lied | Done | Failed
TakeOff = Callable[[Recovered], None]
"""Takes the masks off the sum of the survivors' vectors and checks it. Raises where the sum is none."""


class SecAggServer:
    """One round at the aggregator. Every call takes ``now`` in Unix seconds and gives what happened.

    Only `tick` ends a step that is past its end; a message that comes then is late, whether or not `tick` was called.
    Raises ``ConfigurationError`` (``wrong_key``) where the key is not the one that the roster lists.
    """

    def __init__(
        self,
        parameters: RoundParameters,
        signing_key: SigningKey,
        take_off: TakeOff,
        *,
        deadlines: Deadlines,
        neighbours: Neighbours = full_graph,
    ) -> None:
        if signing_key.verifying_key != parameters.aggregator_key:
            raise ConfigurationError(
                f"roster {parameters.roster_number} lists another key of {parameters.aggregator}", reason="wrong_key"
            )
        self._parameters, self._key, self._take_off = parameters, signing_key, take_off
        self._deadlines, self._neighbours = deadlines, neighbours
        self.state = ServerState.ADVERTISING
        self._accepted: dict[tuple[Kind, str], Message] = {}
        self._liars: set[str] = set()
        self._arrived: set[str] = set()
        self._packets: dict[int, dict[int, bytes]] = {}
        self._members: Members | None = None
        self._uploaders: Shares | None = None
        self._recovery: Recovery | None = None
        self._survivors: tuple[int, ...] = ()

    @property
    def next_deadline(self) -> float | None:
        """When `tick` has to be called next; ``None`` when the round is over."""
        if self.state not in _COLLECTING:
            return None
        return self._deadlines.all[_COLLECTING.index(self.state)]

    @property
    def challenge(self) -> bytes:
        """What envelopes of this round have to repeat, 32 bytes. Raises ``RoundError`` (``out_of_order``) before U1."""
        return upload_challenge(self._parameters, self._known().transcript)

    @property
    def survivors(self) -> tuple[str, ...]:
        """U2: SPIFFE IDs of those whose update counts; empty until it is fixed."""
        return () if self._members is None else tuple(self._members.name(index) for index in self._survivors)

    def receive(self, data: bytes, now: float) -> tuple[Event, ...]:
        """Take a site's message.

        Raises, with nothing changed, ``MessageError``: what `parse_message`, `verify_message`, `open_advertise` and
        `open_share` raise, ``different_resend``; ``RoundError``: ``late``, ``out_of_order``, ``liar``,
        ``not_advertised``, ``not_a_survivor``. A lie that the signature proves is an event, and not raised.
        """
        message = parse_message(data)
        row = _ROWS.get(message.kind)
        if row is None:
            raise MessageError(f"{message.kind.word} is nothing that a site sends", reason="wrong_kind")
        before = self._accepted.get((message.kind, message.sender))
        if before is not None:
            return self._again(before, message)
        self._require_open(message, row[0], now)
        try:
            row[1](self, message)
        except LiarError as error:
            self._liars.add(error.site)
            return (Lied(error.site, error.reason, str(error)), *self._advance(now))
        self._accepted[message.kind, message.sender] = message
        return (Accepted(message.sender, message.kind), *self._advance(now))

    def require_upload(self, site: str, challenge: bytes, now: float) -> None:
        """Raise ``RoundError`` unless this site may upload now: ask before its envelope is read.

        Reasons: ``late`` once U2 is fixed, ``out_of_order`` before there is a U1, ``not_advertised`` for one outside
        U1, ``wrong_challenge`` for an envelope of another ``T2``, ``duplicate`` for a second upload.
        """
        if self.state in _COLLECTING[:2]:
            raise RoundError("uploads begin when the keys are shared", reason="out_of_order")
        if self.state is not ServerState.UPLOADING or now > self._deadlines.upload:
            raise RoundError(f"what {site} uploads came after its step and is discarded unread", reason="late")
        if self._met().index(site) not in self._known().shares:
            raise RoundError(f"{site} did not share its secrets in this round", reason="not_advertised")
        if challenge != self.challenge:
            raise RoundError(f"what {site} uploads is masked for another set of sites", reason="wrong_challenge")
        if site in self._arrived:
            raise RoundError(f"{site} has uploaded in this round", reason="duplicate")

    def uploaded(self, site: str, challenge: bytes, now: float) -> tuple[Event, ...]:
        """Note that a site's masked vector arrived and is in the sum. Raises as `require_upload` does."""
        self.require_upload(site, challenge, now)
        self._arrived.add(site)
        return self._advance(now)

    def tick(self, now: float) -> tuple[Event, ...]:
        """End the steps that are past their end."""
        return self._advance(now)

    def _advance(self, now: float) -> tuple[Event, ...]:
        """Go on for as long as a step is complete or over."""
        events: list[Event] = []
        while self.state in _COLLECTING:
            end, step = self._deadlines.all[_COLLECTING.index(self.state)], _STEPS[self.state]
            if not step.is_complete(self) and now <= end:
                break
            try:
                events += step.close(self)
            except PqflError as error:
                events += self._fail(error)
        return tuple(events)

    def _fail(self, error: PqflError) -> list[Event]:
        self.state = ServerState.FAILED
        self._recovery = None
        self._packets.clear()
        lied = [Lied(error.site, error.reason, str(error))] if isinstance(error, LiarError) else []
        return [*lied, Failed(error.reason, str(error))]

    def _take_advertise(self, message: Message) -> None:
        found = open_advertise(message, self._parameters)
        # The sites would find out only when they seal to it, and all of them would stop.
        try:
            public_keys(self._parameters, found).require_usable()
        except MessageError as error:
            raise MessageError(f"advertise of {message.sender}: {error}", reason=error.reason) from None
        keys = {found.transport_key, found.mask_key}
        used = {raw for one in self._of(Kind.ADVERTISE).values() for raw in one.body[3:]}
        if len(keys) != 2 or keys & used:  # noqa: PLR2004 -- two keys are advertised
            raise MessageError(f"{message.sender} advertises a key that is in use", reason="duplicate")

    def _take_share(self, message: Message) -> None:
        members = self._met()
        _, packets = open_share(message, members)
        self._packets[members.index(message.sender)] = packets

    def _take_consistency(self, message: Message) -> None:
        self._require_survivor(message)
        if Survivors.decode(message).indices != self._survivors:
            raise LiarError(message.sender, "signs another U2 than was published", reason="equivocation")

    def _take_unmask(self, message: Message) -> None:
        index = self._require_survivor(message)
        self._collecting().take(index, Unmask.decode(message))

    def _require_survivor(self, message: Message) -> int:
        verify_message(message, self._parameters, message.kind, self._known().transcript)
        index = self._met().index(message.sender)
        if index not in self._survivors:
            raise RoundError(f"{message.sender} is not among those whose update arrived", reason="not_a_survivor")
        return index

    def _all_advertised(self) -> bool:
        return len(self._of(Kind.ADVERTISE)) == len(self._parameters.sites)

    def _close_advertising(self) -> list[Event]:
        found = self._of(Kind.ADVERTISE)
        messages = [found[site] for site in self._parameters.sites if site in found]
        self._members = members_of(messages, self._parameters, self._neighbours)
        self.state = ServerState.SHARING
        body = (length_prefixed(*(message.raw for message in messages)),)
        return self._publish(Kind.ADVERTISED, self._parameters.transcript, body, self._members.sites)

    def _all_shared(self) -> bool:
        return len(self._packets) == len(self._met().sites)

    def _close_sharing(self) -> list[Event]:
        members, found = self._met(), self._of(Kind.SHARE)
        self._uploaders = uploaders_of([found[site] for site in members.sites if site in found], members)
        self.state = ServerState.UPLOADING
        statements = tuple(message.statement for message in self._uploaders.statements.values())
        body = Shared(self._uploaders.transcript, statements).encode()
        message = self._sign(Kind.SHARED, members.transcript, body)
        return [
            Publish(members.name(holder), replace(message, attachment=self._packets_for(holder)).raw)
            for holder in self._uploaders.indices
        ]

    def _packets_for(self, holder: int) -> bytes:
        near = self._met().near(holder)
        return length_prefixed(
            *(self._packets[dealer][holder] for dealer in self._known().indices if dealer in near)
        )  # fmt: skip

    def _all_uploaded(self) -> bool:
        return len(self._arrived) == len(self._known().indices)

    def _close_uploading(self) -> list[Event]:
        members, uploaders = self._met(), self._known()
        self._survivors = tuple(index for index in uploaders.indices if members.name(index) in self._arrived)
        self._recovery = Recovery(members, uploaders, self._packets, self._survivors)
        self.state = ServerState.AGREEING
        body = Survivors(self._survivors).encode()
        return self._publish(Kind.UPLOADED, uploaders.transcript, body, self.survivors)

    def _enough_signed(self) -> bool:
        return len(self._of(Kind.CONSISTENCY)) >= self._met().threshold

    def _close_agreeing(self) -> list[Event]:
        found, needed = self._of(Kind.CONSISTENCY), self._met().threshold
        if len(found) < needed:
            raise RoundError(f"{len(found)} sites signed U2, and {needed} have to", reason="too_few_signatures")
        self.state = ServerState.UNMASKING
        signed = length_prefixed(*(message.raw for message in list(found.values())[:needed]))
        body = (*Survivors(self._survivors).encode(), signed)
        return self._publish(Kind.AGREED, self._known().transcript, body, self.survivors)

    def _enough_released(self) -> bool:
        return self._collecting().is_complete

    def _close_unmasking(self) -> list[Event]:
        recovered = self._collecting().restore()
        # Whatever is raised while the masks come off, the round is over.
        self.state = ServerState.FAILED
        self._recovery = None
        self._packets.clear()
        self._take_off(recovered)
        self.state = ServerState.DONE
        return [Done(self.survivors)]

    def _publish(self, kind: Kind, transcript: bytes, body: tuple[bytes, ...], sites: tuple[str, ...]) -> list[Event]:
        data = self._sign(kind, transcript, body).raw
        return [Publish(site, data) for site in sites]

    def _sign(self, kind: Kind, transcript: bytes, body: tuple[bytes, ...]) -> Message:
        return sign_message(self._parameters, kind, transcript, (self._parameters.aggregator, self._key), body)

    def _of(self, kind: Kind) -> Mapping[str, Message]:
        return {site: message for (one, site), message in self._accepted.items() if one is kind}

    def _again(self, before: Message, message: Message) -> tuple[Event, ...]:
        verify_message(message, self._parameters, message.kind, message.transcript)
        if before.signed != message.signed:
            raise MessageError(
                f"{message.sender} sends another {message.kind.word} than before", reason="different_resend"
            )
        return (Accepted(message.sender, message.kind),)

    def _require_open(self, message: Message, state: ServerState, now: float) -> None:
        if message.sender in self._liars:
            raise RoundError(f"{message.sender} has lied in this round", reason="liar")
        step = _COLLECTING.index(state)
        if self.state is state and now <= self._deadlines.all[step]:
            return
        early = self.state in _COLLECTING and _COLLECTING.index(self.state) < step
        raise RoundError(
            f"{message.kind.word} of {message.sender} while {self.state.value}",
            reason="out_of_order" if early else "late",
        )

    def _met(self) -> Members:
        return present(self._members)

    def _known(self) -> Shares:
        return present(self._uploaders)

    def _collecting(self) -> Recovery:
        return present(self._recovery)


@dataclass(frozen=True, slots=True)
class _Step:
    is_complete: Callable[[SecAggServer], bool]
    close: Callable[[SecAggServer], list[Event]]


# ruff: noqa: SLF001 -- the table of states below belongs to the class
_STEPS = {
    ServerState.ADVERTISING: _Step(SecAggServer._all_advertised, SecAggServer._close_advertising),
    ServerState.SHARING: _Step(SecAggServer._all_shared, SecAggServer._close_sharing),
    ServerState.UPLOADING: _Step(SecAggServer._all_uploaded, SecAggServer._close_uploading),
    ServerState.AGREEING: _Step(SecAggServer._enough_signed, SecAggServer._close_agreeing),
    ServerState.UNMASKING: _Step(SecAggServer._enough_released, SecAggServer._close_unmasking),
}
_ROWS: dict[Kind, tuple[ServerState, Callable[[SecAggServer, Message], None]]] = {
    Kind.ADVERTISE: (ServerState.ADVERTISING, SecAggServer._take_advertise),
    Kind.SHARE: (ServerState.SHARING, SecAggServer._take_share),
    Kind.CONSISTENCY: (ServerState.AGREEING, SecAggServer._take_consistency),
    Kind.UNMASK: (ServerState.UNMASKING, SecAggServer._take_unmask),
}
