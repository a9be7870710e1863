"""The site's side of the aggregator's HTTP interface: requests, retries, and problem documents made into our errors.

What comes back is bytes that nobody has verified yet; `pqfl_transport.client` does that. A request that failed on its
way is sent again, the same bytes each time, until ``retry_seconds`` have brought nothing further. Large updates and
models go on where they stopped (`net.resumable`; RFC 9110 §14).
"""

import asyncio
import json
import ssl as ssl_module
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol, Self, TypeVar
from urllib.parse import urlsplit

import aiohttp

from pqfl_transport.aggregation.round_document import MAX_DOCUMENT_BYTES
from pqfl_transport.errors import ConfigurationError, MessageError, PqflError, TransportError
from pqfl_transport.net.address import Address
from pqfl_transport.net.resumable import (
    DRAFT_VERSION,
    INTEROP_VERSION,
    PARTIAL_TYPE,
    TRUE,
    UPLOAD_COMPLETE,
    UPLOAD_LENGTH,
    UPLOAD_OFFSET,
    UploadFields,
)
from pqfl_transport.participant import SealedUpdate
from pqfl_transport.problems import MAX_PROBLEM_BYTES, from_problem

ENVELOPE_TYPE = "application/vnd.pqfl.envelope"
DEFAULT_RETRY_SECONDS = 60.0

RESUMABLE_BYTES = 1 << 20
"""From this size on an update is sent so that it can be resumed; a smaller one is sent again whole."""

_CONNECT_SECONDS = 10.0
_READ_SECONDS = 60.0
_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 5.0
# A change of state may fall between two requests; so nobody waits for news longer than this without asking.
_NEWS_SECONDS = 30.0
_SEND_BYTES = 256 * 1024
_MAX_EVENT_BYTES = 64 * 1024
_DATA = b"data:"
# What passes by itself: the service is still starting or its disk is full, or our earlier uploads are still in flight.
_PASSING = frozenset(
    {
        "not_ready", "busy", "idle", "cut_off", "mismatching_offset", "unknown_upload", "key_manager_down",
        "target_down", "disk", "http_502", "http_503", "http_504",
    }
)  # fmt: skip
# What an upload can come to when others wrote to it.
_DAMAGED = frozenset({"bad_body", "bad_trailer", "truncated", "excess"})
_SERVER_ERRORS = 500
# Precondition failed, and range not satisfiable.
_NOT_THE_SAME = frozenset({412, 416})
_PARTIAL_CONTENT = 206

Value = TypeVar("Value")


class Receiver(Protocol):
    """What takes a large answer piece by piece, and can be asked how much it has."""

    received_bytes: int

    @property
    def may_wait(self) -> bool:
        """Whether `feed` may take a while, and so is called in a thread."""

    def restart(self) -> None:
        """Forget what came: it comes again from its first byte."""

    def feed(self, data: bytes) -> None:
        """Take the next bytes."""


@dataclass(slots=True)
class _Sending:
    """How far the sending of an update is."""

    update: SealedUpdate
    begun: bool
    resumable: bool = field(init=False)
    offset: int = 0
    """What the other side is known to have."""

    def __post_init__(self) -> None:
        self.resumable = len(self.update.envelope) >= RESUMABLE_BYTES


class Exchange:
    """One aggregator, usually behind the sidecar of this machine; an async context manager.

    ``url`` is ``http://HOST:PORT`` of a loopback address, ``https://…`` with ``ssl=client_context(…)``, or
    ``unix:PATH``. Raises ``ConfigurationError`` for plain HTTP that would leave the machine, unless ``unsafe_url``.
    """

    def __init__(
        self,
        url: str,
        *,
        ssl: ssl_module.SSLContext | None = None,
        retry_seconds: float = DEFAULT_RETRY_SECONDS,
        unsafe_url: bool = False,
    ) -> None:
        self._base, self._unix_path = _parse_url(url, ssl, unsafe_url=unsafe_url)
        self._ssl = ssl
        self._retry_seconds = retry_seconds
        self._session: aiohttp.ClientSession | None = None
        self.bytes_sent = 0
        """Bodies of requests, retries included."""
        self.bytes_received = 0
        """Bodies of answers."""
        self.seconds = 0.0
        """Time spent sending and receiving."""

    async def __aenter__(self) -> Self:
        connector: aiohttp.BaseConnector
        if self._unix_path is not None:
            connector = aiohttp.UnixConnector(self._unix_path)
        else:
            connector = aiohttp.TCPConnector(ssl=self._ssl if self._ssl is not None else True)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS, sock_read=_READ_SECONDS)
        self._session = aiohttp.ClientSession(connector=connector, timeout=timeout, raise_for_status=False)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def round_document(self, nonce: str) -> bytes:
        """Return the signed document of the current round for this nonce."""
        return bytes(await self._get(f"/v1/rounds/current?nonce={nonce}", MAX_DOCUMENT_BYTES))

    async def model(self, version: int, receiver: Receiver) -> None:
        """Give ``receiver`` the sealed model of a version; what it raises ends the transfer."""
        path = f"/v1/models/{version}"
        tag = ""

        async def get() -> None:
            nonlocal tag
            begin = receiver.received_bytes
            # A model that was sealed again meanwhile is another envelope, of which the rest would be of no use.
            headers = {"Range": f"bytes={begin}-", "If-Match": tag} if begin and tag else {}
            async with self._open().get(self._url(path), headers=headers, allow_redirects=False) as answer:
                if not _goes_on(answer, begin):
                    receiver.restart()
                if answer.status in _NOT_THE_SAME:
                    raise TransportError(f"{path}: begins again, it is another one now", reason="cut_off")
                await self._require_ok(answer)
                tag = answer.headers.get("ETag", "")
                async for piece in answer.content.iter_any():
                    self.bytes_received += len(piece)
                    if receiver.may_wait:
                        await asyncio.to_thread(receiver.feed, piece)
                    else:
                        receiver.feed(piece)

        await self._retrying(path, get, lambda: receiver.received_bytes)

    async def send_update(self, update: SealedUpdate, *, begun: bool = False) -> None:
        """Send a sealed update, a large one so that it can be resumed. Raises the refusal as the error that it is.

        ``begun`` says that a part of it may be there already, so that is asked first.
        """
        sending = _Sending(update, begun)
        await self._retrying(update.path, lambda: self._send(sending), lambda: sending.offset)

    async def _send(self, sending: "_Sending") -> None:
        update = sending.update
        if not sending.resumable:
            await self._request(sending, "PUT", {"Content-Type": ENVELOPE_TYPE}, 0)
            return
        fields = {UPLOAD_COMPLETE: TRUE, UPLOAD_LENGTH: str(len(update.envelope)), DRAFT_VERSION: INTEROP_VERSION}
        offset = await self._offset(update) if sending.begun else None
        sending.begun = True
        if offset is None:
            await self._request(sending, "PUT", {"Content-Type": ENVELOPE_TYPE} | fields, 0)
            return
        sending.offset = offset
        try:
            append = {"Content-Type": PARTIAL_TYPE, UPLOAD_OFFSET: str(offset)}
            await self._request(sending, "PATCH", fields | append, offset)
        except MessageError as error:
            if error.reason not in _DAMAGED:
                raise
            # Somebody else may have written to the upload: it is begun again, so that it cannot keep the update out.
            sending.resumable = False
            raise TransportError(f"the resumed upload arrived damaged: {error}", reason="cut_off") from error

    async def _request(self, sending: "_Sending", method: str, headers: dict[str, str], offset: int) -> None:
        update, rest = sending.update, sending.update.envelope[offset:]
        path = str(update.address) if method == "PATCH" else update.path
        headers = headers | {"Content-Length": str(len(rest))}
        self.bytes_sent += len(rest)
        async with self._open().request(
            method, self._url(path), data=_slices(rest), headers=headers, allow_redirects=False
        ) as answer:
            await self._require_ok(answer)

    async def _offset(self, update: SealedUpdate) -> int | None:
        """Return where the upload goes on; None where there is no such upload, so that it has to begin again."""
        headers = {DRAFT_VERSION: INTEROP_VERSION}
        async with self._open().head(self._url(str(update.address)), headers=headers, allow_redirects=False) as answer:
            offset = UploadFields.of(answer.headers).offset
            if answer.ok and offset is not None and offset <= len(update.envelope):
                return offset
            if answer.status >= _SERVER_ERRORS:
                await self._require_ok(answer)
            return None

    async def news(self, round_number: int, state: str) -> None:
        """Return when the round's state may be another one than ``state``; a hint, which nobody signs."""
        try:
            async with asyncio.timeout(_NEWS_SECONDS):
                if not await self._watch(f"/v1/rounds/{round_number}/events", state):
                    await asyncio.sleep(_FIRST_PAUSE_SECONDS)
        except TimeoutError:
            return
        except (aiohttp.ClientError, OSError, PqflError):
            # Whoever is asked next says what is wrong, if it lasts: an aggregator that is being restarted comes back.
            await asyncio.sleep(_FIRST_PAUSE_SECONDS)

    async def _watch(self, path: str, state: str) -> bool:
        async with self._open().get(self._url(path), allow_redirects=False) as answer:
            await self._require_ok(answer)
            while line := await answer.content.readline():
                if len(line) > _MAX_EVENT_BYTES:
                    break
                if line.startswith(_DATA) and _state(line.removeprefix(_DATA)) != state:
                    return True
        return False

    async def _get(self, path: str, max_bytes: int) -> bytearray:
        async def get() -> bytearray:
            async with self._open().get(self._url(path), allow_redirects=False) as answer:
                await self._require_ok(answer)
                return await self._read(answer, max_bytes)

        return await self._retrying(path, get, lambda: 0)

    async def _read(self, answer: aiohttp.ClientResponse, max_bytes: int) -> bytearray:
        announced = answer.content_length or 0
        body = bytearray()
        async for piece in answer.content.iter_any():
            body += piece
            self.bytes_received += len(piece)
            if max(len(body), announced) > max_bytes:
                raise TransportError(f"{answer.url.path} sends more than {max_bytes} bytes", reason="too_large")
        return body

    async def _require_ok(self, answer: aiohttp.ClientResponse) -> None:
        if answer.ok and answer.status < 300:  # noqa: PLR2004 -- redirects are not followed, so they are no success
            return
        problem = await answer.content.read(MAX_PROBLEM_BYTES)
        raise from_problem(answer.status, problem, f"the aggregator at {self._base}")

    async def _retrying(
        self, path: str, operation: Callable[[], Awaitable[Value]], progress: Callable[[], int]
    ) -> Value:
        """Do it until it succeeds, or until ``retry_seconds`` pass without ``progress`` having grown."""
        give_up, so_far = time.monotonic() + self._retry_seconds, progress()
        pause_seconds = _FIRST_PAUSE_SECONDS
        while True:
            started = time.monotonic()
            try:
                return await operation()
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                failure: PqflError = TransportError(f"{self._base}{path}: {_describe(error)}", reason="unreachable")
            except PqflError as error:
                if error.reason not in _PASSING:
                    raise
                failure = error
            finally:
                self.seconds += time.monotonic() - started
            if progress() > so_far:
                give_up, so_far = time.monotonic() + self._retry_seconds, progress()
                pause_seconds = _FIRST_PAUSE_SECONDS
            if time.monotonic() + pause_seconds > give_up:
                raise failure
            await asyncio.sleep(pause_seconds)
            pause_seconds = min(2 * pause_seconds, _LONGEST_PAUSE_SECONDS)

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise ConfigurationError("use the client as a context manager: `async with … as client`", reason="not_open")
        return self._session

    def _url(self, path: str) -> str:
        return f"{self._base}{path}"


def _goes_on(answer: aiohttp.ClientResponse, offset: int) -> bool:
    """Whether an answer begins where the last one stopped."""
    begins = f"bytes {offset}-"
    return answer.status == _PARTIAL_CONTENT and answer.headers.get("Content-Range", "").startswith(begins)


async def _slices(data: memoryview) -> AsyncIterator[memoryview]:
    for start in range(0, len(data), _SEND_BYTES):
        yield data[start : start + _SEND_BYTES]


def _parse_url(url: str, ssl: ssl_module.SSLContext | None, *, unsafe_url: bool) -> tuple[str, str | None]:
    """Return the base of all request URLs, and the path of the socket if it is a unix socket."""
    if url.startswith("unix:"):
        return "http://localhost", Address.parse(url, "url").path
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
        raise ConfigurationError(f"url {url!r}: expected http://…, https://… or unix:PATH", reason="bad_url")
    if parts.scheme == "https" and ssl is None:
        raise ConfigurationError(
            f"url {url!r}: https needs ssl=client_context(…), because Python's own context is not post-quantum",
            reason="no_context",
        )
    if parts.scheme == "http" and not unsafe_url and not Address(host=parts.hostname).is_local:
        raise ConfigurationError(
            f"url {url!r}: plain HTTP is for the sidecar on this machine; use `pqfl client`, or https with"
            " ssl=client_context(…)",
            reason="not_local",
        )
    return url.rstrip("/"), None


def _state(data: bytes) -> str | None:
    try:
        facts = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return str(facts.get("state")) if isinstance(facts, dict) else None


def _describe(error: BaseException) -> str:
    cause = error.__cause__
    if isinstance(cause, PqflError):
        return str(cause)
    return str(error) or type(error).__name__
