"""Runs of rounds: averages are right, missing quorums are tried again, failures are told and not hidden."""

import asyncio
import base64
import gc
import json
import weakref
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aggregator.averaging import Averager
from aggregator.engine import Engine, Setup
from aggregator.intake import Upload
from pqfl_transport.aggregation.robust import RULES, Aggregation
from pqfl_transport.aggregation.round_document import RoundState
from pqfl_transport.audit import verify_audit_log
from pqfl_transport.content.recipients import ReceivingKey
from pqfl_transport.errors import ConfigurationError, PlatformError, PolicyError
from pqfl_transport.participant import Participant
from pqfl_transport.policy import Policy, for_level, tighten
from tests.support.advisories import advisory
from tests.support.pki import Federation, make_federation
from tests.support.rounds import MODEL, Hub, aggregator, current_round, make_hub, make_update, participant, put


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return make_federation(tmp_path_factory.mktemp("federation"), sites=("bank-a", "bank-b"))


async def fetch_model(hub: Hub, site: Participant) -> Any:
    info = await current_round(hub.url, site)
    return site.open_model(bytearray(hub.engine.model_path(info.model_version).read_bytes()), info)


async def until(hub: Hub, state: RoundState) -> None:
    await hub.until(lambda: hub.engine.state is state)


def test_the_new_model_is_the_weighted_mean_of_the_deltas(federation: Federation, tmp_path: Path) -> None:
    """Two sites with 10 and 30 samples move the model by a quarter and three quarters of their changes."""

    async def scenario() -> None:
        async with aggregator(federation, tmp_path, quorum=2) as hub:
            for name, change, samples in (("bank-a", 4.0, 10), ("bank-b", 8.0, 30)):
                site = participant(federation, name)
                info = await current_round(hub.url, site)
                delta = {key: np.full_like(array, change) for key, array in MODEL.items()}
                update = make_update(info, site, delta=delta, metadata={"samples": str(samples)})
                assert (await put(hub.url, update))[0] == 201
            await until(hub, RoundState.FINISHED)
            model = await fetch_model(hub, participant(federation, "bank-b"))
            for key, array in MODEL.items():
                assert model[key].dtype == array.dtype
                assert np.allclose(model[key], array + 7.0)

    asyncio.run(asyncio.wait_for(scenario(), 20))


def test_each_round_has_a_key_and_a_challenge_of_its_own(federation: Federation, tmp_path: Path) -> None:
    """Two rounds, and two attempts at one round, never share what updates are sealed to."""

    async def scenario() -> None:
        async with aggregator(federation, tmp_path, quorum=1, count=2, attempts=3, deadline_seconds=0.1) as hub:
            await until(hub, RoundState.FAILED)
            opened = [event for event in hub.events("round") if event["move"] == "open"]
            assert [(event["round"], event["attempt"]) for event in opened] == [(1, 1), (1, 2), (1, 3)]
            assert len({event["receiving_key"] for event in opened}) == 3

    asyncio.run(asyncio.wait_for(scenario(), 20))


def test_the_quorum_at_the_deadline_closes_the_round(federation: Federation, tmp_path: Path) -> None:
    """A site that never answers does not keep the others from their model."""

    async def scenario() -> None:
        async with aggregator(federation, tmp_path, quorum=1) as hub:
            site = participant(federation, "bank-a")
            info = await current_round(hub.url, site)
            assert (await put(hub.url, make_update(info, site)))[0] == 201
            hub.pass_deadline()
            await until(hub, RoundState.FINISHED)
            moves = [event["move"] for event in hub.events("round")]
            assert moves == ["open", "quorum_at_deadline"]

    asyncio.run(asyncio.wait_for(scenario(), 20))


def test_an_average_that_overflows_fails_the_attempt_and_not_the_service(
    federation: Federation, tmp_path: Path
) -> None:
    """Deltas that are finite alone but not together abort the attempt; the next one can succeed."""
    model = {"w": np.full(2, 3e38, np.float32)}

    async def scenario() -> None:
        async with aggregator(federation, tmp_path, model=model, attempts=2) as hub:
            site = participant(federation, "bank-a")
            for change in (3e38, -1.0):
                info = await current_round(hub.url, site)
                update = make_update(info, site, delta={"w": np.full(2, change, np.float32)})
                assert (await put(hub.url, update))[0] == 201
                hub.pass_deadline()
                await hub.until(lambda: hub.engine.state is not RoundState.COLLECTING)
            await until(hub, RoundState.FINISHED)
            aborted = [event for event in hub.events("round") if event["move"] == "aborted"]
            assert [event["reason"] for event in aborted] == ["not_finite"]

    asyncio.run(asyncio.wait_for(scenario(), 20))


def test_a_disk_that_is_full_fails_the_run_and_says_so(federation: Federation, tmp_path: Path) -> None:
    """A model that cannot be stored is never announced; the state is failed and the log names the file."""

    async def scenario() -> None:
        hub = make_hub(federation, tmp_path)

        def full(version: int, _envelope: object) -> Path:
            raise PlatformError(f"{tmp_path}/models/{version}: no space left on device", reason="disk")

        hub.engine._setup.keeper.models.save = full  # type: ignore[method-assign,assignment]
        await hub.engine.run()
        assert hub.engine.state is RoundState.FAILED
        assert "no space left" in hub.events("round")[-1]["detail"]
        with pytest.raises(PlatformError, match="initial model"):
            await hub.engine.signed_document("0" * 32)
        hub.close()

    asyncio.run(scenario())


def test_what_happened_is_in_the_audit_log_and_its_chain_holds(federation: Federation, tmp_path: Path) -> None:
    """Rounds, updates, refusals and models are events; the log verifies under the aggregator's key."""

    async def scenario() -> None:
        async with aggregator(federation, tmp_path) as hub:
            site = participant(federation, "bank-a")
            info = await current_round(hub.url, site)
            await put(hub.url, make_update(info, site, round=5))
            await put(hub.url, make_update(info, site))

    asyncio.run(scenario())
    key = participant(federation, "bank-a")._aggregator.signing_key
    summary = verify_audit_log(tmp_path / "audit.jsonl", [key])
    kinds = [json.loads(line)["kind"] for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
    assert {"model", "round", "refusal", "update"} <= set(kinds)
    assert summary.sealed_lines == summary.lines
    # The weights and the keys of rounds stay out of it.
    assert "private" not in (tmp_path / "audit.jsonl").read_text().lower()


@pytest.mark.parametrize(
    ("model", "rounds", "reason"),
    [
        ({"n": np.zeros(3, np.int32)}, {"aggregation": Aggregation(RULES["median"])}, None),
        ({"n": np.zeros(3, np.int32)}, {"aggregation": Aggregation(RULES["geometric-median"])}, "bad_model"),
        (MODEL, {"quorum": 3}, "quorum"),
        (MODEL, {"level": "maximum"}, "wrong_level"),
    ],
)
def test_what_cannot_work_is_refused_at_the_start(
    federation: Federation, tmp_path: Path, model: Any, rounds: dict[str, Any], reason: str | None
) -> None:
    """A quorum above the number of sites, another level, a model that cannot be averaged, not by this rule at least."""
    hub = make_hub(federation, tmp_path, model=model)
    good = hub.engine._setup
    hub.close()
    changed = replace(good.rounds, **rounds)
    with nullcontext() if reason is None else pytest.raises(ConfigurationError) as caught:
        Engine(Setup(good.member, changed, good.keeper, good.audit, good.log))
    assert (caught and caught.value.reason) == reason


def test_the_private_key_of_a_round_is_gone_when_it_closes(
    federation: Federation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While updates are averaged nothing refers to it any more, in no thread and no frame, and no file ever had it."""
    alive: list[bool] = []
    keys: list[weakref.ref[ReceivingKey]] = []
    stored: list[bytes] = []
    average = Averager._average

    def watched(averager: Averager, collecting: Any) -> Any:
        gc.collect()
        alive.extend(key() is not None for key in keys)
        return average(averager, collecting)

    monkeypatch.setattr(Averager, "_average", watched)

    async def scenario() -> None:
        async with aggregator(federation, tmp_path, quorum=1, count=2) as hub:
            site = participant(federation, "bank-a")
            for number in (1, 2):
                await hub.until(lambda number=number: hub.engine.progress()["round"] == number)  # type: ignore[misc]
                info = await current_round(hub.url, site)
                collecting = hub.engine.reception.collecting
                assert collecting is not None
                assert collecting.receiving_key is not None
                keys.append(weakref.ref(collecting.receiving_key))
                stored.append(collecting.receiving_key.stored)
                assert info.document.receiving_key == collecting.receiving_key.public.to_bytes()
                del collecting
                assert (await put(hub.url, make_update(info, site)))[0] == 201
                hub.pass_deadline()
            await until(hub, RoundState.FINISHED)

    asyncio.run(asyncio.wait_for(scenario(), 20))
    assert alive == [False, False, False]
    assert len(set(stored)) == 2
    for path in (one for one in tmp_path.rglob("*") if one.is_file()):
        data = path.read_bytes()
        for secret in stored:
            assert secret not in data
            assert base64.b64encode(secret)[:-4] not in data
            assert secret.hex().encode() not in data


async def submit(hub: Hub, federation: Federation, name: str, change: float) -> None:
    site = participant(federation, name)
    info = await current_round(hub.url, site)
    delta = {key: np.full_like(array, change) for key, array in MODEL.items()}
    assert (await put(hub.url, make_update(info, site, delta=delta)))[0] == 201


def test_a_run_goes_on_from_its_last_model(federation: Federation, tmp_path: Path) -> None:
    """Started again, it is in the next round, with the model of the last one; earlier ones are still there."""

    async def scenario() -> None:
        async with aggregator(federation, tmp_path, count=3) as hub:
            hub.expect_first_only()
            await submit(hub, federation, "bank-a", 2.0)
            await hub.until(lambda: hub.engine.progress()["round"] == 2)
        for expected in (2, 3):
            async with aggregator(federation, tmp_path, count=3) as hub:
                hub.expect_first_only()
                site = participant(federation, "bank-a")
                info = await current_round(hub.url, site)
                assert (info.number, info.model_version) == (expected, expected - 1)
                assert hub.events("round")[0]["move"] == "restarted"
                assert np.allclose((await fetch_model(hub, site))["w"], MODEL["w"] + 2.0 * (expected - 1))
                assert hub.engine.model_path(0).exists()
                await submit(hub, federation, "bank-a", 2.0)
                await hub.until(lambda hub=hub: hub.engine.state is not RoundState.COLLECTING)  # type: ignore[misc]
                await hub.until(lambda hub=hub: hub.engine.state is not RoundState.AGGREGATING)  # type: ignore[misc]
        async with aggregator(federation, tmp_path, count=3) as hub:
            await until(hub, RoundState.FINISHED)
            assert np.allclose((await fetch_model(hub, participant(federation, "bank-b")))["w"], MODEL["w"] + 6.0)
            assert hub.engine.progress()["round"] == 3

    asyncio.run(asyncio.wait_for(scenario(), 30))


def test_attempts_are_counted_over_restarts_and_a_failed_run_is_tried_again(
    federation: Federation, tmp_path: Path
) -> None:
    """An opening that a restart cut short is no attempt; one that missed its quorum is."""

    def opened(hub: Hub) -> list[int]:
        return [event["attempt"] for event in hub.events("round") if event["move"] == "open"]

    async def scenario() -> None:
        async with aggregator(federation, tmp_path, attempts=2) as hub:
            await current_round(hub.url, participant(federation, "bank-a"))
            assert opened(hub) == [1]
        async with aggregator(federation, tmp_path, attempts=2) as hub:
            await current_round(hub.url, participant(federation, "bank-a"))
            hub.pass_deadline()
            await hub.until(lambda: opened(hub) == [1, 2])
        async with aggregator(federation, tmp_path, attempts=2) as hub:
            await current_round(hub.url, participant(federation, "bank-a"))
            assert opened(hub) == [2]
            hub.pass_deadline()
            await until(hub, RoundState.FAILED)
        async with aggregator(federation, tmp_path, attempts=2) as hub:
            await submit(hub, federation, "bank-a", 1.0)
            assert opened(hub) == [1]

    asyncio.run(asyncio.wait_for(scenario(), 30))


GCM, CHACHA = "pqfl/v1/mlkem768x25519-mldsa65", "pqfl/v1/mlkem768x25519-chacha-mldsa65"


def without(*algorithms: str) -> Policy:
    return tighten(for_level("high"), advisory(algorithms), 2e9)[0]


def test_a_round_under_a_withdrawn_suite_is_opened_again_and_what_was_accepted_does_not_count(
    federation: Federation, tmp_path: Path
) -> None:
    """New suite, key and challenge; the average is that of the second attempt alone, which uses up no attempt."""

    async def scenario() -> None:
        async with aggregator(federation, tmp_path, quorum=2, attempts=1) as hub:
            sites = [participant(federation, name) for name in ("bank-a", "bank-b")]
            first = await current_round(hub.url, sites[0])
            poison = {key: np.full_like(array, 1e6) for key, array in MODEL.items()}
            poisoned = make_update(first, sites[0], delta=poison)
            assert (await put(hub.url, poisoned))[0] == 201
            late = make_update(first, sites[1])
            await hub.engine.adopt(without(GCM), why="advisory 1")
            assert (await put(hub.url, late))[0] in {400, 403, 409}
            for site in sites:
                site.member = replace(site.member, chosen=without(GCM))
                info = await current_round(hub.url, site)
                assert info.document.suite == CHACHA
                assert info.document.challenge != first.document.challenge
                assert info.document.receiving_key != first.document.receiving_key
                assert await fetch_model(hub, site)
                assert (await put(hub.url, make_update(info, site)))[0] == 201
            await until(hub, RoundState.FINISHED)
            model = await fetch_model(hub, sites[0])
            assert all(np.allclose(model[key], array + 1) for key, array in MODEL.items())
            assert [event["move"] for event in hub.events("round")] == ["open", "withdrawn", "open", "all_in"]
            (change,) = hub.events("policy")
            assert (change["old"], change["new"], change["why"]) == ("high-2026", "high-2026+advisory-1", "advisory 1")

    asyncio.run(asyncio.wait_for(scenario(), 20))


def test_a_round_whose_suite_stays_goes_on(federation: Federation, tmp_path: Path) -> None:
    """An advisory about something else takes nothing from the sites."""

    async def scenario() -> None:
        async with aggregator(federation, tmp_path, quorum=1) as hub:
            site = participant(federation, "bank-a")
            info = await current_round(hub.url, site)
            await hub.engine.adopt(without(CHACHA))
            assert (await current_round(hub.url, site)).document.challenge == info.document.challenge
            assert (await put(hub.url, make_update(info, site)))[0] == 201

    asyncio.run(asyncio.wait_for(scenario(), 20))


def test_what_was_withdrawn_while_it_was_averaged_is_not_published(federation: Federation, tmp_path: Path) -> None:
    """The average is thrown away and the round is opened again."""

    async def scenario() -> None:
        async with aggregator(federation, tmp_path, quorum=1, attempts=1) as hub:
            engine, loop = hub.engine, asyncio.get_running_loop()
            average = engine._averager._average

            def average_and_withdraw(collecting: Any) -> Any:
                asyncio.run_coroutine_threadsafe(engine.adopt(without(GCM)), loop).result(20)
                engine._averager._average = average  # type: ignore[method-assign]
                return average(collecting)

            engine._averager._average = average_and_withdraw  # type: ignore[method-assign]
            site = participant(federation, "bank-a")
            assert (await put(hub.url, make_update(await current_round(hub.url, site), site)))[0] == 201
            hub.pass_deadline()
            await hub.until(lambda: [event["move"] for event in hub.events("round")].count("open") == 2)
            site.member = replace(site.member, chosen=without(GCM))
            info = await current_round(hub.url, site)
            assert (info.number, info.document.suite, info.model_version) == (1, CHACHA, 0)
            moves = [event["move"] for event in hub.events("round")]
            assert moves == ["open", "quorum_at_deadline", "withdrawn", "open"]

    asyncio.run(asyncio.wait_for(scenario(), 20))


def test_an_upload_in_flight_is_refused_at_its_end(federation: Federation, tmp_path: Path) -> None:
    """Its suite was listed when it began and is not any more."""

    async def scenario() -> None:
        async with aggregator(federation, tmp_path, quorum=2) as hub:
            site = participant(federation, "bank-a")
            update = make_update(await current_round(hub.url, site), site)

            async def body() -> Any:
                yield update.data[:-1]
                await hub.engine.adopt(without(GCM))
                yield update.data[-1:]

            with pytest.raises(PolicyError) as caught:
                await hub.engine.reception.receive(Upload(update.round_number, update.envelope_id, None, body()))
            assert caught.value.reason == "content_suite"
            assert hub.events("update") == []

    asyncio.run(asyncio.wait_for(scenario(), 20))


def test_where_no_suite_fits_the_run_ends(federation: Federation, tmp_path: Path) -> None:
    """Neither a document nor a model is given out any more, and both say why."""

    async def scenario() -> None:
        async with aggregator(federation, tmp_path, quorum=1) as hub:
            await current_round(hub.url, participant(federation, "bank-a"))
            await hub.engine.adopt(replace(for_level("maximum"), name="other-2027"))
            await until(hub, RoundState.FAILED)
            with pytest.raises(PolicyError, match="lists no content suite"):
                hub.engine.model_path(0)
            with pytest.raises(PolicyError):
                await hub.engine.signed_document("0" * 32)

    asyncio.run(asyncio.wait_for(scenario(), 20))
