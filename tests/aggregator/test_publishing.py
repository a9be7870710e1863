"""Models on their way out: nothing leaves under a suite that is not allowed any more."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from aggregator.publishing import Model, Publisher
from aggregator.store.models import ModelStore
from aggregator.suites import Suites
from pqfl_transport.content.envelope import decode_prologue
from pqfl_transport.content.recipients import ReceivingKey, RecipientKey
from pqfl_transport.crypto.pyca import SigningKey
from pqfl_transport.errors import MessageError, PlatformError, PolicyError
from pqfl_transport.pki.spiffe import Role
from pqfl_transport.policy import tighten
from pqfl_transport.timing import Stopwatch
from tests.support.advisories import advisory
from tests.support.pki import Federation, make_federation
from tests.support.rounds import MODEL, membership

GCM, CHACHA = "pqfl/v1/mlkem768x25519-mldsa65", "pqfl/v1/mlkem768x25519-chacha-mldsa65"


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return make_federation(tmp_path_factory.mktemp("federation"), sites=("bank-a",))


class Desk:
    """A publisher and what it announced."""

    def __init__(self, federation: Federation, folder: Path) -> None:
        self.member = membership(federation, federation.aggregator, Role.AGGREGATOR)
        (site,) = self.member.parties(Role.SITE)
        key = RecipientKey.from_bytes(site.receiving_key)
        self.suites = Suites(self.member, [(site.signing_key.algorithm, key.kem)])
        self.keys = [key]
        self.said: list[Model] = []
        self.store = ModelStore(folder)
        self.publisher = Publisher(
            lambda: self.member, lambda: self.keys, self.suites, self.store, Stopwatch(), self.said.append
        )

    def withdraw(self, *algorithms: str) -> None:
        self.suites.policy, _ = tighten(self.member.policy, advisory(algorithms), 2e9)

    def suite_on_disk(self, version: int) -> str:
        return decode_prologue(self.publisher.path(version).read_bytes())[0].header.suite


def play(federation: Federation, folder: Path, use: Callable[[Desk], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(use(Desk(federation, folder)), 20))


def test_a_model_is_sealed_stored_and_announced(federation: Federation, tmp_path: Path) -> None:
    """Before that there is none to be asked for."""

    async def use(desk: Desk) -> None:
        with pytest.raises(PlatformError, match="still being sealed"):
            _ = desk.publisher.model
        with pytest.raises(MessageError):
            desk.publisher.path(0)
        assert await desk.publisher.publish(MODEL, 0)
        assert [(model.version, model.suite) for model in desk.said] == [(0, GCM)]
        assert desk.suite_on_disk(0) == GCM
        assert desk.publisher.version == 0

    play(federation, tmp_path, use)


def test_the_current_model_is_sealed_again_and_an_earlier_one_is_kept_back(
    federation: Federation, tmp_path: Path
) -> None:
    """Sites that know the advisory would refuse the old envelope, and nobody should open it."""

    async def use(desk: Desk) -> None:
        for version in (0, 1):
            await desk.publisher.publish(MODEL, version)
        desk.withdraw(GCM)
        with pytest.raises(PlatformError, match="sealed again") as caught:
            desk.publisher.path(1)
        assert caught.value.reason == "not_ready"
        await desk.publisher.seal_again_if_needed()
        assert desk.suite_on_disk(1) == CHACHA
        with pytest.raises(PolicyError) as refused:
            desk.publisher.path(0)
        assert refused.value.reason == "content_suite"
        await desk.publisher.seal_again_if_needed()
        assert len(desk.said) == 3

    play(federation, tmp_path, use)


def test_a_suite_that_goes_while_it_seals_with_it_is_not_announced(federation: Federation, tmp_path: Path) -> None:
    """It is sealed once more; and what came in under that suite is not published at all."""

    async def use(desk: Desk) -> None:
        save = desk.store.save

        def save_and_withdraw(version: int, envelope: list[memoryview]) -> Path:
            desk.withdraw(GCM)
            return save(version, envelope)

        desk.store.save = save_and_withdraw  # type: ignore[method-assign,assignment]
        assert await desk.publisher.publish(MODEL, 0)
        assert desk.suite_on_disk(0) == CHACHA
        assert not await desk.publisher.publish(MODEL, 1, under=GCM)
        assert [model.suite for model in desk.said] == [CHACHA]
        with pytest.raises(PlatformError):
            desk.publisher.path(1)

    play(federation, tmp_path, use)


def test_with_nothing_left_nothing_is_given_out(federation: Federation, tmp_path: Path) -> None:
    """Neither sealed nor served."""

    async def use(desk: Desk) -> None:
        await desk.publisher.publish(MODEL, 0)
        desk.suites.withdrawn = PolicyError("advisory 9", reason="withdrawn")
        for attempt in (desk.publisher.publish(MODEL, 1), desk.publisher.seal_again_if_needed()):
            with pytest.raises(PolicyError, match="advisory 9"):
                await attempt
        with pytest.raises(PolicyError, match="advisory 9"):
            desk.publisher.path(0)

    play(federation, tmp_path, use)


def test_who_joins_can_open_the_current_model_and_who_left_not_the_next(federation: Federation, tmp_path: Path) -> None:
    """It is sealed again for a new recipient, and not for one who is gone."""

    async def use(desk: Desk) -> None:
        await desk.publisher.publish(MODEL, 0)
        other = ReceivingKey.generate(desk.keys[0].kem).public
        desk.keys.append(other)
        await desk.publisher.seal_again_if_needed()
        assert len(recipients(desk, 0)) == 2
        desk.keys.pop(0)
        await desk.publisher.seal_again_if_needed()
        assert len(desk.said) == 2
        await desk.publisher.publish(MODEL, 1)
        assert recipients(desk, 1) == (other.fingerprint,)

    def recipients(desk: Desk, version: int) -> tuple[bytes, ...]:
        return decode_prologue(desk.publisher.path(version).read_bytes())[0].header.recipients

    play(federation, tmp_path, use)


def test_the_current_model_is_sealed_again_under_another_key(federation: Federation, tmp_path: Path) -> None:
    """Whoever takes the new key alone can verify it; under the same key nothing is made anew."""

    async def use(desk: Desk) -> None:
        await desk.publisher.publish(MODEL, 0)
        await desk.publisher.seal_again_if_needed()
        assert len(desk.said) == 1
        key = SigningKey.generate("ML-DSA-65")
        desk.member = replace(desk.member, identity=replace(desk.member.identity, key=key))
        await desk.publisher.seal_again_if_needed()
        header = decode_prologue(desk.publisher.path(0).read_bytes())[0].header
        assert header.sender_fingerprint == key.verifying_key.fingerprint == desk.publisher.model.signer
        assert desk.said[1].digest == desk.said[0].digest

    play(federation, tmp_path, use)
