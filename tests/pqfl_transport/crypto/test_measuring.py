"""Measuring on the spot: every algorithm of the shipped policies, by a clock that a test holds."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import accumulate, repeat

import pytest

from pqfl_transport.crypto.measuring import measure
from pqfl_transport.errors import PlatformError
from pqfl_transport.policy import POLICIES, for_level


def test_every_algorithm_of_the_shipped_policies_can_be_measured() -> None:
    """On this machine, with the real clock: everything takes some time, and less than a second."""
    costs = measure(POLICIES.values())
    for policy in POLICIES.values():
        for group in policy.groups:
            assert 0 < costs.handshake_seconds(group, policy.leaf_keys[0]) < 1
        assert all(0 < costs.mebibyte[suite] < 1 for suite in policy.tls_suites)


def test_the_quickest_run_counts() -> None:
    """What else the machine does only ever adds to the time of a run."""
    runs: Iterator[float] = accumulate([0, 9, 0, 2, 0, 9, *repeat(5, 1000)])
    costs = measure([replace(for_level("cnsa2"), leaf_keys=(), tls_suites=())], lambda: next(runs))
    assert costs.exchange == {"MLKEM1024": 2}


@pytest.mark.parametrize("change", [{"groups": ("MLKEM512",)}, {"leaf_keys": ("SLH-DSA-SHA2-128s",)}])
def test_what_only_openssl_has_is_said(change: dict[str, tuple[str, ...]]) -> None:
    """Nothing is guessed for an algorithm that cannot be timed."""
    with pytest.raises(PlatformError) as caught:
        measure([replace(for_level("high"), **change)])  # type: ignore[arg-type]
    assert caught.value.reason == "not_measurable"
