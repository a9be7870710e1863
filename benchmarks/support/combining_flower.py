"""Flower's functions for the same rules, for `combining.measure`; runs in Flower's own environment."""

from combining import Tensors, measure
from flwr.server.strategy import aggregate as flower

BYZANTINE = 2


def counted(updates: list[Tensors]) -> list[tuple[Tensors, int]]:
    """Return the updates with a number of samples, as Flower takes them."""
    return [(update, 100) for update in updates]


measure({
    "fedavg": lambda _base, updates: flower.aggregate(counted(updates)),
    "median": lambda _base, updates: flower.aggregate_median(counted(updates)),
    "trimmed-mean": lambda _base, updates: flower.aggregate_trimmed_avg(counted(updates), 0.2),
    "krum": lambda _base, updates: flower.aggregate_krum(counted(updates), BYZANTINE, 0),
    "multi-krum": lambda _base, updates: flower.aggregate_krum(
        counted(updates), BYZANTINE, len(updates) - BYZANTINE - 2
    ),
})  # fmt: skip
