"""The model of the demonstration: a small neural network in NumPy, trained by mini-batch gradient descent."""

import numpy as np

from pqfl.demo.hospitals import Floats, Patients

Weights = dict[str, np.ndarray]
"""``hidden.weight`` (30, 16), ``hidden.bias`` (16,), ``output.weight`` (16,), ``output.bias`` (1,), all float32."""

_HIDDEN = 16
_BATCH = 8
_LEARNING_RATE = 0.05
EPOCHS_PER_ROUND = 10


def initial(measurements: int, seed: int) -> Weights:
    """Return the untrained model that every round starts from."""
    rng = np.random.default_rng(seed)
    return {
        "hidden.weight": rng.normal(0, measurements**-0.5, (measurements, _HIDDEN)).astype(np.float32),
        "hidden.bias": np.zeros(_HIDDEN, np.float32),
        "output.weight": rng.normal(0, _HIDDEN**-0.5, _HIDDEN).astype(np.float32),
        "output.bias": np.zeros(1, np.float32),
    }


def train(weights: Weights, patients: Patients, epochs: int, seed: int) -> Weights:
    """Return new weights after some epochs of gradient descent on the logistic loss; the given ones stay."""
    rng = np.random.default_rng(seed)
    w1, b1, w2, b2 = (array.astype(np.float64) for array in weights.values())
    for _ in range(epochs):
        order = rng.permutation(len(patients))
        for start in range(0, len(order), _BATCH):
            batch = order[start : start + _BATCH]
            x, y = patients.measurements[batch], patients.diagnoses[batch]
            hidden = np.tanh(x @ w1 + b1)
            error = (_sigmoid(hidden @ w2 + b2[0]) - y) / len(batch)
            back = np.outer(error, w2) * (1 - hidden**2)
            w2 -= _LEARNING_RATE * (hidden.T @ error)
            b2 -= _LEARNING_RATE * error.sum()
            w1 -= _LEARNING_RATE * (x.T @ back)
            b1 -= _LEARNING_RATE * back.sum(axis=0)
    return {name: array.astype(np.float32) for name, array in zip(weights, (w1, b1, w2, b2), strict=True)}


def accuracy(weights: Weights, patients: Patients) -> float:
    """Return the share of patients whose diagnosis the model gets right."""
    w1, b1, w2, b2 = weights.values()
    benign = _sigmoid(np.tanh(patients.measurements @ w1 + b1) @ w2 + b2[0]) > 0.5  # noqa: PLR2004 -- even odds
    return float(np.mean(benign == (patients.diagnoses > 0)))


def _sigmoid(x: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-np.clip(x, -60, 60))))
