"""Rounds of secure aggregation in memory: sites, a server, and a network that a test may cut anywhere."""

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from types import MappingProxyType

from pqfl_transport.aggregation.secagg.keys import Link, MaskKey
from pqfl_transport.aggregation.secagg.messages import (
    Kind,
    Message,
    Packet,
    Share,
    parse_message,
    sign_message,
    split_many,
)
from pqfl_transport.aggregation.secagg.parameters import Neighbours, RoundParameters, full_graph
from pqfl_transport.aggregation.secagg.recovery import Recovered
from pqfl_transport.aggregation.secagg.server import (
    Accepted,
    Deadlines,
    Done,
    Event,
    Failed,
    Lied,
    Publish,
    SecAggServer,
    ServerState,
)
from pqfl_transport.aggregation.secagg.site import Burn, SecAggSite, Send, SiteIdentity, Upload
from pqfl_transport.algorithms import content_suite
from pqfl_transport.crypto.contexts import length_prefixed
from pqfl_transport.crypto.pyca import SigningKey
from pqfl_transport.errors import PqflError, RoundError
from pqfl_transport.pki.roster import SecureAggregation

HUB = "spiffe://fed/aggregator/hub"
SUITE = "pqfl/v1/mlkem768x25519-mldsa65"
DEADLINES = Deadlines(10, 20, 30, 40, 50)
_WORD = 1 << 32
MODEL = hashlib.sha256(b"base model").digest()


def site_name(index: int) -> str:
    """Return the SPIFFE ID of a site; the order of names is that of indices."""
    return f"spiffe://fed/site/s{index:02}"


@cache
def signing_key(name: str, algorithm: str = "ML-DSA-65") -> SigningKey:
    """Return a party's signing key, the same in every run."""
    return SigningKey.from_seed(algorithm, hashlib.sha256(name.encode()).digest())


def make_parameters(
    count: int, *, suite: str = SUITE, round_number: int = 7, secure: SecureAggregation | None = None
) -> RoundParameters:
    """Return the parameters of a round of so many sites."""
    row = content_suite(suite)
    names = [site_name(index) for index in range(1, count + 1)]
    return RoundParameters(
        federation="fed", round=round_number, model_digest=MODEL, roster_number=3, suite=row,
        sites=MappingProxyType({name: signing_key(name, row.signature).verifying_key for name in names}),
        aggregator=HUB, aggregator_key=signing_key(HUB, row.signature).verifying_key,
        secure=secure or SecureAggregation(),
    )  # fmt: skip


def deterministic(seed: str) -> Callable[[int], bytes]:
    """Return a source of bytes that is the same in every run. For tests alone."""
    counter = iter(range(1 << 30))

    def random(count: int) -> bytes:
        return hashlib.shake_256(f"{seed}/{next(counter)}".encode()).digest(count)

    return random


def mask_word(key: bytes) -> int:
    """Return the one number that stands for a whole mask here; the real generator is not of this layer."""
    return int.from_bytes(hashlib.sha256(b"mask" + key).digest()[:4], "big")


@dataclass
class MaskedVector:
    """A vector of one number, and what was put on it."""

    value: int
    calls: list[tuple[tuple[MaskKey, ...], bytes]] = field(default_factory=list)

    def mask(self, keys: Sequence[MaskKey], seed: bytes) -> None:
        """Put the masks on, as a site does."""
        self.calls.append((tuple(keys), seed))
        self.value += mask_word(seed) + sum(key.sign * mask_word(key.key) for key in keys)


@dataclass
class Network:
    """A whole round. ``drop`` holds (site index, kind): that message of that site, and all later ones, never arrive."""

    count: int
    drop: frozenset[tuple[int, Kind | str]] = frozenset()
    suite: str = SUITE
    neighbours: Neighbours = full_graph
    stop_at: ServerState | None = None
    """Once the server is there, what it publishes stays in the queue."""
    queue: deque[tuple[str, bytes]] = field(default_factory=deque)
    values: dict[str, int] = field(default_factory=dict)
    total: int = 0
    sums: list[int] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    seen: list[bytes] = field(default_factory=list)
    """Everything that the server got."""
    sent: list[tuple[str, bytes]] = field(default_factory=list)
    """(site, bytes) of everything that the server sent."""
    burnt: dict[str, set[bytes]] = field(default_factory=dict)
    errors: list[tuple[str, PqflError]] = field(default_factory=list)
    change: Callable[[str, bytes], bytes] = lambda _, data: data
    """What a site sends, changed on its way."""

    def __post_init__(self) -> None:
        self.now = 0.0
        self.recovered: list[Recovered] = []
        self.gone: set[str] = set()
        self.use(make_parameters(self.count, suite=self.suite))

    def use(self, parameters: RoundParameters) -> None:
        """Begin a round with these parameters."""
        self.parameters = parameters
        key = signing_key(HUB, parameters.suite.signature)
        self.server = SecAggServer(parameters, key, self.take_off, deadlines=DEADLINES, neighbours=self.neighbours)
        self.vectors = {name: MaskedVector(1000 + at) for at, name in enumerate(parameters.sites)}
        self.values = {name: vector.value for name, vector in self.vectors.items()}
        self.burnt = {name: set() for name in self.vectors}
        self.sites = {name: self.make_site(name) for name in self.vectors}

    def make_site(self, name: str, random: Callable[[int], bytes] | None = None) -> SecAggSite:
        """Return a site of this round."""
        key = signing_key(name, self.parameters.suite.signature)
        identity = SiteIdentity(name, key, self.burnt[name])
        return SecAggSite(
            self.parameters, identity, self.vectors[name].mask, deadline=100, random=random or deterministic(name),
            neighbours=self.neighbours,
        )  # fmt: skip

    def take_off(self, recovered: Recovered) -> None:
        """Take the masks off the sum, and fail where it is none: the check that the real vectors carry with them."""
        self.recovered.append(recovered)
        left = self.total - sum(mask_word(seed) for seed in recovered.self_seeds.values())
        left -= sum(key.sign * mask_word(key.key) for key in recovered.pair_keys)
        if left % _WORD != sum(self.values[name] for name in recovered.self_seeds) % _WORD:
            raise RoundError("the sum is none", reason="bad_sum")
        self.sums.append(left % _WORD)

    def run(self) -> None:
        """Run the round to its end."""
        self.begin()
        while (end := self.server.next_deadline) is not None:
            self.now = end + 1
            self.handle(self.server.tick(self.now))
            self.drain()

    def begin(self) -> None:
        """Let every site advertise, and go on while nobody is waited for."""
        for name, site in self.sites.items():
            self.to_server(name, Kind.ADVERTISE, site.advertise)
        self.drain()

    def drain(self) -> None:
        """Deliver what the server published, in order, until nothing is left or the round is where it has to stop."""
        while self.queue and self.server.state is not self.stop_at:
            self.deliver(*self.queue.popleft())

    def to_server(self, name: str, kind: Kind, data: bytes) -> None:
        """Hand a site's message over, unless it drops out here."""
        if self._drops(name, kind):
            return
        data = self.change(name, data)
        self.seen.append(data)
        try:
            events = self.server.receive(data, self.now)
        except PqflError as error:
            self.errors.append((name, error))
            return
        self.handle(events)

    def handle(self, events: Iterable[Event]) -> None:
        """Note what happened at the server."""
        found = list(events)
        self.events += found
        published = [(event.site, event.data) for event in found if isinstance(event, Publish)]
        self.sent += published
        self.queue.extend(published)

    def deliver(self, name: str, data: bytes) -> None:
        """Let a site take a publication, and do what it asks for."""
        if name in self.gone:
            return
        try:
            for event in self.sites[name].receive(data, self.now):
                self.act(name, event)
        except PqflError as error:
            self.errors.append((name, error))

    def act(self, name: str, event: Send | Upload | Burn) -> None:
        """Do what a site asks for."""
        match event:
            case Send(data):
                self.to_server(name, parse_message(data).kind, data)
            case Upload(challenge):
                if self._drops(name, "upload"):
                    return
                self.sites[name].sent(self.now)
                self.server.require_upload(name, challenge, self.now)
                self.total += self.vectors[name].value
                self.handle(self.server.uploaded(name, challenge, self.now))
            case Burn(digest):
                if self._drops(name, "burn"):
                    return
                self.burnt[name].add(digest)
                for one in self.sites[name].burnt(self.now):
                    self.act(name, one)

    @property
    def outcome(self) -> Done | Failed | None:
        """How the round ended."""
        ends = [event for event in self.events if isinstance(event, Done | Failed)]
        return ends[-1] if ends else None

    @property
    def liars(self) -> list[str]:
        """Who was named."""
        return [event.site for event in self.events if isinstance(event, Lied)]

    @property
    def accepted(self) -> Iterator[Accepted]:
        """What the server took."""
        return (event for event in self.events if isinstance(event, Accepted))

    def _drops(self, name: str, kind: Kind | str) -> bool:
        if name in self.gone or (int(name[-2:]), kind) in self.drop:
            self.gone.add(name)
        return name in self.gone


def resigned(parameters: RoundParameters, message: Message, body: Sequence[bytes], attachment: bytes = b"") -> bytes:
    """Return a message with another body, signed by its own sender: what a party that lies sends."""
    sender = (message.sender, signing_key(message.sender, parameters.suite.signature))
    signed = sign_message(parameters, message.kind, message.transcript, sender, body)
    return replace(signed, attachment=attachment).raw


def published(parameters: RoundParameters, kind: Kind, transcript: bytes, body: Sequence[bytes]) -> Message:
    """Return anything at all, signed by the server."""
    return sign_message(parameters, kind, transcript, (HUB, signing_key(HUB, parameters.suite.signature)), body)


def with_packet(net: "Network", data: bytes, holder: int, packet: Packet) -> bytes:
    """Return a Share with another packet for one holder, vouched for by its dealer."""
    message = parse_message(data)
    share = Share.decode(message)
    dealer = list(net.parameters.sites).index(message.sender) + 1
    link = Link(net.parameters, message.transcript, dealer, holder)
    packets = dict(zip((at for at, _ in share.packet_hashes), split_many(message, message.attachment), strict=True))
    packets[holder] = packet.encode()
    hashes = tuple((at, link.packet_hash(packets[at])) for at in packets)
    body = replace(share, packet_hashes=hashes).encode()
    changed = resigned(net.parameters, message, body, length_prefixed(*packets.values()))
    # The dealer knows what it did, and does not wonder at its own Share.
    net.sites[message.sender]._share = changed
    return changed


def packet_of(data: bytes, holder: int) -> Packet:
    """Return a Share's packet for one holder."""
    message = parse_message(data)
    at = [index for index, _ in Share.decode(message).packet_hashes].index(holder)
    return Packet.decode(split_many(message, message.attachment)[at])
