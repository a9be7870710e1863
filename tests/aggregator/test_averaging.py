"""Whose updates are in an average: nobody's who was revoked before it was published."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest

from aggregator import averaging
from aggregator.app import ENVELOPE_TYPE
from pqfl_transport.aggregation.fedavg import Weights
from pqfl_transport.aggregation.round_document import RoundState
from pqfl_transport.audit import verify_audit_log
from pqfl_transport.content.envelope import decode_prologue
from tests.support.pki import Federation, make_federation
from tests.support.rekeying import name_next, prepare_next
from tests.support.revoking import SIGNING, revocations, revoking
from tests.support.rounds import MODEL, Hub, aggregator, current_round, make_update, participant, put


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return make_federation(tmp_path_factory.mktemp("federation"), sites=("bank-a", "bank-b"))


async def submit(hub: Hub, federation: Federation, name: str, change: float = 1.0) -> tuple[int, dict[str, Any]]:
    site = participant(federation, name)
    info = await current_round(hub.url, site)
    delta = {key: np.full_like(array, change) for key, array in MODEL.items()}
    return await put(hub.url, make_update(info, site, delta=delta))


async def last_model(hub: Hub, federation: Federation) -> Any:
    """The last model, as the good site sees it."""
    await hub.until(lambda: hub.engine.state is RoundState.FINISHED)
    site = participant(federation, "bank-b")
    info = await current_round(hub.url, site)
    return site.open_model(hub.engine.model_path(info.model_version).read_bytes(), info)


def test_an_update_accepted_before_the_revocation_is_dropped(federation: Federation, tmp_path: Path) -> None:
    """It is not averaged, log and audit log say so, and its sender is waited for no more."""

    async def scenario() -> None:
        async with aggregator(federation, tmp_path, revocations=revocations(federation)) as hub:
            assert (await submit(hub, federation, "bank-a", 100.0))[0] == 201
            hub.engine.adopt_revocations(revocations(federation, "bank-a", number=2, certificates=[SIGNING]))
            (refusal,) = hub.events("refusal")
            assert (refusal["reason"], refusal["sender"]) == ("revoked", federation.site_uri("bank-a"))
            assert "dropped from the average" in refusal["detail"]
            assert (await submit(hub, federation, "bank-b", 2.0))[0] == 201
            model = await last_model(hub, federation)
            assert np.allclose(model["w"], MODEL["w"] + 2.0)
            # Who was revoked cannot open the new model either.
            prologue, _ = decode_prologue(hub.engine.model_path(1).read_bytes())
            assert len(prologue.header.recipients) == 1

    asyncio.run(asyncio.wait_for(scenario(), 20))
    assert "dropped from the average" in (tmp_path / "audit.jsonl").read_text()
    verify_audit_log(tmp_path / "audit.jsonl", None)


def test_a_revocation_while_the_average_is_made_counts(
    federation: Federation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The average is made again, without the sender."""
    real, made = averaging.federated_average, []

    async def scenario() -> None:
        async with aggregator(federation, tmp_path, revocations=revocations(federation)) as hub:

            def slow(base: Weights, updates: Any) -> Weights:
                made.append(len(updates))
                hub.engine.standing.revocations = revocations(federation, "bank-a", number=2)
                return real(base, updates)

            monkeypatch.setattr(averaging, "federated_average", slow)
            for name, change in (("bank-a", 100.0), ("bank-b", 2.0)):
                assert (await submit(hub, federation, name, change))[0] == 201
            model = await last_model(hub, federation)
            assert np.allclose(model["w"], MODEL["w"] + 2.0)

    asyncio.run(asyncio.wait_for(scenario(), 20))
    assert made == [2, 1]


def test_too_few_left_is_no_round(federation: Federation, tmp_path: Path) -> None:
    """The quorum is counted without who was revoked: neither early nor at the deadline."""

    async def scenario() -> None:
        async with aggregator(federation, tmp_path, revocations=revocations(federation), quorum=2) as hub:
            assert (await submit(hub, federation, "bank-a"))[0] == 201
            hub.engine.adopt_revocations(revocations(federation, "bank-a", number=2))
            assert (await submit(hub, federation, "bank-b"))[0] == 201
            assert hub.engine.state is RoundState.COLLECTING
            hub.pass_deadline()
            await hub.until(lambda: hub.engine.state is RoundState.FAILED)
            assert hub.events("round")[1]["move"] == "short_at_deadline"

    asyncio.run(asyncio.wait_for(scenario(), 20))


def test_nothing_is_averaged_under_a_stale_list(federation: Federation, tmp_path: Path) -> None:
    """Nobody knows who was revoked since; the attempt is given up, and says why."""

    async def scenario() -> None:
        async with aggregator(federation, tmp_path, revocations=revocations(federation, seconds_left=600)) as hub:
            assert (await submit(hub, federation, "bank-a"))[0] == 201
            # An hour later the deadline and the list are over.
            hub.pass_deadline()
            await hub.until(lambda: hub.engine.state is RoundState.FAILED)
            assert [event["reason"] for event in hub.events("round") if event["move"] == "aborted"] == ["stale_crl"]

    asyncio.run(asyncio.wait_for(scenario(), 20))


def test_a_revoked_site_is_refused_at_the_prologue(federation: Federation, tmp_path: Path) -> None:
    """Before anything of its body is read; a list that is stale refuses everybody."""

    async def scenario() -> None:
        async with aggregator(federation, tmp_path, revocations=revocations(federation, "bank-a")) as hub:
            status, problem = await submit(hub, federation, "bank-a")
            assert (status, problem["reason"]) == (403, "revoked")
            hub.engine.standing.revocations = revocations(federation, age_seconds=86400, seconds_left=-600)
            status, problem = await submit(hub, federation, "bank-b")
            assert (status, problem["reason"]) == (403, "stale_crl")

    asyncio.run(asyncio.wait_for(scenario(), 20))


def test_a_site_that_is_revoked_in_mid_upload_is_refused_at_its_end(federation: Federation, tmp_path: Path) -> None:
    """It was good at its prologue, and is not any more when the body is whole."""

    async def scenario() -> None:
        async with aggregator(federation, tmp_path, revocations=revocations(federation)) as hub:
            site = participant(federation, "bank-a")
            update = make_update(await current_round(hub.url, site), site)

            async def body() -> AsyncIterator[bytes]:
                yield update.data[:-10]
                collecting = hub.engine.reception.collecting
                assert collecting is not None
                while not collecting.round._reservations:  # noqa: ASYNC110 -- a plain mapping says nothing
                    await asyncio.sleep(0.001)
                hub.engine.adopt_revocations(revocations(federation, "bank-a", number=2))
                yield update.data[-10:]

            path = f"{hub.url}/v1/rounds/1/updates/{update.envelope_id.hex()}"
            async with (
                aiohttp.ClientSession() as session,
                session.put(path, data=body(), headers={"Content-Type": ENVELOPE_TYPE}) as answer,
            ):
                assert (answer.status, (await answer.json(content_type=None))["reason"]) == (403, "revoked")
            assert not hub.engine.reception.accepted

    asyncio.run(asyncio.wait_for(scenario(), 20))


def test_an_update_under_a_former_key_that_was_revoked_is_dropped(tmp_path: Path) -> None:
    """Its sender is waited for in this round no more, and an update under a former key that is good stays."""
    federation = make_federation(tmp_path / "federation", sites=("bank-a", "bank-b"))
    for name in federation.sites:
        prepare_next(federation, federation.site(name))
    name_next(federation)
    parties = {name: federation.authority.roster().party(federation.site_uri(name)) for name in federation.sites}
    former = parties["bank-a"].former
    assert former is not None
    assert former.certificate is not None
    serial = former.certificate.serial

    async def scenario() -> None:
        async with aggregator(federation, tmp_path / "hub", revocations=revoking(federation)) as hub:
            assert (await submit(hub, federation, "bank-a", 100.0))[0] == 201
            hub.engine.adopt_revocations(revoking(federation, serial, number=2))
            (refusal,) = hub.events("refusal")
            assert "the former key" in refusal["detail"]
            assert (await submit(hub, federation, "bank-b", 2.0))[0] == 201
            model = await last_model(hub, federation)
            assert np.allclose(model["w"], MODEL["w"] + 2.0)

    asyncio.run(asyncio.wait_for(scenario(), 20))
