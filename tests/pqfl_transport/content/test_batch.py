"""Batches: every update its own envelope, in order, failures named, memory bounded, dead workers survived."""

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import psutil
import pytest

from pqfl_transport.content.batch import BatchSealer, Job, Workers, seal_many
from pqfl_transport.content.keysource import ExtraKey
from pqfl_transport.errors import ConfigurationError, PqflError
from tests.support.envelopes import make_keys, split

KEYS = make_keys()
BOTH = pytest.mark.parametrize("kind", list(Workers))


def update(number: int) -> dict[str, Any]:
    return {"w": np.full(500, number, np.float32)}


def sealer(kind: Workers, **options: Any) -> BatchSealer:
    return BatchSealer([KEYS.receiving.public], KEYS.parameters, KEYS.signing, kind=kind, workers=2, **options)


@BOTH
def test_updates_come_back_in_order_each_under_keys_of_its_own(kind: Workers) -> None:
    """Result number n is update number n, and no two envelopes share an id, a wrapped key or a salt."""
    with sealer(kind, batch_size=4) as batch:
        found = list(batch.seal(update(number) for number in range(11)))
    assert [one.index for one in found] == list(range(11))
    for number, one in enumerate(found):
        opened = KEYS.open(bytes(one.unwrap())).weights
        assert isinstance(opened, dict)
        assert (opened["w"] == number).all()
    prologues = [split(bytes(one.unwrap()))[0] for one in found]
    for distinct in ("commitment", "wrapped", "signature"):
        assert len({getattr(prologue, distinct) for prologue in prologues}) == 11
    assert len({prologue.header.envelope_id for prologue in prologues}) == 11


@BOTH
def test_one_failure_is_named_and_the_others_are_sealed(kind: Workers) -> None:
    """An update that cannot be sealed says so at its place, with the error of sealing it alone."""
    updates: list[Any] = [update(0), {"w": np.array([object()])}, update(2)]
    with sealer(kind) as batch:
        good, bad, last = batch.seal(updates)
    assert (good.error, last.error) == (None, None)
    assert bad.envelope is None
    assert isinstance(bad.error, ConfigurationError)
    assert bad.error.reason == "unsupported"
    with pytest.raises(ConfigurationError, match="'w'"):
        bad.unwrap()


@BOTH
def test_an_update_may_have_parameters_and_metadata_of_its_own(kind: Workers) -> None:
    """Round, trailer, extra keys and sample count may differ from one to the next."""
    own = replace(KEYS.parameters, round=9, trailer=True, extra_keys=(ExtraKey("psk:a", b"m" * 32),))
    with sealer(kind) as batch:
        found = list(batch.seal([update(0), Job(update(1), {"samples": "7"}, own)]))
    header = split(bytes(found[1].unwrap()))[0].header
    assert (header.round, header.trailer, header.extra_key_ids) == (9, True, ("psk:a",))
    assert split(bytes(found[0].unwrap()))[0].header.round == KEYS.parameters.round


def test_the_input_is_taken_no_faster_than_it_is_sealed() -> None:
    """Of an endless iterator only what the workers need is held."""
    taken = 0

    def endless() -> Iterator[dict[str, Any]]:
        nonlocal taken
        while True:
            taken += 1
            yield update(taken)

    with sealer(Workers.THREADS) as batch:
        outcomes = batch.seal(endless())
        for _ in range(5):
            next(outcomes).unwrap()
        piece = batch._size()
    # The pieces that gave five outcomes, one for each worker, and one more.
    assert taken <= piece * (-(-5 // piece) + batch.workers + 1)


def test_a_dead_worker_costs_its_batch_and_nothing_else() -> None:
    """Killed processes are named, and the same sealer goes on with new ones."""
    with sealer(Workers.PROCESSES, batch_size=2) as batch:
        assert next(batch.seal([update(0)])).error is None
        for child in psutil.Process().children():
            if "spawn_main" in " ".join(child.cmdline()):
                os.kill(child.pid, signal.SIGKILL)
                child.wait(30)
        found = list(batch.seal(update(number) for number in range(20)))
        assert [one.index for one in found] == list(range(20))
        assert {one.error.reason for one in found if one.error} == {"worker_died"}
        assert 0 < sum(one.error is None for one in found) < 20
        assert all(one.error is None for one in batch.seal(update(number) for number in range(4)))


def test_what_cannot_be_sent_to_a_process_gets_its_own_error() -> None:
    """An update that no other process could read is refused here, like any other that cannot be sealed."""
    strange: list[Any] = [{"w": np.array([lambda: None], dtype=object)}, update(1)]
    with sealer(Workers.PROCESSES, batch_size=2) as batch:
        bad, good = batch.seal(strange)
    assert bad.error is not None
    assert bad.error.reason == "unsupported"
    assert good.error is None


def test_many_recipients_mean_processes() -> None:
    """The kind follows from the recipients unless it is given."""
    many = [KEYS.receiving.public] * 16
    assert BatchSealer(many, KEYS.parameters, KEYS.signing).kind is Workers.PROCESSES
    assert BatchSealer(many[:1], KEYS.parameters, KEYS.signing).kind is Workers.THREADS


def test_one_call_does_it_all() -> None:
    """`seal_many` is the sealer for one list."""
    found = seal_many(
        [update(0), update(1)], [KEYS.receiving.public], parameters=KEYS.parameters, signing_key=KEYS.signing, workers=2
    )
    assert len([one.unwrap() for one in found]) == 2
    assert not seal_many([], [KEYS.receiving.public], parameters=KEYS.parameters, signing_key=KEYS.signing)


@pytest.mark.parametrize("options", [{"workers": 0}, {"batch_size": 0}, {"workers": -1}])
def test_senseless_numbers_are_refused(options: dict[str, int]) -> None:
    """At least one worker, at least one update a batch."""
    with pytest.raises(ConfigurationError):
        BatchSealer([KEYS.receiving.public], KEYS.parameters, KEYS.signing, **options)


def test_a_sealer_that_was_not_started_says_so() -> None:
    """Outside `with` there are no workers."""
    with pytest.raises(PqflError):
        list(sealer(Workers.THREADS).seal([update(0)]))
