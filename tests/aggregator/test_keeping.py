"""Where a run goes on, and which folder is not this run's."""

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from aggregator.keeping import Keeper
from aggregator.store.models import ModelStore
from aggregator.store.records import Standing
from pqfl_transport.content.psk import PreSharedKey
from pqfl_transport.content.recipients import ReceivingKey
from pqfl_transport.content.tensors import model_digest
from pqfl_transport.errors import ConfigurationError
from tests.aggregator.store.test_sqlite import TERMS
from tests.support.pki import Federation, make_federation
from tests.support.rounds import MODEL, make_keeper

KEY = ReceivingKey.generate("ML-KEM-768+X25519")
NEXT = {name: array + 1 for name, array in MODEL.items()}


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return make_federation(tmp_path_factory.mktemp("federation"), sites=("bank-a",))


def reason_of(federation: Federation, folder: Path, **options: object) -> str:
    with pytest.raises(ConfigurationError) as caught:
        make_keeper(federation, folder, **options)  # type: ignore[arg-type]
    return caught.value.reason


def test_a_new_run_starts_with_the_initial_model(federation: Federation, tmp_path: Path) -> None:
    """So does one that was ended before its first model was out."""
    for _ in range(2):
        with closing(make_keeper(federation, tmp_path)) as keeper:
            assert (keeper.start.version, keeper.start.attempts) == (0, 0)
            assert keeper.start.weights is MODEL


def test_a_run_goes_on_from_the_model_that_the_database_says_is_out(federation: Federation, tmp_path: Path) -> None:
    """And not from one that was written before the process was killed."""
    with closing(make_keeper(federation, tmp_path)) as keeper:
        keeper.publish(1, model_digest(NEXT), NEXT)
        keeper._own.save(2, model_digest(MODEL), MODEL)
    with closing(make_keeper(federation, tmp_path)) as keeper:
        assert keeper.start.version == 1
        assert model_digest(keeper.start.weights) == model_digest(NEXT)
    assert [path.name for path in (tmp_path / "state" / "own").iterdir()] == ["00000001.own"]


@pytest.mark.parametrize(("standing", "attempts"), [(None, 1), (Standing.AGGREGATING, 1), (Standing.FAILED, 2)])
def test_only_openings_that_failed_are_attempts(
    federation: Federation, tmp_path: Path, standing: Standing | None, attempts: int
) -> None:
    """One that a restart cut short is opened again in its place."""
    with closing(make_keeper(federation, tmp_path)) as keeper:
        keeper.opened(TERMS, 2, 7, KEY)
        if standing is not None:
            keeper.ended(TERMS.challenge, standing)
    with closing(make_keeper(federation, tmp_path)) as keeper:
        assert keeper.start.attempts == attempts


def test_openings_of_a_round_before_are_no_attempts_at_the_next(federation: Federation, tmp_path: Path) -> None:
    """Each round has its own."""
    with closing(make_keeper(federation, tmp_path, count=2)) as keeper:
        keeper.opened(replace(TERMS, number=1), 2, 7, KEY)
        keeper.ended(TERMS.challenge, Standing.AGGREGATING)
        keeper.publish(1, model_digest(NEXT), NEXT)
    with closing(make_keeper(federation, tmp_path, count=2)) as keeper:
        assert keeper.start.attempts == 0


@pytest.mark.parametrize("way", ["failed", "published", "opened again", "without a restart key"])
def test_the_key_of_a_round_is_kept_until_the_round_is_over(federation: Federation, tmp_path: Path, way: str) -> None:
    """Over restarts, while it collects and while it is averaged, and then destroyed."""
    restart, path = PreSharedKey.generate("restart"), tmp_path / "state" / "round.key"
    terms = replace(TERMS, receiving_fingerprint=KEY.fingerprint)

    def keeper(key: PreSharedKey | None = restart) -> Keeper:
        return make_keeper(federation, tmp_path, restart=key)

    with closing(keeper()) as first:
        first.opened(terms, 1, 7, KEY)
        first.ended(terms.challenge, Standing.AGGREGATING)
    with closing(keeper()) as again:
        assert again.start.round is not None
        assert again.start.round.terms == terms
        assert again.round_key(again.start.round).stored == KEY.stored
        before = path.read_bytes()
        if way == "failed":
            again.ended(terms.challenge, Standing.FAILED)
        elif way == "published":
            again.publish(1, model_digest(NEXT), NEXT)
        elif way == "opened again":
            again.opened(replace(terms, challenge=b"2" * 32), 2, 7, KEY)
    if way == "without a restart key":
        with closing(keeper(None)) as bare:
            assert bare.start.round is not None
            with pytest.raises(ConfigurationError, match="restart_key"):
                bare.round_key(bare.start.round)
        assert not path.exists()
    elif way == "opened again":
        assert path.read_bytes() != before
    else:
        assert not path.exists()
        with closing(keeper()) as last:
            assert last.start.round is None


def test_what_is_not_this_run_is_refused(federation: Federation, tmp_path: Path) -> None:
    """Another initial model, fewer rounds than were run, the folder of a version that kept models alone."""
    with closing(make_keeper(federation, tmp_path, count=2)) as keeper:
        keeper.publish(2, model_digest(NEXT), NEXT)
        assert reason_of(federation, tmp_path, count=2) == "in_use"
    assert reason_of(federation, tmp_path, model=NEXT, count=2) == "other_run"
    assert reason_of(federation, tmp_path, count=1) == "other_run"
    make_keeper(federation, tmp_path, count=3).close()
    ModelStore(tmp_path / "old" / "state").save(4, [b"sealed"])
    assert reason_of(federation, tmp_path / "old") == "other_run"


def test_a_model_that_cannot_be_averaged_begins_no_run(federation: Federation, tmp_path: Path) -> None:
    """So that the folder can be used once the model is mended."""
    for model in ({}, {"w": np.zeros(3, np.uint8)}):
        assert reason_of(federation, tmp_path, model=model) == "bad_model"
    make_keeper(federation, tmp_path).close()
