"""Whole rounds in memory, dropouts at every step, sites that lie, and what the server refuses."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import combinations, product

import pytest

from pqfl_transport.aggregation.secagg.keys import Link, Random, Salted, SiteSecrets
from pqfl_transport.aggregation.secagg.messages import (
    Kind,
    Secret,
    Share,
    Survivors,
    Unmask,
    parse_message,
    sign_message,
    split_many,
)
from pqfl_transport.aggregation.secagg.recovery import Recovered
from pqfl_transport.aggregation.secagg.server import (
    Accepted,
    Deadlines,
    Done,
    Failed,
    Lied,
    SecAggServer,
    ServerState,
)
from pqfl_transport.crypto.contexts import length_prefixed
from pqfl_transport.errors import ConfigurationError, PqflError, RoundError
from tests.support.secagg import (
    DEADLINES,
    HUB,
    MODEL,
    Network,
    deterministic,
    make_parameters,
    resigned,
    signing_key,
    site_name,
)

STEPS: tuple[Kind | str, ...] = (Kind.ADVERTISE, Kind.SHARE, "upload", Kind.CONSISTENCY, "burn", Kind.UNMASK)
UPLOAD = STEPS.index("upload")
CNSA2, MAXIMUM, STANDARD = (
    "pqfl/v1/mlkem1024-mldsa87", "pqfl/v1/mlkem1024p384-mldsa87", "pqfl/v1/mlkem768x25519-mldsa44",
)  # fmt: skip


def step_name(value: object) -> str:
    """Name a step for a test's id."""
    return value.word if isinstance(value, Kind) else str(value)


def require_one_kind_a_site(net: Network) -> None:
    """Of everything that the server saw, no site's two secrets can be restored, nor even begun to be."""
    kinds: dict[int, set[Secret]] = {}
    for data in net.seen:
        message = parse_message(data)
        if message.kind is Kind.UNMASK:
            for share in Unmask.decode(message).shares:
                kinds.setdefault(share.owner, set()).add(share.secret)
    assert all(len(found) == 1 for found in kinds.values())


def done(net: Network) -> tuple[str, ...]:
    """Require that a round came to its sum, exactly once, and return whose sum it is."""
    assert isinstance(net.outcome, Done), (net.outcome, net.errors)
    assert net.server.state is ServerState.DONE
    assert len(net.sums) == 1
    assert net.sums[0] == sum(net.values[name] for name in net.outcome.survivors)
    require_one_kind_a_site(net)
    return net.outcome.survivors


def failed(net: Network) -> Failed:
    """Require that a round failed and no number left it."""
    assert isinstance(net.outcome, Failed), net.outcome
    assert net.server.state is ServerState.FAILED
    assert net.sums == []
    require_one_kind_a_site(net)
    return net.outcome


@pytest.mark.parametrize("count", [3, 5, 10, 32])
def test_a_round_in_which_nobody_drops_out(count: int) -> None:
    """The sum is that of all, no pair key is restored, and every model is burnt that a share was released for."""
    net = Network(count)
    net.run()
    assert done(net) == tuple(net.parameters.sites)
    (recovered,) = net.recovered
    assert recovered.pair_keys == ()
    assert {name: vector.calls[0][1] for name, vector in net.vectors.items()} == recovered.self_seeds
    assert all(found == {MODEL} for found in net.burnt.values())


@pytest.mark.parametrize("suite", [STANDARD, MAXIMUM, CNSA2])
def test_a_round_at_every_level(suite: str) -> None:
    """The pairs are of the suite's KEM, and a dropout's masks come off at every level."""
    net = Network(5, frozenset({(2, "upload")}), suite=suite)
    net.run()
    assert len(done(net)) == 4


@pytest.mark.parametrize(("site", "step"), list(product(range(1, 6), STEPS)), ids=step_name)
def test_one_of_five_drops_out_anywhere(site: int, step: Kind | str) -> None:
    """Each site at each step: the round ends with the sum of those whose update arrived."""
    net = Network(5, frozenset({(site, step)}))
    net.run()
    gone = STEPS.index(step) <= UPLOAD
    assert done(net) == tuple(name for name in net.parameters.sites if not gone or name != site_name(site))
    pairs = {(key.site, key.sign) for key in net.recovered[0].pair_keys}
    expected = {
        (site_name(other), 1 if other < site else -1) for other in range(1, 6) if step == "upload" and other != site
    }
    assert pairs == expected


# Every pair of steps, with the pair of sites that goes round: 36 of the 360 cases.
_PAIRS = list(combinations(range(1, 6), 2))
_TWO = [
    (_PAIRS[at % len(_PAIRS)], steps) for at, steps in enumerate(product(STEPS, STEPS))
]  # fmt: skip


@pytest.mark.parametrize(("sites", "steps"), _TWO)
def test_two_of_five_drop_out(sites: tuple[int, int], steps: tuple[Kind | str, Kind | str]) -> None:
    """With t = 4 it fails and no number leaves, unless they never came (then n is less) or one was done already."""
    net = Network(5, frozenset(zip(sites, steps, strict=True)))
    net.run()
    at = sorted(STEPS.index(step) for step in steps)
    # Those who never advertised are not of the round: n is 4 or 3, and t is 3.
    members = 5 - at.count(0)
    needed = 2 * members // 3 + 1
    if members - sum(one > 0 for one in at) >= needed:
        assert len(done(net)) == members - sum(0 < one <= UPLOAD for one in at)
    else:
        assert failed(net).reason in {"too_few_shares", "too_few_survivors", "too_few_signatures", "too_few_sites"}


def test_with_three_nobody_may_drop_out() -> None:
    """At every step after the first; at the first there are too few sites."""
    for step, reason in zip(
        STEPS,
        (
            "too_few_sites",
            "too_few_shares",
            "too_few_survivors",
            "too_few_signatures",
            "too_few_shares",
            "too_few_shares",
        ),
        strict=True,
    ):
        net = Network(3, frozenset({(3, step)}))
        net.run()
        assert failed(net).reason == reason


def test_ten_of_32_drop_out_at_the_worst_step() -> None:
    """All masks that 22 share with ten are taken off; with one more the round fails."""
    net = Network(32, frozenset((site, "upload") for site in range(1, 11)))
    net.run()
    assert len(done(net)) == 22
    assert len(net.recovered[0].pair_keys) == 220


def test_a_sum_that_is_none_does_not_leave() -> None:
    """What the callback raises fails the round; another error is passed on, and the round is over as well."""
    net = Network(3)
    net.values[site_name(1)] += 1
    net.run()
    assert failed(net).reason == "bad_sum"

    def broken(_: Recovered) -> None:
        raise MemoryError

    other = Network(3)
    other.server._take_off = broken
    with pytest.raises(MemoryError):
        other.run()
    assert other.server.state is ServerState.FAILED
    assert other.server.tick(999) == ()


def _ring(index: int, count: int) -> frozenset[int]:
    """Return two neighbours on each side."""
    return frozenset((index - 1 + step) % count + 1 for step in (-2, -1, 1, 2))


def test_another_graph() -> None:
    """Masks and shares go to neighbours alone, and t is that of the neighbourhood: four of five."""
    net = Network(9, frozenset({(5, "upload")}), neighbours=_ring)
    net.run()
    assert len(done(net)) == 8
    assert {key.site for key in net.vectors[site_name(1)].calls[0][0]} == {site_name(at) for at in (2, 3, 8, 9)}
    assert {key.site for key in net.recovered[0].pair_keys} == {site_name(at) for at in (3, 4, 6, 7)}
    # Two neighbours of site 5 that do not release leave two shares of it, whoever else does.
    few = Network(9, frozenset({(5, "upload"), (4, Kind.UNMASK), (6, Kind.UNMASK)}), neighbours=_ring)
    few.run()
    assert failed(few).reason == "too_few_shares"


class TestLies:
    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            (lambda share: replace(share, share=bytes(32)), "bad_share"),
            (lambda share: replace(share, salt=bytes(16)), "bad_share"),
            (lambda share: replace(share, secret=Secret.MASTER), "wrong_shares"),
            (lambda share: replace(share, owner=6), "wrong_shares"),
        ],
    )
    def test_a_bad_share_is_named_and_the_round_goes_on(self, change: Callable[..., object], reason: str) -> None:
        """A share that was not dealt, of the other kind, of nobody: its sender counts as dropped out."""
        net = Network(5)

        def lie(name: str, data: bytes) -> bytes:
            message = parse_message(data)
            if name != site_name(2) or message.kind is not Kind.UNMASK:
                return data
            unmask = Unmask.decode(message)
            shares = (*unmask.shares[:-1], change(unmask.shares[-1]))
            return resigned(net.parameters, message, replace(unmask, shares=shares).encode())  # type: ignore[arg-type]

        net.change = lie
        seen: list[bytes] = net.seen
        net.run()
        assert net.liars == [site_name(2)]
        assert next(event.reason for event in net.events if isinstance(event, Lied)) == reason
        seen[:] = [data for data in seen if parse_message(data).sender != site_name(2)]
        assert len(done(net)) == 5

    @pytest.mark.parametrize(
        "change",
        [
            lambda unmask: replace(unmask, shares=unmask.shares[1:]),
            lambda unmask: replace(unmask, survivors=(1, 2, 3, 4)),
        ],
    )
    def test_one_that_releases_less_or_for_another_u2(self, change: Callable[[Unmask], Unmask]) -> None:
        """Withheld shares are named too."""
        net = Network(5)

        def lie(name: str, data: bytes) -> bytes:
            message = parse_message(data)
            if name != site_name(2) or message.kind is not Kind.UNMASK:
                return data
            return resigned(net.parameters, message, change(Unmask.decode(message)).encode())

        net.change = lie
        net.run()
        assert len(done(net)) == 5
        assert net.liars == [site_name(2)]

    def test_another_u2_in_a_consistency_is_named(self) -> None:
        """The others go on, and the liar's later messages are not taken."""
        net = Network(5)

        def lie(name: str, data: bytes) -> bytes:
            message = parse_message(data)
            if name != site_name(2) or message.kind is not Kind.CONSISTENCY:
                return data
            return resigned(net.parameters, message, Survivors((1, 2, 3, 4)).encode())

        net.change = lie
        net.run()
        assert len(done(net)) == 5
        assert net.liars == [site_name(2)]
        assert "liar" in {error.reason for name, error in net.errors if name == site_name(2)}

    @pytest.mark.parametrize("secret", Secret)
    def test_a_dealer_whose_shares_make_nothing_is_named(self, secret: Secret) -> None:
        """Each share fits its commitment, and together they are not the secret: only the dealer can have done that."""
        net = Network(5, frozenset({(2, "upload")}) if secret is Secret.MASTER else frozenset())
        made = net.sites[site_name(2)]._secrets
        assert made is not None
        made.__class__ = _DealsAnother if secret is Secret.SELF_MASK else _DealsAnotherMaster
        net.run()
        assert failed(net).reason == "bad_secret"
        assert net.liars == [site_name(2)]

    def test_a_half_of_a_pair_key_that_is_not_of_the_master_is_named(self) -> None:
        """It opens, and it fits its commitment; but a dropped site's masks could not be taken off."""
        net = Network(5, frozenset({(2, "upload")}))
        honest = Link.directed_key

        def lie(link: Link, master: bytes) -> bytes:
            lying = link.dealer == 2 and net.server.state is not ServerState.UNMASKING
            return honest(link, bytes(32) if lying else master)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Link, "directed_key", lie)
            net.run()
        assert failed(net).reason == "bad_key_half"
        assert net.liars == [site_name(2)]

    def test_who_cheats_a_dropout_is_named(self) -> None:
        """Site 2 drops out before it could see that what site 3 sealed to it is not what site 3 committed to."""
        net = Network(5, frozenset({(2, "upload")}))
        honest = Link.commit_key

        def lie(link: Link, key: bytes) -> bytes:
            lying = (link.dealer, link.holder) == (3, 2) and net.server.state is ServerState.SHARING
            return bytes(32) if lying else honest(link, key)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Link, "commit_key", lie)
            net.drop = frozenset({(2, Kind.CONSISTENCY)})
            net.run()
        # Site 2 notices by itself, uploads nothing, and the server finds out why.
        assert dict(net.errors)[site_name(2)].reason == "bad_key_half"
        assert failed(net).reason == "bad_key_half"
        assert net.liars == [site_name(3)]


class _DealsAnother(SiteSecrets):
    """Deals shares of another self-mask seed than the one it uses."""

    __slots__ = ()

    def deal(self, threshold: int, holders: frozenset[int], random: Random) -> dict[int, dict[Secret, Salted]]:
        """Deal with a wrong seed."""
        true, self.self_seed = self.self_seed, bytes(32)
        try:
            return super().deal(threshold, holders, random)
        finally:
            self.self_seed = true


class _DealsAnotherMaster(SiteSecrets):
    """Deals shares of another master than the one it uses."""

    __slots__ = ()

    def deal(self, threshold: int, holders: frozenset[int], random: Random) -> dict[int, dict[Secret, Salted]]:
        """Deal with a wrong master."""
        true, self.master = self.master, bytes(32)
        try:
            return super().deal(threshold, holders, random)
        finally:
            self.master = true


def at(state: ServerState, count: int = 5) -> Network:
    """Return a round that has just come to a state."""
    net = Network(count, stop_at=state)
    net.begin()
    assert net.server.state is state
    return net


def refused(net: Network, data: bytes, reason: str) -> PqflError:
    """Require that the server refuses, for this reason, and is where it was."""
    state = net.server.state
    with pytest.raises(PqflError) as caught:
        net.server.receive(data, net.now)
    assert (caught.value.reason, net.server.state) == (reason, state)
    return caught.value


class TestRefusals:
    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            ({"model_digest": bytes(32)}, "wrong_model"),
            ({"roster_number": 2}, "wrong_roster"),
            ({"honest_but_curious": True}, "wrong_transcript"),
            ({"round": 6}, "wrong_round"),
        ],
    )
    def test_a_site_that_sees_another_round(self, changes: dict[str, object], reason: str) -> None:
        """It is refused by itself, and does not stop the others."""
        net = Network(3)
        other = Network(3)
        other.use(replace(net.parameters, **changes))  # type: ignore[arg-type]
        refused(net, other.sites[site_name(1)].advertise, reason)

    def test_a_restarted_site_has_dropped_out(self) -> None:
        """It advertises new keys, which are refused; the very same message is answered as before."""
        net = Network(3)
        name = site_name(1)
        first = net.sites[name].advertise
        assert net.server.receive(first, 0) == net.server.receive(first, 0) == (Accepted(name, Kind.ADVERTISE),)
        refused(net, net.make_site(name, deterministic("after a restart")).advertise, "different_resend")

    @pytest.mark.parametrize("kind", [Kind.ADVERTISE, Kind.SHARE, Kind.CONSISTENCY, Kind.UNMASK])
    def test_the_same_again_is_answered_the_same(self, kind: Kind) -> None:
        """Even after the round has gone on or ended; a different one never is."""
        net = Network(3)
        net.run()
        done(net)
        for data in net.seen:
            message = parse_message(data)
            if message.kind is kind:
                assert net.server.receive(data, 999) == (Accepted(message.sender, kind),)
                forged = replace(message, signature=bytes(len(message.signature)))
                refused(net, forged.raw, "bad_signature")
                body = (*message.body[:-1], length_prefixed(b"another"))
                refused(net, resigned(net.parameters, message, body), "different_resend")

    def test_a_key_in_use(self) -> None:
        """Nobody advertises another's key, nor one key for both purposes."""
        net = Network(3)
        one, two = (parse_message(net.sites[site_name(index)].advertise) for index in (1, 2))
        net.server.receive(one.raw, 0)
        refused(net, resigned(net.parameters, two, (*two.body[:3], one.body[4], two.body[4])), "duplicate")
        refused(net, resigned(net.parameters, two, (*two.body[:4], two.body[3])), "duplicate")

    @pytest.mark.parametrize("raw", [b"short", bytes(1216), b"\xff" * 1216])
    def test_a_key_that_is_none(self, raw: bytes) -> None:
        """A wrong length, a point of low order, coefficients out of range."""
        net = Network(3)
        message = parse_message(net.sites[site_name(1)].advertise)
        error = refused(net, resigned(net.parameters, message, (*message.body[:3], raw, message.body[4])), "bad_key")
        assert site_name(1) in str(error)

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            (lambda packets: packets[:-1], "bad_packet"),
            (lambda packets: [*packets, packets[0]], "bad_packet"),
            (lambda packets: packets[::-1], "bad_packet"),
            (lambda packets: [packets[0], packets[1][:-1] + b"x", *packets[2:]], "bad_packet"),
            (lambda _: [], "bad_packet"),
        ],
    )
    def test_packets_that_a_share_does_not_vouch_for(
        self, change: Callable[[Sequence[bytes]], Sequence[bytes]], reason: str
    ) -> None:
        """Missing, too many, exchanged, changed, none."""
        net = at(ServerState.SHARING)
        (event,) = net.sites[site_name(1)].receive(dict(net.queue)[site_name(1)], 0)
        message = parse_message(event.data)  # type: ignore[union-attr]
        packets = change(split_many(message, message.attachment))
        refused(net, replace(message, attachment=length_prefixed(*packets)).raw, reason)
        assert net.server.receive(message.raw, 0) == (Accepted(site_name(1), Kind.SHARE),)

    def test_a_share_for_other_holders(self) -> None:
        """One packet for each neighbour and for itself, no fewer."""
        net = at(ServerState.SHARING)
        (event,) = net.sites[site_name(1)].receive(dict(net.queue)[site_name(1)], 0)
        message = parse_message(event.data)  # type: ignore[union-attr]
        share = Share.decode(message)
        packets = split_many(message, message.attachment)[1:]
        body = replace(share, packet_hashes=share.packet_hashes[1:]).encode()
        refused(net, resigned(net.parameters, message, body, length_prefixed(*packets)), "bad_holders")

    def test_a_share_of_a_replayed_round(self) -> None:
        """The same sites and model, other keys: another T."""
        earlier = Network(3, stop_at=ServerState.UPLOADING)
        earlier.sites = {name: earlier.make_site(name, deterministic(f"earlier {name}")) for name in earlier.sites}
        earlier.begin()
        net = at(ServerState.SHARING, 3)
        shares = [data for data in earlier.seen if parse_message(data).kind is Kind.SHARE]
        refused(net, shares[0], "wrong_transcript")

    def test_who_did_not_advertise(self) -> None:
        """A site of the roster that is not of the round."""
        net = Network(5, frozenset({(5, Kind.ADVERTISE)}), stop_at=ServerState.SHARING)
        net.begin()
        net.handle(net.server.tick(11))
        other = Network(5)
        other.run()
        share = next(
            data for data in other.seen if parse_message(data).sender == site_name(5) and b"\0\0\0\x05share" in data
        )
        message = parse_message(share)
        assert net.server._members is not None
        as_ours = replace(message, transcript=net.server._members.transcript)
        refused(net, resigned(net.parameters, as_ours, message.body, message.attachment), "not_advertised")

    @pytest.mark.parametrize("kind", [Kind.SHARE, Kind.CONSISTENCY, Kind.UNMASK])
    def test_what_comes_before_its_step(self, kind: Kind) -> None:
        """The round is where it is."""
        net = Network(3)
        net.run()
        data = next(data for data in net.seen if parse_message(data).kind is kind)
        refused(Network(3), data, "out_of_order")

    @pytest.mark.parametrize(
        ("step", "kind"), [(0, Kind.ADVERTISE), (1, Kind.SHARE), (3, Kind.CONSISTENCY), (4, Kind.UNMASK)]
    )
    def test_what_comes_after_its_step(self, step: int, kind: Kind) -> None:
        """After the end even where nobody has ticked, and after the step was closed; nothing is lost on the way."""
        net = Network(5)
        late: list[tuple[str, bytes]] = []

        def hold(name: str, data: bytes) -> bytes:
            if name == site_name(5) and parse_message(data).kind is kind:
                late.append((name, data))
                with pytest.raises(RoundError) as caught:
                    net.server.receive(data, DEADLINES.all[step] + 1)
                assert caught.value.reason == "late"
            return data

        net.change = hold
        net.drop = frozenset({(4, kind)})
        net.run()
        assert late
        done(net)

    def test_publications_are_nothing_that_a_site_sends(self) -> None:
        """The server does not take its own words."""
        net = at(ServerState.SHARING, 3)
        refused(net, net.queue[0][1], "wrong_kind")
        refused(net, b"garbage", "malformed")

    def test_one_whose_update_did_not_arrive(self) -> None:
        """It is of U1 and not of U2: neither its signature nor its shares are asked for."""
        net = Network(5, frozenset({(5, "upload")}), stop_at=ServerState.AGREEING)
        net.begin()
        net.handle(net.server.tick(31))
        assert net.server.state is ServerState.AGREEING
        assert net.server._uploaders is not None
        sender = (site_name(5), signing_key(site_name(5)))
        body = Survivors((1, 2, 3, 4)).encode()
        message = sign_message(
            net.parameters, Kind.CONSISTENCY, net.server._uploaders.transcript, sender, body
        )  # fmt: skip
        refused(net, message.raw, "not_a_survivor")


class TestUploads:
    def test_the_challenge_binds_the_envelope_to_t2(self) -> None:
        """One upload of one member under one T2, while the step is open."""
        net = at(ServerState.UPLOADING)
        server, challenge, name = net.server, net.server.challenge, site_name(1)
        assert len(challenge) == 32
        for site, given, now, reason in (
            (name, bytes(32), 0, "wrong_challenge"),
            ("spiffe://fed/site/x", challenge, 0, "not_advertised"),
            (name, challenge, 31, "late"),
        ):
            with pytest.raises(RoundError) as caught:
                server.require_upload(site, given, now)
            assert caught.value.reason == reason
        assert server.uploaded(name, challenge, 0) == ()
        with pytest.raises(RoundError) as caught:
            server.uploaded(name, challenge, 0)
        assert caught.value.reason == "duplicate"

    def test_before_there_is_a_u1(self) -> None:
        """There is nothing to bind to."""
        net = at(ServerState.SHARING)
        for call in (lambda: net.server.challenge, lambda: net.server.require_upload(site_name(1), bytes(32), 0)):
            with pytest.raises(RoundError) as caught:
                call()
            assert caught.value.reason == "out_of_order"

    def test_a_late_upload_is_discarded(self) -> None:
        """Once U2 is fixed nothing is read any more, and U2 stays what it was."""
        net = at(ServerState.AGREEING)
        with pytest.raises(RoundError) as caught:
            net.server.uploaded(site_name(1), net.server.challenge, 0)
        assert caught.value.reason == "late"
        assert net.server.survivors == tuple(net.parameters.sites)

    def test_one_outside_u1(self) -> None:
        """It advertised and did not share."""
        net = Network(5, frozenset({(5, Kind.SHARE)}), stop_at=ServerState.UPLOADING)
        net.begin()
        net.handle(net.server.tick(21))
        with pytest.raises(RoundError) as caught:
            net.server.require_upload(site_name(5), net.server.challenge, 21)
        assert caught.value.reason == "not_advertised"


def test_steps_end_one_after_another() -> None:
    """The server says when it has to be called next, and nothing after the round."""
    with pytest.raises(ConfigurationError) as caught:
        Deadlines(2, 1, 3, 4, 5)
    assert caught.value.reason == "deadlines"
    net = Network(3)
    assert net.server.next_deadline == DEADLINES.advertise
    assert net.server.tick(DEADLINES.advertise) == ()
    net.run()
    assert net.server.next_deadline is None


def test_a_server_without_its_key() -> None:
    """The roster says which key signs for it."""
    with pytest.raises(ConfigurationError) as caught:
        SecAggServer(make_parameters(3), signing_key("x"), lambda _: None, deadlines=DEADLINES)
    assert caught.value.reason == "wrong_key"
    assert make_parameters(3).aggregator == HUB


def test_nobody_came() -> None:
    """A round without sites fails; one long tick ends all its steps."""
    net = Network(3)
    assert [type(event) for event in net.server.tick(999)] == [Failed]
