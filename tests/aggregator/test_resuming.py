"""The round that was open, after a restart: as it was, or opened anew, and never with an update less."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aggregator.averaging import Averager
from aggregator.resuming import require_unchanged
from aggregator.store.records import KeptRound, KeptUpdate, Standing
from pqfl_transport.aggregation.round_document import RoundState
from pqfl_transport.content.psk import PreSharedKey
from pqfl_transport.errors import RoundError
from pqfl_transport.policy import for_level
from tests.aggregator.store.test_sqlite import TERMS, update
from tests.support.pki import Federation, make_federation
from tests.support.revoking import SIGNING, revocations
from tests.support.rounds import MODEL, Envelope, Hub, aggregator, current_round, make_update, participant, put

SUITE = "pqfl/v1/mlkem768x25519-mldsa65"
RESTART = PreSharedKey.generate("restart")


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return make_federation(tmp_path_factory.mktemp("federation"), sites=("bank-a", "bank-b"))


async def sealed(hub: Hub, federation: Federation, name: str, change: float) -> Envelope:
    site = participant(federation, name)
    info = await current_round(hub.url, site)
    return make_update(info, site, delta={key: np.full_like(array, change) for key, array in MODEL.items()})


async def last_model(hub: Hub, federation: Federation) -> Any:
    await hub.until(lambda: hub.engine.state is RoundState.FINISHED)
    site = participant(federation, "bank-b")
    info = await current_round(hub.url, site)
    return site.open_model(hub.engine.model_path(info.model_version).read_bytes(), info)


def moves(hub: Hub) -> list[str]:
    return [event["move"] for event in hub.events("round")]


def test_a_round_goes_on_with_what_was_accepted(federation: Federation, tmp_path: Path) -> None:
    """The same challenge, the same receipt for the same envelope, no second update; then the model of both."""

    async def scenario() -> None:
        async with aggregator(federation, tmp_path, quorum=2, restart=RESTART) as hub:
            first, second = [await sealed(hub, federation, "bank-a", change) for change in (2.0, 3.0)]
            other = await sealed(hub, federation, "bank-b", 4.0)
            assert (await put(hub.url, first))[0] == 201
        async with aggregator(federation, tmp_path, quorum=2, restart=RESTART) as hub:
            await current_round(hub.url, participant(federation, "bank-a"))
            assert hub.engine.progress()["updates"] == 1
            assert (await put(hub.url, first))[0] == 200
            assert (await put(hub.url, second))[1]["reason"] == "duplicate"
            assert (await put(hub.url, other))[0] == 201
            assert np.allclose((await last_model(hub, federation))["w"], MODEL["w"] + 3.0)
            assert moves(hub) == ["restarted", "resumed", "all_in"]
            (resumed,) = [event for event in hub.events("round") if event["move"] == "resumed"]
            assert resumed["envelope_ids"] == [first.envelope_id.hex()]
            assert not list((tmp_path / "state" / "updates").iterdir())
            assert not (tmp_path / "state" / "round.key").exists()

    asyncio.run(asyncio.wait_for(scenario(), 30))


def test_an_average_that_was_cut_short_is_made_again_of_the_same_updates(
    federation: Federation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody's update comes in addition, although its time is not over."""
    averaging = asyncio.Event()

    async def hang(_self: Averager, _collecting: Any) -> Any:
        averaging.set()
        await asyncio.Event().wait()

    async def scenario() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(Averager, "average", hang)
            async with aggregator(federation, tmp_path, restart=RESTART) as hub:
                late = await sealed(hub, federation, "bank-b", 50.0)
                assert (await put(hub.url, await sealed(hub, federation, "bank-a", 2.0)))[0] == 201
                hub.pass_deadline()
                await averaging.wait()
        async with aggregator(federation, tmp_path, restart=RESTART) as hub:
            model = await last_model(hub, federation)
            assert (await put(hub.url, late))[1]["reason"] == "closed"
            assert np.allclose(model["w"], MODEL["w"] + 2.0)
            assert moves(hub) == ["restarted", "resumed"]

    asyncio.run(asyncio.wait_for(scenario(), 30))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("damage", [Path.unlink, cut, lambda path: path.write_bytes(b"")])
def test_where_an_update_is_damaged_all_are_asked_again(
    federation: Federation, tmp_path: Path, damage: Callable[[Path], object]
) -> None:
    """The log names the sender, and the other one alone is not averaged."""

    async def scenario() -> None:
        async with aggregator(federation, tmp_path, quorum=2, restart=RESTART) as hub:
            assert (await put(hub.url, await sealed(hub, federation, "bank-a", 2.0)))[0] == 201
        (path,) = (tmp_path / "state" / "updates").iterdir()
        damage(path)
        async with aggregator(federation, tmp_path, quorum=2, restart=RESTART) as hub:
            for name in ("bank-a", "bank-b"):
                assert (await put(hub.url, await sealed(hub, federation, name, 2.0)))[0] == 201
            assert np.allclose((await last_model(hub, federation))["w"], MODEL["w"] + 2.0)
            assert moves(hub) == ["restarted", "not_resumed", "open", "all_in"]
            event = hub.events("round")[1]
            assert (event["reason"], "site/bank-a" in event["detail"]) == ("damaged_update", True)

    asyncio.run(asyncio.wait_for(scenario(), 30))


def test_an_update_that_is_damaged_later_ends_the_attempt(federation: Federation, tmp_path: Path) -> None:
    """Found when it is averaged, it costs an attempt, and everybody is asked again."""

    async def scenario() -> None:
        async with aggregator(federation, tmp_path, attempts=2) as hub:
            assert (await put(hub.url, await sealed(hub, federation, "bank-a", 2.0)))[0] == 201
            cut(next((tmp_path / "state" / "updates").iterdir()))
            hub.pass_deadline()
            await hub.until(lambda: moves(hub).count("open") == 2)
            (aborted,) = [event for event in hub.events("round") if event["move"] == "aborted"]
            assert aborted["reason"] == "damaged_update"

    asyncio.run(asyncio.wait_for(scenario(), 30))


@pytest.mark.parametrize("other", [None, PreSharedKey.generate("restart")])
def test_without_the_restart_key_the_round_is_opened_anew(
    federation: Federation, tmp_path: Path, other: PreSharedKey | None
) -> None:
    """With a new challenge, so that what was sealed for the one before is refused and asked for again."""

    async def scenario() -> None:
        async with aggregator(federation, tmp_path, restart=RESTART if other else None) as hub:
            first = await sealed(hub, federation, "bank-a", 2.0)
            assert (await put(hub.url, first))[0] == 201
        async with aggregator(federation, tmp_path, restart=other) as hub:
            await current_round(hub.url, participant(federation, "bank-a"))
            assert (await put(hub.url, first))[1]["reason"] == "wrong_challenge"
            assert hub.engine.progress()["updates"] == 0
            assert moves(hub) == ["restarted", "not_resumed", "open"]
            assert not list((tmp_path / "state" / "updates").iterdir())

    asyncio.run(asyncio.wait_for(scenario(), 30))


def test_a_sender_that_was_revoked_meanwhile_is_dropped(federation: Federation, tmp_path: Path) -> None:
    """And waited for no more."""
    lists = revocations(federation, "bank-a", number=2, certificates=[SIGNING])

    async def scenario() -> None:
        async with aggregator(
            federation, tmp_path, quorum=1, restart=RESTART, revocations=revocations(federation)
        ) as hub:
            other = await sealed(hub, federation, "bank-b", 4.0)
            assert (await put(hub.url, await sealed(hub, federation, "bank-a", 100.0)))[0] == 201
        async with aggregator(federation, tmp_path, quorum=1, restart=RESTART, revocations=lists) as hub:
            await current_round(hub.url, participant(federation, "bank-b"))
            assert hub.engine.progress()["updates"] == 0
            assert (await put(hub.url, other))[0] == 201
            assert np.allclose((await last_model(hub, federation))["w"], MODEL["w"] + 4.0)

    asyncio.run(asyncio.wait_for(scenario(), 30))


@pytest.mark.parametrize(
    ("updates", "standing", "now", "changes", "reason"),
    [
        ((), Standing.COLLECTING, 1000.0, {}, None),
        ((update("a"),), Standing.COLLECTING, 3000.0, {}, None),
        ((), Standing.COLLECTING, 3000.0, {}, "expired"),
        ((), Standing.AGGREGATING, 3000.0, {}, None),
        ((), Standing.COLLECTING, 1000.0, {"roster": 8}, "changed"),
        ((), Standing.COLLECTING, 1000.0, {"quorum": 2}, "changed"),
        ((), Standing.COLLECTING, 1000.0, {"base_digest": b"x" * 32}, "changed"),
    ],
)
def test_a_round_that_cannot_go_on_as_it_was_opened(
    updates: tuple[KeptUpdate, ...], standing: Standing, now: float, changes: dict[str, Any], reason: str | None
) -> None:
    """Another roster, quorum or model, or a deadline that passed while nobody could send anything."""
    kept = KeptRound(replace(TERMS, suite=SUITE), 1, 7, standing, updates)
    facts = {"base_digest": TERMS.base_digest, "roster": 7, "quorum": 1, "now": now} | changes
    if reason is None:
        require_unchanged(kept, for_level("high"), **facts)
        return
    with pytest.raises(RoundError) as caught:
        require_unchanged(kept, for_level("high"), **facts)
    assert caught.value.reason == reason
