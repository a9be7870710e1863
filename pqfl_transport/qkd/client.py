"""Asking a key manager: mutual TLS through our own context, one request a connection, deadlines on everything.

`KeyManager` is for event loops, `BlockingKeyManager` for threads. A key is asked for once an envelope, so nothing is
kept open between two requests.
"""

import asyncio
import ssl
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import aiohttp
from yarl import URL

from pqfl_transport.content.keysource import QKD, ExtraKey
from pqfl_transport.errors import ConfigurationError, PeerError, PqflError, TransportError
from pqfl_transport.net.address import Address
from pqfl_transport.pki.keystore import read_public, read_secret
from pqfl_transport.policy import DEFAULT_LEVEL, SecurityLevel
from pqfl_transport.qkd import messages
from pqfl_transport.qkd.messages import DeliveredKey, Request, Status
from pqfl_transport.tls import client_context

DEFAULT_KEY_BITS = 256
DEFAULT_TIMEOUT_SECONDS = 10.0

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkConfig:
    """One end of a link: the key manager of this site, who we are to it, and who is at the other end."""

    name: str
    """What both ends call the link: it stands in the ids of its keys."""
    url: str
    """``https://HOST:PORT`` of the key manager of this site."""
    peer_sae: str
    """SAE ID of the other end, as the key managers know it."""
    cert: Path
    key: Path
    cacert: Path
    """Who may vouch for the key manager; for a classical one a trust store of its own."""
    verify_uri: str | None = None
    """SPIFFE ID of the key manager; without it its certificate has to name the host of ``url``."""
    server_name: str | None = None
    """Host name that its certificate has in place of the one of ``url``: it is reached through a tunnel."""
    level: SecurityLevel | str = DEFAULT_LEVEL
    key_bits: int = DEFAULT_KEY_BITS
    timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS
    """For one request, connection and handshake included."""
    classical: bool = False
    """The key manager speaks classical TLS: on a loopback address, or anywhere with ``unsafe_classical``."""
    unsafe_classical: bool = False


class KeyManager:
    """A key manager as an SAE sees it.

    Every method raises what `messages.error_of` gives and, besides, ``PeerError`` for answers outside the standard and
    TLS peers that were refused, ``TransportError`` (``key_manager_down``), ``ConfigurationError`` (``key_request``).
    """

    def __init__(
        self,
        url: str,
        context: ssl.SSLContext,
        *,
        timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
        server_name: str | None = None,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme != "https" or not parts.hostname or parts.query or parts.fragment:
            raise ConfigurationError(f"url {url!r}: expected https://HOST:PORT of a key manager", reason="bad_url")
        self._base = url.rstrip("/")
        self._context = context
        self._timeout_seconds = timeout_seconds
        self._server_name = server_name
        self.name = f"the key manager at {self._base}"

    async def status(self, slave_sae_id: str) -> Status:
        """Return what there is for this SAE (§5.1)."""
        return messages.parse_status(await self._send(messages.status_request(slave_sae_id)), self.name)

    async def get_keys(
        self, slave_sae_id: str, *, number: int = 1, size_bits: int = DEFAULT_KEY_BITS
    ) -> tuple[DeliveredKey, ...]:
        """Return new keys to share with this SAE (§5.2)."""
        data = await self._send(messages.enc_keys_request(slave_sae_id, number=number, size_bits=size_bits))
        return messages.parse_new_keys(data, self.name, number=number, size_bits=size_bits)

    async def get_keys_with_ids(
        self, master_sae_id: str, key_ids: Sequence[str], *, size_bits: int = DEFAULT_KEY_BITS
    ) -> tuple[DeliveredKey, ...]:
        """Return the keys that this SAE was given under these ids, in their order (§5.3)."""
        data = await self._send(messages.dec_keys_request(master_sae_id, key_ids))
        return messages.parse_named_keys(data, self.name, key_ids=key_ids, size_bits=size_bits)

    async def _send(self, request: Request) -> bytes:
        try:
            async with asyncio.timeout(self._timeout_seconds):
                return await self._exchange(request)
        except TimeoutError:
            why = f"no answer within {self._timeout_seconds:g} seconds"
            raise TransportError(f"{self.name}: {why}", reason="key_manager_down") from None
        except (aiohttp.ClientError, OSError) as error:
            if isinstance(refusal := _refusal(error), PqflError):
                raise type(refusal)(f"{self.name}: {refusal}", reason=refusal.reason) from error
            raise TransportError(f"{self.name}: {error or type(error).__name__}", reason="key_manager_down") from error

    async def _exchange(self, request: Request) -> bytes:
        connector = aiohttp.TCPConnector(ssl=self._context, force_close=True)
        # No cookies, no proxy of the environment, no redirect: what we were configured with and nothing else.
        async with (
            aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar()) as session,
            session.request(
                request.method,
                URL(self._base + request.path, encoded=True),
                data=request.body or None,
                headers={"Content-Type": "application/json", "Accept": "application/json"},
                allow_redirects=False,
                server_hostname=self._server_name,
            ) as answer,
        ):
            data = await _read(answer, self.name)
            if answer.status != 200:  # noqa: PLR2004 -- the only success that the standard knows
                raise messages.error_of(answer.status, data, request, self.name)
            return data


class BlockingKeyManager:
    """`KeyManager` for threads without an event loop, with the same methods and errors.

    On a thread that runs an event loop they raise ``ConfigurationError`` (``would_block``) and ask nothing.
    """

    def __init__(self, manager: KeyManager) -> None:
        self._manager = manager

    def status(self, slave_sae_id: str) -> Status:
        """See `KeyManager.status`."""
        return _blocking(lambda: self._manager.status(slave_sae_id))

    def get_keys(
        self, slave_sae_id: str, *, number: int = 1, size_bits: int = DEFAULT_KEY_BITS
    ) -> tuple[DeliveredKey, ...]:
        """See `KeyManager.get_keys`."""
        return _blocking(lambda: self._manager.get_keys(slave_sae_id, number=number, size_bits=size_bits))

    def get_keys_with_ids(
        self, master_sae_id: str, key_ids: Sequence[str], *, size_bits: int = DEFAULT_KEY_BITS
    ) -> tuple[DeliveredKey, ...]:
        """See `KeyManager.get_keys_with_ids`."""
        return _blocking(lambda: self._manager.get_keys_with_ids(master_sae_id, key_ids, size_bits=size_bits))


class Link:
    """One end of a QKD link as a source of extra keys; its methods block (`BlockingKeyManager`)."""

    def __init__(self, config: LinkConfig) -> None:
        """Raise ``ConfigurationError`` naming the file, or the rule that keeps a classical manager on this machine."""
        self.config = config
        manager = KeyManager(
            config.url, _context(config), timeout_seconds=config.timeout_seconds, server_name=config.server_name
        )
        self._manager = BlockingKeyManager(manager)

    def new_key(self) -> ExtraKey:
        """Return a new key shared with the other end."""
        (key,) = self._manager.get_keys(self.config.peer_sae, size_bits=self.config.key_bits)
        return ExtraKey(f"{QKD}:{self.config.name}:{key.id}", key.material)

    def key(self, key_id: str) -> bytes:
        """Return the material of a key that the other end was given."""
        (key,) = self._manager.get_keys_with_ids(self.config.peer_sae, [key_id], size_bits=self.config.key_bits)
        return key.material

    def status(self) -> Status:
        """Return what the key manager says of this link."""
        return self._manager.status(self.config.peer_sae)


def _context(config: LinkConfig) -> ssl.SSLContext:
    if not config.classical:
        return client_context(
            config.cert, config.key, config.cacert, verify_uri=config.verify_uri, level=config.level
        )  # fmt: skip
    host = urlsplit(config.url).hostname or ""
    if not config.unsafe_classical and not Address(host=host).is_local:
        raise ConfigurationError(
            f"url {config.url!r}: a key manager with classical TLS is reached on a loopback address only; whoever"
            " records that connection can read its keys with a quantum computer later. Lead it through `pqfl client`"
            " and `pqfl server`, or say unsafe_classical = true",
            reason="classical",
        )
    return _classical_context(config)


def _classical_context(config: LinkConfig) -> ssl.SSLContext:
    # Read first: a key that others can read is refused here as everywhere.
    read_secret(config.key)
    cadata = read_public(config.cacert).decode("ascii", "replace")
    try:
        context = ssl.create_default_context(cadata=cadata)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(config.cert, config.key)
    except (ssl.SSLError, OSError, ValueError) as error:
        raise ConfigurationError(
            f"{config.cert}, {config.key}, {config.cacert}: no classical TLS with these: {error}", reason="bad_key"
        ) from error
    return context


async def _read(answer: aiohttp.ClientResponse, source: str) -> bytes:
    data = bytearray()
    async for piece in answer.content.iter_any():
        data += piece
        if len(data) > messages.MAX_ANSWER_BYTES:
            raise PeerError(f"{source} sends more than {messages.MAX_ANSWER_BYTES} bytes", reason="bad_answer")
    return bytes(data)


def _refusal(error: BaseException) -> PqflError | None:
    """Return our own error that lies behind one of aiohttp's, if there is one."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, PqflError):
        cause = cause.__cause__
    return cause


def _blocking(call: Callable[[], Coroutine[Any, Any, Value]]) -> Value:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(call())
    raise ConfigurationError(
        "asking a key manager would block this event loop; use KeyManager, or a thread", reason="would_block"
    )
