"""The aggregator's rules, for `combining.measure`."""

from combining import Tensors, Way, measure

from pqfl_transport.aggregation.fedavg import Update
from pqfl_transport.aggregation.robust import RULES, Aggregation, Parameters

PARAMETERS = {
    "trimmed-mean": Parameters(trim=0.2),
    "krum": Parameters(byzantine=2),
    "multi-krum": Parameters(byzantine=2),
}


def way(name: str) -> Way:
    """Return the rule of this name as something to measure."""
    aggregation = Aggregation(RULES[name], PARAMETERS.get(name, Parameters()))

    def combine(base: Tensors, updates: list[Tensors]) -> object:
        return aggregation.apply(base, [Update(update, 100) for update in updates])

    return combine


measure({name: way(name) for name in RULES})
