"""Derivations and packets: both ends agree, and every input separates."""

from dataclasses import replace
from itertools import combinations

import pytest

from pqfl_transport.aggregation.secagg.keys import (
    Link,
    PublicKeys,
    Salted,
    SiteSecrets,
    commit_seed,
    mask_pair,
    pair_key,
    public_keys,
    sign_of,
)
from pqfl_transport.aggregation.secagg.messages import Advertise, Packet, Secret
from pqfl_transport.crypto.shamir import combine_shares
from pqfl_transport.errors import MessageError
from tests.support.secagg import SUITE, deterministic, make_parameters, site_name

PARAMETERS = make_parameters(5)
T, T2 = b"T" * 32, b"2" * 32
LINK = Link(PARAMETERS, T, 1, 2)
HALVES = {Secret.SELF_MASK: Salted(b"s" * 32, b"a" * 16), Secret.MASTER: Salted(b"m" * 32, b"b" * 16)}
OTHERS = [
    replace(LINK, dealer=3),
    replace(LINK, holder=3),
    replace(LINK, dealer=2, holder=1),
    replace(LINK, transcript=T2),
]


def secrets_of(name: str) -> SiteSecrets:
    """Return a site's secrets, the same in every run."""
    return SiteSecrets(PARAMETERS, name, deterministic(name))


HOLDER = secrets_of(site_name(2))
TO = PublicKeys(HOLDER.transport_pair.public, HOLDER.mask_pair.public)
KEY = LINK.directed_key(b"master" * 5 + b"..")
PACKET = LINK.seal(TO, HALVES, KEY)


def refused(link: Link, packet: Packet, reason: str) -> None:
    """Require that neither shares nor half of the key come out."""
    with pytest.raises(MessageError) as caught:
        link.open_shares(packet, HOLDER.transport_pair)
    assert caught.value.reason == reason
    with pytest.raises(MessageError):
        link.open_key(packet, HOLDER.mask_pair)


def test_a_packet_opens_for_its_holder() -> None:
    """With the shares of both secrets and half of the pair key."""
    assert LINK.open_shares(PACKET, HOLDER.transport_pair) == HALVES
    assert LINK.open_key(PACKET, HOLDER.mask_pair) == KEY


@pytest.mark.parametrize("link", OTHERS)
def test_a_packet_is_bound_to_its_direction(link: Link) -> None:
    """Another dealer, another holder, the way back, another transcript."""
    refused(link, PACKET, "not_for_us")


def test_the_two_pairs_are_not_each_other() -> None:
    """The key that the server may restore opens no shares, and the two ciphertexts are no substitutes."""
    with pytest.raises(MessageError) as caught:
        LINK.open_shares(PACKET, HOLDER.mask_pair)
    assert caught.value.reason == "not_for_us"
    swapped = replace(PACKET, sealed_shares=PACKET.sealed_key, sealed_key=PACKET.sealed_shares)
    refused(LINK, swapped, "not_for_us")


def test_what_is_sealed_has_to_be_what_was_committed_to() -> None:
    """Shares of the other secret, another salt, another key, contents of another length."""
    crossed = {Secret.SELF_MASK: HALVES[Secret.MASTER], Secret.MASTER: HALVES[Secret.SELF_MASK]}
    for halves in (crossed, HALVES | {Secret.MASTER: Salted(b"m" * 32, b"c" * 16)}):
        packet = replace(PACKET, sealed_shares=LINK.seal(TO, halves, KEY).sealed_shares)
        with pytest.raises(MessageError) as caught:
            LINK.open_shares(packet, HOLDER.transport_pair)
        assert caught.value.reason == "bad_share"
    longer = LINK.seal(TO, HALVES | {Secret.MASTER: Salted(b"m" * 32, b"b" * 17)}, KEY)
    with pytest.raises(MessageError) as caught:
        LINK.open_shares(longer, HOLDER.transport_pair)
    assert caught.value.reason == "bad_packet"
    for key in (b"k" * 32, KEY + b"x"):
        with pytest.raises(MessageError) as caught:
            LINK.open_key(replace(PACKET, sealed_key=LINK.seal(TO, HALVES, key).sealed_key), HOLDER.mask_pair)
        assert caught.value.reason == "bad_key_half"


def test_commitments_separate_everything() -> None:
    """Secret, dealer, holder, transcript, share, salt; a share's is never a key's or a seed's."""
    salted = HALVES[Secret.MASTER]
    found = [LINK.commit_share(secret, salted) for secret in Secret]
    found += [link.commit_share(Secret.MASTER, salted) for link in OTHERS]
    found += [LINK.commit_share(Secret.MASTER, replace(salted, share=bytes(32)))]
    found += [LINK.commit_share(Secret.MASTER, replace(salted, salt=bytes(16)))]
    found += [LINK.commit_key(salted.share), commit_seed(PARAMETERS, T, 1, salted.share)]
    found += [commit_seed(PARAMETERS, T, 2, salted.share), commit_seed(PARAMETERS, T2, 1, salted.share)]
    assert len(set(found)) == len(found)


def test_pair_keys_separate_everything() -> None:
    """Both ends have the same key whatever order they name the halves in; any other input gives another."""
    halves = {1: b"a" * 32, 2: b"b" * 32}
    key = pair_key(T2, halves)
    assert key == pair_key(T2, dict(reversed(halves.items())))
    assert len(key) == 32
    others = [
        pair_key(T, halves), pair_key(T2, {1: halves[2], 2: halves[1]}), pair_key(T2, {1: halves[1], 3: halves[2]}),
        pair_key(T2, {2: halves[1], 3: halves[2]}), pair_key(T2, halves | {2: bytes(32)}),
    ]  # fmt: skip
    assert len({key, *others}) == len(others) + 1


def test_halves_separate_master_transcript_and_holder() -> None:
    """One master makes as many halves as there are holders."""
    one, two = (bytes([at]) * 32 for at in (1, 2))
    halves = [link.directed_key(master) for master in (one, two) for link in (LINK, *OTHERS[1:])]
    assert len(set(halves)) == len(halves)


def test_signs_cancel() -> None:
    """What one of a pair adds, the other subtracts."""
    assert all(sign_of(low, high) + sign_of(high, low) == 0 for low, high in combinations(range(1, 6), 2))
    assert sign_of(1, 2) == 1


@pytest.mark.parametrize(
    "suite", [SUITE, "pqfl/v1/mlkem1024p384-mldsa87", "pqfl/v1/mlkem1024-mldsa87", "pqfl/v1/mlkem768x25519-mldsa44"]
)
def test_the_mask_pair_is_made_again_from_the_master(suite: str) -> None:
    """By whoever restores it, at every level; another site or round makes another."""
    parameters = make_parameters(3, suite=suite)
    name = site_name(1)
    made = SiteSecrets(parameters, name, deterministic("seed"))
    again = mask_pair(parameters, name, made.master)
    assert again.public.raw == made.mask_pair.public.raw
    assert again.kem == parameters.suite.kem
    others = [
        mask_pair(parameters, site_name(2), made.master),
        mask_pair(replace(parameters, round=8), name, made.master),
        mask_pair(parameters, name, bytes(32)), made.transport_pair,
    ]  # fmt: skip
    assert all(one.public.raw != again.public.raw for one in others)


def test_any_t_shares_make_the_secret_again() -> None:
    """Of both secrets; the salts are new for every share."""
    dealt = HOLDER.deal(4, frozenset(range(1, 6)), deterministic("deal"))
    for chosen in combinations(dealt, 4):
        assert combine_shares({at: dealt[at][Secret.SELF_MASK].share for at in chosen}) == HOLDER.self_seed
        assert combine_shares({at: dealt[at][Secret.MASTER].share for at in chosen}) == HOLDER.master
    salts = [salted.salt for halves in dealt.values() for salted in halves.values()]
    assert len(set(salts)) == len(salts)
    few = {at: dealt[at][Secret.MASTER].share for at in (1, 2, 3)}
    assert combine_shares(few) != HOLDER.master


def test_secrets_are_new_every_time() -> None:
    """From the system's randomness, and all of them different."""
    one, two = SiteSecrets(PARAMETERS, site_name(1)), SiteSecrets(PARAMETERS, site_name(1))
    assert len({one.self_seed, one.master, two.self_seed, two.master}) == 4
    assert one.transport_pair.public.raw != two.transport_pair.public.raw


def test_keys_that_are_none() -> None:
    """A wrong length is found at once, a degenerate point when something is sealed to it."""
    good = HOLDER.transport_pair.public.raw
    with pytest.raises(MessageError) as caught:
        public_keys(PARAMETERS, Advertise(bytes(32), 3, SUITE, good[:-1], good))
    assert caught.value.reason == "bad_key"
    degenerate = good[:-32] + bytes(32)
    public_keys(PARAMETERS, Advertise(bytes(32), 3, SUITE, good, good)).require_usable()
    for keys in ((good, degenerate), (degenerate, good)):
        with pytest.raises(MessageError) as caught:
            public_keys(PARAMETERS, Advertise(bytes(32), 3, SUITE, *keys)).require_usable()
        assert caught.value.reason == "bad_key"


def test_no_secret_is_in_a_representation() -> None:
    """Errors and logs name objects."""
    assert "ssss" not in repr(HALVES)
    assert "seed" not in repr(HOLDER)
