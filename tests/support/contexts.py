"""Contexts of a federation's gateway and of its first site, and what to send through them."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from pqfl_transport.tls import client_context, server_context
from tests.support.pki import Federation

LARGE = bytes(range(256)) * (16 << 12)
"""16 MiB."""

REFUSING: dict[str, Any] = {"allow_all": False, "allow_uris": "spiffe://fed/site/bank-b"}
"""A server's options that keep the first site, ``bank-a``, out."""


def files(folder: Path) -> tuple[Path, Path, Path]:
    """What the context of an identity folder's owner is made of."""
    return folder / "tls.pem", folder / "tls.key", folder / "ca.pem"


def server(federation: Federation, **options: Any) -> ssl.SSLContext:
    """The gateway's context, which lets everybody of the federation in unless told otherwise."""
    return server_context(*files(federation.gateway), **({"allow_all": True} | options))


def client(federation: Federation, **options: Any) -> ssl.SSLContext:
    """The first site's context, which expects the gateway unless told otherwise."""
    folder = federation.site(federation.sites[0])
    return client_context(*files(folder), **({"verify_uri": federation.gateway_uri} | options))


@asynccontextmanager
async def echo(context: ssl.SSLContext) -> AsyncIterator[int]:
    """An asyncio server that sends back what it gets until the client ends its direction; gives its port."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, ssl.SSLError):
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
            writer.close()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        yield listener.sockets[0].getsockname()[1]
    finally:
        listener.close()
