"""Whole rounds through real processes: sites, their sidecars, the gateway, the aggregator."""

import asyncio
import json
import signal
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from aiohttp import web

from pqfl.demo.processes import Crew, Event, Process
from pqfl_transport.audit import verify_audit_log
from pqfl_transport.client import FederatedClient, RoundInfo
from pqfl_transport.content.envelope import decode_prologue
from pqfl_transport.content.recipients import ReceivingKey
from pqfl_transport.crypto.pyca import SigningKey
from pqfl_transport.errors import MessageError, PqflError, TransportError
from pqfl_transport.pki import keystore
from tests.support.aggregators import start_aggregator, write_config
from tests.support.pki import Federation, make_federation
from tests.support.rounds import MODEL, Envelope, current_round, make_update, participant, put

SITES = ("bank-a", "bank-b")
ONES = {name: np.ones_like(array) for name, array in MODEL.items()}


@dataclass(frozen=True, slots=True)
class Deployment:
    """Five processes: an aggregator behind a gateway, and two sites' sidecars."""

    federation: Federation
    folder: Path
    crew: Crew
    aggregator: Process
    gateway: Process
    gateway_address: str
    gateway_status: str
    urls: dict[str, str]
    """Where each site's FL client finds the aggregator: at its own sidecar."""

    def client(self, name: str, **options: Any) -> FederatedClient:
        return FederatedClient(
            self.urls[name], identity_dir=self.federation.site(name), roster_path=self.federation.roster,
            **{"retry_seconds": 20} | options,
        )  # fmt: skip


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return make_federation(tmp_path_factory.mktemp("federation"), sites=SITES)


@pytest.fixture
def deployment(federation: Federation, tmp_path: Path) -> Iterator[Deployment]:
    (tmp_path / "logs").mkdir()
    with Crew(tmp_path / "logs") as crew:
        yield deploy(federation, tmp_path, crew)


def is_listening(event: Event) -> bool:
    return event.get("event") == "listening"


def deploy(federation: Federation, folder: Path, crew: Crew) -> Deployment:
    config = write_config(
        federation, folder, listen=f"unix:{folder}/aggregator.sock", model=MODEL, count=2, quorum=2,
        deadline_seconds=120,
    )  # fmt: skip
    aggregator, target = start_aggregator(crew, config)
    gateway, listening = start_gateway(federation, crew, target)
    urls = {name: f"http://{start_sidecar(federation, crew, name, listening['address'])}" for name in SITES}
    return Deployment(
        federation, folder, crew, aggregator, gateway, listening["address"], listening["status"], urls
    )  # fmt: skip


def start_gateway(
    federation: Federation, crew: Crew, target: str, listen: str = "127.0.0.1:0", name: str = "gateway"
) -> tuple[Process, Event]:
    allowed = [word for site in SITES for word in ("--allow-uri", federation.site_uri(site))]
    process = crew.start(
        name, "-m", "pqfl", "server", "--listen", listen, "--target", target, *identity(federation.gateway), *allowed,
        "--status", "127.0.0.1:0", "--log-format", "json",
    )  # fmt: skip
    return process, process.wait_for(is_listening, 20)


def start_sidecar(federation: Federation, crew: Crew, name: str, gateway: str) -> str:
    process = crew.start(
        f"sidecar-{name}", "-m", "pqfl", "client", "--listen", "127.0.0.1:0", "--target", gateway,
        *identity(federation.site(name)), "--verify-uri", federation.gateway_uri, "--log-format", "json",
    )  # fmt: skip
    address: str = process.wait_for(is_listening, 20)["address"]
    return address


def identity(folder: Path) -> list[str]:
    return ["--cert", str(folder / "tls.pem"), "--key", str(folder / "tls.key"), "--cacert", str(folder / "ca.pem")]


def train(weights: Any, _round: RoundInfo) -> Any:
    return {name: array + array.dtype.type(1) for name, array in weights.items()}, 10


def get(url: str) -> bytes:
    with urllib.request.urlopen(url) as answer:  # noqa: S310 -- the address of a process of this test
        body: bytes = answer.read()
    return body


def get_json(url: str) -> Any:
    return json.loads(get(url))


async def run_both(deployment: Deployment) -> list[Any]:
    async with deployment.client("bank-a") as one, deployment.client("bank-b") as two:
        return list(await asyncio.gather(one.run(train), two.run(train)))


def wrong_updates(info: RoundInfo, site: Any) -> dict[str, Envelope]:
    """What a round refuses, by reason: all of it authentic in everything but one thing."""
    good = make_update(info, site)
    prologue, rest = decode_prologue(good.data)
    stranger = SigningKey.generate("ML-DSA-65")
    return {
        "stale": make_update(info, site, round=0),
        "wrong_round": make_update(info, site, round=7),
        "wrong_challenge": make_update(info, site, challenge=b"x" * 32),
        "expired": make_update(info, site, not_after=1),
        "wrong_base_model": make_update(info, site, base_model_digest=b"x" * 32),
        "misaddressed": make_update(info, site, recipient=ReceivingKey.generate("ML-KEM-768+X25519").public),
        "unknown_sender": make_update(info, site, sender="spiffe://fed/site/bank-z"),
        "wrong_sender_key": make_update(info, site, sender="spiffe://fed/site/bank-b"),
        "bad_signature": Envelope(
            good.round_number, good.envelope_id, good.data.replace(prologue.signature, bytes(3309))
        ),
        "bad_body": Envelope(good.round_number, good.envelope_id, prologue.raw + bytes(len(rest))),
        "truncated": Envelope(good.round_number, good.envelope_id, good.data[:-20]),
        "wrong_shape": make_update(info, site, delta=ONES | {"w": np.ones((9, 9), np.float32)}),
        "wrong_dtype": make_update(info, site, delta=ONES | {"w": np.ones((2, 3), np.int32)}),
        "not_finite": make_update(info, site, delta=ONES | {"b": np.full(3, np.nan)}),
        "bad_samples": make_update(info, site, metadata={"samples": "99999999999"}),
    } | {"forged": make_update(info, site, key=stranger)}


def test_a_round_refuses_what_is_wrong_and_goes_on(deployment: Deployment) -> None:
    """Fifteen wrong updates of one site, each refused for its own reason; then both sites finish the run."""

    async def scenario() -> list[Any]:
        url = deployment.urls["bank-a"]
        site = participant(deployment.federation, "bank-a")
        info = await current_round(url, site)
        for expected, update in wrong_updates(info, site).items():
            status, problem = await put(url, update)
            assert 400 <= status < 500
            assert problem["reason"] == ("wrong_sender_key" if expected == "forged" else expected)
        # The owner of the prologue that was copied above is not blocked by the garbage sent under it.
        good = make_update(info, site)
        assert (await put(url, good))[0] == 201
        assert (await put(url, good))[0] == 200
        assert (await put(url, make_update(info, site)))[1]["reason"] == "duplicate"
        return await run_both(deployment)

    finals = asyncio.run(asyncio.wait_for(scenario(), 60))
    for final in finals:
        assert all(np.allclose(final[name], array + 2) for name, array in MODEL.items())
    channel = get_json(f"http://{deployment.gateway_status}/_status")["peers"]
    assert set(channel) == {deployment.federation.site_uri(name) for name in SITES}
    for peer in channel.values():
        assert (peer["group"], peer["own_sigalg"], peer["peer_sigalg"]) == ("X25519MLKEM768", "ML-DSA-65", "ML-DSA-65")
    deployment.aggregator.end()
    key = keystore.load_signing_identity(deployment.federation.aggregator).key.verifying_key
    assert verify_audit_log(deployment.folder / "audit.jsonl", [key]).torn_lines == 0
    log = (deployment.folder / "audit.jsonl").read_text().splitlines()
    kinds = [json.loads(line)["kind"] for line in log]
    # The wrong ones, the second good one, and what the site's client sent when it joined later.
    assert kinds.count("refusal") == 18
    assert kinds.count("update") == 4
    assert kinds.count("model") == 3


def test_the_gateway_may_be_replaced_in_the_middle_of_a_round(deployment: Deployment) -> None:
    """A gateway that is killed and started again on its port costs retries and nothing else."""
    target = f"unix:{deployment.folder}/aggregator.sock"

    async def scenario() -> list[Any]:
        async with deployment.client("bank-a") as one, deployment.client("bank-b") as two:
            info = await one.join()
            weights: Any = await one.fetch(info)
            psutil.Process(deployment.gateway.pid).send_signal(signal.SIGKILL)
            submitting = asyncio.create_task(one.submit(info, *train(weights, info)))
            await asyncio.to_thread(
                start_gateway, deployment.federation, deployment.crew, target, deployment.gateway_address, "gateway-2"
            )
            assert await submitting is True
            return list(await asyncio.gather(one.run(train), two.run(train)))

    finals = asyncio.run(asyncio.wait_for(scenario(), 60))
    assert all(np.allclose(finals[0][name], array + 2) for name, array in MODEL.items())


def test_an_aggregator_that_is_gone_is_one_clear_error(deployment: Deployment) -> None:
    """When nobody comes back, the site says what it could not reach, and does not wait for ever."""

    async def scenario() -> None:
        async with deployment.client("bank-a", retry_seconds=1) as site:
            info = await site.join()
            weights: Any = await site.fetch(info)
            deployment.aggregator.end()
            await site.submit(info, *train(weights, info))

    with pytest.raises(TransportError, match=r"/v1/rounds/1/updates/") as caught:
        asyncio.run(asyncio.wait_for(scenario(), 60))
    assert caught.value.reason == "unreachable"


def test_a_replayed_round_document_is_refused(deployment: Deployment) -> None:
    """Somebody between sidecar and client who answers with a document signed earlier is found out by the nonce."""

    async def scenario() -> None:
        url = deployment.urls["bank-a"]
        recorded = await asyncio.to_thread(get, f"{url}/v1/rounds/current?nonce={'0' * 32}")

        async def replay(_request: web.Request) -> web.Response:
            return web.Response(body=recorded, content_type="application/json")

        app = web.Application()
        app.router.add_get("/v1/rounds/current", replay)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        deployment.urls["bank-a"] = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            async with deployment.client("bank-a") as site:
                await site.join()
        finally:
            await runner.cleanup()

    with pytest.raises(MessageError) as caught:
        asyncio.run(asyncio.wait_for(scenario(), 60))
    assert caught.value.reason == "replayed"


def test_a_site_that_the_gateway_does_not_know_never_reaches_the_aggregator(
    deployment: Deployment, tmp_path: Path
) -> None:
    """Being certified by the federation is not enough: the gateway lets in whom it was told to."""
    deployment.federation.authority.issue(profile="site", name="bank-c", out=tmp_path / "bank-c")
    process = deployment.crew.start(
        "sidecar-bank-c", "-m", "pqfl", "client", "--listen", "127.0.0.1:0", "--target", deployment.gateway_address,
        *identity(tmp_path / "bank-c"), "--verify-uri", deployment.federation.gateway_uri, "--log-format", "json",
    )  # fmt: skip
    url = f"http://{process.wait_for(is_listening, 20)['address']}"
    before = get_json(f"{deployment.urls['bank-a']}/v1/status")["refusals"]

    async def scenario() -> None:
        async with FederatedClient(
            url, identity_dir=tmp_path / "bank-c", roster_path=deployment.federation.roster, retry_seconds=0
        ) as site:
            await site.join()

    with pytest.raises(PqflError) as caught:
        asyncio.run(asyncio.wait_for(scenario(), 60))
    assert caught.value.reason == "unreachable"
    refusals = get_json(f"http://{deployment.gateway_status}/_status")["handshake_failures"]
    assert set(refusals) == {"not_allowed"}
    assert get_json(f"{deployment.urls['bank-a']}/v1/status")["refusals"] == before
