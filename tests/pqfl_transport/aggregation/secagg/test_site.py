"""A site against a server that lies: every state takes one thing, and what must not be signed ends the round."""

import copy
import pickle
from collections.abc import Callable
from dataclasses import replace
from itertools import product

import pytest

from pqfl_transport.aggregation.secagg.messages import (
    Advertise,
    Kind,
    Message,
    Shared,
    Survivors,
    parse_message,
    sign_message,
    split_many,
)
from pqfl_transport.aggregation.secagg.parameters import RoundParameters
from pqfl_transport.aggregation.secagg.server import ServerState
from pqfl_transport.aggregation.secagg.site import Burn, Mask, SecAggSite, Send, SiteIdentity, SiteState, Upload
from pqfl_transport.crypto.contexts import length_prefixed
from pqfl_transport.errors import ConfigurationError, MessageError, PqflError, RoundError
from tests.support.secagg import (
    HUB,
    MaskedVector,
    Network,
    deterministic,
    make_parameters,
    packet_of,
    published,
    resigned,
    signing_key,
    site_name,
    with_packet,
)

ONE = site_name(1)
AFTER = {
    Kind.ADVERTISED: ServerState.SHARING,
    Kind.SHARED: ServerState.UPLOADING,
    Kind.UPLOADED: ServerState.AGREEING,
    Kind.AGREED: ServerState.UNMASKING,
}


def waiting_for(kind: Kind, count: int = 5) -> Network:
    """Return a round in which this publication is on its way to every site."""
    net = Network(count, stop_at=AFTER[kind])
    net.begin()
    # The server goes on with t signatures: whoever was slower has the publication before it still to come.
    for _ in range(sum(parse_message(data).kind is not kind for _, data in net.queue)):
        net.deliver(*net.queue.popleft())
    assert [parse_message(data).kind for _, data in net.queue] == [kind] * count
    return net


def waiting_data(net: Network, name: str = ONE) -> bytes:
    """Return what is on its way to a site."""
    return next(data for site, data in net.queue if site == name)


def refused(site: SecAggSite, data: bytes, reason: str, *, state: SiteState = SiteState.STOPPED) -> PqflError:
    """Require that a site refuses, for this reason, and is then in this state."""
    with pytest.raises(PqflError) as caught:
        site.receive(data, 0)
    assert (caught.value.reason, site.state) == (reason, state)
    return caught.value


def again(net: Network, data: bytes, body: tuple[bytes, ...], attachment: bytes | None = None) -> bytes:
    """Return a publication with another body, signed by the server."""
    message = parse_message(data)
    signed = published(net.parameters, message.kind, message.transcript, body)
    return replace(signed, attachment=message.attachment if attachment is None else attachment).raw


def adverts(net: Network) -> list[bytes]:
    """Return everybody's Advertise, from what is on its way."""
    message = parse_message(waiting_data(net))
    return list(split_many(message, message.body[0]))


def foreign_advertise(parameters: RoundParameters, **changes: object) -> bytes:
    """Return an authentic Advertise of the second site for a round with other facts."""
    other = replace(parameters, **changes)  # type: ignore[arg-type]
    key = signing_key(site_name(2))
    return SecAggSite(other, SiteIdentity(site_name(2), key), MaskedVector(0).mask, deadline=9).advertise


class TestAdvertised:
    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            ({"model_digest": bytes(32)}, "wrong_model"),
            ({"roster_number": 2}, "wrong_roster"),
            ({"honest_but_curious": True}, "wrong_transcript"),
            ({"round": 6}, "wrong_round"),
        ],
    )
    def test_a_site_that_sees_another_round_stops_all_others(self, changes: dict[str, object], reason: str) -> None:
        """Where the server shows different models, rosters or parameters to different sites, the round stops."""
        net = waiting_for(Kind.ADVERTISED)
        found = adverts(net)
        found[1] = foreign_advertise(net.parameters, **changes)
        refused(net.sites[ONE], again(net, waiting_data(net), (length_prefixed(*found),)), reason)

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            (lambda found: found[1:], "left_out"),
            (lambda found: found[:2], "too_few_sites"),
            (lambda found: [*found[:2], found[1], *found[2:]], "duplicate"),
            (lambda found: found[::-1], "bad_order"),
            (lambda _: [], "too_few_sites"),
        ],
    )
    def test_who_takes_part(self, change: Callable[[list[bytes]], list[bytes]], reason: str) -> None:
        """Without us, with too few, with one twice, in another order, with nobody."""
        net = waiting_for(Kind.ADVERTISED)
        refused(net.sites[ONE], again(net, waiting_data(net), (length_prefixed(*change(adverts(net))),)), reason)

    def test_other_keys_of_ours(self) -> None:
        """An earlier Advertise of this very site, replayed: its secrets are gone, so it must not count."""
        net = waiting_for(Kind.ADVERTISED)
        found = adverts(net)
        found[0] = net.make_site(ONE, deterministic("before a restart")).advertise
        refused(net.sites[ONE], again(net, waiting_data(net), (length_prefixed(*found),)), "left_out")

    def test_a_key_that_two_sites_have(self) -> None:
        """Nobody advertises another's key."""
        net = waiting_for(Kind.ADVERTISED)
        found = adverts(net)
        copied = replace(Advertise.decode(parse_message(found[1])), mask_key=parse_message(found[2]).body[4])
        name = site_name(2)
        found[1] = sign_message(
            net.parameters, Kind.ADVERTISE, net.parameters.transcript, (name, signing_key(name)), copied.encode()
        ).raw
        refused(net.sites[ONE], again(net, waiting_data(net), (length_prefixed(*found),)), "duplicate")

    @pytest.mark.parametrize("raw", [b"short", bytes(1216), b"\xff" * 1216])
    def test_a_key_that_is_none(self, raw: bytes) -> None:
        """A wrong length, a point of low order, coefficients out of range: an error that names the site."""
        net = waiting_for(Kind.ADVERTISED)
        found = adverts(net)
        broken = replace(Advertise.decode(parse_message(found[1])), transport_key=raw)
        name = site_name(2)
        found[1] = sign_message(
            net.parameters, Kind.ADVERTISE, net.parameters.transcript, (name, signing_key(name)), broken.encode()
        ).raw
        error = refused(net.sites[ONE], again(net, waiting_data(net), (length_prefixed(*found),)), "bad_key")
        assert isinstance(error, MessageError)
        assert name in str(error)


class TestShared:
    def test_less_than_the_threshold(self) -> None:
        """Three of five, where four are needed."""
        net = waiting_for(Kind.SHARED)
        message = parse_message(waiting_data(net))
        shared = Shared.decode(message)
        body = replace(shared, statements=shared.statements[:3]).encode()
        refused(net.sites[ONE], again(net, waiting_data(net), body), "too_few_shares")

    def test_without_us(self) -> None:
        """Our own Share left out."""
        net = waiting_for(Kind.SHARED)
        shared = Shared.decode(parse_message(waiting_data(net)))
        body = replace(shared, statements=shared.statements[1:]).encode()
        refused(net.sites[ONE], again(net, waiting_data(net), body), "left_out")

    def test_another_share_of_ours(self) -> None:
        """Signed with our own key under the same T, as a restored snapshot might have; not what this memory dealt."""
        net = waiting_for(Kind.SHARED)
        shared = Shared.decode(parse_message(waiting_data(net)))
        own = parse_message(shared.statements[0])
        other = resigned(net.parameters, own, (bytes(32), own.body[1]))
        body = replace(shared, statements=(other, *shared.statements[1:])).encode()
        refused(net.sites[ONE], again(net, waiting_data(net), body), "left_out")

    def test_a_wrong_t2(self) -> None:
        """The server may not choose what steps 3 to 5 are bound to."""
        net = waiting_for(Kind.SHARED)
        shared = Shared.decode(parse_message(waiting_data(net)))
        refused(
            net.sites[ONE], again(net, waiting_data(net), replace(shared, transcript=bytes(32)).encode()),
            "wrong_transcript",
        )  # fmt: skip

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            (lambda packets: packets[1:], "missing_packet"),
            (lambda packets: [*packets, packets[0]], "missing_packet"),
            (lambda packets: packets[::-1], "bad_packet"),
            (lambda packets: [b"", *packets[1:]], "bad_packet"),
            (lambda packets: [packets[0][:-1] + b"x", *packets[1:]], "bad_packet"),
        ],
    )
    def test_packets_that_are_withheld_or_changed(
        self, change: Callable[[list[bytes]], list[bytes]], reason: str
    ) -> None:
        """Missing, too many, exchanged, empty, changed: each is noticed before anything is masked."""
        net = waiting_for(Kind.SHARED)
        message = parse_message(waiting_data(net))
        packets = change(list(split_many(message, message.attachment)))
        data = replace(message, attachment=length_prefixed(*packets)).raw
        refused(net.sites[ONE], data, reason)
        assert net.vectors[ONE].calls == []

    def test_another_sites_packets(self) -> None:
        """What is meant for somebody else does not fit the hashes that the dealers signed."""
        net = waiting_for(Kind.SHARED)
        refused(net.sites[ONE], waiting_data(net, site_name(2)), "bad_packet")

    def test_a_statement_of_an_earlier_round(self) -> None:
        """A Share of the same sites and the same model, from a round that was tried before."""
        earlier = Network(5, stop_at=ServerState.UPLOADING)
        earlier.sites = {name: earlier.make_site(name, deterministic(f"earlier {name}")) for name in earlier.sites}
        earlier.begin()
        old = Shared.decode(parse_message(waiting_data(earlier))).statements
        net = waiting_for(Kind.SHARED)
        shared = Shared.decode(parse_message(waiting_data(net)))
        body = replace(shared, statements=(shared.statements[0], old[1], *shared.statements[2:])).encode()
        refused(net.sites[ONE], again(net, waiting_data(net), body), "wrong_transcript")

    @pytest.mark.parametrize("field", ["sealed_shares", "sealed_key"])
    def test_a_packet_that_does_not_open(self, field: str) -> None:
        """A dealer that seals garbage is named by the one it was meant for."""
        net = Network(5)

        def change(name: str, data: bytes) -> bytes:
            if name != site_name(2) or parse_message(data).kind is not Kind.SHARE:
                return data
            packet = packet_of(data, 1)
            sealed = getattr(packet, field)
            return with_packet(net, data, 1, replace(packet, **{field: sealed[:-1] + bytes([sealed[-1] ^ 1])}))

        net.change = change
        net.run()
        found = dict(net.errors)[ONE]
        assert (found.reason, net.sites[ONE].state) == ("not_for_us", SiteState.STOPPED)
        assert site_name(2) in str(found)
        # The one that stopped has dropped out, and its masks come off, unless that needs what does not open.
        assert (len(net.sums), net.liars) == ((1, []) if field == "sealed_shares" else (0, [site_name(2)]))

    @pytest.mark.parametrize(
        ("field", "reason"),
        [
            ("key_commitment", "bad_key_half"),
            ("self_mask_commitment", "bad_share"),
            ("master_commitment", "bad_share"),
        ],
    )
    def test_a_packet_that_is_not_what_was_committed_to(self, field: str, reason: str) -> None:
        """An inconsistent half of a pair key, and inconsistent shares, are found by their receiver."""
        net = Network(5)

        def change(name: str, data: bytes) -> bytes:
            if name != site_name(2) or parse_message(data).kind is not Kind.SHARE:
                return data
            return with_packet(net, data, 1, replace(packet_of(data, 1), **{field: bytes(32)}))

        net.change = change
        net.run()
        found = dict(net.errors)[ONE]
        assert (found.reason, site_name(2) in str(found)) == (reason, True)

    def test_the_vector_is_masked_once_with_every_neighbour(self) -> None:
        """By the lower index added, by the higher one subtracted; both ends have the same key."""
        net = waiting_for(Kind.SHARED)
        net.stop_at = None
        net.drain()
        calls = {name: vector.calls for name, vector in net.vectors.items()}
        assert all(len(found) == 1 for found in calls.values())
        signs = {(name, key.site): key.sign for name, ((keys, _),) in calls.items() for key in keys}
        keys = {(name, key.site): key.key for name, ((keys, _),) in calls.items() for key in keys}
        assert len(signs) == 20
        assert len(set(keys.values())) == 10
        for (name, other), sign in signs.items():
            assert sign == (1 if name < other else -1)
            assert keys[name, other] == keys[other, name]

    def test_an_error_of_the_mask_ends_the_round(self) -> None:
        """Half a mask on a vector is no mask."""

        def fail(*_: object) -> None:
            raise ValueError("out of memory")

        net = waiting_for(Kind.SHARED)
        site = net.sites[ONE]
        site._mask = fail
        with pytest.raises(ValueError, match="out of memory"):
            site.receive(waiting_data(net), 0)
        assert site.state is SiteState.STOPPED


class TestUploaded:
    @pytest.mark.parametrize(
        ("survivors", "reason"),
        [
            ((1, 2, 3), "too_few_survivors"),
            ((2, 3, 4, 5), "left_out"),
            ((1, 2, 3, 4, 6), "bad_survivors"),
        ],
    )
    def test_a_u2_that_must_not_be_signed(self, survivors: tuple[int, ...], reason: str) -> None:
        """Too few, without us, with somebody who never shared."""
        net = waiting_for(Kind.UPLOADED)
        refused(net.sites[ONE], again(net, waiting_data(net), Survivors(survivors).encode()), reason)

    def test_two_u2_under_one_t2(self) -> None:
        """The second one ends the round, and no share is ever released."""
        net = waiting_for(Kind.UPLOADED)
        site, data = net.sites[ONE], waiting_data(net)
        site.receive(data, 0)
        refused(site, again(net, data, Survivors((1, 2, 3, 4)).encode()), "equivocation")
        refused(site, data, "stopped")

    def test_before_our_update_was_sent(self) -> None:
        """U2 is not for one that has not uploaded."""
        net = waiting_for(Kind.SHARED)
        site = net.sites[ONE]
        (event,) = site.receive(waiting_data(net), 0)
        assert isinstance(event, Upload)
        later = waiting_for(Kind.UPLOADED)
        refused(site, waiting_data(later), "out_of_order", state=SiteState.MASKED)

    def test_less_than_three_even_where_the_threshold_is_two(self) -> None:
        """With three honest-but-curious sites t is 2, and still 3 have to have uploaded."""
        net = Network(3, stop_at=ServerState.AGREEING)
        trusting = replace(net.parameters, honest_but_curious=True)
        net.use(trusting)
        net.begin()
        refused(net.sites[ONE], again(net, waiting_data(net), Survivors((1, 2)).encode()), "too_few_survivors")


def consistency(net: Network, index: int, survivors: tuple[int, ...], transcript: bytes | None = None) -> bytes:
    """Return a signature of a site over a U2."""
    name = site_name(index)
    transcript = parse_message(waiting_data(net)).transcript if transcript is None else transcript
    sender = (name, signing_key(name))
    return sign_message(net.parameters, Kind.CONSISTENCY, transcript, sender, Survivors(survivors).encode()).raw


ALL = (1, 2, 3, 4, 5)


class TestAgreed:
    @pytest.mark.parametrize(
        ("signatures", "reason"),
        [
            (lambda net: [consistency(net, at, ALL) for at in (1, 2, 3)], "too_few_signatures"),
            (lambda net: [consistency(net, 2, ALL)] * 4, "too_few_signatures"),
            (lambda net: [consistency(net, at, ALL if at < 4 else ALL[:4]) for at in ALL[:4]], "equivocation"),
            (lambda net: [consistency(net, at, ALL, bytes(32)) for at in ALL], "wrong_transcript"),
            (lambda _: [], "too_few_signatures"),
            (lambda _: [b"garbage"], "malformed"),
        ],
    )
    def test_signatures_that_do_not_suffice(self, signatures: Callable[[Network], list[bytes]], reason: str) -> None:
        """Too few, one site's again and again, another U2's, another T2's, none, garbage."""
        net = waiting_for(Kind.AGREED)
        body = (*Survivors(ALL).encode(), length_prefixed(*signatures(net)))
        refused(net.sites[ONE], again(net, waiting_data(net), body), reason)

    def test_another_u2_than_we_signed(self) -> None:
        """Even with enough signatures under it."""
        net = waiting_for(Kind.AGREED)
        body = (*Survivors(ALL[:4]).encode(), length_prefixed(*(consistency(net, at, ALL[:4]) for at in ALL[:4])))
        refused(net.sites[ONE], again(net, waiting_data(net), body), "equivocation")

    def test_another_u2_around_our_signatures(self) -> None:
        """The server's own word has to be the U2 that the signatures are of."""
        net = waiting_for(Kind.AGREED)
        body = (*Survivors(ALL[:4]).encode(), length_prefixed(*(consistency(net, at, ALL) for at in ALL[:4])))
        refused(net.sites[ONE], again(net, waiting_data(net), body), "equivocation")

    def test_the_model_is_burnt_before_a_share_leaves(self) -> None:
        """The event names what must be remembered; the shares come only when the caller says that it is."""
        net = waiting_for(Kind.AGREED)
        site, data = net.sites[ONE], waiting_data(net)
        with pytest.raises(RoundError) as caught:
            site.burnt(0)
        assert caught.value.reason == "out_of_order"
        (event,) = site.receive(data, 0)
        assert event == Burn(net.parameters.model_digest, 7, parse_message(data).transcript, ALL)
        assert site.receive(data, 0) == (event,)
        (sent,) = site.burnt(0)
        assert isinstance(sent, Send)
        assert site.burnt(0) == site.receive(data, 0) == (sent,)
        assert site.state is SiteState.RELEASED

    def test_a_burnt_model_is_never_submitted_for_again(self) -> None:
        """Not in another round, not with other sites: a retry has a new base model."""
        net = Network(5)
        net.run()
        identity = SiteIdentity(ONE, signing_key(ONE), net.burnt[ONE])
        for parameters in (net.parameters, make_parameters(4, round_number=8)):
            with pytest.raises(RoundError) as caught:
                SecAggSite(parameters, identity, MaskedVector(0).mask, deadline=9)
            assert caught.value.reason == "burnt_model"
        fresh = replace(net.parameters, model_digest=bytes(32))
        assert SecAggSite(fresh, identity, MaskedVector(0).mask, deadline=9).advertise

    def test_a_site_restored_from_a_snapshot_releases_nothing_more(self) -> None:
        """Two copies of one memory: once one of them released its shares, the other has nothing to release."""
        net = waiting_for(Kind.AGREED)
        restored, data = net.sites[ONE], waiting_data(net)
        net.burnt[ONE].add(net.parameters.model_digest)
        refused(restored, data, "burnt_model")


class TestAnyTime:
    @pytest.mark.parametrize("kind", AFTER)
    def test_the_same_again_has_the_same_answer(self, kind: Kind) -> None:
        """Byte for byte, and the mask is not put on twice."""
        net = waiting_for(kind)
        site, data = net.sites[ONE], waiting_data(net)
        first = site.receive(data, 0)
        calls, state = len(net.vectors[ONE].calls), site.state
        assert site.receive(data, 0) == first
        message = parse_message(data)
        hedged = replace(message, signature=signing_key(HUB).sign(message.signed, kind.context))
        assert site.receive(hedged.raw, 0) == first
        assert (len(net.vectors[ONE].calls), site.state) == (calls, state)

    @pytest.mark.parametrize("kind", AFTER)
    def test_another_one_of_the_same_kind_ends_the_round(self, kind: Kind) -> None:
        """Two different publications of one kind prove that the server equivocates."""
        net = waiting_for(kind)
        site, data = net.sites[ONE], waiting_data(net)
        site.receive(data, 0)
        body = (*parse_message(data).body[:-1], b"")
        refused(site, again(net, data, body, b""), "equivocation")
        refused(site, data, "stopped")

    @pytest.mark.parametrize("kind", AFTER)
    def test_what_the_server_did_not_sign_changes_nothing(self, kind: Kind) -> None:
        """A damaged signature, a stranger's, another round, garbage: refused, and then the right one is taken."""
        net = waiting_for(kind)
        site, data = net.sites[ONE], waiting_data(net)
        message, state = parse_message(data), site.state
        forged = sign_message(
            net.parameters, kind, message.transcript, (HUB, signing_key(ONE)), message.body
        )  # fmt: skip
        for wrong, reason in (
            (replace(message, signature=bytes(3309)).raw, "bad_signature"),
            (forged.raw, "bad_signature"),
            (published(replace(net.parameters, round=6), kind, message.transcript, message.body).raw, "wrong_round"),
            (b"garbage", "malformed"),
            (site.advertise, "wrong_kind"),
        ):
            refused(site, wrong, reason, state=state)
        assert site.receive(data, 0)

    @pytest.mark.parametrize("kind", AFTER)
    def test_another_transcript_ends_the_round(self, kind: Kind) -> None:
        """Signed by the server, for this round, and bound to something else."""
        net = waiting_for(kind)
        message = parse_message(waiting_data(net))
        refused(net.sites[ONE], published(net.parameters, kind, bytes(32), message.body).raw, "wrong_transcript")

    @pytest.mark.parametrize("kind", [Kind.SHARED, Kind.UPLOADED, Kind.AGREED])
    def test_what_comes_before_its_time_changes_nothing(self, kind: Kind) -> None:
        """A new site takes only ADVERTISED."""
        net = Network(5)
        net.run()
        fresh = net.sites[ONE] = Network(5).sites[ONE]
        data = next(data for name, data in net.sent if name == ONE and parse_message(data).kind is kind)
        refused(fresh, data, "out_of_order", state=SiteState.ADVERTISED)

    @pytest.mark.parametrize("kind", AFTER)
    def test_the_end_of_the_round(self, kind: Kind) -> None:
        """Past its end a site takes nothing any more, and its secrets are gone."""
        net = waiting_for(kind)
        site = net.sites[ONE]
        with pytest.raises(RoundError) as caught:
            site.receive(waiting_data(net), 101)
        assert (caught.value.reason, site.state) == ("expired", SiteState.STOPPED)
        assert site._secrets is None
        refused(site, waiting_data(net), "stopped")

    def test_secrets_are_dropped_when_they_are_not_needed_any_more(self) -> None:
        """After the mask nothing but shares is kept; after they were released, nothing."""
        net = waiting_for(Kind.UPLOADED)
        site = net.sites[ONE]
        assert site._secrets is None
        assert sorted(site._held) == list(ALL)
        net.stop_at = None
        net.drain()
        assert site._held == {}

    @pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickle.dumps])
    def test_a_round_is_never_copied_or_stored(self, duplicate: Callable[[object], object]) -> None:
        """A second copy could answer a second time; so could the secrets."""
        site = Network(3).sites[ONE]
        for what in (site, site._secrets):
            with pytest.raises(TypeError, match="memory"):
                duplicate(what)

    def test_who_the_roster_does_not_list(self) -> None:
        """A stranger, and a member with another key."""
        mask: Mask = MaskedVector(0).mask
        for name, key in (("spiffe://fed/site/x", "x"), (ONE, "x")):
            with pytest.raises(ConfigurationError) as caught:
                SecAggSite(make_parameters(3), SiteIdentity(name, signing_key(key)), mask, deadline=9)
            assert caught.value.reason == "not_a_member"

    def test_sent_is_for_a_masked_vector(self) -> None:
        """Before the mask nothing may be sent."""
        with pytest.raises(RoundError) as caught:
            Network(3).sites[ONE].sent(0)
        assert caught.value.reason == "out_of_order"


@pytest.mark.parametrize(
    "split", list(product((True, False), repeat=4)), ids=lambda split: "".join("AB"[not one] for one in split)
)
def test_a_server_that_shows_two_u2_never_gets_both_seeds(split: tuple[bool, ...]) -> None:
    """Some sites are shown all five, the others four: whatever it then does, no site's two secrets can be restored."""
    net = waiting_for(Kind.UPLOADED)
    views = [ALL if one else ALL[:4] for one in (*split, True)]
    signed: dict[tuple[int, ...], list[Message]] = {ALL: [], ALL[:4]: []}
    for index, view in enumerate(views, 1):
        data = again(net, waiting_data(net, site_name(index)), Survivors(view).encode())
        (event,) = net.sites[site_name(index)].receive(data, 0)
        assert isinstance(event, Send)
        signed[view].append(parse_message(event.data))
    released: dict[tuple[int, ...], int] = dict.fromkeys(signed, 0)
    transcript = parse_message(waiting_data(net)).transcript
    for view, messages in signed.items():
        body = (*Survivors(view).encode(), length_prefixed(*(message.raw for message in messages)))
        agreed = published(net.parameters, Kind.AGREED, transcript, body).raw
        for site in net.sites.values():
            try:
                site.receive(agreed, 0)
            except PqflError:
                continue
            site.burnt(0)
            released[view] += 1
    # Of the fifth site each view would release the other secret; only one of them can have four shares.
    assert min(released.values()) == 0
