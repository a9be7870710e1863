"""Uploads over HTTP: whole in one request, or resumable as draft-ietf-httpbis-resumable-upload-12 says.

An update is resumable where its PUT has ``Upload-Complete``. Sections in this file are the draft's. What belongs to the
upload as a resource (its offset, its end) is answered here; what belongs to the update is the aggregator's own answer,
marked with ``Upload-Complete: ?1``.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Mapping
from dataclasses import replace

from aiohttp import web

from aggregator.answers import ENVELOPE_TYPE, path_number, problem
from aggregator.intake import Append, OffsetMismatchError, Upload
from aggregator.reception import Reception
from aggregator.transfers import Accepted, Progress
from pqfl_transport.errors import MessageError, PqflError, RoundError, TransportError
from pqfl_transport.net.resumable import (
    DRAFT_VERSION,
    FALSE,
    INTEROP_VERSION,
    PARTIAL_TYPE,
    SUPPORTED_STATUS,
    TRUE,
    UPLOAD_COMPLETE,
    UPLOAD_LENGTH,
    UPLOAD_LIMIT,
    UPLOAD_OFFSET,
    UploadAddress,
    UploadFields,
    boolean,
)

_ENVELOPE_ID = re.compile(r"[0-9a-f]{32}", re.ASCII)
# These say something of the upload as a resource; every other refusal is of the update, and final (§4.4).
_OF_THE_RESOURCE = frozenset({"inconsistent_length", "unknown_upload", "cut_off", "idle", "busy", "closed"})


class Uploads:
    """The handlers; ``idle_seconds`` cuts off a request that sends nothing for so long."""

    def __init__(self, reception: Reception, idle_seconds: float) -> None:
        self._reception, self._idle_seconds = reception, idle_seconds

    def routes(self) -> list[web.RouteDef]:
        """Return what is served."""
        update, upload = "/v1/rounds/{round}/updates/{envelope_id}", "/v1/rounds/{round}/uploads/{site}/{digest}"
        return [
            web.put(update, self._create),
            web.options(update, self._options),
            web.get(upload, self._offset),
            web.patch(upload, self._append),
            web.delete(upload, self._cancel),
        ]

    async def _create(self, request: web.Request) -> web.StreamResponse:
        fields = UploadFields.of(request.headers)
        try:
            upload = replace(self._upload(request), fields=fields, offered=lambda it: self._offer(request, it))
        except PqflError as error:
            self._reception.refuse(error)
            raise
        if fields.complete is None:
            return _receipt(await self._reception.receive(upload))
        return await self._answer(self._reception.receive(upload), created=True)

    async def _append(self, request: web.Request) -> web.StreamResponse:
        address = UploadAddress.parse(request.path)
        if request.content_type != PARTIAL_TYPE:
            raise MessageError(
                f"an upload is gone on with as {PARTIAL_TYPE}, not {request.content_type!r}", reason="wrong_media_type"
            )
        append = Append(address, request.content_length, self._body(request), UploadFields.of(request.headers))
        return await self._answer(self._reception.go_on(append), created=False)

    async def _offset(self, request: web.Request) -> web.StreamResponse:
        progress = await self._reception.progress(UploadAddress.parse(request.path))
        return web.Response(status=204, headers=self._state(progress) | {"Cache-Control": "no-store"})

    async def _cancel(self, request: web.Request) -> web.StreamResponse:
        await self._reception.cancel(UploadAddress.parse(request.path))
        return web.Response(status=204)

    async def _options(self, _request: web.Request) -> web.StreamResponse:
        return web.Response(status=204, headers={"Allow": "OPTIONS, PUT", UPLOAD_LIMIT: self._limit()})

    async def _answer(self, taking: Awaitable[Accepted | Progress], *, created: bool) -> web.StreamResponse:
        try:
            taken = await taking
        except OffsetMismatchError as error:
            offsets = {"expected-offset": error.expected, "provided-offset": error.provided}
            return problem(error, {UPLOAD_COMPLETE: FALSE, UPLOAD_OFFSET: str(error.expected)}, offsets)
        except PqflError as error:
            return problem(error, {UPLOAD_COMPLETE: boolean(error.reason not in _OF_THE_RESOURCE)})
        if isinstance(taken, Accepted):
            return _receipt(taken, {UPLOAD_COMPLETE: TRUE})
        if created:
            return web.Response(status=201, headers=self._state(taken) | {"Location": str(taken.address)})
        return web.Response(status=204, headers=self._state(taken))

    def _offer(self, request: web.Request, progress: Progress) -> None:
        """Say where the upload can be resumed while its first request is still under way (§5)."""
        if request.headers.get(DRAFT_VERSION) != INTEROP_VERSION or request.transport is None:
            return
        fields = {"Location": str(progress.address), UPLOAD_LIMIT: self._limit(), DRAFT_VERSION: INTEROP_VERSION}
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        request.transport.write(f"HTTP/1.1 {SUPPORTED_STATUS}\r\n{lines}\r\n".encode())

    def _state(self, progress: Progress) -> dict[str, str]:
        return {
            UPLOAD_COMPLETE: boolean(progress.complete),
            UPLOAD_OFFSET: str(progress.offset),
            UPLOAD_LENGTH: str(progress.length),
            UPLOAD_LIMIT: self._limit(),
        }

    def _limit(self) -> str:
        limits = self._reception.limits
        return f"max-size={limits.max_bytes}, max-age={limits.max_age_seconds}"

    def _upload(self, request: web.Request) -> Upload:
        if request.content_type != ENVELOPE_TYPE:
            raise MessageError(
                f"an update is sent as {ENVELOPE_TYPE}, not {request.content_type!r}", reason="wrong_media_type"
            )
        envelope_id = request.match_info["envelope_id"]
        if not _ENVELOPE_ID.fullmatch(envelope_id):
            raise MessageError("an envelope id is 32 lower-case hexadecimal digits", reason="malformed")
        number = path_number(request, "round", "unknown_round")
        return Upload(number, bytes.fromhex(envelope_id), request.content_length, self._body(request))

    async def _body(self, request: web.Request) -> AsyncIterator[bytes]:
        seconds = self._idle_seconds
        while True:
            try:
                async with asyncio.timeout(seconds):
                    piece = await request.content.readany()
            except TimeoutError:
                raise RoundError(f"the upload sent nothing for {seconds:g} s", reason="idle") from None
            except (ConnectionError, web.RequestPayloadError) as error:
                raise TransportError(f"the upload was cut off: {error}", reason="cut_off") from error
            if not piece:
                return
            yield piece


def _receipt(taken: Accepted | Progress, headers: Mapping[str, str] | None = None) -> web.Response:
    # A conventional request is always taken to its end.
    assert isinstance(taken, Accepted)  # noqa: S101
    receipt = taken.receipt
    facts = {
        "round": receipt.round,
        "sender": receipt.sender,
        "envelope_id": receipt.envelope_id.hex(),
        "prologue_sha256": receipt.prologue_digest.hex(),
    }
    return web.json_response(facts, status=200 if taken.again else 201, headers=headers)
