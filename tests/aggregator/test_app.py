"""The HTTP interface: what it answers, and that every refusal names its reason and leaves the round as it was."""

import asyncio
import json
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest

from aggregator.app import ENVELOPE_TYPE
from pqfl_transport.content.recipients import ReceivingKey
from pqfl_transport.crypto.pyca import SigningKey
from pqfl_transport.participant import Participant, RoundInfo
from tests.support.pki import Federation, make_federation
from tests.support.rounds import MODEL, Envelope, Hub, aggregator, current_round, make_update, participant, put

NONCE = "0123456789abcdef" * 2


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return make_federation(tmp_path_factory.mktemp("federation"), sites=("bank-a", "bank-b"))


async def get(url: str) -> tuple[int, str, bytes]:
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        return answer.status, answer.content_type, await answer.read()


def wrong_updates(info: RoundInfo, site: Participant) -> dict[str, Envelope]:
    """One update for every way in which a round refuses, by status and reason."""
    other_key = SigningKey.generate("ML-DSA-65")
    ones = {name: np.ones_like(array) for name, array in MODEL.items()}
    good = make_update(info, site)
    return {
        "409 stale": make_update(info, site, round=0),
        "409 wrong_round": make_update(info, site, round=2),
        "409 wrong_challenge": make_update(info, site, challenge=b"x" * 32),
        "409 expired": make_update(info, site, not_after=1),
        "409 wrong_base_model": make_update(info, site, base_model_digest=b"x" * 32),
        "421 misaddressed": make_update(info, site, recipient=ReceivingKey.generate("ML-KEM-768+X25519").public),
        "403 unknown_sender": make_update(info, site, sender="spiffe://fed/site/bank-z"),
        "403 wrong_role": make_update(info, site, sender="spiffe://fed/aggregator/main"),
        "403 wrong_sender_key": make_update(info, site, key=other_key),
        "400 wrong_federation": make_update(info, site, federation="other"),
        "400 wrong_direction": make_update(info, site, direction="model"),
        "422 wrong_shape": make_update(info, site, delta=ones | {"w": np.ones((3, 2), np.float32)}),
        "422 wrong_dtype": make_update(info, site, delta=ones | {"w": np.ones((2, 3), np.float64)}),
        "422 wrong_names": make_update(info, site, delta=ones | {"extra": np.ones(1, np.float32)}),
        "422 not_finite": make_update(info, site, delta=ones | {"b": np.array([1.0, np.nan, 0.0])}),
        "422 bad_samples": make_update(info, site, metadata={"samples": "1000001"}),
        "422 bad_body": Envelope(1, good.envelope_id, good.data[:-1] + bytes([good.data[-1] ^ 1])),
        "400 truncated": Envelope(1, good.envelope_id, good.data[:-1]),
        "400 excess": Envelope(1, good.envelope_id, good.data + b"x"),
        "400 wrong_address": Envelope(1, b"y" * 16, good.data),
        "413 too_large": make_update(info, site, delta={"w": np.ones(100_000)}),
    }


def test_every_refusal_has_its_reason_and_the_round_goes_on(federation: Federation, tmp_path: Path) -> None:
    """Each wrong update is refused for its own reason, is audited, and the same site's good update is taken after."""

    async def scenario() -> None:
        async with aggregator(federation, tmp_path) as hub:
            site = participant(federation, "bank-a")
            info = await current_round(hub.url, site)
            for expected, update in wrong_updates(info, site).items():
                status, problem = await put(hub.url, update)
                assert f"{status} {problem['reason']}" == expected
                assert problem["status"] == status
                assert problem["type"].endswith(f":{problem['reason']}")
            assert hub.engine.reception.refusals == {key.split()[1]: 1 for key in wrong_updates(info, site)}
            status, receipt = await put(hub.url, make_update(info, site))
            assert (status, receipt["sender"]) == (201, federation.site_uri("bank-a"))
            refusals = [line for line in hub.audit_path.read_text().splitlines() if '"refusal"' in line]
            assert len(refusals) == len(wrong_updates(info, site))

    asyncio.run(scenario())


def test_a_repeated_upload_gets_the_same_receipt_and_another_one_is_refused(
    federation: Federation, tmp_path: Path
) -> None:
    """Sending again what was accepted is harmless; a second update of the site is a duplicate."""

    async def scenario() -> None:
        async with aggregator(federation, tmp_path) as hub:
            site = participant(federation, "bank-a")
            info = await current_round(hub.url, site)
            update = make_update(info, site)
            first, again = await put(hub.url, update), await put(hub.url, update)
            assert (first[0], again[0]) == (201, 200)
            assert first[1] == again[1]
            status, problem = await put(hub.url, make_update(info, site))
            assert (status, problem["reason"]) == (409, "duplicate")

    asyncio.run(scenario())


def test_a_stranger_is_refused_before_the_body_was_sent(federation: Federation, tmp_path: Path) -> None:
    """The answer to a bad prologue comes although a gigabyte of body is announced and never sent."""

    async def scenario() -> None:
        async with aggregator(federation, tmp_path) as hub:
            site = participant(federation, "bank-a")
            info = await current_round(hub.url, site)
            update = make_update(info, site, key=SigningKey.generate("ML-DSA-65"))
            host, port = hub.url.removeprefix("http://").split(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(
                f"PUT /v1/rounds/1/updates/{update.envelope_id.hex()} HTTP/1.1\r\nHost: x\r\n"
                f"Content-Type: {ENVELOPE_TYPE}\r\nTransfer-Encoding: chunked\r\n\r\n{len(update.data):x}\r\n".encode()
                + update.data + b"\r\n"
            )  # fmt: skip
            answer = await reader.readuntil(b"\r\n")
            writer.close()
            assert b" 403 " in answer
            assert hub.engine.reception.refusals == {"wrong_sender_key": 1}

    asyncio.run(scenario())


def test_an_upload_that_goes_silent_is_cut_off(federation: Federation, tmp_path: Path) -> None:
    """Half an envelope and then nothing ends with ``idle``, and the site can send again."""

    async def scenario() -> None:
        async with aggregator(federation, tmp_path, upload_idle_seconds=0.5) as hub:
            site = participant(federation, "bank-a")
            info = await current_round(hub.url, site)
            update = make_update(info, site)
            host, port = hub.url.removeprefix("http://").split(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(
                f"PUT /v1/rounds/1/updates/{update.envelope_id.hex()} HTTP/1.1\r\nHost: x\r\n"
                f"Content-Type: {ENVELOPE_TYPE}\r\nContent-Length: {len(update.data)}\r\n\r\n".encode()
                + update.data[:-10]
            )
            assert b" 408 " in await reader.readuntil(b"\r\n")
            writer.close()
            assert (await put(hub.url, update))[0] == 201

    asyncio.run(scenario())


def test_an_upload_that_is_cut_off_gives_its_place_back(federation: Federation, tmp_path: Path) -> None:
    """Connections that break off in the middle, many times, do not keep the site from its update."""

    async def scenario() -> None:
        async with aggregator(federation, tmp_path) as hub:
            site = participant(federation, "bank-a")
            info = await current_round(hub.url, site)
            update = make_update(info, site)
            host, port = hub.url.removeprefix("http://").split(":")
            for count in range(1, 7):
                _, writer = await asyncio.open_connection(host, int(port))
                writer.write(
                    f"PUT /v1/rounds/1/updates/{update.envelope_id.hex()} HTTP/1.1\r\nHost: x\r\n"
                    f"Content-Type: {ENVELOPE_TYPE}\r\nContent-Length: {len(update.data)}\r\n\r\n".encode()
                    + update.data[:-10]
                )
                await writer.drain()
                writer.transport.abort()
                # Nothing announces a refusal, and the end of a connection is seen on a later turn of the loop.
                while hub.engine.reception.refusals.get("cut_off", 0) < count:  # noqa: ASYNC110
                    await asyncio.sleep(0)
            assert (await put(hub.url, update))[0] == 201

    asyncio.run(asyncio.wait_for(scenario(), 20))


@pytest.mark.parametrize(
    ("path", "status", "reason"),
    [
        ("/v1/rounds/current", 400, "bad_nonce"),
        ("/v1/rounds/current?nonce=short", 400, "bad_nonce"),
        ("/v1/rounds/current?nonce=" + "a" * 65, 400, "bad_nonce"),
        ("/v1/models/1", 404, "unknown_model"),
        ("/v1/models/-1", 404, "unknown_model"),
        ("/v1/models/" + "9" * 30, 404, "unknown_model"),
        ("/v1/models/..%2F..%2Faudit.jsonl", 404, "unknown_model"),
        ("/v1/rounds/2/events", 404, "unknown_round"),
        ("/v1/rounds/x/events", 404, "unknown_round"),
        ("/v2/status", 404, "not_found"),
        ("/v1/rounds/1/updates/" + "0" * 32, 405, "method_not_allowed"),
    ],
)
def test_requests_that_make_no_sense(
    federation: Federation, tmp_path: Path, path: str, status: int, reason: str
) -> None:
    """Every error is a problem document with its reason."""

    async def scenario() -> None:
        async with aggregator(federation, tmp_path) as hub:
            await current_round(hub.url, participant(federation, "bank-a"))
            found, content_type, body = await get(hub.url + path)
            assert (found, content_type) == (status, "application/problem+json")
            assert json.loads(body)["reason"] == reason

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("path", "content_type", "status", "reason"),
    [
        ("/v1/rounds/1/updates/" + "0" * 32, "application/octet-stream", 415, "wrong_media_type"),
        ("/v1/rounds/1/updates/xyz", ENVELOPE_TYPE, 400, "malformed"),
        ("/v1/rounds/1/updates/" + "0" * 32, ENVELOPE_TYPE, 413, "too_large"),
        ("/v1/rounds/one/updates/" + "0" * 32, ENVELOPE_TYPE, 404, "unknown_round"),
    ],
)
def test_uploads_that_are_no_envelopes(
    federation: Federation, tmp_path: Path, path: str, content_type: str, status: int, reason: str
) -> None:
    """Other media types, odd addresses and garbage are refused and counted."""

    async def scenario() -> None:
        async with aggregator(federation, tmp_path) as hub:
            await current_round(hub.url, participant(federation, "bank-a"))
            async with (
                aiohttp.ClientSession() as session,
                session.put(hub.url + path, data=b"\xff" * 100, headers={"Content-Type": content_type}) as answer,
            ):
                assert (answer.status, (await answer.json(content_type=None))["reason"]) == (status, reason)
            assert hub.engine.reception.refusals == {reason: 1}

    asyncio.run(scenario())


def test_events_tell_of_every_update_and_of_the_end(federation: Federation, tmp_path: Path) -> None:
    """A watcher sees the count rise and then that the round is over; the stream ends by itself."""

    async def scenario() -> None:
        async with aggregator(federation, tmp_path, quorum=2) as hub:
            sites = [participant(federation, name) for name in ("bank-a", "bank-b")]
            infos = [await current_round(hub.url, site) for site in sites]
            seen: list[dict[str, Any]] = []
            async with aiohttp.ClientSession() as session, session.get(f"{hub.url}/v1/rounds/1/events") as stream:
                assert stream.content_type == "text/event-stream"
                async for line in stream.content:
                    if line.startswith(b"data:"):
                        seen.append(json.loads(line.removeprefix(b"data:")))
                        if len(seen) <= 2:
                            site = sites[len(seen) - 1]
                            assert (await put(hub.url, make_update(infos[len(seen) - 1], site)))[0] == 201
            assert [event["updates"] for event in seen if event["state"] == "collecting"][:2] == [0, 1]
            assert seen[-1]["state"] == "finished"
            # Whoever comes late to a round that is over is told so at once.
            _, _, late = await get(f"{hub.url}/v1/rounds/1/events")
            assert b'"finished"' in late

    asyncio.run(asyncio.wait_for(scenario(), 20))


def test_status_shows_progress_and_refusals(federation: Federation, tmp_path: Path) -> None:
    """The status has what an operator asks first: federation, round, state, updates, refusals, cost."""

    async def scenario() -> None:
        async with aggregator(federation, tmp_path) as hub:
            site = participant(federation, "bank-a")
            info = await current_round(hub.url, site)
            await put(hub.url, make_update(info, site, round=9))
            status = json.loads((await get(f"{hub.url}/v1/status"))[2])
            assert (status["federation"], status["round"], status["state"]) == ("fed", 1, "collecting")
            assert (status["updates"], status["expected"], status["refusals"]) == (0, 2, {"wrong_round": 1})
            assert status["crypto_seconds"] > 0

    asyncio.run(scenario())


def test_before_the_first_model_is_sealed_callers_are_told_to_wait(federation: Federation, tmp_path: Path) -> None:
    """An aggregator that is still starting says so with 503 and not with a wrong document."""

    async def scenario() -> None:
        hub: Hub
        async with aggregator(federation, tmp_path, run=False) as hub:
            status, _, body = await get(f"{hub.url}/v1/rounds/current?nonce={NONCE}")
            assert (status, json.loads(body)["reason"]) == (503, "not_ready")

    asyncio.run(scenario())
