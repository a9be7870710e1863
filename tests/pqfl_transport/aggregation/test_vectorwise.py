"""Clipping, Krum and the geometric median: what a straightforward reading of each paper gives, attacked and not."""

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pqfl_transport.aggregation.fedavg import Update
from pqfl_transport.aggregation.geometry import products
from pqfl_transport.aggregation.vectorwise import clipped_mean, geometric_median, krum, median_shares
from pqfl_transport.errors import RoundError

SMALL = st.floats(-1e3, 1e3, width=32)
CLOUDS = hnp.arrays(np.float64, (7, 4), elements=SMALL, unique=True)
HUGE = [1e4, 1e9, 1e16, 1e60, 1e140, 1e200]


def updates_of(rows: Any, samples: Any = None) -> list[Update]:
    return [Update([row], 1 if samples is None else int(samples[number])) for number, row in enumerate(rows)]


def zero(size: int = 4) -> Any:
    return [np.zeros(size)]


def krum_scores(rows: np.ndarray, byzantine: int) -> list[float]:
    scores = []
    for one in rows:
        apart = sorted(float(((one - other) ** 2).sum()) for other in rows)[1:]
        scores.append(sum(apart[: len(rows) - byzantine - 2]))
    return scores


def krum_by_the_paper(rows: np.ndarray, byzantine: int, select: int) -> np.ndarray:
    scores = krum_scores(rows, byzantine)
    mean: np.ndarray = rows[sorted(range(len(rows)), key=scores.__getitem__)[:select]].mean(axis=0)
    return mean


def are_distinct(scores: list[float]) -> bool:
    return float(np.diff(sorted(scores)).min()) > 1e-3


def cost(point: np.ndarray, rows: np.ndarray, weights: np.ndarray) -> float:
    return float((weights * np.linalg.norm(rows - point, axis=1)).sum())


@settings(max_examples=50, deadline=None)
@given(rows=CLOUDS, samples=hnp.arrays(np.int64, 7, elements=st.integers(1, 100)), fixed=st.booleans())
def test_clipping_equals_numpy(rows: np.ndarray, samples: np.ndarray, fixed: bool) -> None:
    """Each update at most as long as the bound or the median length, then the weighted mean."""
    norms = np.linalg.norm(rows, axis=1)
    limit = 10.0 if fixed else float(np.median(norms))
    factors = np.minimum(1, limit / np.maximum(norms, 1e-30))
    model, clipped, bound = clipped_mean(zero(), updates_of(rows, samples), 10.0 if fixed else None)
    np.testing.assert_allclose(
        model[0], np.average(rows * factors[:, np.newaxis], axis=0, weights=samples), rtol=1e-9, atol=1e-9
    )
    assert bound == pytest.approx(limit)
    # The one in the middle may be rounded either way.
    certain = {place for place in range(7) if abs(norms[place] - limit) > 1e-9 * limit}
    assert set(clipped) & certain == {place for place in certain if norms[place] > limit}


@pytest.mark.parametrize("size", HUGE)
def test_what_an_attacker_moves_is_bounded(size: float) -> None:
    """Its share times the bound and no more, whatever it sends: beyond what can be measured it counts nothing."""
    rows = np.array([[1.0, 0], [0, 1], [-1, 0], [0, -1], [size, size]])
    for bound in (None, 1.0):
        model, clipped, _ = clipped_mean(zero(2), updates_of(rows), bound)
        assert clipped == (4,)
        assert np.linalg.norm(model[0]) <= 0.2 + 1e-12


def test_clipping_refuses_what_nobody_can_measure() -> None:
    """Half of the updates are longer than float64 can say: there is no median."""
    with pytest.raises(RoundError) as caught:
        clipped_mean(zero(), updates_of(np.full((3, 4), 1e200)), None)
    assert caught.value.reason == "not_finite"


def test_no_change_at_all_is_no_division_by_zero() -> None:
    """Updates of zeros are clipped to nothing by a median of nothing."""
    model, clipped, bound = clipped_mean(zero(), updates_of(np.zeros((3, 4))), None)
    assert (model[0].tolist(), clipped, bound) == ([0] * 4, (), 0)
    assert geometric_median(zero(), updates_of(np.zeros((3, 4))))[0][0].tolist() == [0] * 4
    assert krum(zero(), updates_of(np.zeros((5, 4))), 1, 1) == ([pytest.approx(np.zeros(4))], (1, 2, 3, 4))


@pytest.mark.parametrize("count", range(5, 12))
def test_krum_equals_the_paper(count: int) -> None:
    """One or several are averaged, without weights, and the others named."""
    rng = np.random.default_rng(count)
    for _ in range(40):
        rows = rng.standard_normal((count, 4))
        byzantine = int(rng.integers(1, (count - 3) // 2 + 1))
        select = int(rng.integers(1, count - byzantine - 1))
        model, left_out = krum(zero(), updates_of(rows, range(1, count + 1)), byzantine, select)
        np.testing.assert_allclose(model[0], krum_by_the_paper(rows, byzantine, select), rtol=1e-9, atol=1e-9)
        kept = [place for place in range(count) if place not in left_out]
        np.testing.assert_allclose(rows[kept].mean(axis=0), model[0])


@pytest.mark.parametrize("size", HUGE)
@pytest.mark.parametrize("attackers", [1, 2])
def test_krum_leaves_attackers_out(size: float, attackers: int) -> None:
    """Far away, alone or together, they are chosen by no sum of distances."""
    rng = np.random.default_rng(4)
    rows = np.concatenate([rng.standard_normal((5, 4)), np.full((attackers, 4), size)])
    _, left_out = krum(zero(), updates_of(rows), attackers, len(rows) - attackers - 2)
    assert set(range(5, 5 + attackers)) <= set(left_out)


def test_krum_of_equal_scores_takes_the_first() -> None:
    """Updates come in the order of their senders, so a run can be repeated."""
    rows = np.array([[0.0], [1], [0], [1], [0], [1]])
    assert krum([np.zeros(1)], updates_of(rows), 1, 1)[1] == (1, 2, 3, 4, 5)


def test_krum_refuses_what_nobody_can_measure() -> None:
    """No update has enough others within a distance that float64 can say."""
    rows = np.diag(np.full(5, 1e200))
    with pytest.raises(RoundError) as caught:
        krum(zero(5), updates_of(rows), 1, 1)
    assert caught.value.reason == "not_finite"


@settings(max_examples=60, deadline=None)
@given(rows=CLOUDS, samples=hnp.arrays(np.int64, 7, elements=st.integers(1, 9)))
def test_no_point_beside_the_geometric_median_is_better(rows: np.ndarray, samples: np.ndarray) -> None:
    """The weighted sum of distances is as low as around it, at every update, and as an independent search finds."""
    weights = samples / samples.sum()
    model, shares = geometric_median(zero(), updates_of(rows, samples))
    assert sum(shares) == pytest.approx(1)
    np.testing.assert_allclose(model[0], np.array(shares) @ rows, atol=1e-9)
    found = cost(model[0], rows, weights)
    tolerance = 1e-5 * max(found, 1e-6)
    rng = np.random.default_rng(5)
    typical = float(np.median(np.linalg.norm(rows - model[0], axis=1)))
    nearby = model[0] + rng.standard_normal((200, 4)) * typical * np.logspace(-4, 0, 200)[:, np.newaxis]
    for point in [*nearby, *rows, rows.mean(axis=0), np.median(rows, axis=0)]:
        assert found <= cost(point, rows, weights) + tolerance


@pytest.mark.parametrize("size", HUGE)
def test_a_minority_moves_the_geometric_median_a_little(size: float) -> None:
    """However far away, by no more than the honest updates differ times a factor of the counts (Lopuhaä, 1991)."""
    rng = np.random.default_rng(6)
    honest = rng.standard_normal((5, 4))
    clean = geometric_median(zero(), updates_of(honest))[0][0]
    for attack in (
        np.full((2, 4), size),
        np.array([[size, 0, 0, 0], [size, 0, 0, 0]]),
        np.array([[size] * 4, [-size] * 4]),
    ):
        found, shares = geometric_median(zero(), updates_of(np.concatenate([honest, attack])))
        widest = np.linalg.norm(honest - clean, axis=1).max()
        assert np.linalg.norm(found[0] - clean) <= 2 * 5 / (5 - 2) * widest
        assert sum(shares[5:]) < 0.3


def test_distance_beyond_some_point_makes_no_difference() -> None:
    """A million times further away in the same direction gives the same point: nothing is lost to rounding."""
    rng = np.random.default_rng(7)
    honest = rng.standard_normal((5, 4))
    far = [geometric_median(zero(), updates_of([*honest, np.full(4, size)]))[0][0] for size in (1e8, 1e14, 1e140)]
    np.testing.assert_allclose(far[1], far[0], atol=1e-6)
    np.testing.assert_allclose(far[2], far[0], atol=1e-6)


def test_more_than_half_at_one_point_have_it() -> None:
    """The geometric median of a majority that agrees is what it agrees on."""
    rows = np.concatenate([np.full((4, 4), 2.0), np.full((3, 4), 1e12)])
    np.testing.assert_allclose(geometric_median(zero(), updates_of(rows))[0][0], 2, atol=1e-4)


def test_samples_weigh_in_the_geometric_median() -> None:
    """Who has more than half of them is the median."""
    found, _ = geometric_median([np.zeros(1)], updates_of(np.array([[0.0], [1], [10]]), [1, 1, 5]))
    assert found[0][0] == pytest.approx(10, abs=1e-3)


def test_the_geometric_median_refuses_what_nobody_can_measure() -> None:
    """Where all updates are longer than float64 can say."""
    with pytest.raises(RoundError) as caught:
        median_shares(products(updates_of(np.full((3, 4), 1e200))), np.ones(3))
    assert caught.value.reason == "not_finite"


@settings(max_examples=40, deadline=None)
@given(rows=CLOUDS, order=st.permutations(range(7)))
def test_the_order_does_not_count(rows: np.ndarray, order: list[int]) -> None:
    """Up to rounding, where no two scores are equal."""
    assume(are_distinct(krum_scores(rows, 2)))
    shuffled = rows[order]
    for rule in (
        lambda those: clipped_mean(zero(), updates_of(those), None)[0],
        lambda those: krum(zero(), updates_of(those), 2, 3)[0],
        lambda those: geometric_median(zero(), updates_of(those))[0],
    ):
        np.testing.assert_allclose(rule(rows)[0], rule(shuffled)[0], rtol=1e-4, atol=1e-2)


@settings(max_examples=40, deadline=None)
@given(rows=CLOUDS, angle=st.floats(0, 6), scale=st.floats(0.1, 10), shift=hnp.arrays(np.float64, 4, elements=SMALL))
def test_krum_and_the_geometric_median_turn_with_their_updates(
    rows: np.ndarray, angle: float, scale: float, shift: np.ndarray
) -> None:
    """They know distances alone: turned, scaled and shifted updates give a result turned, scaled and shifted."""
    assume(are_distinct(krum_scores(rows, 2)))
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    changed = scale * rows @ turn.T + shift
    assume(are_distinct(krum_scores(changed, 2)))
    for rule in (
        lambda those: krum(zero(), updates_of(those), 2, 1)[0][0],
        lambda those: geometric_median(zero(), updates_of(those))[0][0],
    ):
        np.testing.assert_allclose(rule(changed), scale * turn @ rule(rows) + shift, rtol=1e-3, atol=1e-1)
