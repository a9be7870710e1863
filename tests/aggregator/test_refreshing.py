"""Roster and lists read again: what is newer counts, what is not changes nothing, one's own revocation ends it."""

import asyncio
import json
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from aggregator.config import AggregatorConfig, RoundsConfig
from aggregator.refreshing import CrlRefresher, RosterRefresher, crl_file, crl_poller, fetch_first
from pqfl_transport.aggregation.round_document import RoundState
from pqfl_transport.audit import verify_audit_log
from pqfl_transport.content.envelope import decode_prologue
from pqfl_transport.errors import CertificateError, MessageError, TransportError
from pqfl_transport.net.address import Address
from pqfl_transport.pki.keystore import load_signing_identity
from pqfl_transport.pki.membership import Membership, load_membership
from pqfl_transport.pki.signing_files import SWITCH_SECONDS
from pqfl_transport.pki.spiffe import Role
from pqfl_transport.pki.trust import Trust
from tests.support.pki import Federation, make_federation
from tests.support.rekeying import name_next, prepare_next
from tests.support.revoking import crl, crl_source, publish_crl
from tests.support.rounds import Hub, aggregator, current_round, make_hub, make_update, participant, put


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    return make_federation(tmp_path / "federation", sites=("bank-a",))


def configured(federation: Federation, folder: Path, **facts: object) -> AggregatorConfig:
    known: dict[str, object] = {"crl": folder / "crl.pem"}
    return AggregatorConfig(
        Address.parse("127.0.0.1:0", "here"), federation.aggregator, federation.ca_pem, federation.roster, folder,
        folder / "audit", folder / "model", RoundsConfig(1, 1), **(known | facts),  # type: ignore[arg-type]
    )  # fmt: skip


def roster_refresher(federation: Federation) -> RosterRefresher:
    def load(at_least_number: int) -> Membership:
        return load_membership(
            federation.aggregator, federation.ca_pem, federation.roster, role=Role.AGGREGATOR,
            at_least_number=at_least_number,
        )  # fmt: skip

    return RosterRefresher(federation.roster, load)


def crl_refresher(config: AggregatorConfig) -> CrlRefresher:
    file = crl_file(config, Trust.load(config.cacert))
    assert file is not None
    return CrlRefresher(file)


def test_a_later_roster_counts_from_the_next_round_on(federation: Federation, tmp_path: Path) -> None:
    """The round that is open goes on with its own; then the new site is waited for, and can open the model."""

    async def scenario() -> None:
        async with aggregator(federation, tmp_path, count=2) as hub:
            refresher, first = roster_refresher(federation), participant(federation, "bank-a")
            info = await current_round(hub.url, first)
            assert await refresher.refresh(hub.engine) == ("unchanged", "")
            federation.authority.issue(profile="site", name="bank-b", out=federation.site("bank-b"))
            assert await refresher.refresh(hub.engine) == ("ok", "")
            assert await refresher.refresh(hub.engine) == ("unchanged", "")
            assert hub.engine.progress()["expected"] == 1
            assert (await put(hub.url, make_update(info, first)))[0] == 201
            await hub.until(lambda: hub.engine.progress()["round"] == 2)
            second = participant(federation, "bank-b")
            info = await current_round(hub.url, second)
            assert info.document.roster_number == second.member.roster.number
            assert hub.engine.progress()["expected"] == 2
            second.open_model(hub.engine.model_path(1).read_bytes(), info)
            assert hub.events("reload")[0]["what"] == "roster"

    asyncio.run(asyncio.wait_for(scenario(), 20))


def test_an_earlier_or_broken_roster_changes_nothing(federation: Federation, tmp_path: Path) -> None:
    """Whoever was left out of a later one does not come back."""
    early = federation.roster.read_bytes()
    federation.authority.issue(profile="site", name="bank-b", out=federation.site("bank-b"))
    engine, refresher = make_hub(federation, tmp_path).engine, roster_refresher(federation)
    number = engine.standing.member.roster.number
    for data, named in ((early, f"is older than number {number}"), (b"{}", "roster")):
        federation.roster.write_bytes(data)
        result, detail = asyncio.run(refresher.refresh(engine))
        assert result == "failed"
        assert named in detail
    assert engine.standing.member.roster.number == number


def test_a_new_list_counts_at_once(federation: Federation, tmp_path: Path) -> None:
    """And an earlier one does not come back, not for another process either."""
    config, path = configured(federation, tmp_path), tmp_path / "crl.pem"
    publish_crl(federation, path, number=3)
    engine, refresher = make_hub(federation, tmp_path).engine, crl_refresher(config)
    assert asyncio.run(refresher.refresh(engine)) == ("ok", "")
    assert asyncio.run(refresher.refresh(engine)) == ("unchanged", "")
    publish_crl(federation, path, [federation.site("bank-a")], number=4)
    assert asyncio.run(refresher.refresh(engine)) == ("ok", "")
    with pytest.raises(CertificateError):
        engine.standing.party(federation.site_uri("bank-a"))
    publish_crl(federation, path, number=3)
    for one in (refresher, crl_refresher(config)):
        result, detail = asyncio.run(one.refresh(engine))
        assert (result, "4 was read before" in detail) == ("failed", True)


def test_one_s_own_revocation_ends_it(federation: Federation, tmp_path: Path) -> None:
    """The error is the caller's end; until then the list counts already."""
    publish_crl(federation, tmp_path / "crl.pem", [federation.aggregator])
    engine = make_hub(federation, tmp_path).engine
    for _ in range(2):
        with pytest.raises(CertificateError, match="this aggregator itself") as caught:
            asyncio.run(crl_refresher(configured(federation, tmp_path)).refresh(engine))
        assert caught.value.reason == "revoked"


def test_without_a_list_or_a_source_there_is_nothing_to_do(federation: Federation, tmp_path: Path) -> None:
    """Both are a matter of the configuration."""
    assert crl_file(configured(federation, tmp_path, crl=None), Trust.load(federation.ca_pem)) is None
    config = configured(federation, tmp_path)
    file = crl_file(config, Trust.load(config.cacert))
    assert file is not None
    assert crl_poller(config, file, federation.authority.policy, "fed", print) is None


def test_the_first_list_is_fetched_before_anything_begins(federation: Federation, tmp_path: Path) -> None:
    """Where that fails at every source, nothing begins; one that is down is passed over."""
    with crl_source(b"garbage") as source:
        config = configured(federation, tmp_path, crl_urls=("http://127.0.0.1:1/v1/crl", source.url))
        file = crl_file(config, Trust.load(config.cacert))
        assert file is not None
        poller = crl_poller(config, file, federation.authority.policy, "fed", lambda _event, _facts: None)
        assert poller is not None
        with pytest.raises(TransportError, match="none could be fetched"):
            fetch_first(poller, file)
        source.body = crl(federation, number=9)
        fetch_first(poller, file)
    assert set(file.read(federation.authority.policy).numbers.values()) == {9}
    fetch_first(poller, file)


def test_the_next_key_signs_when_the_former_one_is_ending(federation: Federation, tmp_path: Path) -> None:
    """In the middle of a round: documents and the model are under the new key, and sites with the roster agree."""
    former = load_signing_identity(federation.aggregator).key.verifying_key.fingerprint
    following = prepare_next(federation, federation.aggregator).fingerprint
    until = int(time.time()) + 86_400
    name_next(federation, former_until=until)
    now = [time.time()]

    def load(at_least_number: int) -> Membership:
        return load_membership(
            federation.aggregator, federation.ca_pem, federation.roster, role=Role.AGGREGATOR,
            at_least_number=at_least_number, now=datetime.fromtimestamp(now[0], UTC),
        )  # fmt: skip

    async def scenario() -> None:
        refresher = RosterRefresher(federation.roster, load, lambda: now[0])
        async with aggregator(federation, tmp_path) as hub:
            site = participant(federation, "bank-a")
            info = await current_round(hub.url, site)
            assert await refresher.refresh(hub.engine) == ("unchanged", "")
            assert await signers(hub) == (former, former)
            now[0] = until - SWITCH_SECONDS + 1
            assert await refresher.refresh(hub.engine) == ("unchanged", "")
            assert await signers(hub) == (following, following)
            (event,) = hub.events("reload")
            assert (event["what"], event["fingerprint"], event["former"]) == (
                "signing_key", following.hex(), former.hex(),
            )  # fmt: skip
            assert await refresher.refresh(hub.engine) == ("unchanged", "")
            again = await current_round(hub.url, site)
            assert again.document.challenge == info.document.challenge
            site.open_model(hub.engine.model_path(0).read_bytes(), again)
            assert (await put(hub.url, make_update(info, site)))[0] == 201
            await hub.until(lambda: hub.engine.state is RoundState.FINISHED)
            info = await current_round(hub.url, site)
            site.open_model(hub.engine.model_path(1).read_bytes(), info)

    asyncio.run(asyncio.wait_for(scenario(), 20))
    keys = [load_signing_identity(federation.aggregator, name=name).key.verifying_key
            for name in ("signing", "signing-next")]  # fmt: skip
    assert verify_audit_log(tmp_path / "audit.jsonl", keys).checkpoints == 2


async def signers(hub: Hub) -> tuple[bytes, bytes]:
    """Which keys the round document and the current model are signed with."""
    document = json.loads(await hub.engine.signed_document("a" * 32))
    version = hub.engine.status()["model_version"]
    header = decode_prologue(hub.engine.model_path(version).read_bytes())[0].header
    return bytes.fromhex(document["signer"]), header.sender_fingerprint


def test_when_all_rounds_are_over_a_roster_counts_at_once(federation: Federation, tmp_path: Path) -> None:
    """Sites that come late, with the roster that names the new key alone, can have the last model."""
    following = prepare_next(federation, federation.aggregator).fingerprint

    async def scenario() -> None:
        async with aggregator(federation, tmp_path) as hub:
            refresher, site = roster_refresher(federation), participant(federation, "bank-a")
            info = await current_round(hub.url, site)
            assert (await put(hub.url, make_update(info, site)))[0] == 201
            await hub.until(lambda: hub.engine.state is RoundState.FINISHED)
            name_next(federation, former_until=0)
            assert await refresher.refresh(hub.engine) == ("ok", "")
            assert await signers(hub) == (following, following)
            late = participant(federation, "bank-a")
            info = await current_round(hub.url, late)
            late.open_model(hub.engine.model_path(1).read_bytes(), info)
            with pytest.raises(MessageError) as caught:
                await current_round(hub.url, site)
            assert caught.value.reason == "unknown_signer"

    asyncio.run(asyncio.wait_for(scenario(), 20))


def test_without_the_next_key_the_former_one_goes_on(federation: Federation, tmp_path: Path) -> None:
    """Until it is over; then the reason is said, and nobody takes what it signs."""
    prepare_next(federation, federation.aggregator)
    until = int(time.time()) + 86_400
    name_next(federation, former_until=until)
    (federation.aggregator / "signing-next.pem").unlink()
    engine, now = make_hub(federation, tmp_path).engine, [float(until)]

    def load(at_least_number: int) -> Membership:
        return load_membership(
            federation.aggregator, federation.ca_pem, federation.roster, role=Role.AGGREGATOR,
            at_least_number=at_least_number, now=datetime.fromtimestamp(now[0], UTC),
        )  # fmt: skip

    refresher = RosterRefresher(federation.roster, load, lambda: now[0])
    assert asyncio.run(refresher.refresh(engine)) == ("unchanged", "")
    now[0] += 1
    result, detail = asyncio.run(refresher.refresh(engine))
    assert (result, "does not list" in detail) == ("failed", True)


def test_a_key_that_is_over_at_once_signs_no_more_in_the_open_round(federation: Federation, tmp_path: Path) -> None:
    """Sites that have the roster without it go on with the round; the roster itself counts from the next one on."""
    following = prepare_next(federation, federation.aggregator).fingerprint
    name_next(federation)

    async def scenario() -> None:
        async with aggregator(federation, tmp_path) as hub:
            refresher = roster_refresher(federation)
            before = await current_round(hub.url, participant(federation, "bank-a"))
            name_next(federation, former_until=0)
            assert await refresher.refresh(hub.engine) == ("ok", "")
            assert await signers(hub) == (following, following)
            late = participant(federation, "bank-a")
            info = await current_round(hub.url, late)
            assert info.document.challenge == before.document.challenge
            assert info.document.roster_number < late.member.roster.number
            late.open_model(hub.engine.model_path(0).read_bytes(), info)
            assert (await put(hub.url, make_update(info, late)))[0] == 201

    asyncio.run(asyncio.wait_for(scenario(), 20))
