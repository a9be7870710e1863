"""What was signed once and comes again: an earlier roster or advisory, a recorded round document."""

import asyncio
import secrets
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from gateway.building import source_of
from gateway.config import HttpRules, Profile
from pqfl_transport.errors import MessageError, RoundError
from pqfl_transport.net.address import Address
from pqfl_transport.pki import keystore
from pqfl_transport.pki.advisory import Seen, digest_of, open_advisory, sign_advisory
from pqfl_transport.pki.membership import load_membership
from pqfl_transport.pki.roster import open_roster, sign_roster
from pqfl_transport.pki.spiffe import Role
from pqfl_transport.policy import Advisory, Verdict, Withdrawal
from pqfl_transport.tls.config import Role as TlsRole
from tests.support.fronts import front, put_update
from tests.support.pki import Federation, make_federation
from tests.support.rounds import (
    aggregator,
    current_round,
    make_update,
    membership,
    participant,
)

SITES = ("bank-a", "bank-b", "bank-c")


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return make_federation(tmp_path_factory.mktemp("federation"), sites=SITES)


@pytest.fixture
def rosters(federation: Federation, tmp_path: Path) -> tuple[Path, Path]:
    """The roster with bank-c in it, and a later one that the root signed without it."""
    roots = keystore.root_keys(keystore.load_anchors(federation.ca_pem))
    before = open_roster(federation.roster.read_bytes(), roots)
    parties = {uri: party for uri, party in before.parties.items() if party.id.name != "bank-c"}
    later = replace(before, number=before.number + 1, parties=parties)
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    old.write_bytes(federation.roster.read_bytes())
    new.write_bytes(sign_roster(later, keystore.load_signing_key(federation.ca / "root.key")))
    return old, new


def test_a_roster_that_comes_again_brings_nobody_back(federation: Federation, rosters: tuple[Path, Path]) -> None:
    """Whoever has seen the later roster refuses the earlier one, however well it is signed."""
    old, new = rosters
    roots = keystore.root_keys(keystore.load_anchors(federation.ca_pem))
    seen = keystore.load_roster(new, roots).number
    doors: list[Callable[[], object]] = [
        lambda: open_roster(old.read_bytes(), roots, at_least_number=seen),
        lambda: keystore.load_roster(old, roots, at_least_number=seen),
        lambda: load_membership(
            federation.site("bank-a"), federation.ca_pem, old, role=Role.SITE, at_least_number=seen
        ),
    ]
    for door in doors:
        with pytest.raises(MessageError) as caught:
            door()
        assert caught.value.reason == "stale_roster"


def test_an_advisory_that_comes_again_brings_no_algorithm_back(federation: Federation) -> None:
    """Whoever has seen the later advisory refuses the earlier one, and one of the same number that says less."""
    key = keystore.load_signing_key(federation.ca / "root.key")
    roots, now = [key.verifying_key], int(time.time())
    early = Advisory("fed", 1, now - 10, now + 10_000, ())
    later = replace(early, number=2, withdrawals=(Withdrawal("ML-KEM-768", Verdict.BROKEN, 0, "a paper"),))
    opened = open_advisory(sign_advisory(later, key), roots, now=now, federation="fed")
    seen = Seen(opened.number, digest_of(opened))
    for replayed in (early, replace(later, withdrawals=())):
        with pytest.raises(MessageError) as caught:
            open_advisory(sign_advisory(replayed, key), roots, now=now, federation="fed", seen=seen)
        assert caught.value.reason == "stale_advisory"


def test_a_gateway_keeps_the_later_roster(federation: Federation, rosters: tuple[Path, Path]) -> None:
    """A file that was rolled back is refused at the next reload."""
    old, new = rosters
    current = new.parent / "roster.json"
    current.write_bytes(new.read_bytes())
    folder = federation.gateway
    flags = {
        "listen": "127.0.0.1:0", "target": ("127.0.0.1:1",), "cert": (folder / "tls.pem",),
        "key": (folder / "tls.key",), "cacert": folder / "ca.pem", "allow-all": True, "mode": "http",
        "profile": "aggregator", "roster": current,
    }  # fmt: skip
    source = source_of(TlsRole.SERVER, flags, None)
    source.read_again()
    current.write_bytes(old.read_bytes())
    with pytest.raises(MessageError) as caught:
        source.read_again()
    assert caught.value.reason == "stale_roster"


def test_a_round_document_that_comes_again_is_refused(federation: Federation, tmp_path: Path) -> None:
    """By a site: for another nonce, of a round before one it has seen, past its end."""

    async def scenario() -> None:
        async with aggregator(federation, tmp_path, quorum=1) as running:
            site = participant(federation, "bank-a")
            nonce = secrets.token_hex(16)
            recorded = await fetch(running.url, nonce)
            site.judge(recorded, nonce, time.time())
            with pytest.raises(MessageError) as caught:
                site.judge(recorded, secrets.token_hex(16), time.time())
            assert caught.value.reason == "replayed"
            with pytest.raises(RoundError) as late:
                site.judge(recorded, nonce, time.time() + 10**6)
            assert late.value.reason == "expired"
            site.seen_round = 2
            with pytest.raises(RoundError) as stale:
                site.judge(recorded, nonce, time.time())
            assert stale.value.reason == "stale"

    asyncio.run(scenario())


async def fetch(url: str, nonce: str) -> bytes:
    """A round document for a nonce."""
    async with aiohttp.ClientSession() as session:
        while True:
            async with session.get(f"{url}/v1/rounds/current?nonce={nonce}") as answer:
                data = await answer.read()
            if answer.status == 200:
                return data
            await asyncio.sleep(0)


def test_a_gateway_judges_no_update_by_a_recorded_round_document(federation: Federation, tmp_path: Path) -> None:
    """Behind it somebody answers with a document that the aggregator signed before; the update does not pass."""

    async def scenario() -> tuple[int, dict[str, Any]]:
        roster = membership(federation, federation.aggregator, Role.AGGREGATOR).roster
        async with aggregator(federation, tmp_path, quorum=1) as running:
            site = participant(federation, "bank-a")
            update = make_update(await current_round(running.url, site), site)
            recorded = await fetch(running.url, "0" * 32)

        async def replay(_request: web.Request) -> web.Response:
            return web.Response(body=recorded, content_type="application/json")

        app = web.Application()
        app.router.add_get("/v1/rounds/current", replay)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        target = Address("127.0.0.1", runner.addresses[0][1])
        try:
            async with front(federation, target, HttpRules(Profile.AGGREGATOR, roster=roster)) as made:
                return await put_update(made, update, "bank-a")
        finally:
            await runner.cleanup()

    status, problem = asyncio.run(scenario())
    assert (status >= 400, problem["reason"]) == (True, "replayed")
