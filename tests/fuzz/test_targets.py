"""Every fuzz target takes its seeds, damaged seeds and what was found before; the fuzzer itself is `make fuzz`."""

import random

import pytest

from tests.fuzz import content_targets, document_targets, network_targets
from tests.fuzz.found import FOUND
from tests.fuzz.registry import TARGETS, Target

DAMAGES = 30


def damaged(seed: bytes, source: random.Random) -> bytes:
    """Return a seed with a byte changed, cut, doubled or put in."""
    at = source.randrange(len(seed) + 1)
    match source.randrange(4):
        case 0:
            return seed[:at] + bytes([source.randrange(256)]) + seed[at + 1 :]
        case 1:
            return seed[:at]
        case 2:
            return seed[:at] + seed[at // 2 :]
        case _:
            return seed[:at] + source.randbytes(3) + seed[at:]


@pytest.mark.parametrize("target", TARGETS.values(), ids=lambda target: target.name)
def test_a_target_takes_its_seeds_and_damaged_ones(target: Target) -> None:
    """Only our own errors come out, and what parses keeps what the target says of it."""
    source = random.Random(target.name)  # noqa: S311 -- the same damage in every run
    seeds = list(target.seeds())
    assert seeds
    for seed in seeds:
        target.run(seed)
    for _ in range(DAMAGES):
        target.run(damaged(source.choice(seeds), source))


@pytest.mark.parametrize("what", FOUND)
def test_what_the_fuzzer_found_stays_fixed(what: str) -> None:
    """Each input that once ended in something else than an error of ours."""
    name, make = FOUND[what]
    TARGETS[name].run(make())


def test_every_module_of_targets_is_registered() -> None:
    """The runner and this file see the same targets."""
    assert {"prologue", "roster", "protobuf"} <= TARGETS.keys()
    assert len(TARGETS) >= 30
    for module in (content_targets, document_targets, network_targets):
        assert module.__doc__
