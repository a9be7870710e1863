"""Updates on their way to a real aggregator: what is good passes, what is not is refused before the backend sees it."""

import asyncio
import dataclasses
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gateway.config import HttpRules, Profile
from gateway.http.aggregator import AggregatorGuard
from pqfl_transport.content.envelope import decode_prologue
from pqfl_transport.content.recipients import ReceivingKey
from pqfl_transport.crypto.pyca import SigningKey, VerifyingKey
from pqfl_transport.errors import MessageError
from pqfl_transport.net.address import Address
from pqfl_transport.net.resumable import PARTIAL_TYPE, UploadAddress
from pqfl_transport.participant import Participant
from pqfl_transport.pki import keystore
from pqfl_transport.pki.membership import load_membership
from pqfl_transport.pki.roster import Roster, sign_roster
from pqfl_transport.pki.spiffe import Role
from pqfl_transport.policy import for_level, tighten
from tests.support.advisories import advisory
from tests.support.fronts import Front, front
from tests.support.listeners import tls
from tests.support.pki import Federation, make_federation
from tests.support.rekeying import name_next, prepare_next
from tests.support.revoking import as_read, crl, revoking
from tests.support.rounds import (
    ENVELOPE_TYPE,
    MODEL,
    Envelope,
    Hub,
    aggregator,
    current_round,
    make_update,
    membership,
    participant,
)

Use = Callable[[Front, Hub, Callable[..., Awaitable[Envelope]]], Awaitable[None]]


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return make_federation(tmp_path_factory.mktemp("federation"), sites=("bank-a", "bank-b"))


def play(federation: Federation, tmp_path: Path, use: Use, **options: Any) -> Hub:
    """Run an aggregator behind a gateway's HTTP mode."""

    async def scenario() -> Hub:
        roster = membership(federation, federation.aggregator, Role.AGGREGATOR).roster
        async with aggregator(federation, tmp_path, quorum=2) as hub:
            host, port = hub.url.removeprefix("http://").split(":")
            rules = HttpRules(Profile.AGGREGATOR, roster=roster)
            async with front(federation, Address(host, int(port)), rules, **options) as made:

                async def update(site: str = "bank-a", **changes: Any) -> Envelope:
                    sender = participant(federation, site)
                    return make_update(await current_round(hub.url, sender), sender, **changes)

                await use(made, hub, update)
            return hub

    return asyncio.run(scenario())


async def put(made: Front, update: Envelope, site: str = "bank-a", **headers: str) -> tuple[int, str]:
    """Send an update over a site's connection; return status and reason."""
    path = f"/v1/rounds/{update.round_number}/updates/{update.envelope_id.hex()}"
    fields = {"Content-Type": ENVELOPE_TYPE} | headers
    async with made.client(site) as client, client.put(path, data=update.data, headers=fields) as answer:
        facts = await answer.json(content_type=None)
        return answer.status, facts.get("reason", "")


def test_a_good_update_arrives(federation: Federation, tmp_path: Path) -> None:
    """Through the gateway to the aggregator, byte for byte, with its receipt on the way back."""

    async def use(made: Front, hub: Hub, update: Callable[..., Awaitable[Envelope]]) -> None:
        assert await put(made, await update()) == (201, "")
        assert len(hub.events("update")) == 1
        async with made.client("bank-a") as client:
            async with client.get("/v1/status") as answer:
                assert answer.status == 200
            async with client.get("/v1/rounds/current?nonce=" + "a" * 32) as answer:
                assert answer.status == 200

    play(federation, tmp_path, use)


@pytest.mark.parametrize(
    ("changes", "status", "reason"),
    [
        ({"round": 99}, 409, "wrong_round"),
        ({"challenge": b"x" * 32}, 409, "wrong_challenge"),
        ({"base_model_digest": b"x" * 32}, 409, "wrong_challenge"),
        ({"not_after": 1_000_000_000}, 409, "expired"),
        ({"direction": "model"}, 400, "wrong_direction"),
        ({"sender": "spiffe://fed/site/bank-b"}, 403, "wrong_sender"),
        ({"federation": "other"}, 400, "wrong_direction"),
    ],
)
def test_an_update_with_one_thing_wrong_is_refused_here(
    federation: Federation, tmp_path: Path, changes: dict[str, Any], status: int, reason: str
) -> None:
    """With the reason, as a problem document, and the aggregator never hears of it."""

    async def use(made: Front, hub: Hub, update: Callable[..., Awaitable[Envelope]]) -> None:
        assert await put(made, await update(**changes)) == (status, reason)
        assert hub.events("refusal") == []
        assert (await made.lines.wait_for("refusal"))["reason"] == reason

    play(federation, tmp_path, use)


def test_nobody_sends_for_another(federation: Federation, tmp_path: Path) -> None:
    """A good update of one site over the connection of another: recorded and replayed, for instance."""

    async def use(made: Front, _hub: Hub, update: Callable[..., Awaitable[Envelope]]) -> None:
        assert await put(made, await update("bank-a"), "bank-b") == (403, "wrong_sender")

    play(federation, tmp_path, use)


def test_a_forged_signature_is_refused_here(federation: Federation, tmp_path: Path) -> None:
    """Signed with another site's key, or changed after it was signed."""

    async def use(made: Front, hub: Hub, update: Callable[..., Awaitable[Envelope]]) -> None:
        other = participant(federation, "bank-b").member.identity.key
        status, reason = await put(made, await update(key=other))
        assert (status, reason) == (403, "wrong_sender_key")
        good = await update()
        at = good.data.index(b"pqfl/v1/") + 300
        forged = bytearray(good.data)
        forged[at] ^= 1
        assert (await put(made, dataclasses.replace(good, data=bytes(forged))))[0] in {400, 403, 409}
        assert hub.events("refusal") == []

    play(federation, tmp_path, use)


def test_weights_pass_sealed_only(federation: Federation, tmp_path: Path) -> None:
    """Plain ones are told how to be sealed, whatever they call themselves, and no byte of them goes on."""

    async def use(made: Front, hub: Hub, update: Callable[..., Awaitable[Envelope]]) -> None:
        good = await update()
        plain = dataclasses.replace(good, data=b"\x40\0\0\0\0\0\0\0" + b'{"w":{"dtype":"F32"}}' * 100)
        status, reason = await put(made, plain, **{"Content-Type": "application/octet-stream"})
        assert (status, reason) == (415, "wrong_media_type")
        status, reason = await put(made, plain)
        assert (status, reason) in {(413, "too_large"), (400, "malformed")}
        async with made.client("bank-a") as client, client.post("/v1/rounds/1/weights", data=plain.data) as answer:
            assert answer.status == 403
        assert hub.events("refusal") == []

    play(federation, tmp_path, use)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda data: data + b"x", "excess"),
        (lambda data: data[:-1], "truncated"),
        (lambda data: data[:100], "truncated"),
        (lambda _data: b"", "truncated"),
    ],
)
def test_lengths_have_to_fit(
    federation: Federation, tmp_path: Path, change: Callable[[bytes], bytes], reason: str
) -> None:
    """One byte more or less than the prologue announces is refused before the body is read."""

    async def use(made: Front, hub: Hub, update: Callable[..., Awaitable[Envelope]]) -> None:
        good = await update()
        assert (await put(made, dataclasses.replace(good, data=change(good.data))))[1] == reason
        assert hub.events("refusal") == []

    play(federation, tmp_path, use)


def test_a_chunked_body_that_goes_on_is_cut_off(federation: Federation, tmp_path: Path) -> None:
    """Without a length the announced one is held to, while the body passes."""

    async def use(made: Front, hub: Hub, update: Callable[..., Awaitable[Envelope]]) -> None:
        good = await update()

        async def pieces() -> Any:
            yield good.data
            yield b"and more"

        path = f"/v1/rounds/{good.round_number}/updates/{good.envelope_id.hex()}"
        headers = {"Content-Type": ENVELOPE_TYPE}
        async with made.client("bank-a") as client, client.put(path, data=pieces(), headers=headers) as answer:
            assert (await answer.json(content_type=None))["reason"] == "excess"
        assert hub.events("update") == []

    play(federation, tmp_path, use)


def test_an_address_has_to_fit_the_envelope(federation: Federation, tmp_path: Path) -> None:
    """Round and id of the path are those of the header."""

    async def use(made: Front, _hub: Hub, update: Callable[..., Awaitable[Envelope]]) -> None:
        good = await update()
        assert await put(made, dataclasses.replace(good, envelope_id=b"\0" * 16)) == (400, "wrong_address")

    play(federation, tmp_path, use)


def test_who_waits_with_an_update_is_refused_before_sending_it(federation: Federation, tmp_path: Path) -> None:
    """What the head gives away is refused without the body; otherwise the body is invited, and the update arrives."""

    async def use(made: Front, hub: Hub, update: Callable[..., Awaitable[Envelope]]) -> None:
        good = await update()
        path = f"/v1/rounds/{good.round_number}/updates/{good.envelope_id.hex()}"
        for kind, first in (("application/octet-stream", b"415"), (ENVELOPE_TYPE, b"100")):
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", made.listener.address.port, ssl=made.context("bank-a")
            )
            fields = f"Host: h\r\nExpect: 100-continue\r\nContent-Type: {kind}\r\nContent-Length: {len(good.data)}"
            writer.write(f"PUT {path} HTTP/1.1\r\n{fields}\r\n\r\n".encode())
            assert (await asyncio.wait_for(reader.readline(), 20)).split()[1] == first
            if first == b"100":
                writer.write(good.data)
                await reader.readline()
                assert (await asyncio.wait_for(reader.readline(), 20)).split()[1] == b"201"
            writer.close()
        assert len(hub.events("update")) == 1

    play(federation, tmp_path, use)


async def resume(
    made: Front, method: str, where: str, site: str = "bank-a", data: bytes = b"", **headers: str
) -> tuple[int, Any]:
    """Ask for an upload over a site's connection; return the status, and the fields or the reason."""
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    async with made.client(site) as client, client.request(method, where, data=data, headers=fields) as answer:
        body = await answer.read()
        return answer.status, json.loads(body)["reason"] if answer.status >= 400 and body else answer.headers


def append_fields(offset: int, complete: str = "?1") -> dict[str, str]:
    return {"Content_Type": PARTIAL_TYPE, "Upload_Offset": str(offset), "Upload_Complete": complete}


def test_an_upload_is_resumed_through_the_gateway(federation: Federation, tmp_path: Path) -> None:
    """Begin with the prologue and a little more, ask how much arrived, bring the rest."""

    async def use(made: Front, hub: Hub, update: Callable[..., Awaitable[Envelope]]) -> None:
        sent = await update(delta={name: np.ones_like(array) for name, array in MODEL.items()})
        digest = decode_prologue(sent.data)[0].digest
        where = str(UploadAddress(1, "bank-a", digest))
        begin = len(sent.data) - 20
        path = f"/v1/rounds/1/updates/{sent.envelope_id.hex()}"
        fields = {"Content_Type": ENVELOPE_TYPE, "Upload_Complete": "?0"}
        status, headers = await resume(made, "PUT", path, data=sent.data[:begin], **fields)
        assert (status, headers["Location"]) == (201, where)
        status, headers = await resume(made, "HEAD", where)
        assert (status, headers["Upload-Offset"]) == (204, str(begin))
        status, headers = await resume(made, "PATCH", where, data=sent.data[begin:], **append_fields(begin))
        assert (status, headers["Upload-Complete"]) == (201, "?1")
        assert hub.engine.reception.accepted == 1

    play(federation, tmp_path, use)


def test_nobody_goes_on_with_the_upload_of_another(federation: Federation, tmp_path: Path) -> None:
    """Whatever is asked of an upload, the certificate has to be that of the site in its address."""

    async def use(made: Front, hub: Hub, update: Callable[..., Awaitable[Envelope]]) -> None:
        sent = await update()
        where = str(UploadAddress(1, "bank-a", decode_prologue(sent.data)[0].digest))
        path = f"/v1/rounds/1/updates/{sent.envelope_id.hex()}"
        begin = len(sent.data) - 20
        fields = {"Content_Type": ENVELOPE_TYPE, "Upload_Complete": "?0"}
        await resume(made, "PUT", path, data=sent.data[:begin], **fields)
        for method in ("HEAD", "GET", "DELETE"):
            assert (await resume(made, method, where, "bank-b"))[0] == 403
        assert await resume(made, "PATCH", where, "bank-b", b"garbage", **append_fields(begin)) == (403, "wrong_sender")
        assert (await resume(made, "PATCH", where, data=sent.data[begin:], **append_fields(begin)))[0] == 201
        assert hub.engine.reception.refusals == {}

    play(federation, tmp_path, use)


@pytest.mark.parametrize(
    ("where", "headers", "status", "reason"),
    [
        ("/v1/rounds/1/uploads/bank-a/" + "0" * 63, append_fields(0), 404, "unknown_upload"),
        ("/v1/rounds/1/uploads/bank-a/" + "0" * 64, append_fields(0), 404, "unknown_upload"),
        ("/v1/rounds/2/uploads/bank-a/" + "0" * 64, append_fields(0), 409, "wrong_round"),
        ("/v1/rounds/1/uploads/bank-a/" + "0" * 64, append_fields(1 << 40), 413, "too_large"),
        ("/v1/rounds/1/uploads/bank-a/" + "0" * 64, {"Content_Type": PARTIAL_TYPE}, 400, "malformed"),
        ("/v1/rounds/1/uploads/bank-a/" + "0" * 64, {"Content_Type": "text/plain"}, 415, "wrong_media_type"),
    ],
)
def test_an_append_with_one_thing_wrong(
    federation: Federation, tmp_path: Path, where: str, headers: dict[str, str], status: int, reason: str
) -> None:
    """What cannot belong to an upload of this round does not reach the aggregator as one."""

    async def use(made: Front, _hub: Hub, update: Callable[..., Awaitable[Envelope]]) -> None:
        await update()
        assert await resume(made, "PATCH", where, data=b"x", **headers) == (status, reason)

    play(federation, tmp_path, use)


@asynccontextmanager
async def half_sent(made: Front, hub: Hub, good: Envelope) -> AsyncIterator[Callable[[], Awaitable[tuple[int, str]]]]:
    """An update whose end is held back until what this gives is called, which returns status and reason."""
    begun = asyncio.Event()

    async def pieces() -> AsyncIterator[bytes]:
        yield good.data[:-10]
        await begun.wait()
        yield good.data[-10:]

    async def finish() -> tuple[int, str]:
        begun.set()
        async with await asyncio.wait_for(sending, 20) as answer:
            return answer.status, (await answer.json(content_type=None)).get("reason", "")

    path = f"/v1/rounds/{good.round_number}/updates/{good.envelope_id.hex()}"
    async with made.client("bank-a") as client:
        sending = asyncio.create_task(client.put(path, data=pieces(), headers={"Content-Type": ENVELOPE_TYPE}))
        async with asyncio.timeout(20):
            while not hub.engine.reception.collecting or not hub.engine.reception.collecting.round._reservations:  # noqa: ASYNC110
                await asyncio.sleep(0)
        yield finish


def withdraw(made: Front, *algorithms: str) -> None:
    """Reload the listener under an advisory."""
    config = made.listener.config
    tls = dataclasses.replace(config.tls, policy=tighten(for_level("high"), advisory(algorithms), 2e9)[0])
    made.listener.reconfigure(made.listener.prepare(dataclasses.replace(config, tls=tls)))


def test_an_update_in_flight_is_cut_where_its_suite_is_withdrawn(federation: Federation, tmp_path: Path) -> None:
    """The rest of it does not pass, the aggregator takes nothing of it, and its sender is told why."""

    async def use(made: Front, hub: Hub, update: Callable[..., Awaitable[Envelope]]) -> None:
        async with half_sent(made, hub, await update()) as finish:
            withdraw(made, "pqfl/v1/mlkem768x25519-mldsa65")
            assert await finish() == (403, "content_suite")
        assert hub.events("update") == []

    play(federation, tmp_path, use)


def test_an_upload_in_flight_survives_a_reload(federation: Federation, tmp_path: Path) -> None:
    """Whatever else a reload brings: what is still allowed goes on to its end, and then its connection closes."""

    async def use(made: Front, hub: Hub, update: Callable[..., Awaitable[Envelope]]) -> None:
        async with half_sent(made, hub, await update()) as finish:
            made.listener.reconfigure(made.listener.prepare(made.listener.config))
            assert await finish() == (201, "")
            assert (await made.lines.wait_for("connection"))["reason"] == "complete"
        assert len(hub.events("update")) == 1

    play(federation, tmp_path, use)


def test_a_request_over_a_withdrawn_group_is_the_last_of_its_connection(federation: Federation, tmp_path: Path) -> None:
    """It ends well, and the log says why no other one follows."""

    async def use(made: Front, hub: Hub, update: Callable[..., Awaitable[Envelope]]) -> None:
        async with half_sent(made, hub, await update()) as finish:
            withdraw(made, "X25519MLKEM768")
            assert await finish() == (201, "")
            closed = await made.lines.wait_for("connection")
            assert (closed["group"], closed["reason"]) == ("X25519MLKEM768", "withdrawn")
        async with made.client("bank-a") as client, client.get("/v1/status") as answer:
            assert answer.status == 200

    play(federation, tmp_path, use)


def test_no_update_passes_for_the_round_of_a_revoked_aggregator(federation: Federation, tmp_path: Path) -> None:
    """Its rounds are signed by a key that does not count any more."""
    lists = as_read(federation, crl(federation, [federation.aggregator]))

    async def use(made: Front, _hub: Hub, update: Callable[..., Awaitable[Envelope]]) -> None:
        assert await put(made, await update()) == (403, "revoked")

    play(federation, tmp_path, use, tls=tls(federation, revocations=lists))


def test_both_keys_of_a_site_and_of_the_aggregator_pass_while_they_count(tmp_path: Path) -> None:
    """The former one's revocation, or its end, takes it away; the present one goes on."""
    federation = make_federation(tmp_path / "federation", sites=("bank-a",))
    site, hub_folder = federation.site("bank-a"), federation.aggregator
    early = membership(federation, hub_folder, Role.AGGREGATOR)
    for folder in (site, hub_folder):
        prepare_next(federation, folder)
    name_next(federation)
    roster = membership(federation, hub_folder, Role.AGGREGATOR).roster
    parties = {name: roster.party(uri) for name, uri in (("site", federation.site_uri("bank-a")),
                                                         ("hub", federation.aggregator_uri))}  # fmt: skip
    keys = {name: [party.signing_key, party.former.key] for name, party in parties.items() if party.former is not None}

    def guard(roster: Roster, now: float, *revoked: str) -> AggregatorGuard:
        references = [parties[name].former.certificate for name in revoked]  # type: ignore[union-attr]
        serials = [one.serial for one in references if one is not None]
        policy = federation.authority.policy
        return AggregatorGuard(roster, lambda: policy, clock=lambda: now, revocations=revoking(federation, *serials))

    def passes(made: AggregatorGuard, key: VerifyingKey) -> bool:
        header = SimpleNamespace(
            sender=federation.site_uri("bank-a"), suite=policy_suite, sender_fingerprint=key.fingerprint
        )
        session = SimpleNamespace(peer=SimpleNamespace(name=header.sender, post_quantum=True))
        try:
            return made._sender_key(header, session) == key  # type: ignore[arg-type]
        except MessageError as error:
            assert error.reason == "wrong_sender_key"  # noqa: PT017 -- both ends are allowed, this reason only
            return False

    policy_suite = federation.authority.policy.content_suites[0]
    now, (present, former) = time.time(), keys["site"]
    late = parties["site"].former.until + 1  # type: ignore[union-attr]
    for made, expected in (
        (guard(early.roster, now), (False, True)),
        (guard(roster, now), (True, True)),
        (guard(roster, now, "hub"), (True, True)),
        (guard(roster, now, "site"), (True, False)),
        (AggregatorGuard(roster, lambda: federation.authority.policy, clock=lambda: late), (True, False)),
    ):
        assert (passes(made, present), passes(made, former)) == expected
    assert guard(roster, now)._aggregator_keys() == keys["hub"]
    assert guard(roster, now, "hub")._aggregator_keys() == keys["hub"][:1]
    assert guard(early.roster, now)._aggregator_keys() == keys["hub"][1:]


@pytest.mark.parametrize("gateway_is_late", [False, True], ids=["aggregator late", "gateway late"])
def test_an_update_passes_whoever_has_the_new_roster_first(tmp_path: Path, *, gateway_is_late: bool) -> None:
    """A site that has it signs with the key that both know."""
    federation = make_federation(tmp_path / "federation", sites=("bank-a", "bank-b"))
    early = membership(federation, federation.aggregator, Role.AGGREGATOR)
    for folder in (federation.aggregator, federation.site("bank-a")):
        prepare_next(federation, folder)
    late_path = tmp_path / "early.json"
    late_path.write_bytes(federation.roster.read_bytes())
    name_next(federation)
    new = membership(federation, federation.aggregator, Role.AGGREGATOR)

    async def scenario() -> None:
        if not gateway_is_late:
            federation.roster.write_bytes(late_path.read_bytes())
        async with aggregator(federation, tmp_path / "hub", quorum=2) as hub:
            host, port = hub.url.removeprefix("http://").split(":")
            rules = HttpRules(Profile.AGGREGATOR, roster=(early if gateway_is_late else new).roster)
            async with front(federation, Address(host, int(port)), rules) as made:
                (tmp_path / "new.json").write_bytes(sign_roster(new.roster, federation_root(federation)))
                site = federation.site("bank-a")
                sender = Participant(
                    load_membership(site, federation.ca_pem, tmp_path / "new.json", role=Role.SITE),
                    ReceivingKey.from_pem((site / "receiving.key").read_bytes()),
                )
                update = make_update(await current_round(hub.url, sender), sender)
                assert await put(made, update) == (201, "")

    asyncio.run(scenario())


def federation_root(federation: Federation) -> SigningKey:
    return keystore.load_signing_key(federation.ca / "root.key")
