"""The context that other libraries take: aiohttp and others speak post-quantum TLS unawares."""

import asyncio
import ssl
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from pqfl_transport.crypto import pkcs8
from pqfl_transport.errors import ConfigurationError
from pqfl_transport.pki.files import write_secret
from pqfl_transport.tls import client_context, connect, server_context
from tests.support.contexts import LARGE, REFUSING, client, echo, server
from tests.support.pki import (
    ODDITIES,
    Federation,
    Oddity,
    expired,
    make_federation,
    other_authority,
    signing_for_tls,
    without_usage,
)
from tests.support.rawtls import RawPeer


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return make_federation(tmp_path_factory.mktemp("federation"), sites=("bank-a", "bank-b"))


def test_aiohttp_server_and_client(federation: Federation) -> None:
    """A request of 16 MiB and its answer of as much pass between aiohttp's own server and client."""
    seen = []

    async def handler(request: web.Request) -> web.Response:
        transport = request.transport
        assert transport is not None
        seen.append(str(transport.get_extra_info("ssl_object").peer.id))
        return web.Response(body=await request.read())

    async def scenario() -> None:
        app = web.Application(client_max_size=1 << 26)
        app.router.add_post("/", handler)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=server(federation)).start()
        url = f"https://127.0.0.1:{runner.addresses[0][1]}/"
        try:
            async with aiohttp.ClientSession() as session:
                for _ in range(2):
                    async with session.post(url, data=LARGE, ssl=client(federation)) as answer:
                        assert answer.status == 200
                        assert await answer.read() == LARGE
        finally:
            await runner.cleanup()

    asyncio.run(asyncio.wait_for(scenario(), 60))
    assert seen == [federation.site_uri("bank-a")] * 2


def test_a_refused_client_learns_why_in_the_middle_of_a_large_upload(federation: Federation) -> None:
    """16 MiB under way do not turn the server's reason into a reset."""

    async def scenario() -> None:
        async with echo(server(federation, **REFUSING)) as port, aiohttp.ClientSession() as session:
            for _ in range(3):
                with pytest.raises(aiohttp.ClientError, match=r"\[not_allowed\]"):
                    await session.post(f"https://127.0.0.1:{port}/", data=LARGE, ssl=client(federation))

    asyncio.run(asyncio.wait_for(scenario(), 30))


@pytest.mark.parametrize("make", [other_authority, expired, without_usage, signing_for_tls])
def test_a_server_with_a_bad_certificate_is_refused_in_aiohttps_words(
    federation: Federation, tmp_path: Path, make: Oddity
) -> None:
    """`aiohttp.ClientConnectorCertificateError` has the reason in its text, and nothing was sent."""
    odd = make(federation, tmp_path / "odd", "gateway")

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raw = RawPeer(odd, server=True)
        with suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                raw.receive(data)
                raw.step()
                writer.write(raw.take())
        writer.close()

    async def scenario() -> None:
        listener = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = listener.sockets[0].getsockname()[1]
        async with aiohttp.ClientSession() as session:
            with pytest.raises(aiohttp.ClientConnectorCertificateError, match=rf"\[{ODDITIES[make]}\]"):
                await session.get(f"https://127.0.0.1:{port}/", ssl=client(federation))
        listener.close()

    asyncio.run(asyncio.wait_for(scenario(), 30))


@pytest.mark.parametrize(
    "weaken",
    [
        lambda context: setattr(context, "verify_mode", ssl.CERT_NONE),
        lambda context: setattr(context, "minimum_version", ssl.TLSVersion.TLSv1_2),
        lambda context: setattr(context, "options", ssl.OP_NO_TLSv1_3),
        lambda context: setattr(context, "check_hostname", False),
        lambda context: context.set_ciphers("ALL"),
        lambda context: context.load_verify_locations("/etc/ssl/certs/ca-certificates.crt"),
        lambda context: context.load_default_certs(),
        lambda context: context.set_default_verify_paths(),
        lambda context: context.load_cert_chain("/tmp/none.pem"),  # noqa: S108 -- never opened
        lambda context: context.set_ecdh_curve("prime256v1"),
        lambda context: context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_side=True),
        lambda context: context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), session="session"),
        lambda context: context.get_ca_certs(),
    ],
)
def test_what_would_weaken_it_raises(federation: Federation, weaken: Callable[[ssl.SSLContext], object]) -> None:
    """No call that other contexts obey is ignored here in silence."""
    with pytest.raises(ConfigurationError):
        weaken(client(federation))


@pytest.mark.parametrize("name", [name for name in dir(ssl.SSLContext) if name.startswith(("set_", "load_"))])
def test_every_setter_that_this_python_knows_is_decided_on(federation: Federation, name: str) -> None:
    """Each raises ``ConfigurationError``; ALPN alone can be set."""
    method = getattr(client(federation), name)
    if name == "set_alpn_protocols":
        method(["h2"])
        return
    with pytest.raises(ConfigurationError, match=name):
        method("x")


ATTRIBUTES = [
    name
    for name in dir(ssl.SSLContext)
    if not name.startswith("__") and not callable(getattr(ssl.SSLContext, name)) and name != "_windows_cert_stores"
]


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_every_attribute_can_be_read_and_none_changed(federation: Federation, name: str) -> None:
    """Reading is harmless, writing what is so already too; another value raises."""
    context = client(federation)
    try:
        value = getattr(context, name)
    except AttributeError:
        pytest.skip("not readable in Python's own context either")
    if name not in {"protocol", "session_stats"}:
        setattr(context, name, value)
    with pytest.raises(ConfigurationError, match=name):
        setattr(context, name, object())


def test_what_libraries_read_is_what_holds(federation: Federation) -> None:
    """Either end's context reads as one that verifies its peer and speaks TLS 1.3."""
    ours, theirs = client(federation), server(federation)
    assert (ours.protocol, theirs.protocol) == (ssl.PROTOCOL_TLS_CLIENT, ssl.PROTOCOL_TLS_SERVER)
    for context in (ours, theirs):
        assert context.verify_mode is ssl.CERT_REQUIRED
        assert context.minimum_version is ssl.TLSVersion.TLSv1_3
    assert ours.check_hostname


def test_libraries_may_read_it_and_set_what_is_so_already(federation: Federation) -> None:
    """It is an SSLContext with verification on, and ALPN can be given later as usual."""
    context = client(federation)
    assert isinstance(context, ssl.SSLContext)
    assert context.verify_mode is ssl.CERT_REQUIRED
    context.verify_mode = ssl.CERT_REQUIRED
    context.set_alpn_protocols(["http/1.1"])
    assert len(context.get_ca_certs(binary_form=True)) == 2

    async def scenario() -> None:
        async with echo(server(federation, alpn=["http/1.1"])) as port:
            _, writer = await connect("127.0.0.1", port, context)
            assert writer.get_extra_info("ssl_object").peer.alpn == "http/1.1"
            writer.close()

    asyncio.run(asyncio.wait_for(scenario(), 30))


def test_one_name_needs_no_list(federation: Federation) -> None:
    """A lone string is one name and not its letters; None is no name."""
    assert server(federation, allow_all=False, allow_dns="bank-a").config.allowed.dns == ("bank-a",)  # type: ignore[attr-defined]
    allowed = client(federation, verify_uri=None, verify_dns="localhost").config.allowed  # type: ignore[attr-defined]
    assert (allowed.uris, allowed.dns) == ((), ("localhost",))


def test_a_server_without_anybody_to_let_in_is_refused(federation: Federation) -> None:
    """Forgetting whom to allow never means everybody."""
    with pytest.raises(ConfigurationError, match="whom it allows"):
        server(federation, allow_all=False)


def test_an_encrypted_key_is_opened_with_a_passphrase_file(
    federation: Federation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both ends take one; without it the variable counts, and without either it is refused."""
    monkeypatch.delenv("PQFL_PASSPHRASE", raising=False)
    write_secret(tmp_path / "pass", b"correct horse battery")
    for make, folder, allow in (
        (server_context, federation.gateway, {"allow_all": True}),
        (client_context, federation.site(federation.sites[0]), {"verify_uri": federation.gateway_uri}),
    ):
        key = tmp_path / f"{folder.name}.key"
        write_secret(key, pkcs8.encrypt((folder / "tls.key").read_bytes(), b"correct horse battery"))
        files = (folder / "tls.pem", key, federation.ca_pem)
        assert make(*files, passphrase_file=tmp_path / "pass", **allow)  # type: ignore[operator]
        with pytest.raises(ConfigurationError, match=str(key)):
            make(*files, **allow)  # type: ignore[operator]
