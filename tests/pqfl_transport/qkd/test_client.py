"""Asking key managers over real mutual TLS: what they deliver, what they refuse, and what is refused of them."""

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pqfl.demo.processes import Crew, Process
from pqfl_transport.errors import ConfigurationError, MessageError, PeerError, PqflError, TransportError
from pqfl_transport.qkd.client import BlockingKeyManager, KeyManager, Link
from pqfl_transport.tls import client_context
from tests.pqfl_transport.qkd.test_messages import IDS, container
from tests.support import classical
from tests.support.keymanagers import STATUS, Network, classical_link, events, make_network, scripted, serve_classical


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Network:
    return make_network(tmp_path_factory.mktemp("qkd"))


@pytest.fixture(scope="module")
def managers(network: Network, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Process]]:
    with Crew(tmp_path_factory.mktemp("logs")) as crew:
        yield network.start_both(crew)


def manager(network: Network, url: str, **options: Any) -> KeyManager:
    sae = network.folder / "north"
    context = client_context(
        sae / "tls.pem", sae / "tls.key", sae / "ca.pem", verify_uri="spiffe://qkd/gateway/north"
    )  # fmt: skip
    return KeyManager(url, context, **options)


@pytest.mark.usefixtures("managers")
def test_both_ends_get_the_same_key_in_both_directions(network: Network) -> None:
    """The key that one end was given is what the other gets by its id, once, and nobody gets it without one."""
    for one, far in (("north", "south"), ("south", "north")):
        near_end, far_end = Link(network.link(one)), Link(network.link(far))
        key = near_end.new_key()
        serial = key.id.removeprefix("qkd:north-south:")
        assert len(key.material) == 32
        assert far_end.key(serial) == key.material
        with pytest.raises(MessageError) as caught:
            far_end.key(serial)
        assert caught.value.reason == "unknown_key_id"
    assert Link(network.link("north")).status().target_kme_id == "km-south"


@pytest.mark.usefixtures("managers")
def test_a_key_is_for_the_other_sae_alone(network: Network) -> None:
    """Neither the one that asked for it nor anybody at a manager that is not his gets it by its id."""
    key = Link(network.link("north")).new_key()
    serial = key.id.removeprefix("qkd:north-south:")
    with pytest.raises(MessageError):
        Link(network.link("north")).key(serial)
    stranger = network.link(
        "south", cert=network.folder / "north" / "tls.pem", key=network.folder / "north" / "tls.key"
    )
    with pytest.raises(PqflError):
        Link(stranger).key(serial)
    assert Link(network.link("south")).key(serial) == key.material


@pytest.mark.usefixtures("managers")
def test_a_manager_says_what_it_does_not_do(network: Network) -> None:
    """An SAE that it has no link to, a size outside its bounds."""
    with pytest.raises(ConfigurationError, match="no link to this SAE") as caught:
        Link(network.link("north", peer_sae="nobody")).new_key()
    assert caught.value.reason == "key_request"
    with pytest.raises(ConfigurationError, match="multiple of 8, 64 to 1024"):
        Link(network.link("north", key_bits=2048)).new_key()


def test_a_link_that_is_down_and_one_that_runs_dry(tmp_path: Path) -> None:
    """Without its other end a manager makes no keys, and its last one is its last."""
    (tmp_path / "logs").mkdir()
    dry = make_network(tmp_path / "dry")
    with Crew(tmp_path / "logs") as crew:
        north = dry.start(crew, "north", capacity=1)
        with pytest.raises(TransportError, match="the link is down") as caught:
            Link(dry.link("north")).new_key()
        assert caught.value.reason == "keys_exhausted"
        dry.start(crew, "south")
        Link(dry.link("north")).new_key()
        with pytest.raises(TransportError, match="no keys left") as caught:
            Link(dry.link("north")).new_key()
        assert caught.value.reason == "keys_exhausted"
        assert len(events(north, "enc_keys")) == 1


def test_answers_over_the_wire(network: Network) -> None:
    """Status, new keys, named keys, over an event loop; each request is one connection with what was asked."""

    async def ask() -> None:
        async with scripted(network) as script:
            asked = manager(network, script.url)
            script.body = STATUS
            assert (await asked.status("south")).key_size == 352
            script.body = container(*IDS)
            assert [key.id for key in await asked.get_keys("south", number=2)] == list(IDS)
            assert [key.id for key in await asked.get_keys_with_ids("a/b", IDS[::-1])] == list(IDS[::-1])
            assert script.asked[1:] == [
                ("/api/v1/keys/south/enc_keys", {"number": 2, "size": 256}),
                ("/api/v1/keys/a%2Fb/dec_keys", {"key_IDs": [{"key_ID": IDS[1]}, {"key_ID": IDS[0]}]}),
            ]

    asyncio.run(ask())


@pytest.mark.parametrize(
    ("status", "body", "kind", "reason"),
    [
        (200, container(IDS[0], size=16), PeerError, "wrong_key_size"),
        (200, container(*IDS), PeerError, "bad_answer"),
        (200, b" " * 300_000, PeerError, "bad_answer"),
        (401, {"message": "who?"}, ConfigurationError, "key_manager_refused"),
        (503, {"message": "later"}, TransportError, "keys_exhausted"),
        (307, {}, TransportError, "key_manager_down"),
    ],
)
def test_what_is_refused_of_a_manager(
    network: Network, status: int, body: Any, kind: type[PqflError], reason: str
) -> None:
    """Wrong sizes, other numbers of keys, endless answers, errors; a redirect is not followed."""

    async def ask() -> PqflError:
        async with scripted(network, headers={"Location": "/elsewhere"}) as script:
            script.status, script.body = status, body
            with pytest.raises(kind) as caught:
                await manager(network, script.url).get_keys("south")
            assert len(script.asked) == 1
            return caught.value

    assert asyncio.run(ask()).reason == reason


def test_a_manager_that_is_down_or_silent(network: Network) -> None:
    """Both end in one error, the second at the deadline."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"https://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(TransportError, match=r"0\.2 seconds") as caught:
            BlockingKeyManager(manager(network, url, timeout_seconds=0.2)).status("south")
        assert caught.value.reason == "key_manager_down"
    with pytest.raises(TransportError) as caught:
        BlockingKeyManager(manager(network, url)).get_keys_with_ids("north", IDS)
    assert caught.value.reason == "key_manager_down"


def test_another_server_than_the_key_manager_gets_no_request(network: Network) -> None:
    """Its certificate has to name the manager that was configured."""

    async def ask() -> None:
        async with scripted(network) as script:
            sae = network.folder / "north"
            context = client_context(
                sae / "tls.pem", sae / "tls.key", sae / "ca.pem", verify_uri="spiffe://qkd/gateway/south"
            )  # fmt: skip
            with pytest.raises(PeerError) as caught:
                await KeyManager(script.url, context).status("south")
            assert caught.value.reason == "not_allowed"
            assert script.asked == []

    asyncio.run(ask())


def test_an_event_loop_is_never_blocked(network: Network) -> None:
    """On its thread the blocking face asks nothing and says why."""

    async def ask() -> None:
        async with scripted(network) as script:
            with pytest.raises(ConfigurationError) as caught:
                Link(network.link("north", url=script.url)).new_key()
            assert caught.value.reason == "would_block"
            assert script.asked == []

    asyncio.run(ask())


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "127.0.0.1:1", "https://", "https://h/?x", "https://h/#x"])
def test_urls_that_are_none(network: Network, url: str) -> None:
    """Keys travel over https and nothing else."""
    with pytest.raises(ConfigurationError) as caught:
        manager(network, url)
    assert caught.value.reason == "bad_url"


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """The files of a classical manager and its SAE: one certificate serves both."""
    root = classical.make_root("vendor root")
    return classical.write_classical(tmp_path / "old", root, *classical.make_leaf(root, dns=("localhost",)))


def test_a_classical_manager_on_this_machine(network: Network, old: Path) -> None:
    """It is reached with a trust store of its own where the configuration says so, and not without."""
    status = asyncio.run(serve_classical(old, lambda url: classical_link(network, old, url).status()))
    assert status.key_size == 352
    with pytest.raises(PqflError):
        asyncio.run(serve_classical(old, lambda url: Link(network.link("north", url=url)).status()))
    stranger = classical.make_root("another root")
    (old / "other.pem").write_bytes(classical.pem(stranger.certificate))
    with pytest.raises(TransportError, match="certificate verify failed"):
        asyncio.run(
            serve_classical(old, lambda url: classical_link(network, old, url, cacert=old / "other.pem").status())
        )  # fmt: skip


def test_a_classical_manager_behind_a_tunnel(network: Network, old: Path) -> None:
    """Its certificate names another host than the loopback address that leads to it, and that name is checked."""

    def behind(url: str) -> str:
        return url.replace("localhost", "127.0.0.1")

    def ask(url: str) -> int:
        with pytest.raises(TransportError, match="certificate"):
            classical_link(network, old, behind(url)).status()
        return classical_link(network, old, behind(url), server_name="localhost").status().key_size

    assert asyncio.run(serve_classical(old, ask)) == 352


def test_a_classical_manager_elsewhere_has_to_be_asked_for_loudly(network: Network, old: Path) -> None:
    """Its keys would be in every recording of the connection."""
    with pytest.raises(ConfigurationError, match="unsafe_classical") as caught:
        classical_link(network, old, "https://km.example:443")
    assert caught.value.reason == "classical"
    classical_link(network, old, "https://km.example:443", unsafe_classical=True)


def test_files_of_a_classical_manager_that_are_wrong(network: Network, old: Path) -> None:
    """A key that others can read, a trust store without certificates: the file is named."""
    (old / "empty.pem").write_text("nothing")
    with pytest.raises(ConfigurationError, match=r"empty\.pem"):
        classical_link(network, old, "https://localhost:1", cacert=old / "empty.pem")
    (old / "tls.key").chmod(0o644)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        classical_link(network, old, "https://localhost:1")
