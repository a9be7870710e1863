"""Restoring masks: shares are held against commitments one by one, all of a message or nothing."""

from dataclasses import replace

import pytest

from pqfl_transport.aggregation.secagg.messages import Kind, Secret, Unmask, parse_message
from pqfl_transport.aggregation.secagg.recovery import LiarError, Recovered, Recovery
from pqfl_transport.aggregation.secagg.server import ServerState
from pqfl_transport.errors import RoundError
from tests.support.secagg import Network, site_name


def collected(drop: int | None = None) -> tuple[Recovery, dict[int, Unmask], Network]:
    """Return a recovery that has taken nothing, and what each survivor of five releases."""
    net = Network(5, frozenset() if drop is None else frozenset({(drop, "upload")}), stop_at=ServerState.UNMASKING)
    net.begin()
    net.handle(net.server.tick(31))
    net.drain()
    recovery = net.server._recovery
    assert recovery is not None
    net.stop_at = None
    take, unmasks = Recovery.take, {}
    with pytest.MonkeyPatch.context() as patch:
        # What the survivors release is kept from the recovery of the round itself.
        patch.setattr(Recovery, "take", lambda _, holder, unmask: unmasks.update({holder: unmask}))
        net.drain()
    assert Recovery.take is take
    return recovery, unmasks, net


def test_t_shares_restore_everything() -> None:
    """Three of the four survivors are too few, the fourth makes it complete."""
    recovery, unmasks, net = collected(drop=5)
    assert [recovery.wanted(owner) for owner in range(1, 6)] == [Secret.SELF_MASK] * 4 + [Secret.MASTER]
    for holder in (1, 2, 3):
        recovery.take(holder, unmasks[holder])
    assert not recovery.is_complete
    with pytest.raises(RoundError) as caught:
        recovery.restore()
    assert caught.value.reason == "too_few_shares"
    recovery.take(4, unmasks[4])
    assert recovery.is_complete
    recovered = recovery.restore()
    assert list(recovered.self_seeds) == [site_name(at) for at in (1, 2, 3, 4)]
    masks = {
        (name, key.key, key.sign) for name, vector in net.vectors.items() for key in vector.calls[0][0]
        if key.site == site_name(5)
    }  # fmt: skip
    assert {(key.site, key.key, key.sign) for key in recovered.pair_keys} == masks


def test_a_bad_message_leaves_nothing_behind() -> None:
    """One bad share, and none of the good ones beside it is taken; the honest message is."""
    recovery, unmasks, _ = collected()
    good = unmasks[1]
    bad = replace(good, shares=(*good.shares[:-1], replace(good.shares[-1], share=bytes(32))))
    with pytest.raises(LiarError) as caught:
        recovery.take(1, bad)
    assert (caught.value.site, caught.value.reason) == (site_name(1), "bad_share")
    assert site_name(5) in str(caught.value)
    assert all(not shares for shares in recovery._shares.values())
    recovery.take(1, good)
    assert all(set(shares) == {1} for shares in recovery._shares.values())


@pytest.mark.parametrize("owner", range(5))
def test_the_other_kind_of_share_is_never_taken(owner: int) -> None:
    """Whoever it is of."""
    recovery, unmasks, _ = collected(drop=5)
    shares = list(unmasks[1].shares)
    other = {Secret.MASTER: Secret.SELF_MASK, Secret.SELF_MASK: Secret.MASTER}[shares[owner].secret]
    shares[owner] = replace(shares[owner], secret=other)
    with pytest.raises(LiarError) as caught:
        recovery.take(1, replace(unmasks[1], shares=tuple(shares)))
    assert caught.value.reason == "wrong_shares"


def test_another_holders_shares_are_none_of_ours() -> None:
    """Commitments are of one dealer to one holder."""
    recovery, unmasks, _ = collected()
    with pytest.raises(LiarError) as caught:
        recovery.take(1, unmasks[2])
    assert caught.value.reason == "bad_share"


def test_who_did_not_survive_releases_nothing() -> None:
    """Nor does an index that is nobody."""
    recovery, unmasks, _ = collected(drop=5)
    for holder, reason in ((5, "not_a_survivor"), (6, "not_advertised"), (0, "not_advertised")):
        with pytest.raises(RoundError) as caught:
            recovery.take(holder, unmasks[1])
        assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("survivors", "reason"),
    [((1, 2, 3), "too_few_survivors"), ((1, 2, 3, 6), "bad_survivors"), ((), "too_few_survivors")],
)
def test_a_u2_that_nothing_is_restored_for(survivors: tuple[int, ...], reason: str) -> None:
    """The server holds itself to what its sites hold it to."""
    recovery, _, _ = collected()
    with pytest.raises(RoundError) as caught:
        Recovery(recovery._members, recovery._uploaders, recovery._packets, survivors)
    assert caught.value.reason == reason


def test_no_secret_is_in_a_representation() -> None:
    """Seeds are keys of masks."""
    recovered = Recovered({site_name(1): b"secret seed"}, ())
    assert "secret seed" not in repr(recovered)
    _, _, net = collected()
    assert Kind.UNMASK in {parse_message(data).kind for data in net.seen}
