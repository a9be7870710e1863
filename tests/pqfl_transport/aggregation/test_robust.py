"""The table of rules: what each takes, what it needs, what it promises, and a training that attackers ruin or not."""

import tracemalloc
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from pqfl_transport.aggregation.fedavg import Update
from pqfl_transport.aggregation.robust import (
    FEDAVG,
    PLAIN,
    RULES,
    Aggregation,
    Outcome,
    Parameters,
    Weighting,
    cut_of,
)
from pqfl_transport.errors import ConfigurationError, RoundError

GIVEN: dict[str, Parameters] = {
    "fedavg": Parameters(),
    "median": Parameters(),
    "trimmed-mean": Parameters(trim=0.3),
    "norm-clipping": Parameters(),
    "krum": Parameters(byzantine=2),
    "multi-krum": Parameters(byzantine=2),
    "geometric-median": Parameters(weights=Weighting.EQUAL),
}
ROBUST = [name for name in GIVEN if name != "fedavg"]


def aggregation(name: str) -> Aggregation:
    return Aggregation(RULES[name], GIVEN[name])


def updates_of(rows: Any, samples: int = 1) -> list[Update]:
    return [Update({"w": np.asarray(row)}, samples) for row in rows]


def test_every_rule_is_in_the_tests() -> None:
    """The table and what is tried here have the same names."""
    assert list(RULES) == list(GIVEN)
    assert all(rule.name == name and rule.source and rule.breakdown for name, rule in RULES.items())


@pytest.mark.parametrize("name", GIVEN)
def test_a_base_is_left_alone_and_its_form_is_kept(name: str) -> None:
    """Lists come back as lists, mappings as mappings, types and shapes as they were."""
    base: list[Any] = [np.zeros((2, 3), np.float32), np.array(5, np.int64)]
    updates = [Update([np.full((2, 3), 2, np.float32), np.array(3, np.int64)], 4)] * 7
    model, _ = aggregation(name).apply(base, updates)
    assert isinstance(model, list)
    assert [(tensor.dtype, tensor.shape) for tensor in model] == [(tensor.dtype, tensor.shape) for tensor in base]
    np.testing.assert_allclose(model[0], 2, rtol=1e-6)
    assert (int(model[1]), int(base[1]), float(base[0].sum())) == (8, 5, 0)
    named, _ = aggregation(name).apply({"w": base[0]}, updates_of(np.ones((7, 2, 3), np.float32)))
    assert list(named) == ["w"]


def test_outcomes_say_what_was_done() -> None:
    """Places of updates that were left out or clipped, what was cut, whose share is how large."""
    rows = [*np.linspace(1, 1.3, 6), 1000.0]
    outcomes = {name: aggregation(name).apply({"w": np.zeros(1)}, updates_of([[row] for row in rows]))[1]
                for name in GIVEN}  # fmt: skip
    assert outcomes["fedavg"] == outcomes["median"] == Outcome()
    assert outcomes["trimmed-mean"] == Outcome(cut=2)
    clipping = outcomes["norm-clipping"]
    assert clipping.clipped == (4, 5, 6)
    assert clipping.bound == pytest.approx(rows[3])
    assert len(outcomes["krum"].left_out or ()) == 6
    assert len(outcomes["multi-krum"].left_out or ()) == 4
    assert 6 in (outcomes["multi-krum"].left_out or ())
    shares = outcomes["geometric-median"].shares
    assert shares is not None
    assert shares[6] == min(shares) < 0.01


@pytest.mark.parametrize(
    ("name", "parameters", "sentence"),
    [
        ("median", {"trim": 0.2}, "trim is no parameter of median; it takes none"),
        ("krum", {"byzantine": 1, "select": 2}, "select is no parameter of krum; it takes byzantine"),
        ("fedavg", {"clip": 1.0}, "clip is no parameter of fedavg; it takes weights"),
        ("krum", {}, "krum needs byzantine"),
        ("multi-krum", {"select": 1}, "multi-krum needs byzantine"),
        ("trimmed-mean", {}, "trimmed-mean needs trim"),
        ("trimmed-mean", {"trim": 0.0}, "trim is 0.0"),
        ("trimmed-mean", {"trim": 0.5}, "trim is 0.5"),
        ("trimmed-mean", {"trim": float("nan")}, "trim is nan"),
        ("krum", {"byzantine": 0}, "byzantine is 0"),
        ("multi-krum", {"byzantine": 1, "select": 0}, "select is 0"),
        ("norm-clipping", {"clip": 0.0}, "clip is 0.0"),
        ("norm-clipping", {"clip": float("inf")}, "clip is inf"),
        ("trimmed-mean", {"trim": 0.2, "weights": Weighting.EQUAL}, "weights is no parameter of trimmed-mean"),
    ],
)
def test_parameters_that_do_not_go_together(name: str, parameters: dict[str, Any], sentence: str) -> None:
    """Refused in one sentence, before anything is done."""
    with pytest.raises(ConfigurationError, match=sentence) as caught:
        Aggregation(RULES[name], Parameters(**parameters))
    assert caught.value.reason == "rule"


@pytest.mark.parametrize(
    ("name", "parameters", "least"),
    [
        ("fedavg", {}, 1),
        ("median", {}, 3),
        ("geometric-median", {}, 3),
        ("norm-clipping", {}, 3),
        ("norm-clipping", {"clip": 2.0}, 1),
        ("trimmed-mean", {"trim": 0.2}, 5),
        ("trimmed-mean", {"trim": 0.34}, 3),
        ("trimmed-mean", {"trim": 0.1}, 10),
        ("trimmed-mean", {"trim": 0.49999999999}, 3),
        ("trimmed-mean", {"trim": 0.001}, 1000),
        ("krum", {"byzantine": 1}, 5),
        ("krum", {"byzantine": 3}, 9),
        ("multi-krum", {"byzantine": 1}, 5),
        ("multi-krum", {"byzantine": 1, "select": 2}, 5),
        ("multi-krum", {"byzantine": 1, "select": 4}, 7),
    ],
)
def test_the_fewest_updates(name: str, parameters: dict[str, Any], least: int) -> None:
    """One fewer is refused: of a configuration with a sentence, of a round with its reason."""
    chosen = Aggregation(RULES[name], Parameters(**parameters))
    chosen.require_updates(least)
    chosen.apply({"w": np.zeros(1)}, updates_of(np.ones((least, 1))))
    if least > 1:
        with pytest.raises(
            ConfigurationError, match=f"{name}.* takes at least {least} updates a round, not {least - 1}"
        ):
            chosen.require_updates(least - 1)
        with pytest.raises(RoundError) as caught:
            chosen.apply({"w": np.zeros(1)}, updates_of(np.ones((least - 1, 1))))
        assert caught.value.reason == "too_few"


def test_a_trim_of_a_decimal_is_what_it_says() -> None:
    """0.29 of 100 is 29, although it is a little less in binary; something is always left."""
    for trim, count, cut in ((0.29, 100, 29), (0.2, 5, 1), (0.2, 9, 1), (0.1, 30, 3), (0.4999999999999, 4, 1)):
        assert cut_of(Parameters(trim=trim), count) == cut


@pytest.mark.parametrize("name", GIVEN)
def test_secure_aggregation_is_for_fedavg_alone(name: str) -> None:
    """The others look at single updates, and the sentence says so."""
    if name == "fedavg":
        aggregation(name).require_only_sums()
        return
    with pytest.raises(ConfigurationError, match=f"{name} compares the updates of single sites.*hides them"):
        aggregation(name).require_only_sums()


@pytest.mark.parametrize("name", GIVEN)
def test_a_model_of_integers(name: str) -> None:
    """Distances between counters mean nothing, so rules that need distances refuse it at the start."""
    model: dict[str, Any] = {"n": np.zeros(3, np.int32)}
    if RULES[name].points:
        with pytest.raises(ConfigurationError):
            aggregation(name).require_model(model)
    else:
        aggregation(name).require_model(model)
    aggregation(name).require_model(model | {"w": np.zeros(1, np.float16)})


@pytest.mark.parametrize("name", GIVEN)
def test_what_does_not_fit_is_refused(name: str) -> None:
    """As `federated_average` does."""
    for updates, reason in (
        ([], "no_updates"),
        (updates_of(np.ones((7, 2))), "wrong_shape"),
        (updates_of(np.ones((7, 1)), samples=0), "bad_samples"),
        (updates_of(np.ones((7, 1), np.float32)), "wrong_dtype"),
    ):
        with pytest.raises(RoundError) as caught:
            aggregation(name).apply({"w": np.zeros(1)}, updates)
        assert caught.value.reason == reason


@pytest.mark.parametrize("name", ["fedavg", "norm-clipping", "geometric-median"])
def test_samples_weigh_unless_told_otherwise(name: str) -> None:
    """A site that claims most of the samples has most of the result, and with equal weights it has not."""
    rows, samples = [[0.0], [1.0], [5.0]], [1, 1, 1_000_000]
    updates = [Update({"w": np.array(row)}, count) for row, count in zip(rows, samples, strict=True)]
    found = {}
    for weights in (None, *Weighting):
        parameters = Parameters(weights=weights)
        found[weights] = float(dict(Aggregation(RULES[name], parameters).apply({"w": np.zeros(1)}, updates)[0])["w"][0])  # type: ignore[arg-type]
    assert found[None] == found[Weighting.SAMPLES]
    assert found[Weighting.SAMPLES] >= 0.99 * (1 if name == "norm-clipping" else 5)
    assert found[Weighting.EQUAL] <= {"fedavg": 2.001, "norm-clipping": 0.67, "geometric-median": 1.001}[name]


@pytest.mark.parametrize("name", ["median", "trimmed-mean", "krum", "multi-krum"])
def test_samples_do_not_weigh_where_the_paper_has_none(name: str) -> None:
    """Claiming more changes nothing."""
    rng = np.random.default_rng(1)
    rows = rng.standard_normal((7, 3))
    base = {"w": np.zeros(3)}
    claimed = [Update({"w": row}, 10**number) for number, row in enumerate(rows)]
    plain: Any = aggregation(name).apply(base, updates_of(rows))[0]
    weighted: Any = aggregation(name).apply(base, claimed)[0]
    np.testing.assert_array_equal(plain["w"], weighted["w"])


@pytest.mark.parametrize("name", ROBUST)
def test_what_a_rule_tolerates_it_tolerates(name: str) -> None:
    """So many attackers, whatever they send, leave the result as near as honest updates are."""
    chosen = aggregation(name)
    count = 9
    attackers = chosen.tolerates(count)
    assert attackers >= 2
    rng = np.random.default_rng(2)
    honest = rng.standard_normal((count - attackers, 5)).astype(np.float32)
    for attack in (1e3, -1e30, 3e38, 0.0):
        rows = np.concatenate([honest, np.full((attackers, 5), attack, np.float32)])
        model: Any = chosen.apply({"w": np.zeros(5, np.float32)}, updates_of(rows))[0]
        assert np.abs(model["w"]).max() < 20
    assert PLAIN.tolerates(count) == 0


@pytest.mark.parametrize("name", GIVEN)
def test_memory_is_the_new_model_and_a_few_slices(name: str) -> None:
    """Beside the updates and the result, at most 8 MiB, however large the model; the mean holds its sums as float64."""
    size = 1_500_000
    base = {"w": np.zeros(size, np.float32)}
    rng = np.random.default_rng(3)
    updates = updates_of([rng.standard_normal(size).astype(np.float32) for _ in range(7)])
    tracemalloc.start()
    try:
        aggregation(name).apply(base, updates)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    sums = 8 * size if name == "fedavg" else 0
    assert peak < base["w"].nbytes + sums + (8 << 20)


def test_the_mean_asks_for_one_delta_at_a_time_and_once() -> None:
    """So that updates that are fetched need not be in memory together, whatever they weigh."""
    asked: list[int] = []
    alive: list[weakref.ref[Any]] = []

    class Fetched:
        def __init__(self, number: int) -> None:
            self.number, self.samples = number, 10

        @property
        def delta(self) -> Any:
            assert not [one for one in alive if one() is not None]
            asked.append(self.number)
            made = np.full(5, self.number, np.float32)
            alive.append(weakref.ref(made))
            return {"w": made}

    for weights in (None, Weighting.EQUAL):
        model: Any = Aggregation(FEDAVG, Parameters(weights=weights)).apply(
            {"w": np.zeros(5, np.float32)}, [Fetched(number) for number in (1, 2, 6)]
        )[0]
        assert (model["w"] == 3).all()
    assert asked == [1, 2, 6] * 2


class Training:
    """Seven hospitals that learn one linear separation, each from its own patients; some of them attack."""

    def __init__(self) -> None:
        rng = np.random.default_rng(4)
        self.truth = rng.standard_normal(20)
        self.data = [self._draw(rng, 200) for _ in range(7)]
        self.held_back = self._draw(rng, 2000)

    def accuracy(self, rule: str, attack: Callable[[np.ndarray], np.ndarray], attackers: int) -> float:
        """Train for 25 rounds; return the part of held-back patients that the model is right about."""
        weights: Any = {"w": np.zeros(20)}
        for _ in range(25):
            updates = []
            for site, (x, y) in enumerate(self.data):
                delta = self._train(weights["w"], x, y) - weights["w"]
                updates.append(Update({"w": attack(delta) if site < attackers else delta}, len(y)))
            weights, _ = aggregation(rule).apply(weights, updates)
        x, y = self.held_back
        return float(((x @ weights["w"] > 0) == y).mean())

    def _draw(self, rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
        x = rng.standard_normal((count, 20))
        return x, x @ self.truth + rng.standard_normal(count) * 0.3 > 0

    @staticmethod
    def _train(weights: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        for _ in range(5):
            score = 1 / (1 + np.exp(-np.clip(x @ weights, -50, 50)))
            weights = weights - 0.5 * x.T @ (score - y) / len(y)
        return weights


ATTACKS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "sign flip, scaled to win": lambda delta: -5 * delta,
    "times -1000": lambda delta: -1000 * delta,
    "noise": lambda delta: np.random.default_rng(len(delta)).standard_normal(len(delta)) * 1e4,
}


@pytest.fixture(scope="module")
def training() -> Training:
    return Training()


def nothing(delta: np.ndarray) -> np.ndarray:
    return np.zeros_like(delta)


@pytest.mark.parametrize("name", GIVEN)
def test_every_rule_learns_without_attackers(training: Training, name: str) -> None:
    """A rule that protects and learns nothing would be of no use."""
    assert training.accuracy(name, nothing, 0) > 0.93


@pytest.mark.parametrize("attack", ATTACKS)
def test_attackers_ruin_the_mean(training: Training, attack: str) -> None:
    """Two of seven sites are enough; one of them is for the thousandfold update."""
    assert training.accuracy("fedavg", ATTACKS[attack], 2) < 0.75
    if "1000" in attack:
        assert training.accuracy("fedavg", ATTACKS[attack], 1) < 0.75


@pytest.mark.parametrize("attack", [*ATTACKS, "zeros"])
@pytest.mark.parametrize("name", ROBUST)
def test_robust_rules_hold(training: Training, name: str, attack: str) -> None:
    """The same two attackers cost little."""
    assert training.accuracy(name, ATTACKS.get(attack, nothing), 2) > 0.9
