"""The reception: uploads meet the round that is open, and everything refused is recorded."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from aggregator.intake import Append, Upload
from pqfl_transport.aggregation.round_document import RoundState
from pqfl_transport.errors import MessageError, PlatformError, RoundError
from pqfl_transport.net.resumable import UploadAddress, UploadFields
from tests.support.pki import Federation, make_federation
from tests.support.rounds import MODEL, Hub, aggregator, current_round, make_update, participant

ADDRESS = UploadAddress(1, "bank-a", bytes(32))


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return make_federation(tmp_path_factory.mktemp("federation"), sites=("bank-a", "bank-b"))


async def pieces(*data: bytes) -> AsyncIterator[bytes]:
    for piece in data:
        yield piece


def test_without_a_round_there_is_nothing_to_take(federation: Federation, tmp_path: Path) -> None:
    """Between rounds an update is refused as closed and recorded, and an upload is unknown."""

    async def scenario() -> Hub:
        async with aggregator(federation, tmp_path, run=False) as hub:
            reception = hub.engine.reception
            # What was open before a restart is about to be taken up: nobody is told that it is over.
            with pytest.raises(PlatformError) as early:
                await reception.receive(Upload(1, bytes(16), 0, pieces()))
            assert early.value.reason == "not_ready"
            hub.engine._enter(RoundState.AGGREGATING)
            with pytest.raises(RoundError) as refused:
                await reception.receive(Upload(1, bytes(16), 0, pieces()))
            assert refused.value.reason == "closed"
            for asked in (
                reception.progress(ADDRESS),
                reception.cancel(ADDRESS),
                reception.go_on(Append(ADDRESS, 0, pieces(), UploadFields())),
            ):
                with pytest.raises(MessageError) as unknown:
                    await asked
                assert unknown.value.reason == "unknown_upload"
            with pytest.raises(RoundError):
                _ = reception.limits
            assert reception.refusals == {"not_ready": 1, "closed": 1}
            return hub

    hub = asyncio.run(scenario())
    assert [line["reason"] for line in hub.events("refusal")] == ["not_ready", "closed"]


def test_what_is_accepted_is_counted_and_recorded_once(federation: Federation, tmp_path: Path) -> None:
    """The same envelope again is answered again, and is one update."""

    async def scenario() -> Hub:
        async with aggregator(federation, tmp_path, quorum=2) as hub:
            site = participant(federation, "bank-a")
            update = make_update(await current_round(hub.url, site), site)
            for _ in range(2):
                await hub.engine.reception.receive(
                    Upload(1, update.envelope_id, len(update.data), pieces(update.data[:50], update.data[50:]))
                )
            assert hub.engine.reception.accepted == 1
            return hub

    assert len(asyncio.run(scenario()).events("update")) == 1


def test_limits_follow_from_the_round(federation: Federation, tmp_path: Path) -> None:
    """The most an envelope can have for this model, and the seconds that are left of the round."""

    async def scenario() -> None:
        async with aggregator(federation, tmp_path, quorum=2, deadline_seconds=50.0) as hub:
            await current_round(hub.url, participant(federation, "bank-a"))
            limits = hub.engine.reception.limits
            assert sum(array.nbytes for array in MODEL.values()) < limits.max_bytes < 16 << 20
            assert 40 <= limits.max_age_seconds <= 50

    asyncio.run(scenario())
