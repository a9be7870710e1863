"""Reading the advisory again: what is newer counts, what is not changes nothing, what leaves nothing ends the run."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from aggregator.reloading import Reloader
from pqfl_transport.aggregation.round_document import RoundState
from pqfl_transport.errors import PolicyError
from pqfl_transport.pki.expiry import Ending
from pqfl_transport.pki.membership import Membership, under_policy
from pqfl_transport.pki.ruling import Ruling
from pqfl_transport.pki.trust import Trust
from pqfl_transport.policy import Policy
from tests.support.advisories import publish
from tests.support.pki import Federation, make_federation
from tests.support.rounds import Hub, aggregator

GCM, CHACHA = "pqfl/v1/mlkem768x25519-mldsa65", "pqfl/v1/mlkem768x25519-chacha-mldsa65"


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return make_federation(tmp_path_factory.mktemp("federation"), sites=("bank-a", "bank-b"))


@asynccontextmanager
async def reloading(
    hub: Hub, federation: Federation, path: Path, seconds: float = 3600, anchors: Path | None = None
) -> AsyncIterator[Reloader]:
    """Reload for one block, as the service does."""
    trust = Trust.load(anchors or federation.ca_pem)
    setup = hub.engine._setup
    ruling = Ruling(setup.member.policy, trust, "fed", path)
    ruling.read()

    def under(policy: Policy) -> Membership:
        return under_policy(setup.member, trust.certificates, policy, now=datetime.now(UTC))

    reloader = Reloader(ruling, under, seconds)
    task = asyncio.create_task(reloader.run(hub.engine, setup.audit, setup.log))
    try:
        yield reloader
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def said(hub: Hub, event: str, count: int = 1, what: str | None = None) -> dict[str, object]:
    """Wait for a log line about this; without it, about the advisory."""
    async with asyncio.timeout(20):
        while len(found := [one for one in hub.events(event) if one.get("what") == what]) < count:  # noqa: ASYNC110 -- the log is a string
            await asyncio.sleep(0.001)
    return found[count - 1]


def read(path: Path) -> bytes:
    return path.read_bytes()


def write(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def play(federation: Federation, folder: Path, use: Callable[[Hub, Path], Awaitable[None]]) -> None:
    async def scenario() -> None:
        async with aggregator(federation, folder, quorum=2) as hub:
            await hub.until(lambda: hub.engine.state is RoundState.COLLECTING)
            await use(hub, folder / "a.json")

    asyncio.run(asyncio.wait_for(scenario(), 30))


def test_it_reads_again_when_it_is_asked_and_says_how_that_went(federation: Federation, tmp_path: Path) -> None:
    """A newer one is taken; the same one is no news; an older one is refused and the newer stays in force."""

    async def use(hub: Hub, path: Path) -> None:
        publish(federation, path, number=1)
        first = read(path)
        async with reloading(hub, federation, path) as reloader:
            assert (await said(hub, "policy"))["new"] == "high-2026"
            publish(federation, path, GCM, number=2)
            reloader.ask()
            change = await said(hub, "policy", 2)
            assert (change["old"], change["new"]) == ("high-2026", "high-2026+advisory-2")
            assert change["withdrawn"] == f"content_suites: {GCM}"
            assert (await said(hub, "reload"))["result"] == "ok"
            reloader.ask()
            assert (await said(hub, "reload", 2))["result"] == "unchanged"
            write(path, first)
            reloader.ask()
            refused = await said(hub, "reload", 3)
            assert refused["result"] == "failed"
            assert "number 1 is older than number 2" in str(refused["detail"])
            assert hub.engine.status()["policy"] == "high-2026+advisory-2"

    play(federation, tmp_path, use)


def test_other_authorities_are_taken_on_before_what_they_signed(federation: Federation, tmp_path: Path) -> None:
    """A new root and its first advisory come at once; a broken file changes nothing, and is said."""
    stranger = make_federation(tmp_path / "other", sites=())

    async def use(hub: Hub, path: Path) -> None:
        own, both = tmp_path / "ca.pem", federation.ca_pem.read_bytes() + stranger.ca_pem.read_bytes()
        write(own, federation.ca_pem.read_bytes())
        publish(federation, path, number=1)
        async with reloading(hub, federation, path, anchors=own) as reloader:
            write(own, both)
            publish(stranger, path, GCM, number=2)
            reloader.ask()
            assert (await said(hub, "policy", 2))["new"] == "high-2026+advisory-2"
            assert (await said(hub, "reload", what="authorities"))["result"] == "ok"
            write(own, b"broken")
            reloader.ask()
            failed = await said(hub, "reload", 2, what="authorities")
            assert failed["result"] == "failed"
            assert "ca.pem" in str(failed["detail"])
            assert (await said(hub, "reload", 2))["result"] == "unchanged"

    play(federation, tmp_path, use)


def test_the_clock_is_enough(federation: Federation, tmp_path: Path) -> None:
    """Without a signal: the file is looked at again and again, and a failure is said once, not every time."""

    async def use(hub: Hub, path: Path) -> None:
        publish(federation, path)
        async with reloading(hub, federation, path, seconds=0.01):
            write(path, b"broken")
            await said(hub, "reload")
            publish(federation, path, GCM, number=2)
            assert (await said(hub, "policy", 2))["new"] == "high-2026+advisory-2"
            assert [event["result"] for event in hub.events("reload") if event["result"] != "ok"] == ["failed"]

    play(federation, tmp_path, use)


def test_a_withdrawal_takes_effect_on_its_day(federation: Federation, tmp_path: Path) -> None:
    """It is not waited for the next time that the file is looked at."""

    async def use(hub: Hub, path: Path) -> None:
        publish(federation, path, GCM, not_before=time.time() + 1)
        async with reloading(hub, federation, path):
            assert (await said(hub, "policy", 2))["new"] == "high-2026+advisory-1"

    play(federation, tmp_path, use)


@pytest.mark.parametrize("fallen", ["ML-DSA-65", "ML-DSA-87"])
def test_what_leaves_nothing_ends_the_run(federation: Federation, tmp_path: Path, fallen: str) -> None:
    """The sites' signatures, or only the root above the aggregator's own certificate."""

    async def use(hub: Hub, path: Path) -> None:
        publish(federation, path)
        async with reloading(hub, federation, path) as reloader:
            publish(federation, path, fallen, number=2)
            reloader.ask()
            assert (await said(hub, "policy", 2))["new"] == "none"
            await hub.until(lambda: hub.engine.state is RoundState.FAILED)
            with pytest.raises(PolicyError) as caught:
                await hub.engine.signed_document("0" * 32)
            assert caught.value.reason == "withdrawn"

    play(federation, tmp_path, use)


def test_what_ends_soon_is_said_and_again_when_asked(federation: Federation, tmp_path: Path) -> None:
    """A run goes on for weeks; its operator hears of the certificate before the sites do."""
    begin = datetime.now(UTC) - timedelta(days=89)
    ending = Ending.of_certificate("spiffe://fed/aggregator/main", "ML-DSA-65", begin, begin + timedelta(days=90))

    async def use(hub: Hub, path: Path) -> None:
        publish(federation, path)
        hub.engine.endings = lambda: [ending]  # type: ignore[method-assign]
        async with reloading(hub, federation, path) as reloader:
            assert (await said(hub, "certificate_expiring"))["name"] == ending.name
            reloader.ask()
            assert (await said(hub, "certificate_expiring", 2))["days_left"] == pytest.approx(1, abs=0.1)

    play(federation, tmp_path, use)
