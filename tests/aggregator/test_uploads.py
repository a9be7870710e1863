"""Resumable uploads over HTTP, as the convention says and as a hostile or hasty client may try."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest

from aggregator.answers import ENVELOPE_TYPE
from aggregator.rounds import MAX_RESERVATIONS
from pqfl_transport.content.envelope import decode_prologue
from pqfl_transport.net.resumable import PARTIAL_TYPE, UploadAddress
from tests.support.pki import Federation, make_federation
from tests.support.rounds import Envelope, Hub, aggregator, current_round, make_update, participant, put

BIG = {"w": np.zeros(100_000, np.float32)}


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return make_federation(tmp_path_factory.mktemp("federation"), sites=("bank-a", "bank-b"))


class Site:
    """A site's HTTP client, and updates to send with it."""

    def __init__(self, federation: Federation, hub: Hub, session: aiohttp.ClientSession) -> None:
        self.federation, self.hub, self.session = federation, hub, session

    async def update(self, name: str = "bank-a", **changes: Any) -> Envelope:
        site = participant(self.federation, name)
        delta = {"delta": {"w": np.ones(100_000, np.float32)}}
        return make_update(await current_round(self.hub.url, site), site, **(delta | changes))

    async def create(self, update: Envelope, data: bytes, complete: str, **headers: str) -> tuple[int, Any, Any]:
        path = f"/v1/rounds/{update.round_number}/updates/{update.envelope_id.hex()}"
        fields = {"Content-Type": ENVELOPE_TYPE, "Upload-Complete": complete} | headers
        return await self.request("PUT", path, data=data, headers=fields)

    async def append(self, where: str, offset: int, data: bytes, complete: str = "?1") -> tuple[int, Any, Any]:
        fields = {"Content-Type": PARTIAL_TYPE, "Upload-Offset": str(offset), "Upload-Complete": complete}
        return await self.request("PATCH", where, data=data, headers=fields)

    async def request(self, method: str, path: str, **options: Any) -> tuple[int, Any, Any]:
        async with self.session.request(method, f"{self.hub.url}{path}", **options) as answer:
            body = await answer.read()
            return answer.status, answer.headers, json.loads(body) if body else None

    async def head(self, where: str) -> tuple[int, Any]:
        status, headers, _ = await self.request("HEAD", where)
        return status, headers


def address(update: Envelope, site: str = "bank-a") -> str:
    return str(UploadAddress(update.round_number, site, decode_prologue(update.data)[0].digest))


def play(federation: Federation, folder: Path, use: Callable[[Site], Awaitable[None]], **rounds: Any) -> Hub:
    """Run an aggregator with a model of some size, and one client."""

    async def scenario() -> Hub:
        async with (
            aggregator(federation, folder, model=BIG, **({"quorum": 2} | rounds)) as hub,
            aiohttp.ClientSession() as session,
        ):
            await use(Site(federation, hub, session))
            return hub

    return asyncio.run(scenario())


async def cut_off(site: Site, update: Envelope, sent: int, complete: str = "?1") -> None:
    """Begin an upload and lose the connection after so many bytes, when the aggregator has taken them."""
    host, port = site.hub.url.removeprefix("http://").split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    path = f"/v1/rounds/{update.round_number}/updates/{update.envelope_id.hex()}"
    head = (
        f"PUT {path} HTTP/1.1\r\nHost: x\r\nContent-Type: {ENVELOPE_TYPE}\r\nUpload-Complete: {complete}\r\n"
        f"Content-Length: {len(update.data)}\r\n\r\n"
    )
    writer.write(head.encode() + update.data[:sent])
    await writer.drain()
    writer.transport.abort()


async def offset_of(site: Site, update: Envelope, least: int) -> int:
    """Ask for the offset until the upload is there and so far, as a client with patience does."""
    async with asyncio.timeout(20):
        while True:
            status, headers = await site.head(address(update))
            if status == 204 and int(headers["Upload-Offset"]) >= least:
                return int(headers["Upload-Offset"])
            await cut_off(site, update, least)


def test_a_series_of_parts_makes_one_update(federation: Federation, tmp_path: Path) -> None:
    """The prologue first, then parts, then the last one: each answer says where the next part begins."""

    async def use(site: Site) -> None:
        update = await site.update()
        first = len(decode_prologue(update.data)[0].raw)
        status, headers, _ = await site.create(update, update.data[:first], "?0")
        assert (status, headers["Location"], headers["Upload-Complete"]) == (201, address(update), "?0")
        assert (headers["Upload-Offset"], headers["Upload-Length"]) == (str(first), str(len(update.data)))
        assert headers["Upload-Limit"].startswith("max-size=")
        status, headers, _ = await site.append(address(update), first, update.data[first:100_000], "?0")
        assert (status, headers["Upload-Offset"], headers["Upload-Complete"]) == (204, "100000", "?0")
        status, headers, receipt = await site.append(address(update), 100_000, update.data[100_000:])
        assert (status, headers["Upload-Complete"]) == (201, "?1")
        assert receipt["envelope_id"] == update.envelope_id.hex()
        assert site.hub.engine.reception.accepted == 1

    hub = play(federation, tmp_path, use)
    assert len(hub.events("update")) == 1


def test_an_upload_that_was_cut_off_goes_on(federation: Federation, tmp_path: Path) -> None:
    """What arrived is kept, the offset says how much, and the rest completes the update."""

    async def use(site: Site) -> None:
        update = await site.update()
        await cut_off(site, update, 200_000)
        offset = await offset_of(site, update, 1)
        assert offset <= 200_000
        status, headers, _ = await site.append(address(update), offset, update.data[offset:])
        assert (status, headers["Upload-Complete"]) == (201, "?1")

    play(federation, tmp_path, use)


def test_a_lost_answer_is_given_again(federation: Federation, tmp_path: Path) -> None:
    """A complete upload says so; an empty append and the whole update both get the receipt and count once."""

    async def use(site: Site) -> None:
        update = await site.update()
        assert (await site.create(update, update.data, "?1"))[0] == 201
        status, headers = await site.head(address(update))
        assert (status, headers["Upload-Complete"], headers["Upload-Offset"]) == (204, "?1", str(len(update.data)))
        status, _, receipt = await site.append(address(update), len(update.data), b"")
        assert (status, receipt["envelope_id"]) == (200, update.envelope_id.hex())
        assert (await site.create(update, update.data, "?1"))[0] == 200
        assert (await put(site.hub.url, update))[0] == 200
        assert site.hub.engine.reception.accepted == 1
        assert (await site.append(address(update), len(update.data), b"x"))[0] == 400

    play(federation, tmp_path, use)


def test_an_append_at_another_offset_is_told_the_right_one(federation: Federation, tmp_path: Path) -> None:
    """The problem is the convention's own, with both offsets, and the upload stays as it is."""

    async def use(site: Site) -> None:
        update = await site.update()
        await site.create(update, update.data[:10_000], "?0")
        status, headers, problem = await site.append(address(update), 9_999, update.data[9_999:])
        assert (status, headers["Upload-Offset"], headers["Upload-Complete"]) == (409, "10000", "?0")
        assert problem["type"] == "https://iana.org/assignments/http-problem-types#mismatching-upload-offset"
        assert (problem["expected-offset"], problem["provided-offset"]) == (10_000, 9_999)
        assert (await site.append(address(update), 10_000, update.data[10_000:]))[0] == 201

    play(federation, tmp_path, use)


@pytest.mark.parametrize(
    ("headers", "sent", "status", "reason"),
    [
        ({"Upload-Length": "17"}, slice(0, 10_000), 400, "inconsistent_length"),
        ({}, slice(0, None), 201, None),
    ],
)
def test_lengths_have_to_agree(
    federation: Federation, tmp_path: Path, headers: dict[str, str], sent: slice, status: int, reason: str | None
) -> None:
    """A length that is not the envelope's is refused by its own problem."""

    async def use(site: Site) -> None:
        update = await site.update()
        answered, _, problem = await site.create(update, update.data[sent], "?0", **headers)
        assert (answered, (problem or {}).get("reason")) == (status, reason)

    play(federation, tmp_path, use)


def test_damage_ends_an_upload_and_not_its_sender(federation: Federation, tmp_path: Path) -> None:
    """A wrong byte on the way is final for the upload; the same envelope sent anew is taken."""

    async def use(site: Site) -> None:
        update = await site.update()
        await site.create(update, update.data[:10_000], "?0")
        bad = bytes([update.data[10_000] ^ 1]) + update.data[10_001:]
        status, headers, problem = await site.append(address(update), 10_000, bad)
        assert (status, headers["Upload-Complete"], problem["reason"]) == (422, "?1", "bad_body")
        assert (await site.head(address(update)))[0] == 404
        assert (await put(site.hub.url, update))[0] == 201

    play(federation, tmp_path, use)


def test_too_much_ends_an_upload(federation: Federation, tmp_path: Path) -> None:
    """More bytes than the envelope has are refused, by their announcement or as they come."""

    async def use(site: Site) -> None:
        update = await site.update()
        await site.create(update, update.data[:10_000], "?0")
        status, _, problem = await site.append(address(update), 10_000, update.data[10_000:] + b"x")
        assert (status, problem["reason"]) == (400, "excess")

        async def chunks() -> Any:
            yield update.data[10_000:]
            yield b"x"

        await site.create(update, update.data[:10_000], "?0")
        status, _, problem = await site.append(address(update), 10_000, chunks())  # type: ignore[arg-type]
        assert (status, problem["reason"]) == (400, "excess")
        assert (await site.head(address(update)))[0] == 404

    play(federation, tmp_path, use)


def test_a_last_part_that_is_not_all_is_refused_at_once(federation: Federation, tmp_path: Path) -> None:
    """Who says that this is the end and announces less is told so before anything is waited for."""

    async def use(site: Site) -> None:
        update = await site.update()
        await site.create(update, update.data[:10_000], "?0")
        status, _, problem = await site.append(address(update), 10_000, update.data[10_000:20_000])
        assert (status, problem["reason"]) == (400, "truncated")
        # Nothing was taken of it, so the upload is as it was.
        assert (await site.append(address(update), 10_000, update.data[10_000:]))[0] == 201

    play(federation, tmp_path, use)


def test_an_upload_can_be_cancelled(federation: Federation, tmp_path: Path) -> None:
    """A cancelled upload is unknown, its place is free; an accepted update stays accepted."""

    async def use(site: Site) -> None:
        update = await site.update()
        await site.create(update, update.data[:10_000], "?0")
        assert (await site.request("DELETE", address(update)))[0] == 204
        assert (await site.request("DELETE", address(update)))[0] == 404
        assert (await site.append(address(update), 10_000, update.data[10_000:]))[0] == 404
        assert (await site.create(update, update.data, "?1"))[0] == 201
        assert (await site.request("DELETE", address(update)))[0] == 204
        assert site.hub.engine.reception.accepted == 1
        assert (await site.head(address(update)))[1]["Upload-Complete"] == "?1"

    play(federation, tmp_path, use)


def test_uploads_that_nobody_goes_on_with_make_room(federation: Federation, tmp_path: Path) -> None:
    """A site that begins more uploads than it may have open loses the oldest that stands still, and no other's."""

    async def use(site: Site) -> None:
        other = await site.update("bank-b")
        await site.create(other, other.data[:10_000], "?0")
        updates = [await site.update() for _ in range(MAX_RESERVATIONS + 1)]
        for update in updates:
            assert (await site.create(update, update.data[:10_000], "?0"))[0] == 201
        assert [(await site.head(address(update)))[0] for update in updates] == [404, *[204] * MAX_RESERVATIONS]
        assert (await site.append(address(updates[-1]), 10_000, updates[-1].data[10_000:]))[0] == 201
        assert (await site.append(address(other, "bank-b"), 10_000, other.data[10_000:]))[0] == 201

    play(federation, tmp_path, use, quorum=2)


def test_a_later_request_takes_over(federation: Federation, tmp_path: Path) -> None:
    """A request that the network keeps alive on one side only does not hold the upload: asking ends it."""

    async def use(site: Site) -> None:
        update = await site.update()
        began = asyncio.Event()

        async def stalling() -> Any:
            yield update.data[:150_000]
            began.set()
            await asyncio.sleep(3600)
            yield b""

        hanging = asyncio.create_task(site.create(update, stalling(), "?1"))  # type: ignore[arg-type]
        await began.wait()
        async with asyncio.timeout(20):
            while (offset := await site.head(address(update)))[0] != 204:
                pass
        at = int(offset[1]["Upload-Offset"])
        assert (await site.append(address(update), at, update.data[at:]))[0] == 201
        hanging.cancel()
        await asyncio.gather(hanging, return_exceptions=True)

    play(federation, tmp_path, use)


def test_when_the_round_is_over_its_uploads_are_unknown(federation: Federation, tmp_path: Path) -> None:
    """A round's key is gone with it, so there is nothing to go on with."""

    async def use(site: Site) -> None:
        update = await site.update()
        await site.create(update, update.data[:10_000], "?0")
        site.hub.pass_deadline()
        await site.hub.until(lambda: site.hub.engine.reception.collecting is None)
        assert (await site.head(address(update)))[0] == 404
        assert (await site.append(address(update), 10_000, update.data[10_000:]))[0] == 404
        assert (await site.create(update, update.data, "?1"))[0] == 409

    play(federation, tmp_path, use)


@pytest.mark.parametrize(
    ("headers", "status", "reason"),
    [
        ({"Upload-Offset": "0", "Upload-Complete": "?1"}, 415, "wrong_media_type"),
        ({"Content-Type": PARTIAL_TYPE, "Upload-Complete": "?1"}, 400, "malformed"),
        ({"Content-Type": PARTIAL_TYPE, "Upload-Offset": "10000"}, 400, "malformed"),
        ({"Content-Type": PARTIAL_TYPE, "Upload-Offset": "x", "Upload-Complete": "yes"}, 400, "malformed"),
    ],
)
def test_appends_that_do_not_say_what_they_are(
    federation: Federation, tmp_path: Path, headers: dict[str, str], status: int, reason: str
) -> None:
    """An append needs its media type, its offset and whether it is the last."""

    async def use(site: Site) -> None:
        update = await site.update()
        await site.create(update, update.data[:10_000], "?0")
        answered, _, problem = await site.request("PATCH", address(update), data=b"x", headers=headers)
        assert (answered, problem["reason"]) == (status, reason)
        assert (await site.head(address(update)))[1]["Upload-Offset"] == "10000"

    play(federation, tmp_path, use)


def test_limits_can_be_asked_for(federation: Federation, tmp_path: Path) -> None:
    """OPTIONS says that updates can be resumed, how large they may be and for how long."""

    async def use(site: Site) -> None:
        update = await site.update()
        path = f"/v1/rounds/1/updates/{update.envelope_id.hex()}"
        status, headers, _ = await site.request("OPTIONS", path)
        assert status == 204
        limits = dict(item.split("=") for item in headers["Upload-Limit"].split(", "))
        assert int(limits["max-size"]) > len(update.data)
        assert 0 < int(limits["max-age"]) <= 60

    play(federation, tmp_path, use)


@pytest.mark.parametrize(("version", "offered"), [("8", True), ("7", False), (None, False)])
def test_the_upload_is_offered_while_it_is_sent(
    federation: Federation, tmp_path: Path, version: str | None, offered: bool
) -> None:
    """An interim 104 says where to go on, to those who name the same version of the convention and nobody else."""

    async def use(site: Site) -> None:
        update = await site.update()
        host, port = site.hub.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        fields = f"Upload-Draft-Interop-Version: {version}\r\n" if version else ""
        head = (
            f"PUT /v1/rounds/1/updates/{update.envelope_id.hex()} HTTP/1.1\r\nHost: x\r\n{fields}"
            f"Content-Type: {ENVELOPE_TYPE}\r\nUpload-Complete: ?1\r\nContent-Length: {len(update.data)}\r\n\r\n"
        )
        writer.write(head.encode() + update.data)
        line = await reader.readline()
        if offered:
            assert line == b"HTTP/1.1 104 Upload Resumption Supported\r\n"
            assert f"Location: {address(update)}\r\n".encode() in [await reader.readline() for _ in range(4)]
            line = await reader.readline()
        assert line == b"HTTP/1.1 201 Created\r\n"
        writer.close()

    play(federation, tmp_path, use)


def test_a_conventional_update_leaves_nothing_to_resume(federation: Federation, tmp_path: Path) -> None:
    """Without Upload-Complete a request is what it always was: whole, or not at all."""

    async def use(site: Site) -> None:
        update = await site.update()
        assert (await put(site.hub.url, update))[0] == 201
        assert (await site.head(address(update)))[0] == 404

    play(federation, tmp_path, use)
