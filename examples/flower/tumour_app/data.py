"""What each hospital holds: its share of a data set that scikit-learn brings along, and a model that fits it."""

import numpy as np
from sklearn.datasets import load_breast_cancer

FEATURES = 30
TRAINED_SHARE = 0.75


def share_of(hospital, hospitals):
    """Return (features, labels) to train on and to test on; features are standardised, one row a patient."""
    features, labels = load_breast_cancer(return_X_y=True)
    features = (features - features.mean(axis=0)) / features.std(axis=0)
    mine = np.random.default_rng(7).permutation(len(labels))[hospital::hospitals]
    at = int(len(mine) * TRAINED_SHARE)
    return (features[mine[:at]], labels[mine[:at]]), (features[mine[at:]], labels[mine[at:]])


def probabilities(weights, features):
    """Return the probability of each patient; the last weight is the bias."""
    return 1 / (1 + np.exp(-(features @ weights[:-1] + weights[-1])))


def fit(weights, features, labels, steps, rate=0.3):
    """Return the weights after so many steps of gradient descent."""
    weights = weights.copy()
    for _ in range(steps):
        error = probabilities(weights, features) - labels
        weights[:-1] -= rate * features.T @ error / len(labels)
        weights[-1] -= rate * error.mean()
    return weights


def accuracy(weights, features, labels):
    """Return the share of patients that are told right."""
    return float(((probabilities(weights, features) > 0.5) == labels).mean())
