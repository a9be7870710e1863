"""Fetching revocation lists: one request, capped and timed, and a file that is kept current with the answers.

Lists are signed and numbered, so who hands them over need not be trusted: plain HTTP does no harm but to delay, and a
list that is withheld grows stale and is then refused by whoever reads it (RFC 5280 §5). Garbage, too much, too slow, an
older list: each is a failure that is said, and the last good list stays.

A reader that was given a list asks for another one than that (RFC 9110 §13.1.2), and would have the source wait until
it has it (``Prefer: wait``, RFC 7240 §4.3). A source that does so says so and is asked again at once: that is how
everybody hears within a second or two who was revoked. A source that does not is asked from time to time.
"""

import asyncio
import random
import ssl
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from urllib.parse import urlsplit

import aiohttp
from yarl import URL

from pqfl_transport.errors import ConfigurationError, PqflError, TransportError
from pqfl_transport.pki.revocation import MAX_CRL_BYTES, Revocations

DEFAULT_POLL_SECONDS = 60.0
FETCH_TIMEOUT_SECONDS = 20.0
_JITTER = 0.1
_LEAST_SECONDS = 1.0
_PIECE_BYTES = 1 << 16

WAIT_SECONDS = 50.0
"""How long a source is asked to wait: less than what proxies allow an answer."""
_MAX_TAG_CHARACTERS = 256
_OK, _NOT_MODIFIED = 200, 304


@dataclass(frozen=True, slots=True)
class Fetched:
    """What a source answered."""

    data: bytes | None
    """Lists; ``None`` where those of the tag that was sent are still what is there."""
    tag: str = ""
    """What the source calls them (an entity tag, with its quotation marks); empty where it does not say."""
    waits: bool = False
    """Whether the source waits until it has something new."""


Fetch = Callable[[str, str, float], Awaitable[Fetched]]
"""Asks a URL for something else than what has this tag, and to wait so many seconds for it."""
Report = Callable[[str, dict[str, object]], None]
"""Takes an event and its facts."""


def require_url(url: str, where: str) -> None:
    """Raise ``ConfigurationError`` (``bad_url``) unless lists can be fetched from there."""
    parts = urlsplit(url)
    try:
        good = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good or parts.username is not None or parts.fragment:
        raise ConfigurationError(f"{where} {url!r}: expected as https://HOST:PORT/v1/crl", reason="bad_url")


async def fetch_crl(
    url: str, context: ssl.SSLContext | None, *, tag: str = "", wait_seconds: float = 0,
    timeout_seconds: float = FETCH_TIMEOUT_SECONDS,
) -> Fetched:  # fmt: skip
    """Return what is at ``url``, at most 16 MiB within ``timeout_seconds`` more than the source was asked to wait.

    ``context`` is used for https. Without a ``tag`` nothing is waited for. Raises ``TransportError``:
    ``crl_unavailable``, ``crl_too_large``.
    """
    # No cookies, no proxy of the environment, no redirect, nothing compressed: what comes is what was signed.
    headers = {"Accept-Encoding": "identity"}
    if tag:
        headers["If-None-Match"] = tag
        if wait_seconds:
            headers["Prefer"] = f"wait={wait_seconds:.0f}"
            timeout_seconds += wait_seconds
    timeout = aiohttp.ClientTimeout(total=timeout_seconds)
    connector = aiohttp.TCPConnector(ssl=context if context is not None else False, force_close=True)
    session = aiohttp.ClientSession(
        connector=connector, cookie_jar=aiohttp.DummyCookieJar(), timeout=timeout, auto_decompress=False,
        headers=headers,
    )  # fmt: skip
    try:
        async with session, session.get(URL(url, encoded=True), allow_redirects=False) as answer:
            waits = "wait" in answer.headers.get("Preference-Applied", "")
            if answer.status == _NOT_MODIFIED and tag:
                return Fetched(None, tag, waits)
            if answer.status != _OK:
                raise TransportError(f"{url}: HTTP status {answer.status}", reason="crl_unavailable")
            return Fetched(await _read(url, answer), _tag(answer), waits)
    except TimeoutError:
        sentence = f"{url}: no whole answer within {timeout_seconds:g} s"
        raise TransportError(sentence, reason="crl_unavailable") from None
    except (aiohttp.ClientError, OSError) as error:
        raise TransportError(f"{url}: {error or type(error).__name__}", reason="crl_unavailable") from error


def _tag(answer: aiohttp.ClientResponse) -> str:
    tag = answer.headers.get("ETag", "")
    return tag if len(tag) <= _MAX_TAG_CHARACTERS and tag.isascii() and tag.isprintable() else ""


async def _read(url: str, answer: aiohttp.ClientResponse) -> bytes:
    data = bytearray()
    if (answer.content_length or 0) <= MAX_CRL_BYTES:
        async for piece in answer.content.iter_chunked(_PIECE_BYTES):
            data += piece
            if len(data) > MAX_CRL_BYTES:
                break
        else:
            return bytes(data)
    raise TransportError(f"{url}: more than {MAX_CRL_BYTES} bytes", reason="crl_too_large")


@dataclass(slots=True)
class CrlPoller:
    """Keeps one file current. ``store`` verifies an answer and keeps it; it returns whether it says something new."""

    urls: Sequence[str]
    """Tried in this order until one gives a good list."""
    fetch: Fetch
    store: Callable[[bytes], bool]
    current: Callable[[], Revocations | None]
    """The lists that are in force."""
    report: Report
    poll_seconds: float = DEFAULT_POLL_SECONDS
    """How often a source is asked that does not wait."""
    wait_seconds: float = 0
    """How long sources are asked to wait."""
    clock: Callable[[], float] = time.time
    random: Callable[[], float] = random.random
    failures: int = 0
    """In a row, up to now."""
    failure: str = ""
    """What failed last; empty after a success."""
    _last: tuple[str, Fetched] | None = field(default=None, init=False)
    """The source that gave the last good lists, and what it gave."""

    async def poll(self) -> bool:
        """Ask once and keep what is good; return whether that is news. Never raises for what a source does."""
        sentences = []
        for url in self.urls:
            try:
                is_news = await self._ask(url)
            except PqflError as error:
                sentences.append((error.reason, str(error) if url in str(error) else f"{url}: {error}"))
                continue
            self.failures, self.failure = 0, ""
            self.report("crl_fetched" if is_news else "crl_checked", {"url": url})
            return is_news
        self.failures += 1
        reason, detail = sentences[0][0], "; ".join(sentence for _, sentence in sentences)
        # A source that stays down says so once in the log; it is counted every time.
        self.report("crl_fetch_failed", {"reason": reason, "detail": detail, "is_news": detail != self.failure})
        self.failure = detail
        return False

    async def _ask(self, url: str) -> bool:
        last = self._last[1] if self._last is not None and self._last[0] == url else Fetched(None)
        found = await self.fetch(url, last.tag, self.wait_seconds)
        # Stored every time: somebody may have put an older file there meanwhile.
        data = last.data if found.data is None else found.data
        if data is None:
            raise TransportError(f"{url}: says that nothing is new, and was not asked that", reason="crl_unavailable")
        is_news = await asyncio.to_thread(self.store, data)
        self._last = url, replace(found, data=data)
        return is_news

    def seconds_to_next(self) -> float:
        """Return how long to wait, with jitter: the interval, or less where a list is due or the last try failed.

        Nothing to speak of where the source itself waits until it has something new.
        """
        seconds = self.poll_seconds
        if not self.failures and self._last is not None and self._last[1].waits:
            seconds = 0
        if self.failures:
            seconds = min(seconds, 2.0 ** min(self.failures, 16))
        found = self.current()
        due = [one.next_update.timestamp() - self.clock() for one in found.lists] if found is not None else []
        seconds = min([seconds, *(left for left in due if left > 0)])
        # Thousands of sites that were started by one power cut must not ask in one second for ever.
        return max(_LEAST_SECONDS, seconds * (1 - _JITTER + 2 * _JITTER * self.random()))

    async def run(self, changed: Callable[[], object]) -> None:
        """Ask again and again until cancelled; call ``changed`` after each news."""
        while True:
            await asyncio.sleep(self.seconds_to_next())
            if await self.poll():
                changed()
