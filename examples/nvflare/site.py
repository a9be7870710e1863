"""What an NVFlare client runs at a site: logistic regression on the site's share of a data set of scikit-learn's."""

import numpy as np
import nvflare.client as flare
from sklearn.datasets import load_breast_cancer

SITES = 2
STEPS, RATE = 30, 0.3

flare.init()
number = int(flare.get_site_name().rsplit("-", 1)[1]) - 1
features, labels = load_breast_cancer(return_X_y=True)
features = (features - features.mean(axis=0)) / features.std(axis=0)
features = np.hstack([features, np.ones((len(labels), 1))])
mine = np.random.default_rng(7).permutation(len(labels))[number::SITES]
at = int(len(mine) * 0.75)
train_x, train_y, test_x, test_y = features[mine[:at]], labels[mine[:at]], features[mine[at:]], labels[mine[at:]]

while flare.is_running():
    model = flare.receive()
    weights = np.asarray(model.params["numpy_key"], dtype=np.float64)
    accuracy = float((((test_x @ weights) > 0) == (test_y > 0.5)).mean())
    for _ in range(STEPS):
        error = 1 / (1 + np.exp(-train_x @ weights)) - train_y
        weights = weights - RATE * train_x.T @ error / at
    flare.send(
        flare.FLModel(
            params={"numpy_key": weights},
            params_type="FULL",
            metrics={"accuracy": accuracy},
            meta={"NUM_STEPS_CURRENT_ROUND": at},
        )
    )
