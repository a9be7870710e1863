"""An aggregator that is killed, at any of its steps: started again, the run goes on, and its models are the same."""

import asyncio
import json
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from pqfl_transport.client import FederatedClient, RoundInfo
from pqfl_transport.content.psk import PreSharedKey
from pqfl_transport.pki.files import write_secret
from tests.support.aggregators import write_config
from tests.support.killing import Command, Plan, running
from tests.support.pki import Federation, make_federation
from tests.support.rounds import MODEL

SITES = ("bank-a", "bank-b")
ROUNDS = 2


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return make_federation(tmp_path_factory.mktemp("federation"), sites=SITES)


class Run:
    """One run of two rounds: an aggregator in a folder of its own, and both sites in this process."""

    def __init__(self, federation: Federation, folder: Path, *, keeps_key: bool, model: Any = MODEL) -> None:
        folder.mkdir()
        write_secret(folder / "restart.key", PreSharedKey.generate("restart").to_pem())
        self.federation, self.folder, self._stack = federation, folder, ExitStack()
        self.socket = folder / "a.sock"
        self.config = write_config(
            federation, folder, listen=f"unix:{self.socket}", model=model, count=ROUNDS, quorum=2, deadline_seconds=120
        )
        if keeps_key:
            text = self.config.read_text()
            self.config.write_text(text.replace("[model]", 'restart_key = "restart.key"\n[model]'))
        self.trained: dict[str, list[int]] = {name: [] for name in SITES}

    def start(self, die_before: int = 0) -> Command:
        """Start the aggregator, to die before that step on its state folder if it is given."""
        plan = Plan((self.folder / "state",), self.folder / "steps", die_before) if die_before >= 0 else None
        words = ("aggregator", "--config", self.config, "--log-format", "json")
        command = self._stack.enter_context(running(*words, plan=plan))
        command.wait_until_listening()
        return command

    async def play(self, name: str) -> Any:
        """Take part as a site to the end; return the last model."""

        def train(weights: Any, info: RoundInfo) -> Any:
            self.trained[name].append(info.number)
            change = 0.1 * (1 + SITES.index(name)) * info.number
            return {key: array + array.dtype.type(change) for key, array in weights.items()}, 10 * info.number

        async with FederatedClient(
            f"unix:{self.socket}", identity_dir=self.federation.site(name), roster_path=self.federation.roster,
            retry_seconds=30,
        ) as client:  # fmt: skip
            return await client.run(train)

    def play_through(self, die_before: int = 0) -> list[Any]:
        """Play with both sites, starting the aggregator again when it dies; return the last model of each."""

        async def scenario() -> list[Any]:
            first = await asyncio.to_thread(self.start, die_before)
            playing = asyncio.gather(*map(self.play, SITES))
            while not playing.done() and not await asyncio.to_thread(first.has_ended, 0.02):
                continue
            if not playing.done():
                assert await asyncio.to_thread(first.wait) == -9, first.said
                await asyncio.to_thread(self.start, -1)
            return list(await playing)

        return asyncio.run(asyncio.wait_for(scenario(), 60))

    def close(self) -> None:
        self._stack.close()


@pytest.fixture(scope="module")
def undisturbed(federation: Federation, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[list[Any], int]]:
    """The models of a run that nothing happened to, and how many steps its aggregator made."""
    run = Run(federation, tmp_path_factory.mktemp("undisturbed") / "run", keeps_key=True)
    try:
        yield run.play_through(), len((run.folder / "steps").read_text().splitlines())
    finally:
        run.close()


def play_and_compare(
    federation: Federation, folder: Path, models: list[Any], die_before: int, *, keeps_key: bool
) -> None:
    run = Run(federation, folder, keeps_key=keeps_key)
    try:
        for found, expected in zip(run.play_through(die_before), models, strict=True):
            assert found.keys() == expected.keys()
            assert all(np.array_equal(found[key], expected[key]) for key in expected), die_before
        # What was trained is never trained again, and each round counted one update of each site.
        assert list(run.trained.values()) == [[1, 2], [1, 2]], die_before
        state = folder / "state"
        assert not (state / "round.key").exists()
        assert not list((state / "updates").iterdir())
        assert [path.name for path in (state / "own").iterdir()] == ["00000002.own"]
        with closing(sqlite3.connect(state / "run.db")) as database:
            counted = database.execute(
                "SELECT number, sender FROM updates JOIN rounds USING (challenge) WHERE standing = 'published'"
            ).fetchall()
        assert len(counted) == len(set(counted)) == ROUNDS * len(SITES), die_before
    finally:
        run.close()


@pytest.mark.parametrize("keeps_key", [True, False], ids=["restart_key", "no_key"])
def test_killed_at_some_of_its_steps(
    federation: Federation, tmp_path: Path, undisturbed: tuple[list[Any], int], *, keeps_key: bool
) -> None:
    """Killed early, in the middle and late, the run ends with the same models, bit for bit."""
    models, steps = undisturbed
    for die_before in range(1, steps + 1, steps // 4):
        play_and_compare(federation, tmp_path / str(die_before), models, die_before, keeps_key=keeps_key)


@pytest.mark.slow
@pytest.mark.parametrize("keeps_key", [True, False], ids=["restart_key", "no_key"])
def test_killed_at_each_of_its_steps(
    federation: Federation, tmp_path: Path, undisturbed: tuple[list[Any], int], *, keeps_key: bool
) -> None:
    """Before every change that it makes to its state folder."""
    models, steps = undisturbed
    for die_before in range(1, steps + 1):
        play_and_compare(federation, tmp_path / str(die_before), models, die_before, keeps_key=keeps_key)


def test_an_update_that_was_accepted_is_not_asked_for_again(federation: Federation, tmp_path: Path) -> None:
    """Killed between the updates of two sites, the round goes on under its challenge and waits for the other alone."""
    run = Run(federation, tmp_path / "run", keeps_key=True)

    async def scenario() -> str:
        first = await asyncio.to_thread(run.start)
        one = asyncio.create_task(run.play("bank-a"))
        await asyncio.to_thread(first.wait_for, lambda event: event["event"] == "update")
        await asyncio.to_thread(first.kill)
        second = await asyncio.to_thread(run.start)
        two = asyncio.create_task(run.play("bank-b"))
        finals = await asyncio.gather(one, two)
        assert all(np.array_equal(finals[0][key], finals[1][key]) for key in MODEL)
        second.end()
        return second.said

    try:
        said = [json.loads(line) for line in asyncio.run(asyncio.wait_for(scenario(), 60)).splitlines()]
    finally:
        run.close()
    moves = [(line["round"], line["move"]) for line in said if line["event"] == "round"]
    assert moves[:3] == [(1, "restarted"), (1, "resumed"), (1, "all_in")]
    senders = [(line["round"], line["sender"][-1]) for line in said if line["event"] == "update"]
    assert sorted(senders) == [(1, "b"), (2, "a"), (2, "b")]


def test_a_disk_that_is_full_for_a_while(federation: Federation, tmp_path: Path) -> None:
    """Nothing is accepted that cannot be kept; sites send it again, and nothing is trained twice."""
    large = {"w": np.zeros(1 << 19, np.float32)}
    run = Run(federation, tmp_path / "run", keeps_key=False, model=large)

    async def scenario() -> list[Any]:
        command = await asyncio.to_thread(run.start)
        await asyncio.to_thread(command.wait_for, lambda event: event.get("move") == "open")
        process = psutil.Process(command.pid)
        _, hard = process.rlimit(psutil.RLIMIT_FSIZE)
        process.rlimit(psutil.RLIMIT_FSIZE, (1 << 20, hard))
        playing = asyncio.gather(*map(run.play, SITES))
        assert await asyncio.to_thread(command.wait_for, lambda event: event.get("reason") == "disk"), command.said
        process.rlimit(psutil.RLIMIT_FSIZE, (hard, hard))
        return list(await playing)

    try:
        finals = asyncio.run(asyncio.wait_for(scenario(), 60))
    finally:
        run.close()
    assert all(np.allclose(final["w"], 0.15 + 0.3) for final in finals)
    assert list(run.trained.values()) == [[1, 2], [1, 2]]
