"""The hub: averages what the hospitals send, and prints how good the result is."""

import time

import numpy as np
from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from tumour_app.data import FEATURES

LAYER = 1_000_000
app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the rounds that the configuration asks for."""
    left = int(context.run_config["ballast-parameters"])
    arrays = [np.zeros(FEATURES + 1)]
    while left:
        arrays.append(np.random.default_rng(left).standard_normal(min(left, LAYER)).astype(np.float32))
        left -= min(left, LAYER)
    begin = time.monotonic()
    result = FedAvg(min_available_nodes=2).start(
        grid=grid, initial_arrays=ArrayRecord(arrays), num_rounds=int(context.run_config["num-server-rounds"])
    )
    found = {
        number: round(float(metrics["accuracy"]), 3) for number, metrics in result.evaluate_metrics_clientapp.items()
    }
    print(f"TUMOUR accuracy={found} seconds={time.monotonic() - begin:.2f}", flush=True)
