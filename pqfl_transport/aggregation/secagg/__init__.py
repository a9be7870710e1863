"""Secure aggregation: the aggregator learns the sum of the updates and nothing else (SECAGG.md in this folder)."""
