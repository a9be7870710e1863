"""The demonstration's model: it learns, and it leaves what it was given alone."""

import numpy as np

from pqfl.demo import hospitals, model


def test_training_makes_the_model_better_on_patients_it_never_saw() -> None:
    """Twenty epochs on pooled data reach well over nine in ten."""
    shares, held_out = hospitals.deal(3, seed=1)
    start = model.initial(30, seed=1)
    trained = model.train(start, hospitals.pooled(shares), epochs=20, seed=1)
    assert model.accuracy(start, held_out) < 0.9 < model.accuracy(trained, held_out)


def test_the_given_weights_stay_as_they_are() -> None:
    """The caller subtracts old from new, so old must not change underneath."""
    (share, *_), _ = hospitals.deal(3, seed=1)
    start = model.initial(30, seed=1)
    before = {name: array.copy() for name, array in start.items()}
    new = model.train(start, share, epochs=1, seed=1)
    assert all(np.array_equal(before[name], start[name]) for name in before)
    assert {name: array.dtype for name, array in new.items()} == dict.fromkeys(start, np.dtype(np.float32))
