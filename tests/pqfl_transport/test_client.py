"""A site in whole runs, against a real aggregator on a real port."""

import asyncio
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pqfl_transport import exchange
from pqfl_transport.client import BlockingFederatedClient, FederatedClient, RoundInfo
from pqfl_transport.content.key_files import load_key_ring, replace_key_ring
from pqfl_transport.content.psk import PreSharedKey
from pqfl_transport.content.receiving_keys import ReceivingKeys
from pqfl_transport.content.recipients import ReceivingKey
from pqfl_transport.errors import ConfigurationError, MessageError, PolicyError, RoundError, TransportError
from pqfl_transport.extrakeys import load_ring
from pqfl_transport.pki import keystore
from pqfl_transport.pki.files import write_secret
from pqfl_transport.pki.keystore import load_signing_identity
from pqfl_transport.pki.statements import Statement, sign_statement
from pqfl_transport.policy import Policy, for_level, tighten
from tests.pqfl_transport.policy.test_files import GOOD as OWN_POLICY
from tests.support.advisories import advisory, publish
from tests.support.pki import Federation, make_federation
from tests.support.rounds import MODEL, aggregator, current_round, make_update, participant, put


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return make_federation(tmp_path_factory.mktemp("federation"), sites=("bank-a", "bank-b"))


def client(federation: Federation, url: str, name: str = "bank-a", **options: Any) -> FederatedClient:
    return FederatedClient(
        url, identity_dir=federation.site(name), roster_path=federation.roster, **{"retry_seconds": 5} | options
    )  # fmt: skip


def add(change: float, samples: int) -> Any:
    def train(weights: Any, _round: RoundInfo) -> Any:
        return {name: array + array.dtype.type(change) for name, array in weights.items()}, samples

    return train


def test_two_sites_run_all_rounds_and_agree(federation: Federation, tmp_path: Path) -> None:
    """After three rounds both hold the same model: the start plus the weighted changes of every round."""

    async def take_part(url: str, name: str, change: float, samples: int) -> Any:
        async with client(federation, url, name) as site:
            final = await site.run(add(change, samples))
            assert site.report.rounds_submitted == 3
            assert site.report.rounds_missed == 0
            assert site.report.bytes_sent > 0
            assert site.report.crypto_seconds > 0
            return final

    async def scenario() -> None:
        async with aggregator(federation, tmp_path, count=3, quorum=2) as hub:
            finals = await asyncio.gather(
                take_part(hub.url, "bank-a", 1.0, 10), take_part(hub.url, "bank-b", 5.0, 30)
            )  # fmt: skip
            for final in finals:
                assert all(np.allclose(final[name], array + 12.0) for name, array in MODEL.items())
                assert [array.dtype for array in final.values()] == [array.dtype for array in MODEL.values()]

    asyncio.run(asyncio.wait_for(scenario(), 30))


def test_lists_come_back_as_lists_and_training_may_write_in_place(federation: Federation, tmp_path: Path) -> None:
    """A model that is a list stays one, and ``+=`` on what was given is a delta all the same."""
    model = [np.zeros(4, np.float32), np.ones((2, 2), np.int64)]

    def train(weights: Any, _round: RoundInfo) -> Any:
        for index in range(len(weights)):
            weights[index] += 3
        return weights, 1

    async def scenario() -> None:
        async with aggregator(federation, tmp_path, model=model) as hub:
            # The other site stays away: the round closes at its deadline with the quorum of one.
            hub.expect_first_only()
            async with client(federation, hub.url) as site:
                final = await site.run(train)
            assert isinstance(final, list)
            assert all((got == start + 3).all() for got, start in zip(final, model, strict=True))

    asyncio.run(asyncio.wait_for(scenario(), 30))


def test_training_can_be_a_coroutine_and_runs_off_the_loop_otherwise(federation: Federation, tmp_path: Path) -> None:
    """A function runs in a thread of its own, a coroutine function on the loop."""
    threads = []

    async def train(weights: Any, _round: RoundInfo) -> Any:
        await asyncio.sleep(0)
        threads.append(threading.current_thread())
        return weights, 1

    def blocking(weights: Any, _round: RoundInfo) -> Any:
        threads.append(threading.current_thread())
        return weights, 1

    async def scenario() -> None:
        async with (
            aggregator(federation, tmp_path, quorum=2) as hub,
            client(federation, hub.url) as one,
            client(federation, hub.url, "bank-b") as two,
        ):
            await asyncio.gather(one.run(train), two.run(blocking))

    asyncio.run(asyncio.wait_for(scenario(), 30))
    assert threading.main_thread() in threads
    assert any(thread is not threading.main_thread() for thread in threads)


def test_a_round_opened_again_is_not_trained_again(federation: Federation, tmp_path: Path) -> None:
    """When the quorum was missed, the next attempt gets the same change, sealed anew to its own key."""
    trained = []

    def train(weights: Any, info: RoundInfo) -> Any:
        trained.append(info.number)
        return add(1.0, 5)(weights, info)

    async def scenario() -> None:
        async with aggregator(federation, tmp_path, quorum=2, attempts=2) as hub:
            async with client(federation, hub.url) as first, client(federation, hub.url, "bank-b") as second:
                running = asyncio.create_task(first.run(train))
                await hub.until(lambda: hub.engine.reception.accepted == 1)
                hub.pass_deadline()
                await hub.until(lambda: any(event.get("attempt") == 2 for event in hub.events("round")))
                await asyncio.gather(running, second.run(add(1.0, 5)))
            assert len({event["envelope_id"] for event in hub.events("update")}) == 3

    asyncio.run(asyncio.wait_for(scenario(), 30))
    assert trained == [1]


def test_an_update_that_comes_too_late_is_missed_and_not_fatal(federation: Federation, tmp_path: Path) -> None:
    """A site slower than the deadline loses the round, learns it, and goes on."""

    async def scenario() -> None:
        async with aggregator(federation, tmp_path, quorum=1) as hub:
            other = participant(federation, "bank-b")
            async with client(federation, hub.url) as site:
                info = await site.join()
                weights: Any = await site.fetch(info)
                await put(hub.url, make_update(await current_round(hub.url, other), other))
                hub.pass_deadline()
                await hub.until(lambda: hub.engine.progress()["state"] == "finished")
                new, samples = add(1.0, 5)(weights, info)
                assert await site.submit(info, new, samples) is False
                assert (site.report.rounds_submitted, site.report.rounds_missed) == (0, 1)
                assert (await site.join()).is_finished

    asyncio.run(asyncio.wait_for(scenario(), 30))


def test_a_failed_run_is_an_error_and_not_a_wait_for_ever(federation: Federation, tmp_path: Path) -> None:
    """When the aggregator gave up, joining says so."""

    async def scenario() -> None:
        async with (
            aggregator(federation, tmp_path, quorum=2, deadline_seconds=0.3) as hub,
            client(federation, hub.url) as site,
        ):
            await site.run(add(1.0, 1))

    with pytest.raises(RoundError, match="gave up in round 1") as caught:
        asyncio.run(asyncio.wait_for(scenario(), 30))
    assert caught.value.reason == "failed"


@pytest.mark.parametrize(
    ("train", "reason"),
    [
        (lambda weights, _round: weights, "bad_training"),
        (lambda weights, _round: (weights, 1, 2), "bad_training"),
        (lambda weights, _round: (tuple(weights.values()), 1), "bad_training"),
        (lambda weights, _round: (weights, "many"), "bad_samples"),
        (lambda weights, _round: ({name: array[:1] for name, array in weights.items()}, 1), "wrong_shape"),
    ],
)
def test_training_that_returns_something_else(federation: Federation, tmp_path: Path, train: Any, reason: str) -> None:
    """What cannot be submitted is refused at the site, in words about the caller's function."""

    async def scenario() -> None:
        async with aggregator(federation, tmp_path) as hub, client(federation, hub.url) as site:
            await site.run(train)

    with pytest.raises(RoundError) as caught:
        asyncio.run(asyncio.wait_for(scenario(), 30))
    assert caught.value.reason == reason


def test_submitting_what_was_not_fetched_is_a_mistake_of_the_caller(federation: Federation, tmp_path: Path) -> None:
    """Without the base model there is no delta."""

    async def scenario() -> None:
        async with aggregator(federation, tmp_path) as hub, client(federation, hub.url) as site:
            await site.submit(await site.join(), MODEL, 1)

    with pytest.raises(ConfigurationError, match="fetch the model"):
        asyncio.run(asyncio.wait_for(scenario(), 30))


def test_the_rounds_seen_are_remembered_across_restarts(federation: Federation, tmp_path: Path) -> None:
    """With a state file, a second run of rounds that begins at 1 again is taken for the replay that it may be."""
    state = tmp_path / "state.json"

    async def scenario(folder: Path) -> None:
        async with (
            aggregator(federation, folder, count=2, quorum=2) as hub,
            client(federation, hub.url, state_path=state) as site,
            client(federation, hub.url, "bank-b") as other,
        ):
            await asyncio.gather(site.run(add(1.0, 1)), other.run(add(1.0, 1)))

    asyncio.run(asyncio.wait_for(scenario(tmp_path / "one"), 30))
    assert '"round": 2' in state.read_text()
    with pytest.raises(RoundError) as caught:
        asyncio.run(asyncio.wait_for(scenario(tmp_path / "two"), 30))
    assert caught.value.reason == "stale"


@pytest.mark.parametrize("text", ["", "{}", '{"pqfl": "other/v1", "round": 1, "roster": 1}', '{"round": "1"}'])
def test_a_damaged_state_file_is_named(federation: Federation, tmp_path: Path, text: str) -> None:
    """Forgetting silently what was seen would undo what the file is for."""
    (tmp_path / "state.json").write_text(text)
    with pytest.raises(ConfigurationError, match=r"state\.json"):
        client(federation, "http://127.0.0.1:1", state_path=tmp_path / "state.json")


def test_a_damaged_receiving_key_is_named(federation: Federation, tmp_path: Path) -> None:
    """An identity folder with a wrong receiving key is refused with the file's name."""
    folder = tmp_path / "site"
    folder.mkdir()
    for name in ("signing.pem", "signing.key", "ca.pem"):
        (folder / name).write_bytes((federation.site("bank-a") / name).read_bytes())
    (folder / "signing.key").chmod(0o600)
    (folder / "receiving.key").touch(mode=0o600)
    with pytest.raises(ConfigurationError, match=r"receiving\.key"):
        FederatedClient("http://127.0.0.1:1", identity_dir=folder, roster_path=federation.roster)


def test_a_forged_round_document_stops_the_site(federation: Federation, tmp_path: Path) -> None:
    """An aggregator of the same name under another root is not believed."""
    other = make_federation(tmp_path / "other", sites=("bank-a", "bank-b"))

    async def scenario() -> None:
        async with aggregator(other, tmp_path / "hub") as hub, client(federation, hub.url) as site:
            await site.join()

    with pytest.raises(MessageError) as caught:
        asyncio.run(asyncio.wait_for(scenario(), 30))
    assert caught.value.reason == "unknown_signer"


def test_the_blocking_client_does_the_same_without_a_loop(federation: Federation, tmp_path: Path) -> None:
    """A plain program joins, fetches, submits and runs to the end."""
    ready, stop = threading.Event(), threading.Event()
    urls: list[str] = []

    async def serve() -> None:
        async with aggregator(federation, tmp_path, count=2, quorum=2) as hub:
            urls.append(hub.url)
            ready.set()
            async with client(federation, hub.url, "bank-b") as other:
                await other.run(add(1.0, 1))
            await asyncio.to_thread(stop.wait, 20)

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        assert ready.wait(20)
        with BlockingFederatedClient(
            urls[0], identity_dir=federation.site("bank-a"), roster_path=federation.roster
        ) as site:
            info = site.join()
            weights: Any = site.fetch(info)
            assert site.submit(info, *add(1.0, 1)(weights, info)) is True
            final: Any = site.run(add(1.0, 1))
            assert site.report.rounds_submitted == 2
        assert all(np.allclose(final[name], array + 2.0) for name, array in MODEL.items())
    finally:
        stop.set()
        thread.join(20)


def test_a_site_with_encrypted_keys_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the passphrase, with a file of it, with the variable; without any, it says which file is meant."""
    monkeypatch.delenv("PQFL_PASSPHRASE", raising=False)
    federation = make_federation(tmp_path / "fed", sites=())
    federation.authority.issue(
        profile="site", name="bank-x", out=federation.site("bank-x"), passphrase=b"correct horse battery"
    )  # fmt: skip
    write_secret(tmp_path / "pass", b"correct horse battery\n")
    url = "http://127.0.0.1:1"
    with pytest.raises(ConfigurationError, match=r"bank-x/signing\.key.*PQFL_PASSPHRASE") as caught:
        client(federation, url, "bank-x")
    assert caught.value.reason == "no_passphrase"
    with pytest.raises(ConfigurationError, match=r"signing\.key") as wrong:
        client(federation, url, "bank-x", passphrase="wrong")
    assert wrong.value.reason == "wrong_passphrase"
    with pytest.raises(ConfigurationError) as both:
        client(federation, url, "bank-x", passphrase="x", passphrase_file=tmp_path / "pass")
    assert both.value.reason == "two_passphrases"
    assert client(federation, url, "bank-x", passphrase="correct horse battery")
    assert client(federation, url, "bank-x", passphrase_file=str(tmp_path / "pass"))
    monkeypatch.setenv("PQFL_PASSPHRASE", "correct horse battery")
    assert client(federation, url, "bank-x")


def test_a_site_rotates_its_key_between_two_rosters(tmp_path: Path) -> None:
    """Before the roster names the new key and after it, with the same folder: it trains and opens the final model."""
    federation = make_federation(tmp_path / "fed", sites=("bank-a",))

    async def run(folder: Path) -> None:
        async with aggregator(federation, folder) as hub, client(federation, hub.url) as site:
            final = await site.run(add(1.0, 5))
            assert all(np.allclose(final[name], array + 1.0) for name, array in MODEL.items())

    path = federation.site("bank-a") / "receiving.key"
    identity = load_signing_identity(federation.site("bank-a"))
    now = int(time.time())
    ring = load_key_ring(path).rotated(ReceivingKey.generate("ML-KEM-768+X25519"), now=now, not_after=now + 3600)
    replace_key_ring(path, ring)
    asyncio.run(asyncio.wait_for(run(tmp_path / "before"), 30))
    public = ring.newest.opened.public.to_bytes()
    statement = Statement(identity.id, public, ring.newest.made, now + 3600)
    federation.authority.rekey(sign_statement(statement, identity.key))
    asyncio.run(asyncio.wait_for(run(tmp_path / "after"), 30))
    replace_key_ring(path, ReceivingKeys(ring.entries[:1]))
    asyncio.run(asyncio.wait_for(run(tmp_path / "pruned"), 30))
    replace_key_ring(path, ReceivingKeys(ring.entries[1:]))
    with pytest.raises(ConfigurationError, match="none of those in use here") as caught:
        client(federation, "http://127.0.0.1:1")
    assert caught.value.reason == "key_mismatch"


LARGE = {"w": np.zeros(600_000, np.float32)}


def stand_still(monkeypatch: pytest.MonkeyPatch, after_bytes: int) -> asyncio.Event:
    """Let the next upload stop after so many bytes; return what says that it has."""
    slices, stopped = exchange._slices, asyncio.Event()

    async def cut(data: memoryview) -> Any:
        sent = 0
        async for piece in slices(data):
            if sent >= after_bytes and not stopped.is_set():
                stopped.set()
                await asyncio.Event().wait()
            sent += len(piece)
            yield piece

    monkeypatch.setattr(exchange, "_slices", cut)
    return stopped


def test_a_site_that_is_restarted_goes_on_with_its_stored_update(
    federation: Federation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second process trains nothing, sends the bytes that were sealed before, and empties the spool."""
    spool = tmp_path / "spool"

    def must_not_train(_weights: Any, _round: RoundInfo) -> Any:
        raise AssertionError("the update was sealed already")

    async def scenario() -> None:
        async with aggregator(federation, tmp_path, model=LARGE, quorum=1, count=1) as hub:
            stopped = stand_still(monkeypatch, 1_000_000)
            async with client(federation, hub.url, spool_dir=spool) as site:
                running = asyncio.create_task(site.run(add(1, 5)))
                await stopped.wait()
                running.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await running
            stored = [path.read_bytes() for path in spool.iterdir()]
            assert len(stored) == 1
            async with client(federation, hub.url, "bank-b", spool_dir=tmp_path / "other") as other:
                info = await other.join()
                await other.submit(info, add(3, 5)(await other.fetch(info), info)[0], 5)
            async with client(federation, hub.url, spool_dir=spool) as site:
                final = await site.run(must_not_train)
                assert site.report.rounds_submitted == 1
                assert isinstance(final, dict)
                assert np.allclose(final["w"], 2)
            assert list(spool.iterdir()) == []

    asyncio.run(asyncio.wait_for(scenario(), 30))


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty"])
def test_a_damaged_stored_update_is_removed_and_another_made(
    federation: Federation, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    """What the disk did to it is found, said, and costs one training; the damaged file is gone."""
    spool = tmp_path / "spool"

    async def scenario() -> None:
        async with aggregator(federation, tmp_path, quorum=1, count=1) as hub:
            site = participant(federation, "bank-a")
            good = make_update(await current_round(hub.url, site), site)
            data = {"truncated": good.data[:-5], "flipped": good.data[:4000] + b"\0" + good.data[4001:], "empty": b""}
            spool.mkdir()
            (spool / f"{good.envelope_id.hex()}.pqfl").write_bytes(data[damage])
            async with (
                client(federation, hub.url, spool_dir=spool) as again,
                client(federation, hub.url, "bank-b") as other,
            ):
                finals = await asyncio.gather(again.run(add(1, 5)), other.run(add(1, 5)))
                assert all(np.allclose(finals[0][name], array + 1) for name, array in MODEL.items())
            assert list(spool.iterdir()) == []

    asyncio.run(asyncio.wait_for(scenario(), 30))
    assert "stored update" in caplog.text


def test_a_stored_update_of_an_earlier_round_is_forgotten(federation: Federation, tmp_path: Path) -> None:
    """A round that went on without it takes another update, and nothing old stays behind."""
    spool = tmp_path / "spool"

    async def scenario() -> None:
        async with aggregator(federation, tmp_path, quorum=1, count=1) as hub:
            site = participant(federation, "bank-a")
            old = make_update(await current_round(hub.url, site), site, challenge=b"z" * 32)
            spool.mkdir()
            (spool / f"{old.envelope_id.hex()}.pqfl").write_bytes(old.data)
            async with (
                client(federation, hub.url, spool_dir=spool) as again,
                client(federation, hub.url, "bank-b") as other,
            ):
                await asyncio.gather(again.run(add(1, 5)), other.run(add(1, 5)))
                assert again.report.rounds_submitted == 1
            assert list(spool.iterdir()) == []

    asyncio.run(asyncio.wait_for(scenario(), 30))


def test_nobody_to_take_it_leaves_the_update_in_the_spool(federation: Federation, tmp_path: Path) -> None:
    """When the aggregator cannot be reached any more the error says so, and what was sealed is kept."""
    spool = tmp_path / "spool"

    async def scenario() -> None:
        async with aggregator(federation, tmp_path / "hub", quorum=2) as hub:
            await current_round(hub.url, participant(federation, "bank-a"))
            site = client(federation, hub.url, spool_dir=spool, retry_seconds=0)
            await site.__aenter__()
            info = await site.join()
            weights = await site.fetch(info)
        with pytest.raises(TransportError):
            await site.submit(info, weights, 5)
        await site.__aexit__(None, None, None)
        assert len(list(spool.iterdir())) == 1

    asyncio.run(asyncio.wait_for(scenario(), 30))


def write_keys(folder: Path, peer: str, mode: str, name: str = "spring") -> Path:
    """A file of key sources with one pre-shared key and one rule; the key is the same for all of this test."""
    folder.mkdir(exist_ok=True)
    if not (secret := folder.parent / f"{name}.psk").exists():
        keystore.write_secret(secret, PreSharedKey.generate(name).to_pem())
    path = folder / "keys.toml"
    path.write_text(
        f'[used]\nfile = "used.db"\n[psk.{name}]\nfile = "{secret}"\n'
        f'[[peer]]\nid = "{peer}"\nmode = "{mode}"\nkeys = ["psk:{name}"]\n'
    )
    return path


def test_updates_and_models_with_a_pre_shared_key(federation: Federation, tmp_path: Path) -> None:
    """What the rules of both ends require is mixed into everything that is sealed, and named in the audit log."""
    hub_keys = load_ring(write_keys(tmp_path / "hub", "*", "require"))
    site_keys = write_keys(tmp_path / "site", federation.aggregator_uri, "require")

    async def scenario() -> None:
        async with aggregator(federation, tmp_path / "run", keys=hub_keys) as hub:
            hub.expect_first_only()
            async with client(federation, hub.url, keys_path=site_keys) as site:
                final = await site.run(add(1.0, 3))
            assert (final["w"] == MODEL["w"] + 1).all()
            (update,) = hub.events("update")
            assert update["extra_keys"][0].startswith("psk:spring:")

    asyncio.run(asyncio.wait_for(scenario(), 30))


def test_an_update_without_a_required_key_is_refused(federation: Federation, tmp_path: Path) -> None:
    """The site is told why, and the round goes on without it; a site that lacks the key cannot open the model."""
    hub_keys = load_ring(write_keys(tmp_path / "hub", federation.site_uri("bank-a"), "require"))

    async def scenario() -> None:
        async with aggregator(federation, tmp_path / "run", keys=hub_keys) as hub:
            hub.expect_first_only()
            async with client(federation, hub.url) as site:
                info = await site.join()
                with pytest.raises(MessageError) as caught:
                    await site.fetch(info)
                assert caught.value.reason == "extra_key"
            plain = participant(federation, "bank-a")
            status, problem = await put(hub.url, make_update(await current_round(hub.url, plain), plain))
            assert (status, problem["reason"]) == (403, "no_extra_key")

    asyncio.run(asyncio.wait_for(scenario(), 30))


GCM, CHACHA = "pqfl/v1/mlkem768x25519-mldsa65", "pqfl/v1/mlkem768x25519-chacha-mldsa65"


def advised(*algorithms: str) -> Policy:
    return tighten(for_level("high"), advisory(algorithms), 2e9)[0]


def test_a_site_whose_suite_was_withdrawn_while_it_trained_takes_part_again(
    federation: Federation, tmp_path: Path
) -> None:
    """Its update is never sent; the round that is opened again takes what it has trained already."""
    path = publish(federation, tmp_path / "a.json")
    trained = []

    async def scenario() -> None:
        async with aggregator(federation, tmp_path, attempts=1) as hub:
            hub.expect_first_only()

            async def train(weights: Any, info: RoundInfo) -> Any:
                trained.append(info.document.suite)
                publish(federation, path, GCM, number=2)
                await hub.engine.adopt(advised(GCM))
                return add(1.0, 5)(weights, info)

            async with client(federation, hub.url, advisory_path=path) as site:
                await site.run(train)
                assert (site.report.rounds_submitted, site.report.rounds_missed) == (1, 1)
            assert trained == [GCM]
            assert len(hub.events("update")) == 1

    asyncio.run(asyncio.wait_for(scenario(), 30))


def test_an_update_that_the_aggregator_does_not_allow_any_more_is_not_the_end(
    federation: Federation, tmp_path: Path
) -> None:
    """A site without the advisory sends under the withdrawn suite, is refused, and comes back under the next one."""

    async def scenario() -> None:
        async with aggregator(federation, tmp_path, attempts=1) as hub:
            hub.expect_first_only()

            async def train(weights: Any, info: RoundInfo) -> Any:
                if info.document.suite == GCM:
                    await hub.engine.adopt(advised(GCM))
                return add(1.0, 5)(weights, info)

            async with client(federation, hub.url) as site:
                await site.run(train)
                assert site.report.rounds_missed == 1

    asyncio.run(asyncio.wait_for(scenario(), 30))


@pytest.mark.parametrize("catches_up", [True, False])
def test_an_advisory_between_a_round_and_its_model_is_waited_for(
    federation: Federation, tmp_path: Path, catches_up: bool
) -> None:
    """The model is sealed under what the site just learnt to refuse; the aggregator has the time of a retry."""
    path = publish(federation, tmp_path / "a.json")

    async def scenario() -> None:
        async with aggregator(federation, tmp_path, attempts=1) as hub:
            hub.expect_first_only()
            async with client(federation, hub.url, advisory_path=path, retry_seconds=2) as site:
                join, fetch, refused = site.join, site.fetch, asyncio.Event()

                async def join_and_learn() -> RoundInfo:
                    info = await join()
                    if not refused.is_set():
                        publish(federation, path, GCM, number=2)
                    return info

                async def fetch_or_tell(info: RoundInfo) -> Any:
                    try:
                        return await fetch(info)
                    except PolicyError:
                        refused.set()
                        raise

                site.join, site.fetch = join_and_learn, fetch_or_tell  # type: ignore[method-assign]
                running = asyncio.create_task(site.run(add(1.0, 5)))
                if catches_up:
                    await refused.wait()
                    await hub.engine.adopt(advised(GCM))
                    await running
                    assert site.report.rounds_submitted == 1
                else:
                    with pytest.raises(PolicyError) as caught:
                        await running
                    assert caught.value.reason == "content_suite"

    asyncio.run(asyncio.wait_for(scenario(), 30))


def test_an_aggregator_that_stays_behind_an_advisory_is_given_up(federation: Federation, tmp_path: Path) -> None:
    """After the time of a retry, with the reason that no waiting mends."""
    path = publish(federation, tmp_path / "a.json", GCM)

    async def scenario() -> None:
        async with aggregator(federation, tmp_path) as hub:
            async with client(federation, hub.url, advisory_path=path, retry_seconds=2) as site:
                with pytest.raises(PolicyError) as caught:
                    await site.join()
            assert caught.value.reason == "content_suite"

    asyncio.run(asyncio.wait_for(scenario(), 30))


def test_an_earlier_advisory_changes_nothing_for_a_running_site(
    federation: Federation, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is said, and the one that was taken counts on; after a restart it is refused."""
    path = publish(federation, tmp_path / "a.json", "ChaCha20-Poly1305", number=2)

    async def scenario() -> None:
        async with (
            aggregator(federation, tmp_path) as hub,
            client(federation, hub.url, advisory_path=path) as site,
        ):
            publish(federation, path, number=1)
            await site.join()
            assert site._participant.member.policy.name == "high-2026+advisory-2"

    asyncio.run(asyncio.wait_for(scenario(), 30))
    assert "number 1 is older than number 2" in caplog.text
    with pytest.raises(MessageError) as caught:
        client(federation, "http://127.0.0.1:1", advisory_path=path)
    assert caught.value.reason == "stale_advisory"


def test_a_site_works_under_a_policy_of_its_own(federation: Federation, tmp_path: Path) -> None:
    """By name, file or object; it has to be of the roster's level."""
    (tmp_path / "own.toml").write_text(OWN_POLICY)
    for policy in ("pq-require-2026", str(tmp_path / "own.toml"), advised(CHACHA)):
        site = client(federation, "http://127.0.0.1:1", policy=policy)
        assert site._participant.member.policy.groups[0] == "X25519MLKEM768"
    with pytest.raises(ConfigurationError) as caught:
        client(federation, "http://127.0.0.1:1", policy="cnsa2-2026")
    assert caught.value.reason == "wrong_level"
