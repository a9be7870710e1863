"""Sites reach the fleet interface, as themselves, and are refused in the way that a SuperNode survives."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from gateway.http.flower import FlowerGuard
from gateway.http.profiles import Admitted, Session
from pqfl_transport.errors import MessageError, PeerError
from tests.gateway.http.test_protobuf import encode
from tests.support.peers import peer

A, B = "spiffe://fed/site/a", "spiffe://fed/site/b"


def admit(guard: FlowerGuard, path: str, uri: str, method: str = "POST") -> Admitted:
    request: Any = SimpleNamespace(method=method)
    session = Session(peer(uri), "192.0.2.1:1", None)  # type: ignore[arg-type]
    return asyncio.run(guard.admit(request, path, session))


def node(number: int) -> bytes:
    return encode(1, encode(1, number))


def activate(guard: FlowerGuard, uri: str, number: int) -> None:
    """As the SuperLink answers it."""
    watch = admit(guard, "/v1/fleet/activate-node", uri).watch_answer
    assert watch is not None
    watch(encode(1, number))


def speak(guard: FlowerGuard, uri: str, number: int, path: str = "/v1/fleet/pull-messages") -> None:
    watch = admit(guard, path, uri).watch
    assert watch is not None
    watch(node(number) + encode(2, b"more"))


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/v1/control/start-run"), ("POST", "/v1/runtime/x"), ("GET", "/v1/fleet/pull-messages"), ("POST", "/")],
)
def test_other_interfaces_are_not_there(method: str, path: str) -> None:
    """The control interface starts programs on every site."""
    guard = FlowerGuard()
    with pytest.raises(PeerError) as caught:
        admit(guard, path, A, method)
    assert guard.status_of(caught.value) == 404


def test_a_node_speaks_from_where_it_was_activated() -> None:
    """Its own site may, on any connection; another may not, and is told to try later and nothing worse."""
    guard = FlowerGuard()
    activate(guard, A, 2**63 + 5)
    activate(guard, B, 6)
    speak(guard, A, 2**63 + 5)
    speak(guard, A, 2**63 + 5, "/v1/fleet/push-object")
    with pytest.raises(PeerError) as caught:
        speak(guard, B, 2**63 + 5)
    assert caught.value.reason == "node_of_another"
    assert guard.status_of(caught.value) == 503


def test_a_number_given_twice_is_seen_twice() -> None:
    """The last one counts for the SuperLink, so each of them has to be the site's own."""
    guard = FlowerGuard()
    activate(guard, A, 1)
    activate(guard, B, 2)
    watch = admit(guard, "/v1/fleet/push-messages", B).watch
    assert watch is not None
    with pytest.raises(PeerError):
        watch(node(2) + encode(4, b"x" * 1000) + node(1))


def test_plain_numbers_count_too() -> None:
    """Deactivating names the node itself and not a message."""
    guard = FlowerGuard()
    activate(guard, A, 1)
    watch = admit(guard, "/v1/fleet/deactivate-node", B).watch
    assert watch is not None
    with pytest.raises(PeerError):
        watch(encode(1, 1))


def test_a_node_from_before_the_gateway_is_bound_to_who_uses_it_first() -> None:
    """A restart of the gateway throws nobody out."""
    guard = FlowerGuard()
    speak(guard, A, 9)
    with pytest.raises(PeerError):
        speak(guard, B, 9)


def test_what_is_no_message_does_not_pass() -> None:
    """Bytes that Flower would not send are stopped."""
    watch = admit(FlowerGuard(), "/v1/fleet/pull-messages", A).watch
    assert watch is not None
    with pytest.raises(MessageError):
        watch(b"\x0b\x0b")


def reply(source: int) -> bytes:
    """As a message in a push: what it is about, then whose it is."""
    return encode(2, encode(1, encode(1, 77) + encode(2, b"id") + encode(3, source)) + encode(2, b"content"))


def push(guard: FlowerGuard, uri: str, message: bytes) -> None:
    watch = admit(guard, "/v1/fleet/push-messages", uri).watch
    assert watch is not None
    for at in range(len(message)):
        watch(message[at : at + 1])


def test_a_reply_is_pushed_in_the_name_of_its_own_node() -> None:
    """The SuperLink takes the source from the message and not from the node that asks, so both have to be its own."""
    guard = FlowerGuard()
    activate(guard, A, 5)
    activate(guard, B, 6)
    push(guard, B, node(6) + reply(6))
    for message in (node(6) + reply(5), reply(5), node(6) + reply(6) + reply(5)):
        with pytest.raises(PeerError) as caught:
            push(guard, B, message)
        assert caught.value.reason == "node_of_another"


def test_no_node_belongs_to_nobody() -> None:
    """Who leaves the number out is refused, and takes nothing from others."""
    guard = FlowerGuard()
    for uri in (B, A):
        watch = admit(guard, "/v1/fleet/pull-messages", uri).watch
        assert watch is not None
        with pytest.raises(PeerError) as caught:
            watch(encode(1, b""))
        assert caught.value.reason == "no_node"
        assert guard.status_of(caught.value) == 503
