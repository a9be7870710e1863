"""The listeners of a process: what takes too long, what is too much, and taking on another configuration."""

import asyncio
import socket
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from gateway.admission import Limits
from gateway.config import ListenerConfig, ServiceConfig, Source
from gateway.journal import Journal
from gateway.service import Sidecar
from pqfl_transport.errors import ConfigurationError, PolicyError
from pqfl_transport.net.address import Address
from pqfl_transport.net.listening import listen
from pqfl_transport.net.logs import EventLog
from pqfl_transport.policy import advise, for_level
from pqfl_transport.tls import client_context, connect
from pqfl_transport.tls.config import AllowedPeers
from tests.support.advisories import advisory
from tests.support.listeners import ANYWHERE, listener, tls
from tests.support.loglines import Lines
from tests.support.pki import Federation, make_federation

Use = Callable[["Scene"], Awaitable[None]]


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return make_federation(tmp_path_factory.mktemp("federation"), sites=("bank-a",))


class Scene:
    """A sidecar in front of an echo, and what it says."""

    def __init__(self, federation: Federation, sidecar: Sidecar, lines: Lines) -> None:
        self.federation, self.sidecar, self.lines = federation, sidecar, lines
        self.port = sidecar.listeners["main"].address.port

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect as the site."""
        site = self.federation.site("bank-a")
        context = client_context(
            site / "tls.pem", site / "tls.key", site / "ca.pem", verify_uri=self.federation.gateway_uri
        )  # fmt: skip
        return await connect("127.0.0.1", self.port, context)

    async def round_trip(self) -> bytes:
        """Send a word and return what comes back."""
        reader, writer = await self.connect()
        writer.write(b"word")
        answer = await asyncio.wait_for(reader.readexactly(4), 20)
        writer.close()
        return answer


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
    writer.close()


def play(
    federation: Federation, use: Use, *, read_again: Any = None, clock: Callable[[], float] = time.time, **options: Any
) -> None:
    """Run a sidecar with one listener, use it, and end it."""

    async def scenario() -> None:
        backend = await asyncio.start_server(echo, "127.0.0.1", 0)
        target = Address("127.0.0.1", backend.sockets[0].getsockname()[1])
        config = ServiceConfig((listener(federation, **({"targets": (target,)} | options)),))
        source = Source(config, (lambda: read_again(config)) if read_again else lambda: config)
        lines = Lines()
        sockets = {"main": listen(ANYWHERE, "--listen")}
        sidecar = Sidecar(source, sockets, Journal(EventLog("json", stream=lines), None), clock=clock)
        sidecar.start()
        try:
            await use(Scene(federation, sidecar, lines))
        finally:
            force = asyncio.Event()
            force.set()
            await sidecar.drain(force)
            backend.close()
        assert sidecar.connections == 0

    asyncio.run(scenario())


def test_a_handshake_that_never_comes_is_given_up(federation: Federation) -> None:
    """Who connects and says nothing is refused after the handshake timeout, with that reason."""

    async def use(scene: Scene) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", scene.port)
        assert (await scene.lines.wait_for("refusal"))["reason"] == "timeout"
        assert await asyncio.wait_for(reader.read(), 20) == b""
        writer.close()
        assert (await scene.sidecar.snapshot())["listeners"]["main"]["handshake_failures"] == {"timeout": 1}

    play(federation, use, limits=Limits(handshake_timeout_seconds=0.05))


def test_a_target_that_is_down_is_a_failure_of_that_connection(federation: Federation) -> None:
    """The service goes on, says which target, and is not ready."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        target = Address("127.0.0.1", closed.getsockname()[1])

    async def use(scene: Scene) -> None:
        _, writer = await scene.connect()
        failure = await scene.lines.wait_for("failure")
        assert (failure["reason"], str(target) in failure["detail"]) == ("target_down", True)
        writer.close()
        backends = (await scene.sidecar.snapshot())["listeners"]["main"]["backends"]
        assert backends[str(target)]["up"] is False

    play(federation, use, targets=(target,))


def test_a_second_target_takes_over(federation: Federation) -> None:
    """While the first one is down connections go to the next in order, and the log says which."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        down = Address("127.0.0.1", closed.getsockname()[1])

    async def use(scene: Scene) -> None:
        (up,) = scene.sidecar.listeners["main"].config.targets
        scene.sidecar.listeners["main"].targets.replace((down, up))
        assert await scene.round_trip() == b"word"
        assert (await scene.lines.wait_for("connection"))["target"] == str(up)

    play(federation, use)


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        (Limits(max_connections=1), "too_many_connections"),
        (Limits(max_connections_per_peer=1), "too_many_connections_of_peer"),
        (Limits(connections_per_minute_per_peer=1), "too_many_arrivals_of_peer"),
    ],
)
def test_who_is_over_a_limit_is_refused_with_that_reason(federation: Federation, limits: Limits, reason: str) -> None:
    """The connection that was there goes on; the refusal is in log and metrics."""

    async def use(scene: Scene) -> None:
        reader, writer = await scene.connect()
        writer.write(b"1")
        await asyncio.wait_for(reader.readexactly(1), 20)
        try:
            _, more = await scene.connect()
            more.close()
        except OSError:
            pass
        assert (await scene.lines.wait_for("refusal"))["reason"] == reason
        writer.write(b"2")
        assert await asyncio.wait_for(reader.readexactly(1), 20) == b"2"
        assert (await scene.sidecar.snapshot())["listeners"]["main"]["refusals"] == {reason: 1}
        writer.close()

    play(federation, use, limits=limits)


def test_a_silent_handshake_makes_room_for_another(federation: Federation) -> None:
    """Where handshakes are limited, who says nothing goes first."""

    async def use(scene: Scene) -> None:
        _, silent = await asyncio.open_connection("127.0.0.1", scene.port)
        assert await scene.round_trip() == b"word"
        assert (await scene.lines.wait_for("refusal"))["reason"] == "too_many_handshakes"
        silent.close()

    play(federation, use, limits=Limits(max_handshakes=1))


@pytest.mark.parametrize(
    ("limits", "reason"),
    [(Limits(idle_timeout_seconds=0.01), "idle_timeout"), (Limits(max_lifetime_seconds=0.01), "max_lifetime")],
)
def test_connections_end_by_the_clock_where_that_is_asked_for(
    federation: Federation, limits: Limits, reason: str
) -> None:
    """Off by default; the log says which clock it was."""

    async def use(scene: Scene) -> None:
        _, writer = await scene.connect()
        assert (await scene.lines.wait_for("connection"))["reason"] == reason
        writer.close()

    play(federation, use, limits=limits)


def test_a_reload_takes_effect_for_new_and_open_connections(federation: Federation) -> None:
    """Whoever is not allowed any more is closed, with that reason, and not let in again."""

    def without_the_site(config: ServiceConfig) -> ServiceConfig:
        only = AllowedPeers(uris=("spiffe://fed/site/bank-z",))
        return ServiceConfig((replace(config.listeners[0], tls=tls(federation, allowed=only)),))

    async def use(scene: Scene) -> None:
        reader, writer = await scene.connect()
        writer.write(b"1")
        await asyncio.wait_for(reader.readexactly(1), 20)
        assert (await scene.sidecar.reload()).result == "ok"
        assert (await scene.lines.wait_for("connection"))["reason"] == "not_allowed"
        with pytest.raises(OSError, match="not_allowed"):
            await scene.round_trip()
        writer.close()
        assert (await scene.sidecar.reload()).result == "unchanged"

    play(federation, use, read_again=without_the_site)


@pytest.mark.parametrize(
    "change",
    [
        lambda one: replace(one, name="other"),
        lambda one: replace(one, listen=Address("127.0.0.1", 9)),
    ],
)
def test_what_needs_a_restart_changes_nothing(
    federation: Federation, change: Callable[[ListenerConfig], ListenerConfig]
) -> None:
    """A listener that moved or has another name is said, and everything goes on as it was."""

    async def use(scene: Scene) -> None:
        reloaded = await scene.sidecar.reload()
        assert (reloaded.result, "restart" in reloaded.detail) == ("failed", True)
        assert await scene.round_trip() == b"word"
        assert (await scene.sidecar.snapshot())["reloads"] == {"failed": 1}

    play(federation, use, read_again=lambda config: ServiceConfig((change(config.listeners[0]),)))


def test_connections_go_on_while_files_are_read(federation: Federation) -> None:
    """However long a large roster takes, handshakes and bytes pass meanwhile; a second reload waits its turn."""
    go_on, running, most = threading.Event(), [0], [0]

    def slow(config: ServiceConfig) -> ServiceConfig:
        running[0] += 1
        most[0] = max(most[0], running[0])
        assert go_on.wait(20)
        running[0] -= 1
        return config

    async def use(scene: Scene) -> None:
        reloads = [asyncio.create_task(scene.sidecar.reload()) for _ in range(2)]
        try:
            assert await scene.round_trip() == b"word"
            assert not any(reload.done() for reload in reloads)
        finally:
            go_on.set()
        assert [(await reload).result for reload in reloads] == ["unchanged", "unchanged"]
        assert most == [1]

    play(federation, use, read_again=slow)


def test_an_advisory_that_has_its_day_while_files_are_read_counts(federation: Federation) -> None:
    """What was read under the policy of before is taken on under that of now."""
    ahead = [0.0]
    announced = advise(
        for_level("high"), advisory(["X25519MLKEM768"], not_before=time.time() + 500, seconds=5000), time.time()
    )

    def slow(config: ServiceConfig) -> ServiceConfig:
        ahead[0] = 1000
        return replace(config, listeners=(replace(config.listeners[0], close_timeout_seconds=2.0),))

    async def use(scene: Scene) -> None:
        assert (await scene.sidecar.reload()).result == "ok"
        assert scene.sidecar.config.listeners[0].tls.policy.name == "high-2026+advisory-1"

    play(
        federation, use, read_again=slow, clock=lambda: time.time() + ahead[0],
        tls=tls(federation, policy=announced.policy), advised=announced,
    )  # fmt: skip


def test_a_broken_reload_keeps_the_former_configuration(federation: Federation) -> None:
    """The reason is logged and connections go on being served."""

    def broken(_config: ServiceConfig) -> ServiceConfig:
        raise ConfigurationError("ca.pem: holds no certificate", reason="malformed")

    async def use(scene: Scene) -> None:
        assert (await scene.sidecar.reload()).result == "failed"
        assert (await scene.lines.wait_for("reload"))["detail"] == "ca.pem: holds no certificate"
        assert await scene.round_trip() == b"word"

    play(federation, use, read_again=broken)


def test_the_snapshot_shows_the_evidence(federation: Federation) -> None:
    """Group, signatures, policy, addresses, certificates with their end: what an auditor asks for."""

    async def use(scene: Scene) -> None:
        assert await scene.round_trip() == b"word"
        await scene.lines.wait_for("connection")
        found = await scene.sidecar.snapshot()
        (entry,) = found["listeners"]["main"]["handshakes"]
        assert (entry["group"], entry["sigalg"], entry["peer_sigalg"]) == ("X25519MLKEM768", "ML-DSA-65", "ML-DSA-65")
        assert found["listeners"]["main"]["policy"] == "high-2026"
        assert found["listeners"]["main"]["bytes_in"] == 4
        assert {certificate["algorithm"] for certificate in found["certificates"]} == {"ML-DSA-65", "ML-DSA-87"}

    play(federation, use)


def advised_listener(federation: Federation, config: ServiceConfig, *algorithms: str, **facts: Any) -> ServiceConfig:
    """The same service under an advisory."""
    found = advise(for_level("high"), advisory(algorithms, **facts), time.time())
    one = replace(config.listeners[0], tls=tls(federation, policy=found.policy), advised=found)
    return ServiceConfig((one,))


def test_an_advisory_closes_what_rests_on_the_fallen_and_refuses_it(federation: Federation) -> None:
    """A connection over the withdrawn group ends as withdrawn; the next one negotiates what is left."""

    async def use(scene: Scene) -> None:
        reader, writer = await scene.connect()
        writer.write(b"1")
        await asyncio.wait_for(reader.readexactly(1), 20)
        assert (await scene.sidecar.reload()).result == "ok"
        said = await scene.lines.wait_for("policy")
        assert (said["old"], said["new"]) == ("high-2026", "high-2026+advisory-1")
        assert "X25519MLKEM768 is broken: a paper" in said["why"]
        closed = await scene.lines.wait_for("connection")
        assert (closed["group"], closed["reason"]) == ("X25519MLKEM768", "withdrawn")
        writer.close()
        assert await scene.round_trip() == b"word"
        assert (await scene.lines.wait_for("connection", 2))["group"] == "SecP256r1MLKEM768"
        found = await scene.sidecar.snapshot()
        assert found["listeners"]["main"]["closes"]["withdrawn"] == 1
        assert found["listeners"]["main"]["policy_changes"] == 1
        assert found["advisories"][0]["number"] == 1

    play(federation, use, read_again=lambda config: advised_listener(federation, config, "X25519MLKEM768"))


def test_what_an_advisory_leaves_alone_goes_on(federation: Federation) -> None:
    """Connections over what is still listed are not touched."""

    async def use(scene: Scene) -> None:
        reader, writer = await scene.connect()
        assert (await scene.sidecar.reload()).result == "ok"
        writer.write(b"still")
        assert await asyncio.wait_for(reader.readexactly(5), 20) == b"still"
        writer.close()

    play(federation, use, read_again=lambda config: advised_listener(federation, config, "SecP256r1MLKEM768"))


def test_a_handshake_that_was_begun_before_is_judged_by_what_holds_at_its_end(federation: Federation) -> None:
    """Who was shaking hands over the withdrawn group while the advisory came is refused."""

    async def use(scene: Scene) -> None:
        running = scene.sidecar.listeners["main"]
        begun = running.new_engine
        engines = []

        def reload_in_the_middle(host: str | None) -> Any:
            engine = begun(host)
            engines.append(engine)
            if len(engines) == 1:
                config = advised_listener(federation, scene.sidecar.config, "X25519MLKEM768")
                running.reconfigure(running.prepare(config.listeners[0]))
            return engine

        running.new_engine = reload_in_the_middle  # type: ignore[method-assign]
        reader, writer = await scene.connect()
        writer.write(b"1")
        assert await asyncio.wait_for(reader.read(), 20) == b""
        assert (await scene.lines.wait_for("refusal"))["reason"] == "no_pq_group"
        writer.close()
        assert await scene.round_trip() == b"word"

    play(federation, use)


def test_an_advisory_that_leaves_nothing_suspends_until_there_is_something(federation: Federation) -> None:
    """Open connections end, new ones are refused, monitors see why; a good reload brings the service back."""
    answers: list[Any] = [PolicyError("advisory 2 withdraws ML-DSA-65", reason="withdrawn"), None]

    def read_again(config: ServiceConfig) -> ServiceConfig:
        answer = answers.pop(0)
        if answer is not None:
            raise answer
        return config

    async def use(scene: Scene) -> None:
        reader, writer = await scene.connect()
        writer.write(b"1")
        await asyncio.wait_for(reader.readexactly(1), 20)
        assert (await scene.sidecar.reload()).result == "failed"
        said = await scene.lines.wait_for("policy")
        assert (said["old"], said["new"], said["why"]) == ("high-2026", "none", "advisory 2 withdraws ML-DSA-65")
        assert (await scene.lines.wait_for("connection"))["reason"] == "withdrawn"
        writer.close()
        with pytest.raises((OSError, asyncio.IncompleteReadError)):
            await scene.round_trip()
        assert (await scene.lines.wait_for("refusal"))["reason"] == "withdrawn"
        assert (await scene.sidecar.snapshot())["suspended"] == "advisory 2 withdraws ML-DSA-65"
        assert (await scene.sidecar.reload()).result == "ok"
        assert await scene.round_trip() == b"word"
        assert "suspended" not in await scene.sidecar.snapshot()

    play(federation, use, read_again=read_again)


def test_a_withdrawal_takes_effect_on_its_day_although_files_are_broken(federation: Federation) -> None:
    """Nobody has to send a signal, and nothing is read: what was verified once is enough."""
    ahead = [0.0]

    def broken(_config: ServiceConfig) -> ServiceConfig:
        raise ConfigurationError("ca.pem: holds no certificate", reason="malformed")

    async def use(scene: Scene) -> None:
        reader, writer = await scene.connect()
        writer.write(b"1")
        await asyncio.wait_for(reader.readexactly(1), 20)
        assert (await scene.sidecar.reload()).result == "failed"
        ahead[0] = 1000
        assert (await scene.lines.wait_for("policy"))["new"] == "high-2026+advisory-1"
        assert (await scene.lines.wait_for("connection"))["reason"] == "withdrawn"
        writer.close()

    announced = advise(
        for_level("high"), advisory(["X25519MLKEM768"], not_before=time.time() + 500, seconds=5000), time.time()
    )
    play(
        federation, use, read_again=broken, clock=lambda: time.time() + ahead[0],
        tls=tls(federation, policy=announced.policy), advised=announced,
    )  # fmt: skip


def test_what_ends_soon_is_said_in_time_and_once(federation: Federation) -> None:
    """Nothing of a new certificate; of one near its end a line, and another one after a reload."""
    ahead = [0.0]

    async def use(scene: Scene) -> None:
        assert await scene.round_trip() == b"word"
        assert not scene.lines.events("certificate_expiring")
        own = scene.sidecar.config.listeners[0].tls.own
        ahead[0] = own.not_after.timestamp() - time.time() - 86400
        line = await scene.lines.wait_for("certificate_expiring")
        assert (line["name"], line["algorithm"]) == (federation.gateway_uri, "ML-DSA-65")
        assert line["days_left"] == pytest.approx(1, abs=0.1)
        await scene.sidecar.reload()
        await scene.lines.wait_for("certificate_expiring", 2)

    def changed(config: ServiceConfig) -> ServiceConfig:
        return replace(config, listeners=(replace(config.listeners[0], close_timeout_seconds=2.0),))

    play(federation, use, read_again=changed, clock=lambda: time.time() + ahead[0])
