"""The aggregator: opens sealed updates, checks them against the round, averages, seals the new model."""
