"""Asking a source of revocation lists: over https whose server it is counts, and there has to be a first list."""

import asyncio
from pathlib import Path

import pytest
from aiohttp import web

from pqfl_transport.crl_source import asking, require_first
from pqfl_transport.errors import TransportError
from pqfl_transport.net.crl_fetch import CrlPoller
from pqfl_transport.policy import for_level
from pqfl_transport.tls.config import AllowedPeers, Role, TlsConfig, TlsIdentity
from pqfl_transport.tls.context import PostQuantumContext
from tests.support.pki import Federation, make_federation
from tests.support.revoking import crl, crl_source

HIGH = for_level("high")


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return make_federation(tmp_path_factory.mktemp("federation"), sites=())


def test_https_is_this_software_s_own_and_any_server_of_the_federation(federation: Federation, tmp_path: Path) -> None:
    """Without a certificate to show; a server of another federation is refused before anything is asked."""
    stranger = make_federation(tmp_path / "stranger", sites=())

    async def serve(of: Federation) -> tuple[web.AppRunner, str]:
        folder = of.gateway
        identity = TlsIdentity.load(folder / "tls.pem", folder / "tls.key", folder / "ca.pem")
        everybody = AllowedPeers(any_of_federation=True)
        config = TlsConfig(Role.SERVER, identity, HIGH, everybody, admits_strangers=True)
        app = web.Application()

        async def answer(_request: web.Request) -> web.Response:
            return web.Response(body=crl(of))

        app.router.add_get("/v1/crl", answer)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=PostQuantumContext(config)).start()
        return runner, f"https://127.0.0.1:{runner.addresses[0][1]}/v1/crl"

    async def scenario() -> None:
        for of in (federation, stranger):
            runner, url = await serve(of)
            fetch = asking(lambda: (federation.ca_pem.read_bytes(), HIGH, "fed"))
            try:
                if of is federation:
                    assert ((await fetch(url, "", 0)).data or b"").startswith(b"-----BEGIN X509 CRL")
                else:
                    with pytest.raises(TransportError) as caught:
                        await fetch(url, "", 0)
                    assert caught.value.reason == "crl_unavailable"
            finally:
                await runner.cleanup()

    asyncio.run(scenario())


def test_without_any_list_a_failure_is_an_error(federation: Federation, tmp_path: Path) -> None:
    """With an earlier one it is not: that one counts."""
    path = tmp_path / "crl.pem"

    def store(_data: bytes) -> bool:
        raise TransportError("nowhere to keep it", reason="crl_unavailable")

    with crl_source(crl(federation)) as source:
        fetch = asking(lambda: (b"", HIGH, "fed"))
        poller = CrlPoller((source.url,), fetch, store, lambda: None, lambda _event, _facts: None)
        require_first(poller, path)
        asyncio.run(poller.poll())
        with pytest.raises(TransportError, match=r"none could be fetched: .*nowhere to keep it"):
            require_first(poller, path)
        path.write_bytes(b"")
        require_first(poller, path)
