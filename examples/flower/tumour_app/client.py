"""A hospital: trains on its own patients, sends weights and never data."""

import numpy as np
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from tumour_app.data import accuracy, fit, share_of

app = ClientApp()


def own_share(context: Context):
    """Which share this SuperNode holds is said when it is started."""
    return share_of(int(context.node_config["hospital"]), int(context.node_config["hospitals"]))


@app.train()
def train(message: Message, context: Context) -> Message:
    """Fit the model to this hospital's patients."""
    weights, *ballast = message.content["arrays"].to_numpy_ndarrays()
    (features, labels), _ = own_share(context)
    weights = fit(weights, features, labels, int(context.run_config["local-steps"]))
    # Flower sends equal arrays once, so each hospital's ballast has to differ.
    ballast = [array + np.float32(1 + int(context.node_config["hospital"])) for array in ballast]
    content = RecordDict(
        {
            "arrays": ArrayRecord([weights, *ballast]),
            "metrics": MetricRecord({"num-examples": len(labels)}),
        }
    )
    return Message(content, reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Say how many of its patients the model tells right."""
    weights, *_ = message.content["arrays"].to_numpy_ndarrays()
    _, (features, labels) = own_share(context)
    found = MetricRecord({"accuracy": accuracy(weights, features, labels), "num-examples": len(labels)})
    return Message(RecordDict({"metrics": found}), reply_to=message)
